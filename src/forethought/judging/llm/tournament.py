"""Who meets whom: all pairs, or rounds in which neighbours in strength meet.

With K responses all pairs take K(K-1)/2 meetings. A tournament of n rounds takes n·K/2 and learns
most about the best and the worst, which become the pair to train on. Nobody meets twice: the judge
was asked in both orders and would only say the same again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from itertools import combinations, pairwise

Meeting = tuple[int, int]
"""Two responses, the lower index first."""
ROUNDING = 1e-9
"""A smaller gain is none, so that exchanges come to an end."""


def all_meetings(count: int) -> list[Meeting]:
    """Every pair of `count` responses."""
    return list(combinations(range(count), 2))


def is_complete(count: int, rounds: int) -> bool:
    """Whether so many rounds are enough for all pairs."""
    return rounds >= (count - 1 if count % 2 == 0 else count)


def next_round(order: Sequence[int], scores: Sequence[float], met: Set[Meeting]) -> list[Meeting]:
    """New meetings of one round, in which each response has at most one.

    Responses are ranked by score, equal ones by their place in `order`. Neighbours meet; then
    meetings exchange partners as long as that makes fewer of them repeated or, with as many, the
    squared gaps of scores smaller in sum. A meeting that is still repeated is left out. If the
    number is odd, one that met most others sits out, of these the last in `order`.
    """
    ranked = sorted(order, key=lambda index: -scores[index])
    if len(ranked) % 2 == 1:
        met_so_far = Counter(index for meeting in met for index in meeting)
        most = max(met_so_far[index] for index in ranked)
        ranked.remove([index for index in order if met_so_far[index] == most][-1])

    def cost(meetings: Sequence[Meeting]) -> tuple[int, float]:
        gaps = [scores[a] - scores[b] for a, b in meetings]
        return sum(meeting in met for meeting in meetings), sum(gap * gap for gap in gaps)

    meetings = [_meeting(*pair) for pair in list(pairwise(ranked))[::2]]
    while True:
        exchanges = [
            (cost(new)[0] - cost(old)[0], cost(new)[1] - cost(old)[1], old, new)
            for old in combinations(meetings, 2)
            for new in _exchanges(*old)
        ]
        better = [exchange for exchange in exchanges if exchange[:2] < (0, -ROUNDING)]
        if not better:
            return [meeting for meeting in meetings if meeting not in met]
        _, _, old, new = min(better)
        meetings = [meeting for meeting in meetings if meeting not in old] + new


def _exchanges(first: Meeting, second: Meeting) -> list[list[Meeting]]:
    """The two other ways in which four can meet."""
    (a, b), (c, d) = first, second
    return [[_meeting(a, c), _meeting(b, d)], [_meeting(a, d), _meeting(b, c)]]


def _meeting(a: int, b: int) -> Meeting:
    return (min(a, b), max(a, b))
