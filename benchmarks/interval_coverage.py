"""How often the interval of a win rate holds the truth, computed exactly, with and without ties.

    python benchmarks/interval_coverage.py

For every number of prompts and share of ties all outcomes (wins, ties, losses) are listed, each
with its interval; the coverage at a true win rate is the probability of those that hold it. True
rates are 0.05, 0.10, … 0.95. A share of ties that such a rate leaves no room for is cut to it.

The arrays `pairs` (wins, ties) and `ends` (low, high) have a row of two numbers for each outcome.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammaln, xlogy

from forethought.share_interval import interval_between

COUNTS = (5, 8, 12, 20, 40, 100, 300)
RATES = tuple(round(0.05 * step, 2) for step in range(1, 20))
TIES = (0.0, 0.2, 0.5)
ROUNDING = 1e-9


def outcomes(count: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """All (wins, ties) of `count` prompts, and their intervals."""
    pairs = [
        (wins, tied) for tied in range(count + 1 if ties else 1) for wins in range(count - tied + 1)
    ]
    intervals = [
        interval_between([1.0] * w + [0.5] * t + [0.0] * (count - w - t)) for w, t in pairs
    ]
    return np.array(pairs), np.array(intervals)


def coverage(count: int, rate: float, tied: float, pairs: np.ndarray, ends: np.ndarray) -> float:
    """The probability that the interval holds the rate, where a share `tied` of prompts ties."""
    tied = min(tied, 2 * min(rate, 1 - rate))
    won = rate - tied / 2
    wins, ties = pairs[:, 0], pairs[:, 1]
    losses = count - wins - ties
    chance = np.exp(
        gammaln(count + 1)
        - gammaln(wins + 1)
        - gammaln(ties + 1)
        - gammaln(losses + 1)
        + xlogy(wins, won)
        + xlogy(ties, tied)
        + xlogy(losses, max(1 - won - tied, 0.0))
    )
    holds = (ends[:, 0] <= rate + ROUNDING) & (rate - ROUNDING <= ends[:, 1])
    return float(chance[holds].sum())


def coverages(count: int, tied: float) -> dict[float, float]:
    """The coverage by true win rate, at so many prompts of which a share `tied` ties."""
    pairs, ends = outcomes(count, tied > 0)
    return {rate: coverage(count, rate, tied, pairs, ends) for rate in RATES}


def main() -> None:
    """Print the table of docs/evaluation.md."""
    print("| prompts | " + " | ".join(f"{tied:.0%} ties" for tied in TIES) + " |")
    print("|---|" + "---|" * len(TIES))
    for count in COUNTS:
        cells = []
        for tied in TIES:
            found = list(coverages(count, tied).values())
            cells.append(f"{min(found):.1%} ({math.fsum(found) / len(found):.1%})")
        print(f"| {count} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
