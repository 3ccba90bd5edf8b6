"""Float32 master weights, AdamW on them, and the learning-rate schedule.

With bfloat16 products the model holds bfloat16 working copies, whose gradients are added up in
float32 after each microbatch: the semantics of FSDP2's
`MixedPrecisionPolicy(param_dtype=bfloat16, reduce_dtype=float32)`. With float32 the masters are
the model's own parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

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
        """Scale the gradient down to `max_norm`; its norm before that."""
        return float(nn.utils.clip_grad_norm_(self.masters, max_norm))

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the working copies."""
        if self.copies:
            torch.ops.aten._foreach_copy_(self.working, self.masters)

    def state(self) -> dict[str, torch.Tensor]:
        """Master weights by parameter name."""
        return {name: p.detach() for name, p in zip(self.names, self.masters, strict=True)}

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


def adamw(masters: MasterWeights, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW; weight decay acts on matrices, not on norms and biases."""
    matrices = [p for p in masters.masters if p.ndim > 1]
    others = [p for p in masters.masters if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    device = masters.masters[0].device.type
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.adam_betas,
        fused=device in ("cpu", "cuda"),
    )


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
