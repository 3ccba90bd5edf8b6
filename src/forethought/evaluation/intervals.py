"""Means and shares with 95 % intervals, and differences of two policies on the same prompts.

A mean's interval is Student's t over prompts. Two policies that answered the same prompts are
compared prompt by prompt, which removes the prompts' own difficulty from the interval. A share of
yes and no has Wilson's interval, which keeps its coverage near 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from forethought.types import EvaluationResult


def mean_result(
    name: str, values: Sequence[float], *, category: str | None = None
) -> EvaluationResult:
    """The mean of one value per prompt.

    Raises: ValueError if there is no value.
    """
    from scipy.stats import t

    if not values:
        raise ValueError(f"{name}: there is no value to average")
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    half = float(t.ppf(0.975, max(len(array) - 1, 1))) * _standard_error(array)
    return EvaluationResult(
        name=name,
        value=mean,
        interval=(mean - half, mean + half),
        count=len(array),
        category=category,
    )


def paired_difference(
    name: str,
    first: Mapping[str, float],
    second: Mapping[str, float],
    *,
    category: str | None = None,
) -> EvaluationResult:
    """Mean of `first - second` over the prompts that both have.

    Raises: ValueError if they share no prompt.
    """
    shared = sorted(first.keys() & second.keys())
    values = [first[prompt] - second[prompt] for prompt in shared]
    return mean_result(name, values, category=category)


def share_result(
    name: str, values: Sequence[bool], *, category: str | None = None
) -> EvaluationResult:
    """The share of true values.

    Raises: ValueError if there is no value.
    """
    from scipy.stats import binomtest

    if not values:
        raise ValueError(f"{name}: there is no value to average")
    yes, count = sum(values), len(values)
    interval = binomtest(yes, count).proportion_ci(0.95, method="wilson")
    return EvaluationResult(
        name=name,
        value=yes / count,
        interval=(float(interval.low), float(interval.high)),
        count=count,
        category=category,
    )


def _standard_error(array: np.ndarray) -> float:
    if len(array) < 2:
        return math.inf
    return float(array.std(ddof=1)) / math.sqrt(len(array))
