"""Relative scores as shares of rivals beaten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought.evaluation.win_share import win_shares


@pytest.mark.parametrize(
    ("scores", "shares"),
    [
        ([], []),
        ([3.0], [0.5]),
        ([None], [0.5]),
        ([1.0, 0.0], [1.0, 0.0]),
        ([1.0, 1.0], [0.5, 0.5]),
        ([None, -5.0], [0.0, 1.0]),
        ([None, None], [0.5, 0.5]),
        ([0.3, None, -1.0], [1.0, 0.0, 0.5]),
        ([2.0, 2.0, 1.0, None], [2.5 / 3, 2.5 / 3, 1 / 3, 0.0]),
    ],
)
def test_shares_of_known_scores(scores, shares):
    assert win_shares(scores) == pytest.approx(shares)


@given(st.lists(st.none() | st.floats(-10, 10), min_size=2, max_size=8))
def test_shares_average_to_one_half_and_keep_the_order(scores):
    shares = win_shares(scores)
    assert sum(shares) == pytest.approx(len(scores) / 2)
    assert all(0 <= share <= 1 for share in shares)
    rank = [float("-inf") if score is None else score for score in scores]
    for i, one in enumerate(rank):
        for j, other in enumerate(rank):
            assert (shares[i] > shares[j]) == (one > other)
