"""What a reader must not overlook beside the claim: what another judge says, an arm that fell,
categories that lost.

Said on the first screen of the page and at the end of a run, each with its figure.
"""

from __future__ import annotations

from collections.abc import Iterator

from forethought.config import Recipe
from forethought.runs.comparison import (
    Claim,
    Evaluations,
    evaluations,
    first_policy,
    score_difference,
)
from forethought.runs.second_opinion import second_opinion
from forethought.types import EvaluationResult

SHOWN = 3
"""Categories that a sentence names."""
BY_CHANCE = 0.025
"""Of 95 % intervals around nothing, the share that lies below zero."""
CLEARLY = 3.0
"""How many times farther below zero than above it the worst category's interval reaches at least,
where none lies below it."""


def findings(recipe: Recipe, claim: Claim) -> list[str]:
    """Whole sentences, the most important first.

    Raises: StageError if a sealed stage is damaged.
    """
    hurts = [] if claim.withheld else _hurts(claim)
    # Of one arm alone the claim itself says how it changed.
    evaluated = evaluations(recipe)
    falls = _falls(recipe, evaluated, claim) if len(recipe.arms) > 1 else []
    second = second_opinion(recipe, evaluated)
    said = [] if second is None else second.sentences(recipe, claim)
    return [*said, *hurts, *falls]


def _falls(recipe: Recipe, evaluated: Evaluations, claim: Claim) -> Iterator[str]:
    """An arm whose last policy scores lower than its own seed."""
    scale = claim.scale
    for arm, policies in evaluated.items():
        last = max(policies, default=0)
        if last == 0 or 0 not in policies:
            continue
        before, after = policies[0], policies[last]
        change = score_difference(recipe.judge, after["scores"], before["scores"])
        if change is None or change.value >= 0 or float(scale.size(change.value)) == 0:
            continue
        scores = [scale.number(counts["test_score"]) for counts in (before, after)]
        yield (
            f"The {arm} arm fell from {scores[0]} at its {first_policy(recipe)} to {scores[1]} at "
            f"policy {last}: {scale.change_with_interval(change)}{_sure(change)}."
        )


def _hurts(claim: Claim) -> Iterator[str]:
    """Categories in which the thought arm scores lower than the direct arm."""
    whole = len(claim.by_category)
    if whole < 2:
        return
    ordered = sorted(claim.by_category.items(), key=lambda entry: entry[1].value)
    below = [(name, each) for name, each in ordered if each.interval and each.interval[1] < 0]
    if below:
        named = "; ".join(
            f"{name} {claim.scale.change_with_interval(each)}" for name, each in below[:SHOWN]
        )
        more = f"; and {len(below) - SHOWN} more" if len(below) > SHOWN else ""
        chance = f"by chance alone {BY_CHANCE * whole:.1f} would lie below zero"
        yield f"Thinking hurts in {len(below)} of {whole} categories ({chance}): {named}{more}."
        return
    name, worst = ordered[0]
    if worst.interval and worst.value < 0 and -worst.interval[0] >= CLEARLY * worst.interval[1]:
        yield (
            f"Thinking does worst in {name}, of {whole} categories: "
            f"{claim.scale.change_with_interval(worst)}{_sure(worst)}."
        )


def _sure(change: EvaluationResult) -> str:
    if change.interval is None or change.interval[1] < 0:
        return ""
    return "; the interval includes zero"
