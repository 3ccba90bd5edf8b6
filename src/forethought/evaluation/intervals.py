"""Means and shares with 95 % intervals, and differences of two policies on the same prompts.

A figure with two ends (a win rate, a share of right answers, a mean of scores in [0, 1], a
difference of two such) has the interval of share_interval.py, which holds at the ends, too. The
mean of a score without known ends has Student's t over prompts; where all values are equal their
spread says nothing of the next one, so there is no interval rather than one of no width.

Two policies that answered the same prompts are compared prompt by prompt, which removes the
prompts' own difficulty from the interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from forethought.share_interval import LEVEL, SHARE, Ends, interval_between
from forethought.types import EvaluationResult


def mean_result(
    name: str,
    values: Sequence[float],
    *,
    category: str | None = None,
    ends: Ends | None = None,
) -> EvaluationResult:
    """The mean of one value per prompt. `ends` are those of its scale, where it has two.

    Raises: ValueError if there is no value.
    """
    if not values:
        raise ValueError(f"{name}: there is no value to average")
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    interval = _student(array) if ends is None else interval_between(values, ends)
    return EvaluationResult(
        name=name, value=mean, interval=interval, count=len(array), category=category
    )


def paired_difference(
    name: str,
    first: Mapping[str, float],
    second: Mapping[str, float],
    *,
    category: str | None = None,
    ends: Ends | None = None,
) -> EvaluationResult:
    """Mean of `first - second` over the prompts that both have; `ends` are the difference's.

    Raises: ValueError if they share no prompt.
    """
    shared = sorted(first.keys() & second.keys())
    values = [first[prompt] - second[prompt] for prompt in shared]
    return mean_result(name, values, category=category, ends=ends)


def share_result(
    name: str, values: Sequence[bool], *, category: str | None = None
) -> EvaluationResult:
    """The share of true values.

    Raises: ValueError if there is no value.
    """
    return mean_result(name, [float(value) for value in values], category=category, ends=SHARE)


def _student(array: np.ndarray) -> tuple[float, float] | None:
    """Student's interval of the mean; `None` where all values, or the only one, are the same."""
    if np.allclose(array, array[0], rtol=1e-9, atol=1e-12):
        return None
    from scipy.special import stdtrit

    quantile = float(stdtrit(len(array) - 1, (1 + LEVEL) / 2))
    mean = float(array.mean())
    half = quantile * float(array.std(ddof=1)) / math.sqrt(len(array))
    return mean - half, mean + half
