"""What a tracker is told of a run: a view of its directory, the same however often it is read.

Names are `ARM/STAGE/KEY` with the keys of `summary.json`, of the stages' manifests and of the
training log, so that a tracker and the report speak of the same figures. `METRICS` is the table
of them; beside it stand `ARM/measures/NAME/RESULT`, `difference/test_score`, the stages of a warm
start, `ARM/warm_start/STAGE/KEY`, and the plain seed before it, `ARM/seed/KEY`.

Steps count what their figures are about: optimizer steps over all iterations of the arm in
`training` (those of the warm start in its own), epochs over all iterations in `epochs`, policies in
`evaluation`, `measures` and `difference` (0 is the seed), iterations elsewhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from forethought.config import Recipe
from forethought.pairs import OUTCOMES
from forethought.runs.comparison import score_difference
from forethought.runs.layout import StageRef
from forethought.runs.schedule import (
    evaluation_refs,
    iteration_refs,
    prompts_ref,
    sealed_measures,
    seed_refs,
    warm_start_refs,
)
from forethought.storage.sealed_stage import read_manifest
from forethought.training.results import STEPS, Step, StepLog

METRICS: dict[str, tuple[str, ...]] = {
    "prompts": ("train", "validation", "test", "duplicates", "overlap"),
    "rollouts": (
        "outputs",
        "parse_failures",
        "new_tokens",
        "mean_thought_tokens",
        "mean_response_tokens",
    ),
    "judgements": ("groups", "responses", "mean_score", "missing", "unread_verdicts"),
    "pairs": (
        "pairs",
        *OUTCOMES,
        "chosen_response_tokens",
        "rejected_response_tokens",
        "chosen_output_tokens",
        "rejected_output_tokens",
        "against_judge",
    ),
    "reference": ("pairs",),
    "training": tuple(field.name for field in fields(StepLog) if field.name != "step"),
    "trained": ("pairs", "left_out", "steps"),
    "epochs": ("score", "parse_failures"),
    "selection": ("chosen_epoch", "missing"),
    "evaluation": (
        "test_score",
        "test_score_low",
        "test_score_high",
        "count",
        "thought_tokens",
        "response_tokens",
        "parse_failures",
        "missing",
        "unread_verdicts",
    ),
}
"""Stage to keys. `trained` is the finished training, `epochs` what selection saw of each epoch.
`missing` counts prompts that the judge could not score, `unread_verdicts` those of its verdicts
that could not be read where it did; every sealed stage also has `seconds`."""

OF_WARM_START: dict[str, tuple[str, ...]] = {
    "vocabulary": ("added_tokens",),
    "rollouts": METRICS["rollouts"],
    "judgements": METRICS["judgements"],
    "examples": ("examples", "prompts", "outputs", "usable", "mean_thought_tokens", "mean_tokens"),
    "training": tuple(field.name for field in fields(Step) if field.name != "step"),
    "trained": ("examples", "left_out", "steps"),
    "selection": ("parse_failures", "count"),
}
"""The same of the stages of a warm start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Figures that belong to one step of one axis.

    Example: `Point(source="thought/iteration_0/training", index=3, axis="thought/training",
    step=39, values={"thought/training/loss": 0.61})`
    """

    source: str
    """Where they stand, below the run directory."""
    index: int
    """Place among the points of the source."""
    axis: str
    """Beginning of the names that count the same steps."""
    step: int
    values: dict[str, float]


def read_points(recipe: Recipe, known: Mapping[str, int]) -> Iterator[Point]:
    """Points of sealed stages and of the training log beyond the first `known[source]` ones.

    Raises: StageError if a sealed stage's manifest is damaged.
    """
    for source, points in _sources(recipe, known):
        for index, (axis, step, values) in enumerate(points):
            if index >= known.get(source, 0):
                named = {
                    f"{axis}/{key}": value for key, value in values.items() if math.isfinite(value)
                }
                yield Point(source=source, index=index, axis=axis, step=step, values=named)


Figures = tuple[str, int, dict[str, float]]
"""Axis, step and values by key."""


def _sources(recipe: Recipe, known: Mapping[str, int]) -> Iterator[tuple[str, list[Figures]]]:
    """Each source with all its points; a sealed one whose points are known is not read again."""

    def new(ref: StageRef) -> bool:
        return ref.name not in known and ref.sealed

    prompts = prompts_ref(recipe)
    if new(prompts):
        yield prompts.name, [_counted(prompts, "prompts", METRICS["prompts"])]
    for arm in recipe.arms:
        for ref in warm_start_refs(recipe, arm):
            axis = f"{arm}/warm_start"
            if ref.stage == "training":
                keys = OF_WARM_START["training"]
                yield f"{ref.name}/{STEPS}", _logged(ref, f"{axis}/training", keys, 0)
            if new(ref):
                kind = "trained" if ref.stage == "training" else ref.stage
                _, _, values = _counted(ref, "", OF_WARM_START[kind])
                yield ref.name, [(f"{axis}/{kind}", 0, values)]
    for ref in seed_refs(recipe):
        if new(ref):
            _, _, values = _counted(ref, "", METRICS["evaluation"])
            yield ref.name, [(f"{ref.arm}/seed", 0, values)]
    for iteration in range(recipe.iterations):
        for arm in recipe.arms:
            for ref in iteration_refs(recipe, arm, iteration):
                if ref.stage == "training":
                    yield f"{ref.name}/{STEPS}", _training(ref)
                if new(ref):
                    yield ref.name, _stage(ref)
    for policies in zip(*(evaluation_refs(recipe, arm) for arm in recipe.arms), strict=True):
        for ref in policies:
            if new(ref):
                yield ref.name, [_counted(ref, f"{ref.arm}/evaluation", METRICS["evaluation"])]
        last = policies[-1]
        difference = f"difference/{last.folder.name}"
        if difference not in known:
            yield difference, _difference(recipe, last.index)
    for ref in sealed_measures(recipe):
        if ref.name not in known:
            yield ref.name, [_measured(ref)]


def _counted(ref: StageRef, axis: str, keys: Sequence[str]) -> Figures:
    """The figures of a sealed stage by these keys; what has no value is left out."""
    manifest = read_manifest(ref.folder)
    counts: dict[str, Any] = dict(manifest.counts)
    if isinstance(counts.get("missing"), list):
        counts["missing"] = len(counts["missing"])
    if counts.get("interval") is not None:
        counts["test_score_low"], counts["test_score_high"] = counts["interval"]
    values = {key: float(counts[key]) for key in keys if counts.get(key) is not None}
    return axis, ref.index, values | {"seconds": manifest.seconds}


def _stage(ref: StageRef) -> list[Figures]:
    arm, epochs = ref.arm, ref.recipe.training.epochs
    kind = "trained" if ref.stage == "training" else ref.stage
    points = [_counted(ref, f"{arm}/{kind}", METRICS[kind])]
    if ref.stage == "selection":
        for row in _rows(read_manifest(ref.folder).counts["scores"]):
            step = ref.index * epochs + int(row["epoch"])
            values = {key: float(row[key]) for key in METRICS["epochs"] if row[key] is not None}
            points.append((f"{arm}/epochs", step, values))
    return points


def _training(ref: StageRef) -> list[Figures]:
    before = 0
    if (ref.folder / STEPS).is_file():
        # So the training of every earlier iteration is sealed.
        for index in range(ref.index):
            steps = read_manifest(replace(ref, index=index).folder).counts["steps"]
            assert isinstance(steps, int)
            before += steps
    return _logged(ref, f"{ref.arm}/training", METRICS["training"], before)


def _logged(ref: StageRef, axis: str, keys: Sequence[str], before: int) -> list[Figures]:
    """The training log, also while it grows: whole lines only, its steps behind those before."""
    log = ref.folder / STEPS
    if not log.is_file():
        return []
    whole, _, _ = log.read_text(encoding="utf-8").rpartition("\n")
    points: list[Figures] = []
    for line in whole.splitlines():
        row = json.loads(line)
        values = {key: float(row[key]) for key in keys if row.get(key) is not None}
        points.append((axis, before + row["step"], values))
    return points


def _difference(recipe: Recipe, policy: int) -> list[Figures]:
    """Thought minus direct on the test prompts that both answered, once both are evaluated."""
    refs = {
        arm: StageRef(recipe=recipe, stage="evaluation", arm=arm, index=policy)
        for arm in recipe.arms
        if arm != "hybrid"
    }
    if len(refs) < 2 or not all(ref.sealed for ref in refs.values()):
        return []
    ours, theirs = (
        {**_mapping(read_manifest(refs[arm].folder).counts["scores"])}
        for arm in ("thought", "direct")
    )
    result = score_difference(recipe.judge, ours, theirs)
    if result is None:
        return []
    values = {"test_score": result.value, "count": float(result.count)}
    if result.interval is not None:
        values["test_score_low"], values["test_score_high"] = result.interval
    return [("difference", policy, values)]


def _measured(ref: StageRef) -> Figures:
    """A measure's results by name; those of one category have it behind their name."""
    manifest = read_manifest(ref.folder)
    values: dict[str, float] = {}
    for row in _rows(manifest.counts.get("results", [])):
        key = row["name"] if row["category"] is None else f"{row['name']}/{row['category']}"
        values[key] = float(row["value"])
        if row["interval"] is not None:
            values[f"{key}_low"], values[f"{key}_high"] = map(float, row["interval"])
    axis = f"{ref.arm}/measures/{ref.stage}"
    return axis, ref.index, values | {"seconds": manifest.seconds}


def _rows(value: Any) -> list[dict[str, Any]]:
    assert isinstance(value, list)
    return value


def _mapping(value: Any) -> dict[str, float]:
    assert isinstance(value, dict)
    return value
