"""The folder of a policy: what training left of its weights, and in which number types.

By default nothing is lost. Weights of a bfloat16 model are in bfloat16, with what they lack of the
float32 ones beside (`masters.py`); those of any other are in float32. An adapter stays apart from
its base, of which there is no copy. With a number type given, weights are whole and rounded to it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from forethought.config import TrainingConfig
from forethought.models.loading import (
    ADAPTER,
    RESTS,
    Named,
    find_adapter,
    generation_config,
    load_config,
    load_model,
    load_tokenizer,
    merged,
    resolve,
    skeleton,
    source_of,
    stored_dtype,
)
from forethought.models.masters import rounded, split, write_rests
from forethought.models.model_files import model_files

if TYPE_CHECKING:
    from peft import PeftModel

WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".index.json", ".gguf", ".h5", ".msgpack")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """How a policy is kept.

    Example: `Stored(dtype="bfloat16", exact=True, merged=False)`
    """

    dtype: str
    """Number type of the weights that are read by whoever samples."""
    exact: bool
    """Whether the float32 weights can be read again, bit for bit."""
    merged: bool
    """Whether an adapter's base is there, too, with the adapter in it."""

    @property
    def has_rests(self) -> bool:
        """Whether bits lie beside the weights."""
        return self.exact and self.dtype == "bfloat16"

    def sampled(self, master: torch.Tensor, dtype: str) -> torch.Tensor:
        """A float32 weight as a sampler of this number type reads it back, in float32."""
        if self.has_rests:
            return master if dtype == "float32" else rounded(master).float()
        return master.to(getattr(torch, self.dtype)).to(getattr(torch, dtype)).float()


def stored_as(source: Named, config: TrainingConfig) -> Stored:
    """How the recipe's `training.checkpoint_dtype` keeps a policy that is trained from `source`."""
    original = stored_dtype(source)
    match config.checkpoint_dtype:
        case "masters":
            kind = "bfloat16" if original == "bfloat16" else "float32"
            return Stored(dtype=kind, exact=True, merged=False)
        case "original":
            return Stored(dtype=original, exact=original == "float32", merged=True)
        case given:
            return Stored(dtype=given, exact=given == "float32", merged=True)


@torch.no_grad()
def write_model(
    folder: Path,
    source: Named,
    masters: Mapping[str, torch.Tensor],
    adapter: PeftModel | None,
    stored: Stored,
) -> None:
    """Write a policy that was trained from `source`; `masters` are float32, by parameter."""
    if adapter is None:
        _write_whole(folder, source, masters, stored)
        copy_rest(source, folder)
        return
    _write_adapter(folder / ADAPTER, source, masters, adapter)
    copy_rest(source, folder)
    if not (folder / "config.json").exists():
        load_config(source).save_pretrained(folder)
        generation_config(source).save_pretrained(folder)
    if stored.merged:
        # Merged in float32: in bfloat16 a small update would be rounded away twice.
        whole = merged(source_of(source).at(str(folder)))
        whole.to(getattr(torch, stored.dtype)).save_pretrained(folder)


def _write_whole(
    folder: Path, source: Named, masters: Mapping[str, torch.Tensor], stored: Stored
) -> None:
    kind = getattr(torch, stored.dtype)
    weights, rests = {}, {}
    for name, master in masters.items():
        if stored.has_rests:
            weights[name], rests[name] = split(master.to("cpu"))
        else:
            weights[name] = master.to(device="cpu", dtype=kind)
    if masters.keys() == stored_names(source):
        skeleton(source, dtype=stored.dtype).save_pretrained(folder, state_dict=weights)
    else:
        model = load_model(source, dtype=stored.dtype, device="cpu")
        parameters = dict(model.named_parameters())
        for name, weight in weights.items():
            parameters[name].copy_(weight)
        model.save_pretrained(folder)
    if rests:
        write_rests(folder / RESTS, rests)


def _write_adapter(
    folder: Path, source: Named, masters: Mapping[str, torch.Tensor], adapter: PeftModel
) -> None:
    """The adapter alone; its base is that of the policy it was trained from."""
    earlier = find_adapter(source)
    base = source_of(source) if earlier is None else earlier.base
    here = Path(resolve(base))
    for described in adapter.peft_config.values():
        described.base_model_name_or_path = str(here.absolute()) if here.is_dir() else base.path
        described.revision = base.revision
    adapter.save_pretrained(str(folder), state_dict=dict(masters))


def stored_names(source: Named) -> set[str]:
    """Names of the tensors in a folder's safetensors files; none for a model that is elsewhere."""
    names: set[str] = set()
    for path in Path(resolve(source)).glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names.update(file.keys())
    return names


def copy_rest(source: Named, folder: Path) -> None:
    """The original's other files: its tokenizer, and code that comes with it; byte for byte where
    they are on disk."""
    original = Path(resolve(source))
    if not original.is_dir():
        load_tokenizer(source, chat=False).save_pretrained(folder)
        return
    for file in model_files(original):
        if not file.name.endswith(WEIGHT_FILES):
            target = folder / file.name
            if not target.exists():
                shutil.copyfile(file, target)
