"""Test scores of every policy, and what each category gained, as their evaluations sealed them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from forethought.config import Recipe
from forethought.runs.comparison import differences_by_category, evaluations
from forethought.types import Arm, EvaluationResult

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean with its 95 % interval.

    Example: `Mean(value=0.61, interval=(0.57, 0.65), count=400)`
    """

    value: float
    interval: Interval | None
    """`None` where the values do not tell how sure the mean is."""
    count: int

    @property
    def turned(self) -> Mean:
        """The same with the other sign, such as a loss as a change."""
        ends = None if self.interval is None else (-self.interval[1], -self.interval[0])
        return Mean(value=-self.value, interval=ends, count=self.count)


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
    thinks: float | None = None
    """In the hybrid arm, the share of answers that think."""
    thinks_by_category: dict[str, float] = field(default_factory=dict)


def read_policies(recipe: Recipe) -> dict[Arm, tuple[PolicyScore, ...]]:
    """Every evaluated policy of every arm, the seed first.

    Raises: StageError if a sealed stage is damaged.
    """
    return {
        arm: tuple(_policies(recipe, evaluated)) for arm, evaluated in evaluations(recipe).items()
    }


def as_mean(result: EvaluationResult) -> Mean:
    """The figure; an interval without ends, as an earlier version wrote of one value, is none."""
    ended = result.interval is not None and all(map(math.isfinite, result.interval))
    interval = result.interval if ended else None
    return Mean(value=result.value, interval=interval, count=result.count)


def _policies(recipe: Recipe, evaluated: Mapping[int, Mapping[str, Any]]) -> Iterator[PolicyScore]:
    seed: Mapping[str, float] = evaluated[0]["scores"] if 0 in evaluated else {}
    for policy, counts in evaluated.items():
        gains = differences_by_category(recipe, counts["scores"], seed) if policy else {}
        yield PolicyScore(
            policy=policy,
            score=_score(counts),
            prompt_scores=counts["scores"],
            thought_tokens=counts["thought_tokens"],
            response_tokens=counts["response_tokens"],
            parse_failures=counts["parse_failures"],
            with_thought=counts.get("with_thought", 0),
            gains={category: as_mean(gain) for category, gain in gains.items()},
            thinks=counts.get("thinks"),
            thinks_by_category=counts.get("thinks_by_category", {}),
        )


def _score(counts: Mapping[str, Any]) -> Mean | None:
    if counts["test_score"] is None:
        return None
    interval = counts["interval"] and tuple(counts["interval"])
    return Mean(value=counts["test_score"], interval=interval, count=counts["count"])
