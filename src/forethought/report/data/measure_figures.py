"""What a run's measures found, read from the manifests of their stages.

A measure reports a list of figures, each with a name, an interval and a count, some of them by
category. Two measures may use one name (a benchmark's win rate is not the run's own), so a name
that does not hold its measure's gets it in front. Nothing here knows what a name means;
`measure_charts.py` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from forethought.config import Recipe, explain
from forethought.report.data.scores import Mean, as_mean
from forethought.runs.layout import StageRef
from forethought.runs.schedule import sealed_measures
from forethought.storage.sealed_stage import MANIFEST, StageError, read_manifest
from forethought.types import Arm, EvaluationResult

_RESULTS = TypeAdapter(list[EvaluationResult])


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One measure of one policy.

    Example: `Measured(measure="win_rate", arm="thought", policy=2, folder=Path("runs/…"),
    results=(EvaluationResult(…),), tokens={"first": 84.0, "second": 31.5}, lengths={})`
    """

    measure: str
    arm: Arm
    policy: int
    folder: Path
    results: tuple[EvaluationResult, ...]
    tokens: dict[str, float]
    """Tokens per prompt that each side of a comparison spent; empty for other measures."""
    lengths: dict[str, dict[str, int]]
    """Of a comparison, by rival: prompts by which side's response is longer."""


def read_measures(recipe: Recipe) -> tuple[Measured, ...]:
    """Every sealed measure, by name, arm and policy.

    Raises: StageError if a sealed measure cannot be read.
    """
    return tuple(_measured(ref) for ref in sealed_measures(recipe))


def figures_of(
    measured: Sequence[Measured], name: str, arm: Arm, category: str | None = None
) -> tuple[tuple[int, Mean], ...]:
    """Policy and figure of every measured policy, the seed first."""
    return tuple(
        (measure.policy, as_mean(result))
        for measure in sorted(measured, key=lambda measure: measure.policy)
        if measure.arm == arm
        for result in measure.results
        if (result.name, result.category) == (name, category)
    )


def last_by_category(
    measured: Sequence[Measured], name: str, arm: Arm
) -> tuple[int, dict[str, Mean]] | None:
    """The last policy with figures by category, and those; `None` where there are none."""
    for measure in sorted(measured, key=lambda measure: -measure.policy):
        by_category = {
            result.category: as_mean(result)
            for result in measure.results
            if measure.arm == arm and result.name == name and result.category is not None
        }
        if by_category:
            return measure.policy, by_category
    return None


def names_of(measured: Sequence[Measured]) -> list[str]:
    """Names of the figures over all categories, in the order in which they are met."""
    return list(
        dict.fromkeys(
            result.name
            for measure in measured
            for result in measure.results
            if result.category is None
        )
    )


def _measured(ref: StageRef) -> Measured:
    name, folder = ref.stage, ref.folder
    counts: dict[str, Any] = read_manifest(folder).counts
    results = tuple(
        result if name in result.name else replace(result, name=f"{name}_{result.name}")
        for result in _results(folder, counts)
    )
    return Measured(
        measure=name,
        arm=ref.arm,
        policy=ref.index,
        folder=folder,
        results=results,
        tokens=counts.get("tokens_per_prompt", {}),
        lengths=counts.get("lengths", {}),
    )


def _results(folder: Path, counts: Mapping[str, Any]) -> list[EvaluationResult]:
    redo = (
        f"to measure again, move the folder away (mv {folder} {folder}.old) and run the same "
        "command"
    )
    if "results" not in counts:
        raise StageError(f"{folder / MANIFEST}: counts has no results; {redo}")
    try:
        results = _RESULTS.validate_python(counts["results"])
    except ValidationError as error:
        raise StageError(
            f"{folder / MANIFEST}: counts.results is not a list of figures:\n"
            f"{explain(error, list[EvaluationResult], 'counts.results')}\n{redo}"
        ) from error
    for result in results:
        if not math.isfinite(result.value):
            raise StageError(
                f"{folder / MANIFEST}: counts.results: {result.name} is {result.value}, which is "
                f"no figure; {redo}"
            )
    return results
