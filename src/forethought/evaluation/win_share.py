"""What share of its rivals a response beats: how relative scores are averaged over prompts.

A pairwise judge's scores compare the responses of one prompt and have no scale of their own. The
share of rivals beaten has: it lies in [0, 1] for every prompt, a tie counts half.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def win_shares(scores: Sequence[float | None], sides: Sequence[Hashable]) -> list[float]:
    """For each score the share of its rivals that it beats, ties half; without any it has 0.5.

    `sides` says whose each score is, such as a policy's; only those of other sides are rivals, so
    that several answers of one policy do not count against each other. `None`, an output without a
    response, loses to every score and ties with another `None`.

    Example: `win_shares([0.3, None, -1.0], "ABC") == [1.0, 0.0, 0.5]`
    """
    shown = list(zip(scores, sides, strict=True))
    return [
        _share(score, [rival for rival, other in shown if other != side]) for score, side in shown
    ]


def _share(score: float | None, rivals: Sequence[float | None]) -> float:
    return sum(_beats(score, rival) for rival in rivals) / len(rivals) if rivals else 0.5


def _beats(score: float | None, rival: float | None) -> float:
    if score is None or rival is None:
        return 0.5 if score is rival else float(rival is None)
    return float(score > rival) + 0.5 * float(score == rival)
