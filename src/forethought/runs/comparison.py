"""What a run claims: thought arm against direct arm, one difference and one honest sentence.

The end of a run, its page, its trackers and the card of an exported policy have it from here, so
that all of them say the same with the same reservations. No claim about thinking is made where most
first outputs of an arm had no response: the difference is then one of giving one at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from forethought.config import JudgeConfig, Recipe
from forethought.evaluation.intervals import paired_difference
from forethought.evaluation.scale import PERCENT, RAW, Scale
from forethought.judging.describe import difference_ends, score_ends
from forethought.runs.layout import StageRef
from forethought.runs.schedule import evaluation_refs, prompts_ref, seed_refs
from forethought.share_interval import SHARE
from forethought.storage.sealed_stage import read_manifest
from forethought.types import Arm, EvaluationResult

FEW_PROMPTS = 100
"""Test prompts below which a difference of several points cannot be seen."""
WITHOUT = 0.1
"""Share of outputs without a response from which on it is said."""
MOSTLY = 0.5
"""The same share from which on an arm's scores say nothing of its thinking."""
UNCATEGORISED = "(none)"

Evaluations = dict[Arm, dict[int, dict[str, Any]]]
"""Counts of every sealed evaluation by arm and policy, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What can be said of thinking from a run so far.

    Example: `Claim(policy=4, difference=EvaluationResult(…), by_category={}, sentence="After 4
    iterations, the thought arm scores higher …", withheld=False, scale=PERCENT)`
    """

    policy: int
    """The last one that both arms have; -1 where there is none."""
    difference: EvaluationResult | None
    """Thought minus direct on the same test prompts; `None` where they share none."""
    by_category: dict[str, EvaluationResult]
    sentence: str
    withheld: bool
    """Whether the difference is not one of thinking; the sentence then holds it."""
    scale: Scale

    def line(self) -> str:
        """The claim without a page around it."""
        if self.difference is None or self.withheld:
            return self.sentence
        figure = self.scale.change_with_interval(self.difference)
        return f"Thought arm minus direct arm at policy {self.policy}: {figure}. {self.sentence}"


def claim_of(recipe: Recipe) -> Claim:
    """What the sealed evaluations of a run say.

    Raises: StageError if a sealed stage is damaged.
    """
    evaluated = evaluations(recipe)
    scale = score_scale(recipe.judge, scores_of(evaluated))
    thought, direct = (evaluated.get(arm, {}) for arm in ("thought", "direct"))
    policy = max(thought.keys() & direct.keys(), default=-1)
    difference = None
    if policy >= 0:
        ours, theirs = thought[policy]["scores"], direct[policy]["scores"]
        difference = score_difference(recipe.judge, ours, theirs)
    if difference is None:
        return Claim(
            policy=policy,
            difference=None,
            by_category={},
            sentence=_nothing_to_compare(recipe, evaluated, scale),
            withheld=False,
            scale=scale,
        )
    unparsed: dict[Arm, float] = {
        arm: evaluated[arm][policy]["parse_failures"] for arm in recipe.arms if arm != "hybrid"
    }
    withheld = any(share > MOSTLY for share in unparsed.values())
    said = (
        _withheld(difference, unparsed, scale)
        if withheld
        else _sentence(recipe, difference, unparsed)
    )
    return Claim(
        policy=policy,
        difference=difference,
        by_category=differences_by_category(
            recipe, thought[policy]["scores"], direct[policy]["scores"]
        ),
        sentence=f"{_after(recipe, policy).capitalize()}, {said}" + _intermediate(recipe, policy),
        withheld=withheld,
        scale=scale,
    )


def evaluations(recipe: Recipe) -> Evaluations:
    """Counts of the sealed evaluations; an interval without ends is none.

    Raises: StageError if one is damaged.
    """
    return {
        arm: {ref.index: _counts(ref) for ref in evaluation_refs(recipe, arm) if ref.sealed}
        for arm in recipe.arms
    }


def seed_evaluations(recipe: Recipe) -> dict[Arm, dict[str, Any]]:
    """The same of the plain seed, by arm, where policy 0 is what the warm start made of it.

    Raises: StageError if one is damaged.
    """
    return {ref.arm: _counts(ref) for ref in seed_refs(recipe) if ref.sealed}


def _counts(ref: StageRef) -> dict[str, Any]:
    counts: dict[str, Any] = dict(read_manifest(ref.folder).counts)
    if counts["interval"] and not all(map(math.isfinite, counts["interval"])):
        counts["interval"] = None
    return counts


def scores_of(evaluated: Evaluations) -> list[float]:
    """Every prompt's score of every policy."""
    return [
        score
        for each in evaluated.values()
        for counts in each.values()
        for score in counts["scores"].values()
    ]


def score_scale(judge: JudgeConfig, scores: Iterable[float]) -> Scale:
    """Per cent where scores are shares, of right answers or of wins; others stay as they are."""
    shares = judge.is_relative or (judge.grades and score_ends(judge, scores) == SHARE)
    return PERCENT if shares else RAW


def score_difference(
    judge: JudgeConfig, ours: Mapping[str, float], theirs: Mapping[str, float]
) -> EvaluationResult | None:
    """Mean of `ours - theirs` over the prompts that both have; `None` where there are none."""
    if not ours.keys() & theirs.keys():
        return None
    ends = difference_ends(judge, [*ours.values(), *theirs.values()])
    return paired_difference("difference", ours, theirs, ends=ends)


def differences_by_category(
    recipe: Recipe, ours: Mapping[str, float], theirs: Mapping[str, float]
) -> dict[str, EvaluationResult]:
    """The same for each category of the test prompts, in the order of their names."""
    prompts = prompts_ref(recipe)
    test = prompts.prompts("test") if prompts.sealed else []
    category = {prompt.prompt_id: prompt.category or UNCATEGORISED for prompt in test}
    found: dict[str, EvaluationResult] = {}
    for name in sorted({category.get(prompt_id, UNCATEGORISED) for prompt_id in ours}):
        own = {
            prompt_id: score
            for prompt_id, score in ours.items()
            if category.get(prompt_id, UNCATEGORISED) == name
        }
        difference = score_difference(recipe.judge, own, theirs)
        if difference is not None:
            found[name] = difference
    return found


def _after(recipe: Recipe, policy: int) -> str:
    if policy == 0:
        return "before any training" if recipe.warm_start is None else "after the warm start"
    return f"after {policy} iteration{'s' if policy > 1 else ''}"


def _sentence(recipe: Recipe, difference: EvaluationResult, unparsed: Mapping[Arm, float]) -> str:
    few = difference.count < FEW_PROMPTS
    here = f"on these {difference.count} test prompts" if few else "here"
    if difference.interval is None:
        text = "nothing tells how sure the difference is: " + (
            "there is one prompt." if difference.count == 1 else "it is the same on all prompts."
        )
    elif difference.interval[0] > 0:
        text = (
            f"the thought arm scores higher than the direct arm{' ' + here if few else ''}; the "
            "interval lies above zero."
        )
    elif difference.interval[1] < 0:
        paid = f"{here} thinking did not pay"
        text = (
            f"the thought arm scores lower than the direct arm: {paid}; the interval lies below "
            "zero."
        )
    else:
        text = (
            "the arms cannot be told apart: the interval contains zero. "
            f"More test prompts than {difference.count:,} would narrow it."
        )
    return text + _unparsed(recipe, unparsed)


def _unparsed(recipe: Recipe, unparsed: Mapping[Arm, float]) -> str:
    then = "were drawn again" if recipe.evaluation.tries > 1 else "count as lost"
    return "".join(
        f" Of the {arm} arm's first outputs {PERCENT.number(share)} had no response and {then}."
        for arm, share in unparsed.items()
        if share > WITHOUT
    )


def _withheld(difference: EvaluationResult, unparsed: Mapping[Arm, float], scale: Scale) -> str:
    most = " and ".join(
        f"{PERCENT.number(share)} of the {arm} arm's"
        for arm, share in unparsed.items()
        if share > MOSTLY
    )
    return (
        f"nothing can be said of thinking: {most} first outputs had no response. The difference "
        f"of {scale.change_with_interval(difference)} is one of giving a response at all."
    )


def _intermediate(recipe: Recipe, policy: int) -> str:
    if policy >= recipe.iterations:
        return ""
    done = f"{policy} of {recipe.iterations} iterations"
    return f" This is an intermediate result: {done} are evaluated in both arms."


def first_policy(recipe: Recipe) -> str:
    """What policy 0 is, in running text."""
    return "seed" if recipe.warm_start is None else "warm-started seed"


def _nothing_to_compare(recipe: Recipe, evaluated: Evaluations, scale: Scale) -> str:
    if recipe.prompts.test is None:
        return "The recipe has no test prompts, so this run makes no claim about quality."
    missing = [arm for arm in ("direct", "thought") if arm not in recipe.arms]
    if missing:
        alone = " and no ".join(f"{arm} arm" for arm in missing)
        said = f"This run has no {alone}, so it cannot tell what thinking itself contributes."
        gains = (_gain(recipe, arm, evaluated[arm], scale) for arm in recipe.arms)
        return said + "".join(gains if len(recipe.arms) == 1 else ())
    return "Nothing is evaluated in both arms yet, so there is no comparison to show."


def _gain(recipe: Recipe, arm: Arm, evaluated: Mapping[int, dict[str, Any]], scale: Scale) -> str:
    last = max(evaluated, default=0)
    if last == 0 or 0 not in evaluated:
        return ""
    change = score_difference(recipe.judge, evaluated[last]["scores"], evaluated[0]["scores"])
    if change is None:
        return ""
    unparsed: dict[Arm, float] = {arm: evaluated[last]["parse_failures"]}
    return (
        f" From the {first_policy(recipe)} to policy {last} its test score changed by "
        f"{scale.change_with_interval(change)}.{_unparsed(recipe, unparsed)}"
    )
