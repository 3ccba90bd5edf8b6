"""What training leaves on disk, whole at every moment.

`epoch_N/` is written under a hidden name and renamed; `state/state.pt` is one file that is
replaced; `steps.jsonl` may run ahead of the state and is cut back to it on resume; `result.json`
comes last, before the state is dropped. A process killed anywhere thus leaves a directory from
which the same call goes on, to the same bits.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig

from forethought.config import TrainingConfig
from forethought.models import load_model, load_tokenizer, resolve
from forethought.store import content_hash, sync_folder, write_bytes, write_json
from forethought.training.results import ReferenceLogprobs, StepLog, TrainingResult
from forethought.types import PairSide, PreferencePair

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER = "adapter"
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".index.json", ".gguf", ".h5", ".msgpack")


def training_fingerprint(
    pairs: Sequence[PreferencePair],
    reference: Sequence[ReferenceLogprobs],
    config: TrainingConfig,
    seed: int,
) -> str:
    """Identity of a training. The model is named by its log-probs, so a folder may move."""

    def tokens(side: PairSide) -> list[Any]:
        return [side.response_start, *side.token_ids]

    return content_hash(
        {
            "pairs": [
                [pair.prompt_id, pair.prompt_token_ids, tokens(pair.chosen), tokens(pair.rejected)]
                for pair in pairs
            ],
            "reference": [dataclasses.astuple(record) for record in reference],
            "config": config.model_dump(mode="json"),
            "seed": seed,
        }
    )


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


class TrainingDirectory:
    """The folder of one training."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.steps_path = folder / "steps.jsonl"
        self.state_path = folder / "state" / "state.pt"
        self.result_path = folder / "result.json"

    def claim(self) -> None:
        """Write down whose folder this is.

        Raises: ValueError if it holds another training.
        """
        path = self.folder / "fingerprint.json"
        if not path.exists():
            write_json(path, {"fingerprint": self.fingerprint})
        elif json.loads(path.read_text())["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"training: {self.folder} holds a training with other pairs, reference log-probs, "
                "settings or seed; give another directory, or delete this one to train anew"
            )

    def finished(self) -> TrainingResult | None:
        """The result if the training is done; what is left of its state is dropped."""
        if not self.result_path.exists():
            return None
        shutil.rmtree(self.state_path.parent, ignore_errors=True)
        return TrainingResult(**json.loads(self.result_path.read_text()))

    def finish(self, result: TrainingResult) -> None:
        """Mark the training done, then drop its state."""
        write_json(self.result_path, dataclasses.asdict(result))
        shutil.rmtree(self.state_path.parent)

    def append(self, log: StepLog) -> None:
        """Add a step to the log; `save_state` makes it durable."""
        with self.steps_path.open("a") as file:
            file.write(json.dumps(dataclasses.asdict(log)) + "\n")

    def save_state(self, state: TrainingState) -> None:
        """Replace the resumable state, after the log that leads to it is on disk."""
        with self.steps_path.open("rb") as file:
            os.fsync(file.fileno())
        buffer = io.BytesIO()
        torch.save({field: getattr(state, field) for field in TrainingState.__slots__}, buffer)
        write_bytes(self.state_path, buffer.getvalue())

    def load_state(self) -> TrainingState | None:
        """The last sealed state, with the log cut back to it; `None` before the first."""
        if not self.state_path.exists():
            write_bytes(self.steps_path, b"")
            return None
        state = TrainingState(**torch.load(self.state_path, map_location="cpu"))
        lines = self.steps_path.read_text().splitlines(keepends=True)
        write_bytes(self.steps_path, "".join(lines[: state.step]).encode())
        return state

    def epoch_folder(self, epoch: int) -> Path:
        """Where the checkpoint of an epoch (from 1) stands."""
        return self.folder / f"epoch_{epoch}"

    def save_epoch(
        self,
        epoch: int,
        model_path: str,
        masters: dict[str, torch.Tensor],
        adapter: PeftModel | None,
    ) -> None:
        """Write an ordinary model folder in the original checkpoint's number type.

        An epoch that is already there was written by a killed run from the same weights.
        """
        target = self.epoch_folder(epoch)
        if target.exists():
            return
        partial = self.folder / f".epoch_{epoch}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write_checkpoint(partial, model_path, masters, adapter)
        _sync_files(partial)
        os.replace(partial, target)
        sync_folder(self.folder)


def stored_dtype(model_path: str) -> str:
    """Number type of a checkpoint's weights as its config says; float32 if it does not."""
    dtype = AutoConfig.from_pretrained(resolve(model_path)).dtype
    return str(dtype or torch.float32).removeprefix("torch.")


@torch.no_grad()
def _write_checkpoint(
    folder: Path, model_path: str, masters: dict[str, torch.Tensor], adapter: PeftModel | None
) -> None:
    dtype = stored_dtype(model_path)
    if adapter is None:
        model = load_model(model_path, dtype=dtype, device="cpu")
        parameters = dict(model.named_parameters())
        for name, master in masters.items():
            parameters[name].copy_(master)
    else:
        from peft import PeftModel

        adapter.save_pretrained(str(folder / ADAPTER), state_dict=masters)
        # Merged in float32: in bfloat16 a small update would be rounded away twice.
        base = load_model(model_path, dtype="float32", device="cpu")
        merged = PeftModel.from_pretrained(base, str(folder / ADAPTER)).merge_and_unload()  # pyright: ignore[reportCallIssue]
        model = merged.to(getattr(torch, dtype))
    model.save_pretrained(folder)
    _copy_tokenizer(model_path, folder)


def _copy_tokenizer(model_path: str, folder: Path) -> None:
    """The original's own tokenizer files, byte for byte where they are on disk."""
    source = Path(resolve(model_path))
    if not source.is_dir():
        load_tokenizer(model_path, chat=False).save_pretrained(folder)
        return
    for file in source.iterdir():
        if file.is_file() and not file.name.endswith(WEIGHT_FILES):
            target = folder / file.name
            if not target.exists():
                shutil.copyfile(file, target)


def _sync_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)
