"""Relative scores as shares of rivals beaten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought.evaluation.win_share import win_shares


@pytest.mark.parametrize(
    ("scores", "sides", "shares"),
    [
        ([], "", []),
        ([3.0], "A", [0.5]),
        ([None], "A", [0.5]),
        ([1.0, 0.0], "AB", [1.0, 0.0]),
        ([1.0, 1.0], "AB", [0.5, 0.5]),
        ([None, -5.0], "AB", [0.0, 1.0]),
        ([None, None], "AB", [0.5, 0.5]),
        ([0.3, None, -1.0], "ABC", [1.0, 0.0, 0.5]),
        ([2.0, 2.0, 1.0, None], "ABCD", [2.5 / 3, 2.5 / 3, 1 / 3, 0.0]),
        # Answers of one side are no rivals: both of A's beat both of B's.
        ([4.0, 3.0, 2.0, 1.0], "AABB", [1.0, 1.0, 0.0, 0.0]),
        ([4.0, 1.0, 3.0, 2.0], "AABB", [1.0, 0.0, 0.5, 0.5]),
        ([1.0, 2.0], "AA", [0.5, 0.5]),
    ],
)
def test_shares_of_known_scores(scores, sides, shares):
    assert win_shares(scores, sides) == pytest.approx(shares)


@given(st.lists(st.none() | st.floats(-10, 10), min_size=2, max_size=8))
def test_shares_average_to_one_half_and_keep_the_order(scores):
    shares = win_shares(scores, range(len(scores)))
    assert sum(shares) == pytest.approx(len(scores) / 2)
    assert all(0 <= share <= 1 for share in shares)
    rank = [float("-inf") if score is None else score for score in scores]
    for i, one in enumerate(rank):
        for j, other in enumerate(rank):
            assert (shares[i] > shares[j]) == (one > other)


@given(st.lists(st.none() | st.floats(-10, 10), min_size=2, max_size=6), st.data())
def test_two_sides_share_one(scores, data):
    sides = [data.draw(st.sampled_from("AB")) for _ in scores]
    shares = win_shares(scores, sides)
    means = [
        sum(share for share, side in zip(shares, sides, strict=True) if side == one)
        / max(sides.count(one), 1)
        for one in "AB"
    ]
    if len(set(sides)) == 2:
        assert sum(means) == pytest.approx(1)
