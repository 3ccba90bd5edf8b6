"""Intervals of means, differences and shares hold the truth as often as they say."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from interval_ends import ends_of

from forethought.config import RewardModelJudge, VerifierJudge
from forethought.evaluation.intervals import mean_result, paired_difference, share_result
from forethought.judging.describe import difference_ends, score_ends
from forethought.share_interval import interval_between

WORLDS = 2000
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COVERAGES = runpy.run_path(str(BENCHMARKS / "interval_coverage.py"))["coverages"]


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


@pytest.mark.parametrize("tied", [0.0, 0.3])
@pytest.mark.parametrize("count", [5, 12, 20, 60])
def test_win_rates_hold_at_every_true_rate(count, tied):
    """Exactly, over all outcomes; docs/evaluation.md has the table up to 300 prompts."""
    found = COVERAGES(count, tied)
    assert set(found) == {round(0.05 * step, 2) for step in range(1, 20)}
    assert min(found.values()) >= 0.945
    if count == 60:
        assert sum(found.values()) / len(found) < 0.975


def test_shares_of_300_questions():
    found = COVERAGES(300, 0.0)
    assert 0.95 <= min(found.values()) <= max(found.values()) < 0.97


def test_all_of_twelve_is_not_certain():
    wins = interval_between([1.0] * 12)
    assert wins == pytest.approx((0.025 ** (1 / 12), 1.0))
    assert interval_between([0.0] * 12) == pytest.approx((0, 1 - 0.025 ** (1 / 12)))
    low, high = interval_between([0.5] * 12)
    assert 0.3 < low < 0.45
    assert high == pytest.approx(1 - low)
    assert mean_result("m", [1.0] * 12, ends=(0.0, 1.0)).interval == wins
    assert share_result("s", [True] * 12).interval == wins


def test_a_difference_that_is_always_zero_is_not_certain():
    same = {str(number): 1.0 for number in range(12)}
    low, high = ends_of(paired_difference("d", same, same, ends=(-1.0, 1.0)))
    assert -0.4 < low < -0.1
    assert high == pytest.approx(-low)
    other = dict.fromkeys(same, 0.0)
    low, high = ends_of(paired_difference("d", same, other, ends=(-1.0, 1.0)))
    assert (low, high) == pytest.approx((2 * 0.025 ** (1 / 12) - 1, 1.0))


def test_equal_scores_of_an_open_scale_have_no_interval():
    """Their spread is none, which does not make the next one certain."""
    assert mean_result("m", [0.3] * 12).interval is None
    assert mean_result("m", [0.3]).interval is None
    same = {str(number): number / 3 for number in range(12)}
    apart = {key: score + 0.1 for key, score in same.items()}
    assert paired_difference("d", apart, same).interval is None
    assert mean_result("m", [0.3] * 11 + [0.31]).interval is not None


def test_a_users_verifier_that_gives_shares_keeps_within_them():
    judge = VerifierJudge(function="package.module:exact_match")
    assert score_ends(judge, [0.0, 1.0, 0.5]) == (0.0, 1.0)
    assert difference_ends(judge, [0.0, 1.0]) == (-1.0, 1.0)
    assert score_ends(judge, [0.0, 1.0, 7.0]) is None
    assert score_ends(RewardModelJudge(path="a/model"), [0.0, 1.0]) is None


def several_answers(generator, count, rate):
    """Each prompt has a rate of its own, and the mean of four answers."""
    rates = generator.beta(4 * rate, 4 * (1 - rate), (WORLDS, count))
    return generator.binomial(4, rates) / 4


def mostly_whole(generator, count, rate):
    """Marks that are mostly 0 or 1, a fifth of them somewhere between."""
    whole = (generator.random((WORLDS, count)) < rate).astype(float)
    between = generator.beta(4 * rate, 4 * (1 - rate), whole.shape)
    return np.where(generator.random(whole.shape) < 0.2, between, whole)


@pytest.mark.parametrize("draw", [several_answers, mostly_whole])
@pytest.mark.parametrize(("count", "rate"), [(5, 0.1), (5, 0.6), (12, 0.95), (40, 0.05), (40, 0.7)])
def test_means_between_two_ends_hold(draw, count, rate):
    worlds = draw(np.random.default_rng(7), count, rate)
    assert held([interval_between(row) for row in worlds], rate) >= 0.93


def test_a_scale_of_other_ends_is_the_same_interval_stretched():
    values = [0.0, 0.25, 1.0, 1.0, 0.75]
    low, high = interval_between(values)
    stretched = interval_between([1 + 9 * value for value in values], (1.0, 10.0))
    assert stretched == pytest.approx((1 + 9 * low, 1 + 9 * high))
    mirrored = interval_between([1 - value for value in values])
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_a_share_keeps_its_category_and_count():
    result = share_result("gsm8k", [True, False, True], category="maths")
    assert (result.value, result.count, result.category) == (pytest.approx(2 / 3), 3, "maths")
    low, high = ends_of(result)
    assert 0 <= low < result.value < high <= 1


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="there is no value"):
        share_result("s", [])
    with pytest.raises(ValueError, match="there is no value"):
        paired_difference("d", {"a": 1.0}, {"b": 1.0})
