"""One module for all policies of a run, its weights replaced as the run goes on.

Inside a model cache, sampling, the reference pass and training use the same module in
turn. After training its weights are the new policy's already; weights of another checkpoint are
read into it in place. Which checkpoint it holds is known by the weight files themselves (device,
inode, size and time), so that the hard link under which selection keeps a checkpoint is the same.
"""

from __future__ import annotations

from collections.abc import Hashable
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


class SharedPolicy:
    """A module that holds now this policy, now that.

    Example: `SharedPolicy("bfloat16", "cpu").load("runs/a/thought/iteration_3/selection/policy")`
    """

    def __init__(self, dtype: str, device: str) -> None:
        self._dtype = dtype
        self._device = device
        self._model: PreTrainedModel | None = None
        self._long = False
        self._holds: Files | None = None
        """The files whose weights it has; `None` while it has those of none."""

    def load(self, name: Named) -> PreTrainedModel:
        """Give the module the weights of a model, and give it back.

        Raises: ValueError if it cannot be loaded.
        """
        if (model := self.held(name)) is not None:
            return model
        self._holds = None
        same_positions = self._long == source_of(name).long_context
        if (
            self._model is None
            or not same_positions
            or not read_weights(self._model, name, dtype=getattr(torch, self._dtype))
        ):
            self._model = None
            self._model = loading.load_runnable(name, dtype=self._dtype, device=self._device)
        self._holds = weight_files(name)
        self._long = source_of(name).long_context
        return self._model

    def held(self, name: Named) -> PreTrainedModel | None:
        """Give the module if it has these weights now."""
        files = weight_files(name)
        same = files is not None and files == self._holds
        return self._model if same and self._long == source_of(name).long_context else None

    def invalidate(self) -> None:
        """Say that its weights are about to be those of no checkpoint."""
        self._holds = None

    def saved_as(self, name: Named) -> None:
        """Say that its weights are now those of this checkpoint, bit for bit."""
        self._holds = weight_files(name)


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
    whether that was so.

    Where it was not, the module may be left with some weights of each.
    """
    folder = Path(loading.resolve(name))
    state = model.state_dict()
    rounded = {p.data_ptr() for p in model.parameters()}
    read: set[int] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118  a file has no other way to name its tensors
                if key not in state or list(state[key].shape) != file.get_slice(key).get_shape():
                    return False
                given = file.get_tensor(key)
                is_rounded = state[key].data_ptr() in rounded
                state[key].copy_(given.to(dtype) if is_rounded else given)
                read.add(state[key].data_ptr())
    # Tied weights stand in the file once.
    if not all(tensor.data_ptr() in read for tensor in state.values()):
        return False
    if dtype == torch.float32 and (rests := loading.find_rests(name)) is not None:
        restore(rests, model.named_parameters())
    return True
