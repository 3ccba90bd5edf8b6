"""Means with 95 % intervals, for one policy and for the difference of two on the same prompts.

The interval is Student's t over prompts. Two policies that answered the same prompts are compared
prompt by prompt, which removes the prompts' own difficulty from the interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from forethought.types import EvaluationResult


def mean_result(name: str, values: Sequence[float]) -> EvaluationResult:
    """The mean of one value per prompt.

    Raises: ValueError if there is no value.
    """
    if not values:
        raise ValueError(f"{name}: there is no value to average")
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    half = float(stats.t.ppf(0.975, max(len(array) - 1, 1))) * _standard_error(array)
    return EvaluationResult(
        name=name, value=mean, interval=(mean - half, mean + half), count=len(array)
    )


def paired_difference(
    name: str, first: Mapping[str, float], second: Mapping[str, float]
) -> EvaluationResult:
    """Mean of `first - second` over the prompts that both have.

    Raises: ValueError if they share no prompt.
    """
    shared = sorted(first.keys() & second.keys())
    return mean_result(name, [first[prompt] - second[prompt] for prompt in shared])


def _standard_error(array: np.ndarray) -> float:
    if len(array) < 2:
        return math.inf
    return float(array.std(ddof=1)) / math.sqrt(len(array))
