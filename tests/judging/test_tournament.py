"""Who meets whom: everyone plays, nobody the same rival twice; rounds pair neighbours in strength,
circles join all."""

import random
from collections import Counter

import pytest

from forethought.config import most_circles
from forethought.judging.llm.tournament import all_meetings, circles, is_complete, next_round


def played(count: int, rounds: int, seed: int) -> list[list[tuple[int, int]]]:
    """A tournament in which the higher index always wins; scores are wins."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    scores = [0.0] * count
    met: set[tuple[int, int]] = set()
    history = []
    for _ in range(rounds):
        meetings = next_round(order, scores, met)
        assert not met.intersection(meetings)
        met.update(meetings)
        for _, winner in meetings:
            scores[winner] += 1
        history.append(meetings)
    return history


def test_all_meetings() -> None:
    assert all_meetings(3) == [(0, 1), (0, 2), (1, 2)]
    assert all_meetings(1) == all_meetings(0) == []
    assert [is_complete(count, 3) for count in (2, 3, 4, 5)] == [True, True, True, False]


@pytest.mark.parametrize("count", [2, 3, 5, 8, 9, 16, 33])
@pytest.mark.parametrize("seed", range(5))
def test_nobody_has_two_meetings_in_a_round(count: int, seed: int) -> None:
    for meetings in played(count, rounds=(count + 1) // 2, seed=seed):
        names = [one for meeting in meetings for one in meeting]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("count", [8, 9, 16, 17])
@pytest.mark.parametrize("seed", range(10))
def test_everyone_plays_in_every_round(count: int, seed: int) -> None:
    """Of an odd number one sits out, another one each time."""
    rounds = count // 2
    history = played(count, rounds, seed)
    assert [len(meetings) for meetings in history] == [count // 2] * rounds
    games = Counter(one for meetings in history for meeting in meetings for one in meeting)
    assert set(games.values()) == ({rounds} if count % 2 == 0 else {rounds, rounds - 1})


@pytest.mark.parametrize("seed", range(10))
def test_later_rounds_pair_neighbours(seed: int) -> None:
    """In the second round winners meet winners, losers meet losers."""
    first, second = played(8, 2, seed)
    winners = {winner for _, winner in first}
    assert all((one in winners) == (other in winners) for one, other in second)


@pytest.mark.parametrize("seed", range(10))
def test_three_rounds_find_the_best_and_the_worst_of_eight(seed: int) -> None:
    wins = Counter(winner for meetings in played(8, 3, seed) for _, winner in meetings)
    assert wins[7] == 3
    assert [one for one, count in wins.items() if count == 3] == [7]
    assert wins[0] == 0
    assert sum(count == 0 for count in (wins[one] for one in range(8))) == 1


def test_a_meeting_is_split_so_that_nobody_is_left_over() -> None:
    """By score 0 meets 1, and 2 and 3 have met before."""
    assert next_round([0, 1, 2, 3], [3, 2, 1, 0], met={(2, 3)}) in (
        [(0, 3), (1, 2)],
        [(0, 2), (1, 3)],
    )


def test_who_has_met_all_sits_out() -> None:
    assert next_round([0, 1], [0, 0], met={(0, 1)}) == []
    assert next_round([0, 1, 2], [0, 0, 0], met={(0, 1), (0, 2)}) == [(1, 2)]


def test_equal_scores_are_ranked_by_the_given_order() -> None:
    assert next_round([2, 0, 3, 1], [0, 0, 0, 0], met=set()) == [(0, 2), (1, 3)]
    assert next_round([2, 0, 1], [0, 0, 0], met=set()) == [(0, 2)]


def test_meetings_exchange_partners_until_gaps_are_small() -> None:
    """Squared gaps 4 + 9 + 4; the first pairing without a repetition has 25 + 16 + 4."""
    found = next_round(range(6), [6, 4, 4, 2, 1, 0], met={(0, 1), (4, 5)})
    assert sorted(found) == [(0, 2), (1, 4), (3, 5)]


@pytest.mark.parametrize("size", range(3, 18))
def test_circles_go_through_all_and_share_no_meeting(size: int) -> None:
    order = random.Random(size).sample(range(size), size)
    meetings = circles(order, most_circles(size))
    assert len(set(meetings)) == len(meetings) == size * most_circles(size)
    for start in range(0, len(meetings), size):
        circle = meetings[start : start + size]
        games = Counter(one for meeting in circle for one in meeting)
        assert games == dict.fromkeys(range(size), 2)
        # One circle, not several.
        reached, waiting = {0}, [0]
        while waiting:
            here = waiting.pop()
            there = {one for meeting in circle if here in meeting for one in meeting} - reached
            reached |= there
            waiting += there
        assert len(reached) == size
    # What is left over of an even number is one meeting for each.
    left = set(all_meetings(size)) - set(meetings)
    assert len(left) == (0 if size % 2 == 1 else size // 2)
    assert circles(order, 1) == meetings[:size]
