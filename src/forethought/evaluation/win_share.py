"""What share of its rivals a response beats: how relative scores are averaged over prompts.

A pairwise judge's scores compare the responses of one prompt and have no scale of their own. The
share of rivals beaten has: it lies in [0, 1] for every prompt, a tie counts half.
"""

from __future__ import annotations

from collections.abc import Sequence


def win_shares(scores: Sequence[float | None]) -> list[float]:
    """For each score the share of the others that it beats, ties half; alone it has 0.5.

    `None`, an output without a response, loses to every score and ties with another `None`.

    Example: `win_shares([0.3, None, -1.0]) == [1.0, 0.0, 0.5]`
    """
    rivals = len(scores) - 1
    if rivals < 1:
        return [0.5] * len(scores)
    return [(sum(_beats(one, other) for other in scores) - 0.5) / rivals for one in scores]


def _beats(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return 0.5 if one is other else float(other is None)
    return float(one > other) + 0.5 * float(one == other)
