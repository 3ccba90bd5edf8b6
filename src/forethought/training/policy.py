"""Load a model for training or as the reference: the same numbers in the same number types.

Both are loaded in float32, tried, and then rounded to the products' number type, so that before
the first update policy and reference differ by float rounding across batches only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from forethought.config import TrainingConfig
from forethought.models import context_length, load_model
from forethought.training.logprobs import PolicyLogprobs
from forethought.training.optimizer import MasterWeights, cast_parameters

if TYPE_CHECKING:
    from peft import PeftModel


def length_limit(policy: PolicyLogprobs, config: TrainingConfig) -> int | None:
    """Longest prompt + output that is trained on."""
    return config.max_length or context_length(policy.model.config)


def open_reference(model_path: str, config: TrainingConfig, device: str) -> PolicyLogprobs:
    """The starting policy, frozen, in the number type of the training forward."""
    policy = PolicyLogprobs.open(load_model(model_path, dtype="float32", device=device))
    policy.requires_grad_(False)
    cast_parameters(policy, getattr(torch, config.dtype))
    return policy


def open_policy(
    model_path: str, config: TrainingConfig, device: str
) -> tuple[PolicyLogprobs, MasterWeights, PeftModel | None]:
    """The model to train, its master weights, and the adapter around it if there is one."""
    policy = PolicyLogprobs.open(load_model(model_path, dtype="float32", device=device))
    adapter = add_adapter(policy, config)
    recompute_activations(policy, config)
    named = (adapter or policy.model).named_parameters()
    masters = MasterWeights(named, getattr(torch, config.dtype))
    cast_parameters(policy, getattr(torch, config.dtype))
    return policy, masters, adapter


def add_adapter(policy: PolicyLogprobs, config: TrainingConfig) -> PeftModel | None:
    """Put the adapter that is asked for into the model, whose own weights are then frozen.

    Dropout is off, as in other preference trainers, but for an adapter's own.
    """
    if config.lora is None:
        return None
    from peft import LoraConfig, get_peft_model

    lora = config.lora
    targets = lora.target_modules
    adapter = get_peft_model(
        policy.model,
        LoraConfig(
            r=lora.rank,
            # peft accepts a float and declares an int.
            lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
            lora_dropout=lora.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            task_type="CAUSAL_LM",
        ),
    ).eval()
    for name, module in adapter.named_modules():
        if isinstance(module, torch.nn.Dropout) and "lora_dropout" in name:
            module.train()
    return adapter


def recompute_activations(policy: PolicyLogprobs, config: TrainingConfig) -> None:
    """Gradient checkpointing, where it is asked for.

    It works in training mode only, which only the layers that checkpoint are given.
    """
    if not config.gradient_checkpointing:
        return
    policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    for module in layers(policy):
        module.training = True


def layers(policy: PolicyLogprobs) -> list[GradientCheckpointingLayer]:
    """The model's repeated blocks: what is recomputed, and sharded, one at a time."""
    return [module for module in policy.modules() if isinstance(module, GradientCheckpointingLayer)]
