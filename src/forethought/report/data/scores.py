"""Test scores of every policy, what each category gained, and the difference between the arms.

A policy's figures are those its evaluation sealed. The difference is the run's own summary; where
that is older than the evaluations, it is computed here in the same way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forethought.config import Recipe
from forethought.judging.describe import difference_ends
from forethought.runs.schedule import evaluation_refs, prompts_ref
from forethought.share_interval import Ends, interval_between
from forethought.storage.sealed_stage import read_manifest
from forethought.types import Arm

Interval = tuple[float, float]

UNCATEGORISED = "(none)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean with its 95 % interval.

    Example: `Mean(value=0.61, interval=(0.57, 0.65), count=400)`
    """

    value: float
    interval: Interval | None
    """`None` where one value alone was averaged."""
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyScore:
    """One policy on the test prompts.

    Example: `PolicyScore(policy=0, score=Mean(…), prompt_scores={"9f2c…": 1.0},
    thought_tokens=31.5, response_tokens=6.0, parse_failures=0.02, with_thought=500, gains={})`
    """

    policy: int
    """0 is the seed; policy j + 1 is what iteration j trained."""
    score: Mean | None
    """`None` where the judge scored nothing."""
    prompt_scores: dict[str, float]
    thought_tokens: float
    """Mean per answer."""
    response_tokens: float
    parse_failures: float
    """Share of prompts whose first output had no response, whatever later ones had."""
    with_thought: int
    """Answers with a thought; in the direct arm nobody asked for one."""
    gains: dict[str, Mean]
    """Category to score minus the seed's, prompt by prompt; empty for the seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Thought arm minus direct arm, on the same test prompts.

    Example: `Difference(policy=2, mean=Mean(…))`
    """

    policy: int
    """The last policy that both arms have."""
    mean: Mean


def read_policies(recipe: Recipe) -> dict[Arm, tuple[PolicyScore, ...]]:
    """Every evaluated policy of every arm, the seed first.

    Raises: StageError if a sealed stage is damaged.
    """
    prompts = prompts_ref(recipe)
    test = prompts.prompts("test") if prompts.sealed else []
    categories = {prompt.prompt_id: prompt.category or UNCATEGORISED for prompt in test}
    return {arm: tuple(_arm_policies(recipe, arm, categories)) for arm in recipe.arms}


def read_difference(
    policies: Mapping[Arm, Sequence[PolicyScore]], summary: Mapping[str, Any], recipe: Recipe
) -> Difference | None:
    """The arms' difference at the last policy that both have; `None` where they share none."""
    by_arm = {arm: {policy.policy: policy for policy in own} for arm, own in policies.items()}
    common = by_arm.get("thought", {}).keys() & by_arm.get("direct", {}).keys()
    if not common:
        return None
    last = max(common)
    given = summary.get("difference")
    if given is not None and given["iteration"] == last:
        low, high = given["interval"]
        mean = Mean(value=given["value"], interval=(low, high), count=given["count"])
        return Difference(policy=last, mean=mean)
    ours, theirs = by_arm["thought"][last].prompt_scores, by_arm["direct"][last].prompt_scores
    values = [ours[our] - theirs[our] for our in sorted(ours.keys() & theirs.keys())]
    if not values:
        return None
    return Difference(policy=last, mean=mean_of(values, difference_ends(recipe.judge)))


def mean_of(values: Sequence[float], ends: Ends | None) -> Mean:
    """The mean with its 95 % interval; a single value has none.

    Values that lie between `ends` have the exact interval of `share_interval`, others Student's.
    """
    array = np.asarray(values, dtype=np.float64)
    value = float(array.mean())
    if len(array) < 2:
        return Mean(value=value, interval=None, count=len(array))
    if ends is not None:
        return Mean(value=value, interval=interval_between(values, ends), count=len(array))
    from scipy.stats import t

    half = float(t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    return Mean(value=value, interval=(value - half, value + half), count=len(array))


def _arm_policies(recipe: Recipe, arm: Arm, categories: Mapping[str, str]) -> list[PolicyScore]:
    ends = difference_ends(recipe.judge)
    policies: list[PolicyScore] = []
    seed: Mapping[str, float] = {}
    for ref in evaluation_refs(recipe, arm):
        if not ref.sealed:
            continue
        counts: dict[str, Any] = read_manifest(ref.folder).counts
        scores: dict[str, float] = counts["scores"]
        seed = scores if ref.index == 0 else seed
        policies.append(
            PolicyScore(
                policy=ref.index,
                score=_score(counts),
                prompt_scores=scores,
                thought_tokens=counts["thought_tokens"],
                response_tokens=counts["response_tokens"],
                parse_failures=counts["parse_failures"],
                with_thought=counts.get("with_thought", 0),
                gains=_gains(scores, seed, categories, ends) if ref.index else {},
            )
        )
    return policies


def _score(counts: Mapping[str, Any]) -> Mean | None:
    if counts["test_score"] is None:
        return None
    low, high = counts["interval"]
    return Mean(
        value=counts["test_score"],
        interval=(low, high) if counts["count"] > 1 else None,
        count=counts["count"],
    )


def _gains(
    last: Mapping[str, float],
    seed: Mapping[str, float],
    categories: Mapping[str, str],
    ends: Ends | None,
) -> dict[str, Mean]:
    differences: dict[str, list[float]] = defaultdict(list)
    for prompt_id in sorted(last.keys() & seed.keys()):
        category = categories.get(prompt_id, UNCATEGORISED)
        differences[category].append(last[prompt_id] - seed[prompt_id])
    return {category: mean_of(values, ends) for category, values in sorted(differences.items())}
