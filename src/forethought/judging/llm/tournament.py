"""Who meets whom: all pairs, rounds in which neighbours in strength meet, or circles.

With K responses all pairs take K(K-1)/2 meetings. A tournament of n rounds takes n·K/2 and learns
most about the best and the worst, which become the pair to train on. n circles, in each of which
everyone meets two neighbours, take n·K; they are drawn beforehand, so no meeting waits for another.
Nobody meets twice: the judge was asked in both orders and would only say the same again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from itertools import combinations, pairwise

from forethought.config import most_circles

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


def circles(order: Sequence[int], count: int) -> list[Meeting]:
    """The meetings of `count` circles through all responses, no meeting twice, circle by circle.

    `order` is the draw: it says who stands where. The circles are those into which Walecki parts
    the edges of a complete graph (Alspach 2008, "The wonderful Walecki construction"): one response
    stands still while a zigzag through the others is turned. Where the number is even, the last
    response comes into each circle by its middle edge; no two of these have an end in common, so
    that its new neighbours are others every time.

    `count` is at most `most_circles(len(order))`, and at least 1.
    """
    assert 1 <= count <= most_circles(len(order)), (count, len(order))
    size = len(order)
    still, turning = order[0], order[1 : size if size % 2 == 1 else size - 1]
    half = len(turning) // 2
    zigzag = [(step + 1) // 2 * (1 if step % 2 == 1 else -1) for step in range(len(turning))]
    meetings: list[Meeting] = []
    for turn in range(count):
        circle = [turning[(turn + place) % len(turning)] for place in zigzag]
        if size % 2 == 0:
            circle.insert(half, order[-1])
        circle.insert(0, still)
        meetings += [_meeting(*pair) for pair in pairwise([*circle, still])]
    return meetings


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
