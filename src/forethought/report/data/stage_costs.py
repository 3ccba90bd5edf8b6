"""What every sealed stage cost: seconds, devices, calls of models that are paid by the token.

A stage holds one device (a GPU, or the CPU), or as many as its processes, its workers, and vLLM
sharing a model over several GPUs make; those of a server are the server's and are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from forethought.config import JudgeConfig, Recipe, SamplingConfig
from forethought.runs.layout import StageRef
from forethought.runs.schedule import (
    evaluation_refs,
    iteration_refs,
    sealed_measures,
    seed_refs,
    warm_start_refs,
)
from forethought.storage.sealed_stage import read_manifest
from forethought.types import Arm

SAMPLED = frozenset({"rollouts", "selection", "evaluation", "measures"})
TRAINED = ("reference", "training")
JUDGED = frozenset({"judgements", "selection", "evaluation", "measures"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Calls of a model behind a server or a judge, over all attempts.

    Example: `Calls(calls=560, hits=12, prompt_tokens=812000, completion_tokens=9100, money=0.4)`
    """

    calls: int
    hits: int
    """Answers found in the cache instead."""
    prompt_tokens: int
    completion_tokens: int
    money: float
    """In the currency of the recipe's prices; 0 without prices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpentOnStage:
    """One sealed stage.

    Example: `SpentOnStage(stage="rollouts", arm="thought", index=0, seconds=9.5, devices=1,
    judge=None, sampling=None, unjudged=0, unread=0)`
    """

    stage: str
    """The stage's name, or `measures`."""
    arm: Arm
    index: int
    """Iteration, or policy for evaluation and measures; -1: the warm start, or the plain seed."""
    seconds: float
    """Wall-clock time over all attempts."""
    devices: int
    judge: Calls | None
    sampling: Calls | None
    unjudged: int
    """Prompts that the judge could not score."""
    unread: int
    """Verdicts that could not be read, of prompts that were scored from the others."""

    @property
    def device_seconds(self) -> float:
        """Wall-clock time times devices."""
        return self.seconds * self.devices


def read_costs(recipe: Recipe) -> Iterator[SpentOnStage]:
    """Costs of the sealed stages of both arms.

    Raises: StageError if a manifest is damaged.
    """
    for stage, ref in _places(recipe):
        if ref.sealed:
            manifest = read_manifest(ref.folder)
            counts: dict[str, Any] = dict(manifest.counts)
            yield SpentOnStage(
                stage=stage,
                arm=ref.arm,
                index=ref.index,
                seconds=manifest.seconds,
                devices=_devices(recipe, stage),
                judge=_calls(manifest.counts, "judge_calls"),
                sampling=_calls(manifest.counts, "sampling_calls"),
                unjudged=len(counts["missing"]) if "missing" in counts else 0,
                unread=counts.get("unread_verdicts", 0),
            )


def _places(recipe: Recipe) -> Iterator[tuple[str, StageRef]]:
    """Each stage with what its costs go under."""
    measures = sealed_measures(recipe)
    seeds = list(seed_refs(recipe))
    for arm in recipe.arms:
        for ref in warm_start_refs(recipe, arm):
            yield ref.stage, ref
        for ref in seeds:
            if ref.arm == arm:
                yield ref.stage, ref
        for number in range(recipe.iterations):
            for ref in iteration_refs(recipe, arm, number):
                yield ref.stage, ref
        for ref in evaluation_refs(recipe, arm):
            yield "evaluation", ref
            for measure in measures:
                if (measure.arm, measure.index) == (arm, ref.index):
                    yield "measures", measure


def _calls(counts: Mapping[str, Any], key: str) -> Calls | None:
    spent = counts.get(key)
    if spent is None:
        return None
    return Calls(
        calls=spent["calls"],
        hits=spent["hits"],
        prompt_tokens=spent["prompt_tokens"],
        completion_tokens=spent["completion_tokens"],
        money=spent["cost"],
    )


def _devices(recipe: Recipe, stage: str) -> int:
    held = [1]
    if stage in TRAINED:
        held.append(recipe.launch.processes or 1)
    if stage in SAMPLED:
        held.append(_held(recipe.sampling))
    if stage in JUDGED:
        held.append(_held(recipe.judge))
    return max(held)


def _held(worker: SamplingConfig | JudgeConfig) -> int:
    """One device at least for each of its workers, or for what works in this process."""
    count = 1 if worker.pool is None else worker.pool.count
    return count * max(1, worker.devices)
