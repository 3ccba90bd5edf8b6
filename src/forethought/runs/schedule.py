"""The stages of a run, and the order in which they are run.

Both arms go side by side, iteration by iteration, so that their difference can be watched as it
grows.
"""

from __future__ import annotations

from collections.abc import Iterator

from forethought.config import Recipe
from forethought.runs.layout import ITERATION_STAGES, WARM_START, WARM_START_STAGES, StageRef
from forethought.types import Arm

OWN_QUESTIONS = ("gsm8k", "alpaca_eval", "arena_hard")
"""Measures that do not read the test prompts."""


def stage_refs(recipe: Recipe) -> Iterator[StageRef]:
    """Every stage of a run, in the order in which they are run.

    Raises: ValueError if a measure is asked for that the recipe's arms or prompts do not allow.
    """
    measures = list(measure_refs(recipe))
    yield prompts_ref(recipe)
    for arm in recipe.arms:
        yield from warm_start_refs(recipe, arm)
    yield from _tests(recipe, 0, measures)
    yield from seed_refs(recipe)
    for iteration in range(recipe.iterations):
        for arm in recipe.arms:
            yield from iteration_refs(recipe, arm, iteration)
        if iteration + 1 in recipe.evaluated:
            yield from _tests(recipe, iteration + 1, measures)


def prompts_ref(recipe: Recipe) -> StageRef:
    """The stage that reads the prompts of both arms."""
    return StageRef(recipe=recipe, stage="prompts", arm=recipe.arms[0], index=0)


def warm_start_refs(recipe: Recipe, arm: Arm) -> Iterator[StageRef]:
    """The stages of an arm's warm start, in order; none where there is no warm start."""
    warm = recipe.warm_start
    if warm is None:
        return
    first = StageRef(recipe=recipe, stage="vocabulary", arm=arm, index=WARM_START)
    skipped = set[str]() if warm.samples else {"rollouts"}
    skipped |= set() if first.grows else {"vocabulary"}
    skipped |= set() if warm.judges else {"judgements"}
    for stage in WARM_START_STAGES:
        if stage not in skipped:
            yield StageRef(recipe=recipe, stage=stage, arm=arm, index=WARM_START)


def seed_refs(recipe: Recipe) -> Iterator[StageRef]:
    """The evaluations of the plain seed where policy 0 is another: that of the warm start."""
    if recipe.warm_start is not None and recipe.prompts.test is not None:
        for arm in recipe.arms:
            yield StageRef(recipe=recipe, stage="evaluation", arm=arm, index=WARM_START)


def iteration_refs(recipe: Recipe, arm: Arm, iteration: int) -> Iterator[StageRef]:
    """The stages of one iteration of one arm, in order; a loss without preferences has no
    reference."""
    skipped = set[str]() if recipe.training.prefers else {"reference"}
    for stage in ITERATION_STAGES:
        if stage not in skipped:
            yield StageRef(recipe=recipe, stage=stage, arm=arm, index=iteration)


def evaluation_refs(recipe: Recipe, arm: Arm) -> Iterator[StageRef]:
    """The evaluation of every policy of an arm by number, asked for or not."""
    for policy in range(recipe.iterations + 1):
        yield StageRef(recipe=recipe, stage="evaluation", arm=arm, index=policy)


def measure_refs(recipe: Recipe) -> Iterator[StageRef]:
    """The measures that a recipe asks for, by name, arm and policy.

    Raises: ValueError if it asks for one that its arms or prompts do not allow.
    """
    for name, config in recipe.measures:
        if config is None:
            continue
        policies = recipe.evaluated if config.after == "every" else (recipe.iterations,)
        for arm in _measured_arms(recipe, name):
            for policy in policies:
                yield StageRef(recipe=recipe, stage=name, arm=arm, index=policy)


def sealed_measures(recipe: Recipe) -> list[StageRef]:
    """The measures that were taken, asked for by the recipe or not, by name, arm and policy."""
    names = sorted(path.name for path in recipe.run.glob("measures/*"))
    measures = (
        StageRef(recipe=recipe, stage=name, arm=arm, index=policy)
        for name in names
        for arm in recipe.arms
        for policy in range(recipe.iterations + 1)
    )
    return [measure for measure in measures if measure.sealed]


def _tests(recipe: Recipe, policy: int, measures: list[StageRef]) -> Iterator[StageRef]:
    """What is done with a policy besides training the next one from it."""
    if recipe.prompts.test is not None:
        # A judge that only compares needs the baseline first.
        for arm in sorted(recipe.arms, key=lambda arm: arm != recipe.baseline_arm):
            yield StageRef(recipe=recipe, stage="evaluation", arm=arm, index=policy)
    yield from (measure for measure in measures if measure.index == policy)


def _measured_arms(recipe: Recipe, name: str) -> tuple[Arm, ...]:
    """The arms whose policies a measure is of.

    Raises: ValueError if the recipe lacks what the measure needs.
    """
    if name not in OWN_QUESTIONS and recipe.prompts.test is None:
        raise ValueError(
            f"measures.{name} needs test prompts; give prompts.test, or "
            f"leave it out (measures.{name}=null)"
        )
    if name == "win_rate" and not {"thought", "direct"} <= set(recipe.arms):
        raise ValueError(
            f"measures.win_rate compares the thought arm with the direct arm; arms: "
            f"{list(recipe.arms)} lacks one; give both, or leave it out (measures.win_rate=null)"
        )
    if name == "probe" and "thought" not in recipe.arms:
        raise ValueError(
            "measures.probe is of policies that think; arms lacks 'thought': add it, or leave the "
            "probe out (measures.probe=null)"
        )
    return ("thought",) if name in ("win_rate", "probe") else recipe.arms
