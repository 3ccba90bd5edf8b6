"""What weakens a run's figures: a control in the method's place, too little to learn from, too
little to measure on, arms unlike.

Said at the end of a run and on its page, each with the setting that would change it. Nothing here
judges a run; every line is a count and what it means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from forethought.config import Recipe
from forethought.runs.comparison import FEW_PROMPTS, MOSTLY, WITHOUT
from forethought.runs.layout import StageRef
from forethought.runs.schedule import evaluation_refs
from forethought.storage.sealed_stage import read_manifest
from forethought.types import Arm

FEW_PAIRS = 30
"""Pairs of an arm below which what it learned is mostly chance."""
UNLIKE = 2.0
"""How many times more pairs one arm may have than the other."""
POINTS = 0.03
"""Half an interval that is worth aiming at, of a score between 0 and 1."""


def cautions(recipe: Recipe) -> list[str]:
    """What a reader should know before the figures of a run, in whole sentences."""
    trained: dict[Arm, int] = {}
    for arm in recipe.arms:
        if (count := _pairs(recipe, arm)) is not None:
            trained[arm] = count
    return [
        *_controls(recipe),
        *_few_pairs(trained),
        *_unlike_arms(trained),
        *_few_prompts(recipe),
        *_without_response(recipe),
    ]


def _controls(recipe: Recipe) -> Iterator[str]:
    if recipe.iterations > 0 and not recipe.training.prefers:
        yield (
            "This run is a control: it trained on the chosen outputs alone, without preferences "
            "(training.loss: nll)."
        )
    if recipe.iterations > 0 and recipe.pairs.thoughts == "shuffled":
        yield (
            "This run is a control: its thought arm trained on the thoughts of other prompts "
            "(pairs.thoughts: shuffled)."
        )


def _sealed(recipe: Recipe, arm: Arm, stage: str) -> Iterator[dict[str, Any]]:
    """Counts of an arm's sealed stages of one name, by iteration."""
    for number in range(recipe.iterations):
        ref = StageRef(recipe=recipe, stage=stage, arm=arm, index=number)
        if ref.sealed:
            yield dict(read_manifest(ref.folder).counts)


def _pairs(recipe: Recipe, arm: Arm) -> int | None:
    """Pairs of all iterations so far; `None` before the first, or where they were not counted."""
    found = [counts.get("pairs") for counts in _sealed(recipe, arm, "pairs")]
    counts = [count for count in found if count is not None]
    return sum(counts) if counts else None


def _few_pairs(trained: dict[Arm, int]) -> Iterator[str]:
    for arm, count in trained.items():
        if count < FEW_PAIRS:
            yield (
                f"The {arm} arm has {count} pairs; fewer than {FEW_PAIRS} teach mostly chance. "
                "More come from prompts_per_iteration, sampling.samples and iterations."
            )


def _unlike_arms(trained: dict[Arm, int]) -> Iterator[str]:
    if len(trained) < 2:
        return
    ordered = sorted(trained, key=lambda arm: trained[arm])
    least, most = ordered[0], ordered[-1]
    if trained[most] > UNLIKE * trained[least]:
        yield (
            f"The {most} arm has {trained[most]} pairs and the {least} arm {trained[least]}: part "
            "of their difference may be that of the amounts."
        )


def _few_prompts(recipe: Recipe) -> Iterator[str]:
    last = _last_evaluations(recipe)
    count = min((counts.get("count", FEW_PROMPTS) for counts in last.values()), default=FEW_PROMPTS)
    if count >= FEW_PROMPTS:
        return
    scores = [score for counts in last.values() for score in counts["scores"].values()]
    needed = ""
    if all(0 <= score <= 1 for score in scores):
        # The widest that scores between 0 and 1 can vary.
        prompts = math.ceil(0.25 * (1.96 / POINTS) ** 2)
        needed = f" An interval of ± {100 * POINTS:.0f} points needs up to {prompts:,}."
    yield (
        f"The test score rests on {count} prompts; a difference of a few points cannot be seen on "
        f"fewer than {FEW_PROMPTS} (prompts.test.count).{needed}"
    )


def _without_response(recipe: Recipe) -> Iterator[str]:
    for arm, counts in _last_evaluations(recipe).items():
        if (share := counts.get("parse_failures", 0.0)) > WITHOUT:
            again = "were answered again, and count as lost where no try had one"
            if recipe.evaluation.tries == 1:
                again = "count as lost"
            yield (
                f"Of the {arm} arm's first answers to the test prompts {share:.0%} have no "
                f"response; these prompts {again} (thought_format, sampling.max_new_tokens)."
                f"{_lesson(recipe, arm, share)}"
            )
    for arm in recipe.arms:
        for counts in list(_sealed(recipe, arm, "rollouts"))[-1:]:
            statuses: dict[str, int] = counts.get("statuses", {})
            cut = statuses.get("truncated", 0) / max(sum(statuses.values()), 1)
            if cut > WITHOUT:
                yield (
                    f"Of the {arm} arm's last training outputs {cut:.0%} were cut off inside the "
                    f"response by sampling.max_new_tokens ({recipe.sampling.max_new_tokens}), so "
                    "the judge never saw them."
                )


def _lesson(recipe: Recipe, arm: Arm, share: float) -> str:
    if arm == "direct" or recipe.warm_start is not None or share <= MOSTLY:
        return ""
    return " A warm start teaches a model the format first (warm_start: {})."


def _last_evaluations(recipe: Recipe) -> dict[Arm, dict[str, Any]]:
    """Counts of each arm's last evaluated policy."""
    found: dict[Arm, dict[str, Any]] = {}
    if recipe.prompts.test is None:
        return found
    for arm in recipe.arms:
        sealed: list[StageRef] = [ref for ref in evaluation_refs(recipe, arm) if ref.sealed]
        if sealed:
            found[arm] = dict(read_manifest(sealed[-1].folder).counts)
    return found
