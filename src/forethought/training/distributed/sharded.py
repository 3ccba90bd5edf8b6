"""A policy whose parameters are sharded over processes by PyTorch's FSDP2.

Every layer is one unit of `fully_shard`; embeddings, final norm and head belong to the root, which
is `PolicyLogprobs` itself, so that its chunked log-probs find the head's weight whole. With
bfloat16 products the float32 shards are the master weights, gathered in bfloat16 and reduced in
float32. Gradients are summed over processes, not averaged: the loss is already divided by the
pairs of the whole step.

The first process loads the model as a process alone would, on its CPU, and tries in which mode
it runs; the others hold no memory for it and are sent each parameter, of which they keep their
part.
"""

from __future__ import annotations

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from forethought.config import TrainingConfig
from forethought.models.loading import Named, load_model, skeleton
from forethought.models.number_types import product_type
from forethought.training.attention import PACKED
from forethought.training.distributed.ranks import Ranks
from forethought.training.logprobs import PolicyLogprobs
from forethought.training.optimizer import MasterWeights
from forethought.training.policy_module import (
    Trainee,
    add_adapter,
    layers,
    recompute_activations,
    starting_point,
)
from forethought.training.states import put


def open_sharded_policy(model: Named, config: TrainingConfig, ranks: Ranks) -> Trainee:
    """The model to train, its sharded master weights, and the adapter if there is one.

    Raises: ValueError if the model cannot be loaded.
    """
    base, earlier = starting_point(model, config)
    policy = _open(base, ranks)
    adapter = add_adapter(policy, config, earlier)
    recompute_activations(policy, config)
    _shard(policy, getattr(torch, config.dtype), ranks)
    named = (adapter or policy.model).named_parameters()
    # The shards themselves are the masters: FSDP2 makes the working copies.
    return Trainee(policy, MasterWeights(named, torch.float32), adapter)


def open_sharded_reference(model: Named, config: TrainingConfig, ranks: Ranks) -> PolicyLogprobs:
    """The starting policy, frozen, in the number type of the training forward."""
    policy = _open(model, ranks)
    policy.requires_grad_(False)
    _shard(policy, getattr(torch, config.dtype), ranks)
    return policy


def open_sharded_float32(model: Named, read_as: str, ranks: Ranks) -> PolicyLogprobs:
    """A frozen model whose products are float32, its weights as they are read in a number type."""
    policy = _open(model, ranks, read_as)
    policy.requires_grad_(False)
    _shard(policy, torch.float32, ranks)
    return policy


def _open(model: Named, ranks: Ranks, read_as: str = "float32") -> PolicyLogprobs:
    """Whole in float32 on the first process's CPU, a skeleton without memory on the others."""
    if ranks.first:
        whole = load_model(model, dtype=read_as, device="cpu").float()
        policy = PolicyLogprobs.open(whole)
        ranks.from_first((policy.forward_mode, policy.plain_attention))
        return policy
    # After the first: code that comes with a checkpoint is copied before it is imported.
    mode, attention = ranks.from_first(("plain", ""))
    empty = skeleton(model, dtype="float32")
    empty.tie_weights()
    policy = PolicyLogprobs(empty, mode)
    policy.plain_attention = attention
    empty.set_attn_implementation(PACKED if mode == "packed" else attention)
    return policy


def _shard(policy: PolicyLogprobs, dtype: torch.dtype, ranks: Ranks) -> None:
    """Leave each process with its part of every parameter, and the buffers whole."""
    mesh = ranks.mesh
    assert mesh is not None
    dtype = product_type(dtype, mesh.device_type)
    for parameter in policy.parameters():
        if not parameter.requires_grad:
            # What is not trained needs no float32 master.
            parameter.data = parameter.data.to(dtype)
    whole = {name: p.detach() for name, p in policy.named_parameters()} if ranks.first else {}
    precision = MixedPrecisionPolicy(cast_forward_inputs=False)
    if dtype != torch.float32:
        precision = MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    units: list[nn.Module] = [*layers(policy), policy]
    for unit in units:
        fully_shard(unit, mesh=mesh, mp_policy=precision)
        assert isinstance(unit, FSDPModule)
        unit.set_gradient_divide_factor(1.0)
        # The plain sum; a factor alone would ask for an operation that gloo does not have.
        unit.set_force_sum_reduction_for_comms(True)
    if not ranks.first:
        policy.to_empty(device=mesh.device_type)
        policy.model.tie_weights()
    _check(policy, mesh)
    _spread(policy, whole, ranks)


@torch.no_grad()
def _spread(policy: PolicyLogprobs, whole: dict[str, torch.Tensor], ranks: Ranks) -> None:
    """Send every parameter and buffer from the first process to all, one at a time."""
    names = [name for name, _ in policy.named_parameters()]
    assert names == ranks.from_first(names), "processes built different models"
    for name, parameter in policy.named_parameters():
        assert isinstance(parameter, DTensor)
        tensor = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
        if ranks.first:
            tensor.copy_(whole[name])
        distributed.broadcast(tensor, src=0)
        put(parameter, tensor)
    for _, buffer in policy.named_buffers():
        distributed.broadcast(buffer, src=0)


def _check(policy: PolicyLogprobs, mesh: DeviceMesh) -> None:
    """A wrapper that quietly leaves parameters whole would train without exchanging gradients."""
    for name, parameter in policy.named_parameters():
        assert isinstance(parameter, DTensor), f"{name} is not sharded"
        assert parameter.device_mesh == mesh, f"{name} is on another mesh"
        assert parameter.placements[0].is_shard(), f"{name} is not sharded"
    assert mesh.size() == distributed.get_world_size()
