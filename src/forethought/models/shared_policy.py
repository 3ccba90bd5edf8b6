"""One module for all policies of a run, its weights replaced as the run goes on.

Inside a model cache, sampling, the reference pass and training use the same module in
turn. After training its weights are the new policy's already; weights of another checkpoint are
read into it in place. Which checkpoint it holds is known by the weight files themselves (device,
inode, size and time), so that the hard link under which selection keeps a checkpoint is the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from forethought.config import ModelSource
from forethought.models import loading
from forethought.models.loading import Named, source_of
from forethought.models.masters import restore
from forethought.models.model_cache import cached

Files = frozenset[tuple[int, ...]]


@dataclass(slots=True)
class _Module:
    model: PreTrainedModel
    long: bool
    holds: Files | None
    """The files whose weights it has; `None` while it has those of none."""


class SharedPolicy:
    """A module that holds now this policy, now that; one for each shape of weights, since the arms
    of a run may differ in their vocabulary.

    Example: `SharedPolicy("bfloat16", "cpu").load("runs/a/thought/iteration_3/selection/policy")`
    """

    def __init__(self, dtype: str, device: str) -> None:
        self._dtype = dtype
        self._device = device
        self._modules: list[_Module] = []
        """The one that was loaded last is the last."""

    def load(self, name: Named) -> PreTrainedModel:
        """Give a module the weights of a model, and give it back.

        Raises: ValueError if it cannot be loaded.
        """
        module = self._holding(name) or self._fitting(name)
        if module is None:
            model = loading.load_runnable(name, dtype=self._dtype, device=self._device)
            module = _Module(model, source_of(name).long_context, weight_files(name))
        self._modules = [*(each for each in self._modules if each is not module), module]
        return module.model

    def held(self, name: Named) -> PreTrainedModel | None:
        """Give the module that has these weights now, if one has."""
        module = self._holding(name)
        return None if module is None else module.model

    def invalidate(self) -> None:
        """Say that the weights of the module loaded last are about to be those of no checkpoint."""
        self._modules[-1].holds = None

    def saved_as(self, name: Named) -> None:
        """Say that they are now those of this checkpoint, bit for bit."""
        self._modules[-1].holds = weight_files(name)

    def _holding(self, name: Named) -> _Module | None:
        files, long = weight_files(name), source_of(name).long_context
        if files is None:
            return None
        return next(
            (each for each in self._modules if (each.holds, each.long) == (files, long)), None
        )

    def _fitting(self, name: Named) -> _Module | None:
        """A module that now has these weights, which were read into it."""
        dtype, long = getattr(torch, self._dtype), source_of(name).long_context
        for module in self._modules:
            if module.long != long:
                continue
            before, module.holds = module.holds, None
            if read_weights(module.model, name, dtype=dtype):
                module.holds = weight_files(name)
                return module
            module.holds = before
        return None


def shared_policy(dtype: str, device: str) -> SharedPolicy:
    """The run's module of this number type; a new one outside a model cache."""
    place = str(loading.pick_device(device))
    key: Hashable = ("policy", dtype, place)
    return cached(key, lambda: SharedPolicy(dtype, place))


def weight_files(name: Named) -> Files | None:
    """What tells a checkpoint's weights from all others; `None` for one that is not on disk."""
    folder = Path(loading.resolve(name))
    if not folder.is_dir():
        return None
    files = list(folder.glob("*.safetensors"))
    if (adapter := loading.find_adapter(name)) is not None:
        files = [*adapter.folder.glob("*.safetensors"), *_whole(adapter.base)]
    stats = [path.stat() for path in files]
    found = frozenset((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)
    return found or None


def _whole(base: ModelSource) -> list[Path]:
    return list(Path(loading.resolve(base)).glob("*.safetensors"))


@torch.no_grad()
def read_weights(model: PreTrainedModel, name: Named, *, dtype: torch.dtype) -> bool:
    """Read a checkpoint's weights into a module of the same architecture, rounded to `dtype`;
    whether that was so. Where it was not, the module is as it was.
    """
    files = sorted(Path(loading.resolve(name)).glob("*.safetensors"))
    state = model.state_dict()
    if not _fits(state, files):
        return False
    rounded = {p.data_ptr() for p in model.parameters()}
    for path in files:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118  a file has no other way to name its tensors
                given = file.get_tensor(key)
                is_rounded = state[key].data_ptr() in rounded
                state[key].copy_(given.to(dtype) if is_rounded else given)
    if dtype == torch.float32 and (rests := loading.find_rests(name)) is not None:
        restore(rests, model.named_parameters())
    return True


def _fits(state: Mapping[str, torch.Tensor], files: Sequence[Path]) -> bool:
    """Whether the files have all of a module's tensors, in their shapes, and no other."""
    read: set[int] = set()
    for path in files:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118
                if key not in state or list(state[key].shape) != file.get_slice(key).get_shape():
                    return False
                read.add(state[key].data_ptr())
    # Tied weights stand in the file once.
    return all(tensor.data_ptr() in read for tensor in state.values())
