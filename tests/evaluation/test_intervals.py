"""Intervals of means, differences and shares hold the truth as often as they say."""

import numpy as np
import pytest
from scipy import stats

from forethought.evaluation.intervals import mean_result, paired_difference, share_result

WORLDS = 2000


def held(intervals, truth):
    return sum(low <= truth <= high for low, high in intervals) / len(intervals)


def test_means_of_scores():
    generator = np.random.default_rng(0)
    worlds = generator.beta(2, 1, (WORLDS, 60))
    intervals = [mean_result("m", list(row)).interval for row in worlds]
    assert held(intervals, 2 / 3) == pytest.approx(0.95, abs=0.02)


def test_paired_differences_are_narrower_than_unpaired_ones():
    generator = np.random.default_rng(1)
    easy = generator.normal(0, 1, (WORLDS, 60))
    first = easy + generator.normal(0.3, 0.2, easy.shape)
    intervals = []
    for ours, theirs in zip(first, easy, strict=True):
        pair = [dict(enumerate(row.tolist())) for row in (ours, theirs)]
        named = [{str(key): value for key, value in one.items()} for one in pair]
        intervals.append(paired_difference("d", *named, category="maths").interval)
    assert held(intervals, 0.3) == pytest.approx(0.95, abs=0.02)
    widths = [high - low for low, high in intervals]
    unpaired = 2 * 1.96 * np.sqrt(2 / 60)
    assert np.mean(widths) < unpaired / 3


@pytest.mark.parametrize("share", [0.03, 0.5, 0.9])
def test_shares(share):
    """Exactly, by summing over all outcomes of 200 questions."""
    count = 200
    coverage = 0.0
    for right in range(count + 1):
        low, high = share_result("s", [True] * right + [False] * (count - right)).interval
        coverage += float(stats.binom.pmf(right, count, share)) * (low <= share <= high)
    assert coverage == pytest.approx(0.95, abs=0.02)


def test_a_share_keeps_its_category_and_count():
    result = share_result("gsm8k", [True, False, True], category="maths")
    assert (result.value, result.count, result.category) == (pytest.approx(2 / 3), 3, "maths")
    assert 0 <= result.interval[0] < result.value < result.interval[1] <= 1


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="there is no value"):
        share_result("s", [])
    with pytest.raises(ValueError, match="there is no value"):
        paired_difference("d", {"a": 1.0}, {"b": 1.0})
