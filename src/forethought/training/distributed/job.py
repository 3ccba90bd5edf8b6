"""Work for several processes, as a file that each of them reads.

Whoever starts the processes writes the job; each of them calls `take_part`. The first leaves the
results where the job says: a training in its directory, the reference log-probs of each part in a
file of their own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict

from forethought.config import DType, ModelSource, TrainingConfig
from forethought.storage.files import write_json
from forethought.storage.sealed_stage import read_records
from forethought.training.distributed.ranks import Ranks, join
from forethought.training.fine_tune import chosen_outputs, fine_tune
from forethought.training.reference import reference_logprobs
from forethought.training.results import ReferenceLogprobs
from forethought.training.train import train
from forethought.types import PreferencePair, TrainingExample

JobKind = Literal["training", "reference", "fine_tuning", "chosen"]
"""`fine_tuning` is on examples, `chosen` the same on the chosen outputs of pairs."""


class Job(BaseModel):
    """What to do with which files.

    Example: `Job(kind="reference", model=ModelSource(path="runs/q/…/policy"),
    records=Path("runs/q/…/pairs"), config=TrainingConfig(), directory=Path("runs/q/…/scratch"),
    owed=[(0, 0, 900)], processes=8, device="cuda", …)`
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: JobKind
    model: ModelSource
    records: Path
    """Sealed stage of the pairs, or for `fine_tuning` of the examples."""
    reference: Path | None
    """Sealed stage of their reference log-probs, for a training."""
    config: TrainingConfig
    seed: int
    directory: Path
    """Where the results go."""
    owed: tuple[tuple[int, int, int], ...] = ()
    """Number, first pair and last pair + 1 of each part of the reference."""
    processes: int
    device: Literal["cpu", "cuda"]
    sampled: DType = "bfloat16"
    """Number type in which what is trained will be sampled."""
    threads: int | None
    """CPU threads of each process."""

    @classmethod
    def read(cls, path: Path) -> Job:
        """The job of a file."""
        return cls.model_validate_json(path.read_bytes())

    def write(self, path: Path) -> None:
        """Leave it for the processes."""
        write_json(path, self.model_dump(mode="json"))

    def part(self, number: int) -> Path:
        """File of the reference log-probs of a part."""
        return self.directory / f"part_{number:05d}.json"


def take_part(job: Job) -> None:
    """Join the job's other processes and do this one's part.

    Raises: ValueError as `train`, `fine_tune` and `reference_logprobs` do.
    """
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    ranks = join(job.processes, job.device)
    if job.kind == "fine_tuning":
        _fine_tune(job, read_records(job.records, TrainingExample, "examples"), ranks)
        return
    pairs = read_records(job.records, PreferencePair, "pairs")
    if job.kind == "chosen":
        _fine_tune(job, chosen_outputs(pairs), ranks)
        return
    if job.kind == "reference":
        _reference(job, pairs, ranks)
        return
    assert job.reference is not None
    train(
        model=job.model,
        pairs=pairs,
        reference=read_records(job.reference, ReferenceLogprobs),
        config=job.config,
        seed=job.seed,
        directory=job.directory,
        device=job.device,
        sampled=job.sampled,
        ranks=ranks,
    )


def _fine_tune(job: Job, examples: Sequence[TrainingExample], ranks: Ranks) -> None:
    fine_tune(
        model=job.model,
        examples=examples,
        config=job.config,
        seed=job.seed,
        directory=job.directory,
        device=job.device,
        ranks=ranks,
    )


def _reference(job: Job, pairs: Sequence[PreferencePair], ranks: Ranks) -> None:
    from forethought.training.distributed.sharded import open_sharded_reference

    policy = open_sharded_reference(job.model, job.config, ranks)
    for number, start, stop in job.owed:
        records = reference_logprobs(
            job.model,
            pairs[start:stop],
            job.config,
            device=job.device,
            policy=policy,
            ranks=ranks,
        )
        if ranks.first:
            write_json(job.part(number), [dataclasses.astuple(record) for record in records])


def read_part(path: Path) -> list[ReferenceLogprobs]:
    """The reference log-probs that the processes left for a part."""
    names = [field.name for field in dataclasses.fields(ReferenceLogprobs)]
    rows = json.loads(path.read_bytes())
    return [ReferenceLogprobs(**dict(zip(names, row, strict=True))) for row in rows]
