"""Float32 master weights, AdamW on them, and the learning-rate schedule.

Where parameters are sharded, their float32 shards are the masters and FSDP2 makes the copies.

With bfloat16 products the model holds bfloat16 working copies, whose gradients are added up in
float32 after each microbatch: the semantics of FSDP2's
`MixedPrecisionPolicy(param_dtype=bfloat16, reduce_dtype=float32)`. With float32 the masters are
the model's own parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from forethought.config import TrainingConfig


class MasterWeights:
    """The trained parameters in float32, and their working copies in the model."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], dtype: torch.dtype) -> None:
        trained = [(name, p) for name, p in named if p.requires_grad]
        self.names = [name for name, _ in trained]
        self.working = [p for _, p in trained]
        self.copies = dtype != torch.float32
        self.masters = (
            [nn.Parameter(p.detach().clone().float()) for p in self.working]
            if self.copies
            else self.working
        )

    def collect_gradients(self) -> None:
        """Add the working copies' gradients to the masters' and free them."""
        if not self.copies:
            return
        for master, working in zip(self.masters, self.working, strict=True):
            if working.grad is None:
                continue
            if master.grad is None:
                master.grad = working.grad.float()
            else:
                master.grad += working.grad
            working.grad = None

    def clip_gradients(self, max_norm: float) -> float:
        """Scale the gradient down to `max_norm`; its norm before that, over all shards."""
        norm = nn.utils.clip_grad_norm_(self.masters, max_norm)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the working copies."""
        if self.copies:
            torch.ops.aten._foreach_copy_(self.working, self.masters)

    @torch.no_grad()
    def gather(self) -> None:
        """Take the masters from the working copies."""
        if self.copies:
            torch.ops.aten._foreach_copy_(self.masters, self.working)

    @torch.no_grad()
    def round(self, dtype: torch.dtype) -> None:
        """Round the masters as a checkpoint of this number type does, and publish them."""
        for master in self.masters:
            master.copy_(master.to(dtype))
            master.grad = None
        self.publish()

    def state(self) -> dict[str, torch.Tensor]:
        """Master weights by parameter name."""
        return {name: p.detach() for name, p in zip(self.names, self.masters, strict=True)}

    @torch.no_grad()
    def whole(self, *, keep: bool) -> dict[str, torch.Tensor]:
        """Master weights by parameter name, shards put together in memory of the CPU.

        All processes call this together; those that do not `keep` the weights get none.
        """
        found = {}
        for name, master in self.state().items():
            if isinstance(master, DTensor):
                gathered = master.full_tensor()
                if keep:
                    found[name] = gathered.cpu()
            elif keep:
                found[name] = master
        return found

    @torch.no_grad()
    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Take masters from `state` and publish them."""
        for name, master in zip(self.names, self.masters, strict=True):
            master.copy_(state[name])
        self.publish()


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Change the parameters' number type and leave buffers (rotary frequencies) as they are."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def open_optimizer(masters: MasterWeights, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW; weight decay acts on matrices, not on norms and biases.

    Raises: ValueError if 8-bit states are asked for and there is no GPU, or no bitsandbytes.
    """
    matrices = [p for p in masters.masters if p.ndim > 1]
    others = [p for p in masters.masters if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    device = masters.masters[0].device.type
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            betas=config.adam_betas,
            fused=device in ("cpu", "cuda"),
        )
    require_8bit(config, device)
    return adamw_8bit(groups, config)


def require_8bit(config: TrainingConfig, device: str) -> None:
    """Raises: ValueError if the optimizer's 8-bit states cannot be had on this device."""
    if config.optimizer == "adamw":
        return
    if device != "cuda":
        raise ValueError(
            f"training.optimizer: {config.optimizer} keeps its states in 8 bits on a CUDA GPU and "
            f"this training runs on {device}; use training.optimizer adamw, or a machine with a GPU"
        )
    try:
        import bitsandbytes  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"training.optimizer: {config.optimizer} needs bitsandbytes ({error}); install it with "
            "pip install 'forethought[gpu]', or use training.optimizer adamw"
        ) from error


def adamw_8bit(groups: list[dict[str, Any]], config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW of bitsandbytes: moments in 8 bits by blocks (Dettmers et al. 2022), paged if asked."""
    from bitsandbytes.optim.adamw import AdamW8bit  # pyright: ignore[reportMissingImports]

    return AdamW8bit(
        groups,
        lr=config.learning_rate,
        betas=config.adam_betas,
        is_paged=config.optimizer == "paged_adamw_8bit",
    )


@torch.no_grad()
def prepare_moments(optimizer: torch.optim.Optimizer) -> None:
    """Give AdamW the states it would make itself at its first step, to read a checkpoint into."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            optimizer.state[p] = {
                "step": torch.zeros((), dtype=torch.float32, device=p.device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }


def learning_rate(step: int, total_steps: int, config: TrainingConfig) -> float:
    """The rate of a step counted from 0. Warm-up rises to the peak and never stands at 0."""
    warmup = math.ceil(config.warmup_ratio * total_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(1, total_steps - warmup)
    if config.schedule == "linear":
        return config.learning_rate * (1 - progress)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
