"""The 95 % interval of a figure that lies between two ends: the only one, for all such figures.

Clopper and Pearson's exact interval of a share, at the effective number of prompts (Korn and
Graubard 1998, Survey Methodology 24, 193-201): the number of yes-and-no outcomes that would vary as
much as these values do. It keeps its coverage at the ends, where all values are equal and an
interval from their spread is a point. docs/evaluation.md has the simulation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Ends = tuple[float, float]
SHARE: Ends = (0.0, 1.0)
DIFFERENCE: Ends = (-1.0, 1.0)
"""Of two shares."""
LEVEL = 0.95


def exact_interval(share: float, count: float) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of a share of `count` outcomes, whole numbers or not.

    Example: `exact_interval(1.0, 12)` is about `(0.735, 1.0)`
    """
    from scipy.special import betaincinv

    tail = (1 - LEVEL) / 2
    yes, no = share * count, (1 - share) * count
    low = 0.0 if yes <= 0 else float(betaincinv(yes, no + 1, tail))
    high = 1.0 if no <= 0 else float(betaincinv(yes + 1, no, 1 - tail))
    return low, high


def interval_between(values: Sequence[float], ends: Ends = SHARE) -> tuple[float, float]:
    """The 95 % interval of the mean of values that lie between two ends.

    How much the values vary is estimated with one more value at each end, so that equal ones, all
    wins or all ties, are not taken for certain. Yes and no alone have exactly the effective number
    of prompts that there are; with ties or other values in between it is larger.
    """
    low, high = ends
    shares = (np.asarray(values, dtype=np.float64) - low) / (high - low)
    assert ((shares > -1e-9) & (shares < 1 + 1e-9)).all(), f"values beyond {ends}"
    shares = np.clip(shares, 0.0, 1.0)
    more = np.append(shares, SHARE)
    mean = float(more.mean())
    # The variance of yes and no over that of the values, which the two ends keep above 0.
    effective = len(shares) * mean * (1 - mean) / float(more.var())
    bounds = exact_interval(float(shares.mean()), effective)
    return low + (high - low) * bounds[0], low + (high - low) * bounds[1]
