"""Load a model for training or as the reference: the same numbers in the same number types.

Both are loaded in float32, tried, and then rounded to the products' number type, so that before
the first update policy and reference differ by float rounding across batches only. Inside
a model cache, both are the module that also samples, with equal numbers; the float32 masters of one
training are there for the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from forethought.config import TrainingConfig
from forethought.models.loading import (
    Adapter,
    Named,
    context_of,
    find_adapter,
    find_rests,
    load_model,
    pick_device,
    put_adapter,
    source_of,
    stored_dtype,
)
from forethought.models.masters import restore, rounded
from forethought.models.model_cache import cached, caches_models
from forethought.models.number_types import product_type
from forethought.models.positions import original_length
from forethought.models.shared_policy import Files, SharedPolicy, shared_policy, weight_files
from forethought.training.logprobs import ForwardMode, PolicyLogprobs
from forethought.training.optimizer import MasterWeights, cast_parameters

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def length_limit(model: PreTrainedModel, config: TrainingConfig) -> int | None:
    """Longest prompt + output that is trained on, in tokens; `None` where nothing sets a limit."""
    context = context_of(model)
    if original_length(model.config) is not None and context is not None:
        # Its positions were fixed for so many tokens and no more.
        return min(config.max_length or context, context)
    return config.max_length or context


@dataclass(slots=True)
class Trainee:
    """What is trained.

    Example: `with open_policy(path, config, "cpu") as trainee: trainee.masters.whole(keep=True)`
    """

    policy: PolicyLogprobs
    masters: MasterWeights
    adapter: PeftModel | None
    cached: _CachedMasters | None = None

    def settle(self, checkpoint: Named) -> None:
        """Be what this checkpoint says: that of the last epoch, just written from the masters."""
        if self.cached is not None:
            self.cached.settle(checkpoint)


def forward_dtype(config: TrainingConfig, device: str) -> str:
    """The number type of the forward pass: the recipe's, or float32 where this device has not it.

    Then the masters themselves are trained and nothing is rounded before a policy is sampled.
    """
    products = product_type(getattr(torch, config.dtype), pick_device(device))
    return str(products).removeprefix("torch.")


@contextmanager
def open_reference(model: Named, config: TrainingConfig, device: str) -> Iterator[PolicyLogprobs]:
    """The starting policy, frozen, in the number type of the training forward.

    Raises: ValueError if it cannot be loaded.
    """
    if caches_models():
        shared = shared_policy(forward_dtype(config, device), device)
        with _shared_logprobs(shared, model, device) as policy:
            if config.lora is None and find_rests(model) is not None:
                # What is sampled is rounded otherwise than what is trained.
                _cached_masters(shared, policy).give(model)
            policy.requires_grad_(False)
            yield policy
        return
    policy = PolicyLogprobs.open(load_model(model, dtype="float32", device=device))
    policy.requires_grad_(False)
    cast_parameters(policy, getattr(torch, forward_dtype(config, device)))
    yield policy


@contextmanager
def open_policy(model: Named, config: TrainingConfig, device: str) -> Iterator[Trainee]:
    """The model to train, its master weights, and the adapter around it if there is one.

    Raises: ValueError if it cannot be loaded, or not be trained as the recipe asks.
    """
    dtype = getattr(torch, forward_dtype(config, device))
    # An adapter changes the module itself.
    if caches_models() and config.lora is None:
        shared = shared_policy(forward_dtype(config, device), device)
        with _shared_logprobs(shared, model, device) as policy:
            masters = _cached_masters(shared, policy)
            recompute_activations(policy, config)
            masters.take(model)
            try:
                yield Trainee(policy, masters.weights, None, masters)
            finally:
                store_activations(policy, config)
        return
    base, earlier = starting_point(model, config)
    policy = PolicyLogprobs.open(load_model(base, dtype="float32", device=device))
    adapter = add_adapter(policy, config, earlier)
    recompute_activations(policy, config)
    named = (adapter or policy.model).named_parameters()
    masters = MasterWeights(named, dtype)
    cast_parameters(policy, dtype)
    yield Trainee(policy, masters, adapter)


def starting_point(model: Named, config: TrainingConfig) -> tuple[Named, Adapter | None]:
    """The model to load, and the adapter whose training goes on, if there is one.

    Raises: ValueError if what is there cannot be trained as the recipe asks.
    """
    adapter = find_adapter(model)
    if adapter is None:
        return model, None
    if config.lora is None:
        raise ValueError(
            f"training: {source_of(model).path} is an adapter on {adapter.base.path}; give "
            "training.lora with its settings to go on with it, or `forethought export` it and "
            "train the merged weights"
        )
    return adapter.base, adapter


def _cached_masters(shared: SharedPolicy, policy: PolicyLogprobs) -> _CachedMasters:
    policy.requires_grad_(True)
    dtype = policy.model.dtype
    return cached(("masters", policy.model), lambda: _CachedMasters(shared, policy, dtype))


class _CachedMasters:
    """Master weights that stay from one training to the next."""

    def __init__(self, shared: SharedPolicy, policy: PolicyLogprobs, dtype: torch.dtype) -> None:
        self.weights = MasterWeights(policy.model.named_parameters(), dtype)
        self._shared = shared
        self._dtype = str(dtype).removeprefix("torch.")
        self._holds: Files | None = None

    def take(self, source: Named) -> None:
        """Be the float32 weights of a checkpoint whose rounded ones the module has."""
        self.give(source)
        self._holds = None

    def give(self, source: Named) -> None:
        """Be these weights and let the module have them rounded as training does."""
        files = weight_files(source)
        rests = find_rests(source)
        if self.weights.copies and (files is None or files != self._holds):
            if stored_dtype(source) == self._dtype:
                # The module has what is stored; what that lacks is read beside it.
                self.weights.gather()
                if rests is not None:
                    restore(rests, zip(self.weights.names, self.weights.masters, strict=True))
                    self.weights.publish()
            else:
                whole = load_model(source, dtype="float32", device="cpu")
                self.weights.load(dict(whole.named_parameters()))
        elif rests is not None:
            self.weights.publish()
        self._holds = files
        self._shared.invalidate()

    @torch.no_grad()
    def settle(self, checkpoint: Named) -> None:
        """Be what was written, which may be rounded, and let the module have what is sampled."""
        if find_rests(checkpoint) is None:
            self.weights.round(getattr(torch, stored_dtype(checkpoint)))
        elif self.weights.copies:
            for working, master in zip(self.weights.working, self.weights.masters, strict=True):
                working.copy_(rounded(master))
        self._shared.saved_as(checkpoint)
        self._holds = weight_files(checkpoint)


@contextmanager
def _shared_logprobs(shared: SharedPolicy, source: Named, device: str) -> Iterator[PolicyLogprobs]:
    """The run's module in the way that suits it, afterwards as it was."""
    mode: ForwardMode = cached(
        ("forward mode", shared),
        lambda: (
            PolicyLogprobs.open(load_model(source, dtype="float32", device=device)).forward_mode
        ),
    )
    model = shared.load(source)
    before = model.config._attn_implementation or "eager"
    try:
        yield PolicyLogprobs.in_mode(model, mode)
    finally:
        model.set_attn_implementation(before)


def add_adapter(
    policy: PolicyLogprobs, config: TrainingConfig, earlier: Adapter | None
) -> PeftModel | None:
    """Put the adapter that is asked for, or goes on, into the model, whose own weights are frozen.

    Dropout is off, as in other preference trainers, but for an adapter's own.

    Raises: ValueError if the adapter that goes on has another rank or alpha, or the head is to be
    adapted.
    """
    if config.lora is None:
        return None
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    lora = config.lora
    targets = lora.target_modules
    wanted = LoraConfig(
        r=lora.rank,
        # peft accepts a float and declares an int.
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    if earlier is None:
        adapter = get_peft_model(policy.model, wanted).eval()
    else:
        adapter = put_adapter(policy.model, earlier, dtype="float32", trainable=True)
        there = adapter.peft_config["default"]
        if (there.r, there.lora_alpha) != (lora.rank, lora.alpha):  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError(
                f"training.lora: the adapter in {earlier.folder} has rank {there.r} and alpha "  # pyright: ignore[reportAttributeAccessIssue]
                f"{there.lora_alpha}, and {lora.rank} and {lora.alpha:g} are asked for; give those "  # pyright: ignore[reportAttributeAccessIssue]
                "that it has, or start from another model"
            )
    if isinstance(policy.model.get_output_embeddings(), BaseTunerLayer):
        raise ValueError(
            "training.lora.target_modules: the model's head is among them, which an adapter here "
            "would not reach; leave it out"
        )
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


def store_activations(policy: PolicyLogprobs, config: TrainingConfig) -> None:
    """Undo `recompute_activations`."""
    if config.gradient_checkpointing:
        policy.model.gradient_checkpointing_disable()
        policy.model.eval()


def layers(policy: PolicyLogprobs) -> list[GradientCheckpointingLayer]:
    """The model's repeated blocks: what is recomputed, and sharded, one at a time."""
    return [module for module in policy.modules() if isinstance(module, GradientCheckpointingLayer)]
