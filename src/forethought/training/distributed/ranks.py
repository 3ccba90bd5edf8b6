"""The processes of one training: who this one is, and what it tells the others.

A process alone is `ALONE`. Otherwise `join` enters the group that Ray has made, or makes it from
the environment that torchrun sets: gloo between CPUs, NCCL between GPUs, whose objects travel by
gloo.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Value = TypeVar("Value")
PATIENCE = timedelta(hours=2)
"""The first process alone loads the model and writes whole checkpoints, while the others wait. A
process that dies is noticed by whoever started it, not by this limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process among those that train one model.

    Example: `Ranks(rank=1, size=4, mesh=mesh)`
    """

    rank: int
    size: int
    mesh: DeviceMesh | None
    """Where parameters are sharded; `None` for a process alone."""

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def gather(self, value: Value) -> list[Value]:
        """Every process's value, in the order of ranks."""
        if self.mesh is None:
            return [value]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, value)
        return found

    def from_first(self, value: Value) -> Value:
        """The first process's value."""
        if self.mesh is None:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]


ALONE = Ranks(rank=0, size=1, mesh=None)


def backend(device: str) -> str:
    """What carries tensors between processes, and objects between GPUs' hosts."""
    return "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"


def join(processes: int, device: str) -> Ranks:
    """Enter the group that the environment names; `device` is `cpu` or `cuda`.

    The group must have as many processes as were asked for: a launcher that quietly starts each
    process alone would train without exchanging anything.
    """
    from torch.distributed.device_mesh import init_device_mesh

    if not torch.distributed.is_initialized():
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group(backend(device), timeout=PATIENCE)
    size = torch.distributed.get_world_size()
    assert size == processes, f"{processes} processes were asked for, the group has {size}"
    mesh = init_device_mesh(device, (size,), mesh_dim_names=("shards",))
    return Ranks(rank=torch.distributed.get_rank(), size=size, mesh=mesh)


def leave() -> None:
    """Go out of the group, all together: a process that only ends may abort or cut others off."""
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
