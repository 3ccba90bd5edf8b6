"""Trainings that a process alone and several together must do alike.

`torchrun … sharded_cases.py JOB...` does many jobs in one group of processes: starting one costs
more than such a job.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tiny_training import make_pairs, settings, tiny_model

from forethought.config import ModelSource
from forethought.storage.open_stage import Stage
from forethought.training.distributed.job import Job, take_part
from forethought.training.distributed.ranks import leave
from forethought.training.reference import reference_logprobs
from forethought.training.results import ReferenceLogprobs
from forethought.types import PreferencePair


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and how it is trained."""

    kind: str = "llama"
    stored: str = "float32"
    model: dict[str, Any] = field(default_factory=dict)
    pairs: int = 80
    training: dict[str, Any] = field(default_factory=dict)


TWENTY_STEPS = {
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "tokens_per_microbatch": 128,
    "save_every": 7,
}
CASES = {
    "full": Case(training=TWENTY_STEPS),
    "masters": Case(stored="bfloat16", training=TWENTY_STEPS),
    "lora": Case(training=TWENTY_STEPS | {"lora": {"rank": 4}}),
    "bfloat16": Case(training=TWENTY_STEPS | {"dtype": "bfloat16"}),
    "lora_bfloat16": Case(training=TWENTY_STEPS | {"dtype": "bfloat16", "lora": {"rank": 4}}),
    # Tied weights, recomputed layers, and fewer pairs in a step than processes.
    "few_pairs": Case(
        kind="qwen3",
        model={"tie_word_embeddings": True},
        pairs=5,
        training={
            "batch_size": 3,
            "learning_rate": 1e-3,
            "gradient_checkpointing": True,
            "nll_weight": 0.5,
            "nll_mean": "token",
        },
    ),
    "padded": Case(
        kind="mamba2",
        model={"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1},
        pairs=8,
        training={"learning_rate": 1e-3, "epochs": 1},
    ),
    "plain": Case(kind="cohere", pairs=8, training={"learning_rate": 1e-3, "epochs": 1}),
}


def prepare(folder: Path, case: Case) -> Job:
    """The model and the sealed stages of a case, and a job that does it alone."""
    model = tiny_model(case.kind, **case.model).to(getattr(torch, case.stored))
    model.save_pretrained(folder / "model")
    config, pairs = settings(**case.training), make_pairs(case.pairs)
    reference = reference_logprobs(str(folder / "model"), pairs, config, device="cpu")
    for name, records, record_type in (
        ("pairs", pairs, PreferencePair),
        ("reference", reference, ReferenceLogprobs),
    ):
        stage = Stage(folder / name, name=name, version=1, config={})
        stage.write_records(f"{name}_00000", records, record_type)
        stage.seal({})
    return Job(
        kind="training",
        model=ModelSource(path=str(folder / "model")),
        records=folder / "pairs",
        reference=folder / "reference",
        config=config,
        seed=0,
        directory=folder / "alone",
        processes=1,
        device="cpu",
        threads=1,
    )


if __name__ == "__main__":
    for path in sys.argv[1:]:
        take_part(Job.read(Path(path)))
    leave()
