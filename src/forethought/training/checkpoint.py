"""What training leaves on disk, whole at every moment.

`epoch_N/` is written under a hidden name and renamed; the newest of `state/` is replaced
(`states.py`); `steps.jsonl` may run ahead of the state and is cut back to it on resume;
`result.json` comes last, before the state is dropped. A process killed anywhere thus leaves a
directory from which the same call goes on, to the same bits. Of several processes the first writes
everything but its fellows' parts of the state.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from forethought.config import TrainingConfig
from forethought.models.loading import Named
from forethought.storage.files import (
    content_hash,
    naming,
    sha256_once,
    sync_folder,
    write_bytes,
    write_json,
)
from forethought.storage.sealed_stage import damaged, read_log, read_object
from forethought.storage.written import Written, set_aside
from forethought.training.distributed.ranks import ALONE, Ranks
from forethought.training.results import STEPS, ReferenceLogprobs, Step, TrainingResult
from forethought.training.states import (
    TrainingState,
    log_of_whole,
    newest,
    save_sharded,
    save_whole,
    step_of,
)
from forethought.training.stored import Stored, write_model
from forethought.types import PairSide, PreferencePair, TrainingExample

if TYPE_CHECKING:
    from peft import PeftModel

FINGERPRINT = "fingerprint.json"
RESULT = "result.json"
Log = TypeVar("Log", bound=Step)


def pairs_fingerprint(
    pairs: Sequence[PreferencePair],
    reference: Sequence[ReferenceLogprobs],
    config: TrainingConfig,
    seed: int,
) -> str:
    """Identity of a training on pairs. The model is named by its log-probs: a folder may move."""

    def tokens(side: PairSide) -> list[Any]:
        return [side.response_start, *side.token_ids]

    return content_hash(
        {
            "pairs": [
                [
                    pair.prompt_id,
                    pair.prompt_token_ids,
                    tokens(pair.chosen),
                    tokens(pair.rejected),
                    *([pair.forced] if any(pair.forced) else []),
                ]
                for pair in pairs
            ],
            "reference": [dataclasses.astuple(record) for record in reference],
            "config": config.identity(),
            "seed": seed,
        }
    )


def examples_fingerprint(
    examples: Sequence[TrainingExample], config: TrainingConfig, seed: int
) -> str:
    """Identity of a training on examples."""
    return content_hash(
        {
            "examples": [
                [example.prompt_id, example.prompt_token_ids, example.token_ids]
                for example in examples
            ],
            "config": config.identity(),
            "seed": seed,
        }
    )


class TrainingDirectory:
    """The folder of one training."""

    def __init__(self, folder: Path, fingerprint: str, ranks: Ranks = ALONE) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.ranks = ranks
        self.steps_path = folder / STEPS
        self.state_folder = folder / "state"
        self.result_path = folder / RESULT
        self._written = Written(folder)

    def claim(self) -> TrainingResult | None:
        """Write down whose folder this is; the result if the training is done.

        What is left of the state of a finished training is dropped. What is not as it was written
        is set aside, and what leads to it is done again.

        Raises: ValueError if it holds another training.
        """
        return self.ranks.from_first(self._claim() if self.ranks.first else None)

    def _claim(self) -> TrainingResult | None:
        path = self.folder / FINGERPRINT
        if not self._written.whole(FINGERPRINT):
            write_json(path, {"fingerprint": self.fingerprint})
            self._begin_anew()
            self._written.note(FINGERPRINT, durable=True)
        elif read_object(path).get("fingerprint") != self.fingerprint:
            raise ValueError(
                f"training: {self.folder} holds a training on something else, with other settings "
                "or another seed; give another directory, or move this one away to train anew"
            )
        self._set_epochs_aside()
        if not self._written.whole(RESULT):
            return None
        result = read_result(self.folder)
        if self._has_epochs(result.epochs) and self._written.whole(STEPS):
            shutil.rmtree(self.state_folder, ignore_errors=True)
            return result
        self.result_path.unlink()
        self._written.forget(RESULT)
        return None

    def _set_epochs_aside(self) -> None:
        """Those that are not as they were written, whole folders."""
        noted = {name.split("/")[0] for name in self._written.digests() if "/" in name}
        there = {path.name for path in self.folder.glob("epoch_*") if not path.suffix}
        for name in sorted(there | {name for name in noted if name.startswith("epoch_")}):
            if name in noted and self._written.all_whole(name):
                continue
            if name in there:
                set_aside(self.folder / name, "damaged" if name in noted else "stray")
            self._written.forget(name)

    def _has_epochs(self, count: int) -> bool:
        noted = {name.split("/")[0] for name in self._written.digests()}
        return all(f"epoch_{epoch}" in noted for epoch in range(1, count + 1))

    def _begin_anew(self) -> None:
        """Nothing that is here is known to be of this training."""
        for path in (*self.folder.glob("epoch_*"), self.steps_path, self.result_path):
            if path.exists() and path.suffix not in (".damaged", ".stray"):
                set_aside(path, "stray")
                self._written.forget(path.name)
        self._drop_state()

    def _drop_state(self) -> None:
        shutil.rmtree(self.state_folder, ignore_errors=True)
        self._written.forget(self.state_folder.name)

    def margins_kept(self) -> tuple[float | None, ...]:
        """What the log says of each epoch's checkpoint, in order."""
        found: dict[int, float | None] = {}
        if self.ranks.first:
            for log in read_log(self.steps_path):
                found[log["epoch"]] = log["margin_kept"]
        return self.ranks.from_first(tuple(found.values()))

    def finish(self, result: TrainingResult) -> None:
        """Mark the training done, then drop its state."""
        if self.ranks.first:
            self._sync_log()
            self._written.note(STEPS, durable=True)
            write_json(self.result_path, dataclasses.asdict(result))
            self._written.note(RESULT, durable=True)
            shutil.rmtree(self.state_folder, ignore_errors=True)

    def append(self, log: Step) -> None:
        """Add a step to the log; `save_state` makes it durable."""
        if self.ranks.first:
            with naming(self.steps_path), self.steps_path.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(log)) + "\n")

    def save_state(self, state: TrainingState) -> None:
        """Replace the resumable state, after the log that leads to it is on disk."""
        if self.ranks.first:
            self._sync_log()
            state = dataclasses.replace(state, log=self._log_digest(state.step))
        if self.ranks.mesh is None:
            save_whole(self.state_folder, state)
        else:
            save_sharded(self.state_folder, state, self.ranks)

    def _sync_log(self) -> None:
        with self.steps_path.open("rb") as file:
            os.fsync(file.fileno())

    def newest_state(self, steps_per_epoch: int) -> Path | None:
        """Where the last sealed state is; `None` before the first, and where an epoch or a line of
        the log is damaged that it builds on.
        """
        first = self.ranks.first
        return self.ranks.from_first(self._newest_state(steps_per_epoch) if first else None)

    def _newest_state(self, steps_per_epoch: int) -> Path | None:
        while (path := newest(self.state_folder)) is not None:
            log = log_of_whole(path)
            if log is None:
                set_aside(path, "damaged")
                continue
            step = step_of(path)
            same_log = log == self._log_digest(step)
            if same_log and self._has_epochs(step // steps_per_epoch):
                return path
            if not same_log and self.steps_path.is_file():
                set_aside(self.steps_path, "damaged")
            # The state is good, but does not give what is missing.
            self._drop_state()
        return None

    def _log_digest(self, step: int) -> str:
        """Of the first lines."""
        if not self.steps_path.is_file():
            return ""
        lines = self.steps_path.read_bytes().splitlines(keepends=True)[:step]
        return hashlib.sha256(b"".join(lines)).hexdigest()

    def cut_log(self, step: int) -> None:
        """Begin the log, or cut it back to the steps that the state has seen."""
        if self.ranks.first:
            lines = []
            if step > 0:
                lines = self.steps_path.read_text().splitlines(keepends=True)[:step]
            write_bytes(self.steps_path, "".join(lines).encode())

    def epoch_folder(self, epoch: int) -> Path:
        """Where the checkpoint of an epoch (from 1) stands."""
        return self.folder / f"epoch_{epoch}"

    def save_epoch(
        self,
        epoch: int,
        model: Named,
        masters: dict[str, torch.Tensor],
        adapter: PeftModel | None,
        stored: Stored,
    ) -> None:
        """Write the folder of a policy.

        `masters` are whole, and needed by the first process alone. An epoch that is already there
        was written by a killed run from the same weights.
        """
        target = self.epoch_folder(epoch)
        if not self.ranks.first or target.exists():
            return
        partial = self.folder / f".epoch_{epoch}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with naming(target):
            write_model(partial, model, masters, adapter, stored)
            _sync_files(partial)
        for file in partial.rglob("*"):
            if file.is_file():
                # Before it counts as written, which is then done at once.
                sha256_once(file)
        os.replace(partial, target)
        sync_folder(self.folder)
        self._written.note(target.name, durable=True)


class LogReader(Generic[Log]):
    """Follows the log of a training that other processes write."""

    def __init__(self, folder: Path, kind: type[Log]) -> None:
        """The steps that are there already are not news, even if they are done again."""
        self._path, self._kind = folder / STEPS, kind
        self._place = self._inode = 0
        self._next_step = 0
        self.read(lambda log: None)

    def read(self, on_step: Callable[[Log], None]) -> None:
        """Pass on every step since the last call, each once."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            # Another file stands there when a resumed training has cut its log back.
            if inode != self._inode:
                self._place, self._inode = 0, inode
            file.seek(self._place)
            for line in file:
                # Half a line is still being written; the next call reads it.
                if not line.endswith(b"\n"):
                    return
                self._place += len(line)
                log = self._kind(**json.loads(line))
                if log.step >= self._next_step:
                    self._next_step = log.step + 1
                    on_step(log)


def read_result(folder: Path) -> TrainingResult:
    """What a finished training left in its folder.

    Raises: StageError if it is damaged.
    """
    path = folder / RESULT
    result: Any = read_object(path)
    try:
        return TrainingResult(**result | {"margin_kept": tuple(result["margin_kept"])})
    except (TypeError, KeyError) as error:
        raise damaged(path, f"no training result: {error}") from error


def _sync_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)
