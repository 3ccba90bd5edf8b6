"""The resumable state of a training, on disk: one file of a process alone, or a part from each.

`state/state.pt` is whole. `state/step_N/` is PyTorch's distributed checkpoint, to which every
process writes its shards; any number of processes reads either, so a training may go on with
another number of them. Only the newest is kept. Each can tell whether it is as it was written:
`state.pt` is a zip file, which has a CRC of every tensor, and beside the shards stands `seal.json`.
"""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from forethought.storage.files import naming, sha256_once, sync_folder, write_bytes, write_json
from forethought.storage.sealed_stage import read_object
from forethought.training.distributed.ranks import Ranks

WHOLE = "state.pt"
SEAL = "seal.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """Everything that the next step depends on.

    Example: `TrainingState(step=50, tokens=81920, masters={…}, optimizer={…})`
    """

    step: int
    """Finished optimizer steps."""
    tokens: int
    masters: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    log: str = ""
    """SHA-256 of the lines of the log that lead to it."""


def save_whole(folder: Path, state: TrainingState) -> None:
    """Replace the state by one file."""
    buffer = io.BytesIO()
    torch.save({field: getattr(state, field) for field in TrainingState.__slots__}, buffer)
    write_bytes(folder / WHOLE, buffer.getvalue())
    for path in _sharded(folder):
        shutil.rmtree(path)


def save_sharded(folder: Path, state: TrainingState, ranks: Ranks) -> None:
    """Replace the state by a folder of this step; all processes call this together."""
    from torch.distributed.checkpoint.state_dict_saver import save

    target = folder / f"step_{state.step}"
    partial = folder / f".{target.name}.partial"
    if ranks.first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    # A barrier: nobody writes into a folder that the first one is still removing.
    ranks.from_first(None)
    # Its files are synced, and it returns when those of all processes are written.
    with naming(partial):
        save(_values(state), checkpoint_id=partial)
    # Each process reads what it has just written, which is still in memory.
    mine = [*partial.glob(f"__{ranks.rank}_*"), *([partial / ".metadata"] if ranks.first else [])]
    written = ranks.gather({path.name: sha256_once(path) for path in mine})
    if ranks.first:
        files = {name: digest for of_rank in written for name, digest in of_rank.items()}
        write_json(partial / SEAL, {"log": state.log, "files": files})
        sync_folder(partial)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
        sync_folder(folder)
        (folder / WHOLE).unlink(missing_ok=True)
        for path in _sharded(folder):
            if path != target:
                shutil.rmtree(path)


def log_of_whole(path: Path) -> str | None:
    """The `log` of a state that is as it was written; `None` of one that is not."""
    try:
        if path.name != WHOLE:
            seal = read_object(path / SEAL)
            files: dict[str, str] = seal["files"]
            same = all(sha256_once(path / name) == digest for name, digest in files.items())
            return seal["log"] if same else None
        with zipfile.ZipFile(path) as file:
            if file.testzip() is not None:
                return None
        return load_whole(path, mmap=True).log
    # Whatever reading damage may raise: a zip file's, pickle's, PyTorch's.
    except Exception:
        return None


def newest(folder: Path) -> Path | None:
    """The state to go on from. A kill may leave two: a new one removes the old one last."""
    whole = folder / WHOLE
    if found := _sharded(folder):
        latest = max(found, key=step_of)
        if not whole.exists() or log_of_whole(whole) is None:
            return latest
        if step_of(whole) < step_of(latest):
            return latest
    return whole if whole.exists() else None


def load_whole(path: Path, *, mmap: bool = False) -> TrainingState:
    """A state that one process wrote; with `mmap` a tensor is read when it is used."""
    return TrainingState(**torch.load(path, map_location="cpu", mmap=mmap))


@torch.no_grad()
def load_into(state: TrainingState, path: Path, ranks: Ranks) -> TrainingState:
    """Read a state of any number of processes into the tensors of this one's."""
    values = _values(state)
    if path.name == WHOLE:
        whole = load_whole(path, mmap=True)
        _fill(values, _values(whole))
        return dataclasses.replace(state, step=whole.step, tokens=whole.tokens)
    from torch.distributed.checkpoint.state_dict_loader import load

    with warnings.catch_warnings():
        # A process alone is told that it is alone.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(values, checkpoint_id=path, no_dist=ranks.mesh is None)
    return dataclasses.replace(state, step=values["step"], tokens=values["tokens"])


def _values(state: TrainingState) -> dict[str, Any]:
    """What is kept of a state, its tensors not copied; rates and such follow from the step."""
    return {
        "step": state.step,
        "tokens": state.tokens,
        "masters": state.masters,
        "optimizer": state.optimizer["state"],
    }


def _fill(target: dict[Any, Any], source: dict[Any, Any]) -> None:
    for key, value in target.items():
        if isinstance(value, dict):
            _fill(value, source[key])
        elif isinstance(value, DTensor):
            put(value, source[key])
        elif isinstance(value, torch.Tensor):
            value.copy_(source[key])


def put(parameter: DTensor, whole: torch.Tensor) -> None:
    """Copy this process's part of a tensor that it has whole."""
    part = distribute_tensor(
        whole.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )
    parameter.copy_(part)


def _sharded(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step_*") if not path.suffix]


def step_of(path: Path) -> int:
    """Finished steps of a state on disk."""
    if path.name == WHOLE:
        return load_whole(path, mmap=True).step
    return int(path.name.removeprefix("step_"))
