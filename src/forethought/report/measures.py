"""What a run's measures found, read from `measures/NAME/ARM/policy_I/manifest.json`.

A measure reports a list of figures, each with a name, an interval and a count, some of them by
category. Two measures may use one name (a benchmark's win rate is not the run's own), so a name
that does not hold its measure's gets it in front. Nothing here knows what a name means;
`measure_charts.py` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from forethought.config import Recipe, explain
from forethought.report.columns import is_sealed
from forethought.report.scores import Mean
from forethought.store import StageError, read_manifest
from forethought.types import Arm, EvaluationResult

OF_THOUGHTS = ("win_rate", "probe")
"""Measures that stand in the thought arm's folder alone."""
_RESULTS = TypeAdapter(list[EvaluationResult])


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One measure of one policy.

    Example: `Measured(measure="win_rate", arm="thought", policy=2, folder=Path("runs/…"),
    results=(EvaluationResult(…),), tokens={"first": 84.0, "second": 31.5})`
    """

    measure: str
    arm: Arm
    policy: int
    folder: Path
    results: tuple[EvaluationResult, ...]
    tokens: dict[str, float]
    """Tokens per prompt that each side of a comparison spent; empty for other measures."""


def read_measures(run: Path, recipe: Recipe) -> tuple[Measured, ...]:
    """Every sealed measure, by name, arm and policy.

    Raises: StageError if a sealed measure cannot be read.
    """
    place = run / "measures"
    names = sorted(one.name for one in place.iterdir() if one.is_dir()) if place.is_dir() else []
    found: list[Measured] = []
    for name in names:
        for arm in recipe.arms:
            for policy in range(recipe.iterations + 1):
                folder = place / name / arm / f"policy_{policy}"
                if is_sealed(folder):
                    found.append(_measured(folder, name, arm, policy))
    return tuple(found)


def wanted_measures(recipe: Recipe) -> Iterator[str]:
    """Folders of the measures that the recipe asks for, below the run's."""
    for name, config in recipe.measures:
        if config is None:
            continue
        policies = recipe.evaluated if config.after == "every" else (recipe.iterations,)
        for arm in ("thought",) if name in OF_THOUGHTS else recipe.arms:
            yield from (f"measures/{name}/{arm}/policy_{policy}" for policy in policies)


def figures_of(
    measured: Sequence[Measured], name: str, arm: Arm, category: str | None = None
) -> tuple[tuple[int, Mean], ...]:
    """Policy and figure of every measured policy, the seed first."""
    return tuple(
        (one.policy, as_mean(result))
        for one in sorted(measured, key=lambda one: one.policy)
        if one.arm == arm
        for result in one.results
        if (result.name, result.category) == (name, category)
    )


def last_by_category(
    measured: Sequence[Measured], name: str, arm: Arm
) -> tuple[int, dict[str, Mean]] | None:
    """The last policy with figures by category, and those; `None` where there are none."""
    for one in sorted(measured, key=lambda one: -one.policy):
        found = {
            result.category: as_mean(result)
            for result in one.results
            if one.arm == arm and result.name == name and result.category is not None
        }
        if found:
            return one.policy, found
    return None


def names_of(measured: Sequence[Measured]) -> list[str]:
    """Names of the figures over all categories, in the order in which they are met."""
    return list(
        dict.fromkeys(
            result.name for one in measured for result in one.results if result.category is None
        )
    )


def as_mean(result: EvaluationResult) -> Mean:
    """The figure; an interval without ends, as of a single value, is none."""
    ended = all(math.isfinite(end) for end in result.interval)
    interval = result.interval if ended else None
    return Mean(value=result.value, interval=interval, count=result.count)


def _measured(folder: Path, name: str, arm: Arm, policy: int) -> Measured:
    counts: dict[str, Any] = read_manifest(folder).counts
    results = tuple(
        one if name in one.name else replace(one, name=f"{name}_{one.name}")
        for one in _results(folder, counts)
    )
    return Measured(
        measure=name,
        arm=arm,
        policy=policy,
        folder=folder,
        results=results,
        tokens=counts.get("tokens_per_prompt", {}),
    )


def _results(folder: Path, counts: Mapping[str, Any]) -> list[EvaluationResult]:
    redo = f"to measure again, remove the folder (rm -r {folder}) and run the same command"
    if "results" not in counts:
        raise StageError(f"{folder / 'manifest.json'}: counts has no results; {redo}")
    try:
        results = _RESULTS.validate_python(counts["results"])
    except ValidationError as error:
        raise StageError(
            f"{folder / 'manifest.json'}: counts.results is not a list of figures:\n"
            f"{explain(error, list[EvaluationResult], 'counts.results')}\n{redo}"
        ) from error
    for one in results:
        if not math.isfinite(one.value):
            raise StageError(
                f"{folder / 'manifest.json'}: counts.results: {one.name} is {one.value}, which is "
                f"no figure; {redo}"
            )
    return results
