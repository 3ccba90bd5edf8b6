"""Win rates: exact values, symmetry, what length control does, and how often intervals hold."""

from dataclasses import replace

import numpy as np
import pytest
from interval_ends import ends_of
from scipy.optimize import minimize
from scipy.special import expit

from forethought.evaluation.paired_win_rate import (
    ComparedAnswers,
    category_win_rates,
    fit_at_equal_lengths,
    length_controlled_win_rate,
    length_overlap,
    win_rate,
)


def comparisons(preferences, differences=None, categories=None):
    differences = [0.0] * len(preferences) if differences is None else differences
    categories = [None] * len(preferences) if categories is None else categories
    return [
        ComparedAnswers(
            prompt_id=str(index),
            preference=float(preference),
            first_length=500 + difference,
            second_length=500,
            category=category,
        )
        for index, (preference, difference, category) in enumerate(
            zip(preferences, differences, categories, strict=True)
        )
    ]


def drawn(count, theta, phi, seed):
    """Wins of a policy that writes longer responses and is judged with a taste for them."""
    generator = np.random.default_rng(seed)
    differences = generator.normal(100, 300, count)
    chances = expit(theta + phi * np.tanh(differences / 300))
    return (generator.random(count) < chances).astype(float), differences


def swapped(rows):
    return [
        ComparedAnswers(
            prompt_id=row.prompt_id,
            preference=1 - row.preference,
            first_length=row.second_length,
            second_length=row.first_length,
            category=row.category,
        )
        for row in rows
    ]


def test_a_tie_counts_half():
    result = win_rate(comparisons([1, 1, 0.5, 0]))
    assert result.value == 0.625
    assert result.count == 4
    low, high = ends_of(result)
    assert low < 0.625 < high


def test_categories_are_rated_apart():
    rows = comparisons([1, 1, 0, 0.5], categories=["a", "a", "b", None])
    found = {rate.category: (rate.value, rate.count) for rate in category_win_rates(rows)}
    assert found == {"a": (1.0, 2), "b": (0.0, 1)}


@pytest.mark.parametrize("figure", [win_rate, length_controlled_win_rate])
def test_swapping_the_sides_turns_p_into_one_minus_p(figure):
    wins, differences = drawn(300, 0.4, 1.0, seed=1)
    rows = comparisons(wins, differences)
    ours, theirs = figure(rows), figure(swapped(rows))
    assert theirs.value == pytest.approx(1 - ours.value, abs=1e-9)
    assert theirs.interval == pytest.approx((1 - ours.interval[1], 1 - ours.interval[0]), abs=1e-6)


def test_length_control_does_nothing_where_lengths_are_equal():
    wins, _ = drawn(200, 0.4, 1.0, seed=2)
    rows = comparisons(wins)
    assert length_controlled_win_rate(rows).value == pytest.approx(win_rate(rows).value, abs=1e-9)


def test_length_control_takes_out_what_length_won():
    wins, differences = drawn(4000, 0.0, 2.0, seed=3)
    rows = comparisons(wins, differences)
    assert win_rate(rows).value > 0.58
    assert length_controlled_win_rate(rows).value == pytest.approx(0.5, abs=0.03)


def test_the_fit_is_the_optimum_that_another_solver_finds():
    wins, differences = drawn(250, 0.7, 1.5, seed=4)
    feature = np.tanh(differences / differences.std())

    def loss(weights):
        logits = weights[0] + weights[1] * feature
        return np.sum(np.logaddexp(0, logits) - wins * logits) + 0.005 * weights[1] ** 2

    expected = expit(minimize(loss, np.zeros(2), tol=1e-12).x[0])
    found = fit_at_equal_lengths(wins, feature, np.ones((1, 250)))
    assert found[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("winner", [0.0, 1.0])
def test_one_sided_outcomes_have_a_figure(winner):
    rows = comparisons([winner] * 20, differences=list(range(20)))
    assert length_controlled_win_rate(rows).value == pytest.approx(winner, abs=1e-4)
    assert win_rate(rows).value == winner


def test_the_longer_always_wins_has_a_figure():
    differences = np.linspace(-300, 300, 40)
    rows = comparisons((differences > 0).astype(float), differences)
    assert length_controlled_win_rate(rows).value == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("differences", "enough"),
    [
        ([5.0] * 12, False),
        ([5.0] * 10 + [-5.0] * 2, False),
        ([5.0] * 9 + [-5.0] * 3, True),
        ([5.0] * 9 + [0.0] * 3, True),
        ([-5.0] * 95 + [5.0] * 5, False),
        ([-5.0] * 90 + [5.0] * 10, True),
        ([0.0, 0.0], True),
        ([0.0, 5.0], False),
    ],
)
def test_equal_lengths_have_to_lie_within_those_seen(differences, enough):
    overlap = length_overlap(comparisons([1.0] * len(differences), differences))
    assert overlap.suffices == enough
    assert overlap.first_longer == sum(difference > 0 for difference in differences)


def test_a_side_without_a_response_says_nothing_of_lengths():
    rows = comparisons([1.0] * 12, [5.0] * 12)
    silent = [replace(row, first_length=0.0, second_length=0.0) for row in rows]
    assert not length_overlap([*rows, *silent]).suffices
    assert not length_overlap(silent).suffices


def test_nothing_to_compare_is_said():
    with pytest.raises(ValueError, match="no prompt that both sides were judged on"):
        win_rate([])


@pytest.mark.parametrize("count", [5, 12])
def test_winning_everything_is_not_certain(count):
    lengths = np.random.default_rng(2).normal(0, 300, count)
    rows = comparisons(np.ones(count), lengths)
    for found in (win_rate(rows), length_controlled_win_rate(rows)):
        assert found.value == pytest.approx(1, abs=1e-4)
        low, high = ends_of(found)
        assert 0.2 < low < 0.85
        assert high == pytest.approx(1, abs=1e-4)
    named = comparisons(np.ones(count), lengths, ["maths"] * count)
    assert category_win_rates(named)[0].interval == win_rate(rows).interval


@pytest.mark.parametrize(("count", "theta"), [(8, 0.0), (12, 2.5), (40, 1.0)])
def test_length_controlled_rates_of_few_prompts_hold(count, theta):
    held, worlds = 0, 150
    for world in range(worlds):
        rows = comparisons(*drawn(count, theta, 1.0, seed=2000 + world))
        low, high = ends_of(length_controlled_win_rate(rows, resamples=200))
        held += low <= expit(theta) <= high
    assert held / worlds >= 0.93


def test_intervals_hold_as_often_as_they_say():
    """400 data sets of 300 prompts; each figure's interval is to hold the truth in 93 % or more."""
    worlds, phi = 400, 1.0
    lengths = np.random.default_rng(5).normal(100, 300, 400_000)
    truth = {
        "win_rate": float(expit(0.4 + phi * np.tanh(lengths / 300)).mean()),
        "length_controlled_win_rate": float(expit(0.4)),
    }
    held = dict.fromkeys(truth, 0)
    for world in range(worlds):
        rows = comparisons(*drawn(300, 0.4, phi, seed=1000 + world))
        for found in (win_rate(rows), length_controlled_win_rate(rows, resamples=400)):
            low, high = ends_of(found)
            held[found.name] += low <= truth[found.name] <= high
    for name, times in held.items():
        assert 0.93 <= times / worlds <= 0.985, (name, times)
