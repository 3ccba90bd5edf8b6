"""Length control against scikit-learn's own cross-validation, an exact optimum and a planted truth.

All data are drawn here.
"""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sklearn
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import make_scorer
from sklearn.model_selection import GroupKFold

from forethought.evaluation.alpaca_eval.length_control import (
    Comparisons,
    FittedWeights,
    GamedRows,
    length_controlled,
    predictions,
)


def drawn(count=200, *, seed=0, length=-1.2, difficulty=0.7, constant=-0.4, noise=1.5):
    """Comparisons of a model whose weights are known."""
    random = np.random.default_rng(seed)
    delta_N = np.round(random.normal(300, 700, count))
    difficulty_N = random.normal(0, 1, count)
    logits_N = (
        length * np.tanh(delta_N / delta_N.std(ddof=1)) + difficulty * difficulty_N + constant
    )
    preference_N = expit(logits_N + random.normal(0, noise, count))
    return Comparisons(preference_N=preference_N, delta_len_N=delta_N, difficulty_N=difficulty_N)


def gamed_rows(count=120, seed=1):
    random = np.random.default_rng(seed)
    return GamedRows(
        preference_G=random.uniform(0, 1, count),
        std_delta_len_G=random.normal(0, 2, count),
        difficulty_G=random.normal(0, 1, count),
    )


def table(comparisons, gamed):
    """Features, soft labels and weights, spelled out row by row."""
    std = comparisons.delta_len_N.std(ddof=1)
    rows = []
    if gamed is not None:
        for label, delta, difficulty in zip(
            gamed.preference_G, gamed.std_delta_len_G, gamed.difficulty_G, strict=True
        ):
            rows.append(([np.tanh(delta), difficulty, 0.0], label, 0.1))
    for label, delta, difficulty in zip(
        comparisons.preference_N, comparisons.delta_len_N, comparisons.difficulty_N, strict=True
    ):
        rows.append(([np.tanh(delta / std), difficulty, 1.0], label, 1.0))
    features, labels, weights = zip(*rows, strict=True)
    return np.array(features), np.array(labels), np.array(weights)


def soft_log_loss(y_true, y_pred, true_prob, true_sample_weight):
    label = np.where(y_true == 1, true_prob, 1 - true_prob)
    loss = label * np.log(y_pred) + (1 - label) * np.log(1 - y_pred)
    return -np.mean(loss * true_sample_weight)


@pytest.mark.parametrize("gamed", [None, gamed_rows()], ids=["alone", "gamed"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_scikit_learns_cross_validation(seed, gamed):
    comparisons = drawn(seed=seed)
    features, labels, weights = table(comparisons, gamed)
    count = len(labels)
    both = np.concatenate([labels, 1 - labels])
    with sklearn.config_context(enable_metadata_routing=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scorer: Any = make_scorer(
            soft_log_loss, response_method="predict_proba", greater_is_better=False
        ).set_score_request(true_prob=True, true_sample_weight=True)
        unfitted: Any = LogisticRegressionCV(
            cv=GroupKFold(5),
            scoring=scorer,
            penalty="l1",
            solver="liblinear",
            random_state=123,
            fit_intercept=False,
        )
        model = unfitted.set_fit_request(sample_weight=True)
        model.fit(
            np.concatenate([features, features]),
            np.repeat([1, 0], count),
            sample_weight=both * np.tile(weights, 2),
            groups=np.tile(np.arange(count), 2),
            true_prob=both,
            true_sample_weight=np.tile(weights, 2),
        )
    found = length_controlled(comparisons, gamed, resamples=1)
    assert pytest.approx(model.C_[0], rel=1e-12) == found.C
    mine = [found.weights.length, found.weights.difficulty, found.weights.constant]
    assert mine == pytest.approx(model.coef_[0].tolist(), abs=1e-12)
    expected = expit(model.coef_[0][2] + model.coef_[0][1] * comparisons.difficulty_N)
    assert found.win_rate == pytest.approx(100 * expected.mean(), abs=1e-9)
    assert found.prediction_error == pytest.approx(
        100 * expected.std(ddof=1) / np.sqrt(len(expected)), abs=1e-9
    )


@pytest.mark.parametrize("C", [0.05, 2.782559402207126, 300.0])
def test_it_comes_close_to_the_exact_optimum(C):
    comparisons, gamed = drawn(seed=5), gamed_rows()
    features, labels, weights = table(comparisons, gamed)

    def objective(halves):
        # Positive and negative parts, so that the penalty is smooth.
        positive, negative = halves[:3], halves[3:]
        logits = features @ (positive - negative)
        loss = labels * np.logaddexp(0, -logits) + (1 - labels) * np.logaddexp(0, logits)
        slope = C * features.T @ (weights * (expit(logits) - labels))
        return C * (weights * loss).sum() + halves.sum(), np.concatenate([slope + 1, 1 - slope])

    best = minimize(
        objective,
        np.full(6, 0.1),
        jac=True,
        bounds=[(0, None)] * 6,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-10},
    )
    exact = best.x[:3] - best.x[3:]
    found = length_controlled(comparisons, gamed, C=C, resamples=1)
    assert [found.weights.length, found.weights.difficulty, found.weights.constant] == (
        pytest.approx(exact.tolist(), abs=5e-3)
    )
    assert found.win_rate == pytest.approx(
        100 * expit(exact[2] + exact[1] * comparisons.difficulty_N).mean(), abs=0.1
    )


def test_a_strong_penalty_leaves_nothing():
    found = length_controlled(drawn(), gamed_rows(), C=1e-4, resamples=1)
    assert found.weights == FittedWeights(length=0, difficulty=0, constant=0)
    assert found.win_rate == 50


def test_the_win_rate_at_equal_length_does_not_reward_length():
    # The same model, once brief and once verbose: what it says at equal length is the same.
    model = drawn(20_000, seed=8, noise=0)
    difficulty_N = model.difficulty_N
    assert difficulty_N is not None
    random = np.random.default_rng(9)
    rates = []
    for sign in (1, -1):
        delta_N = random.normal(800 * sign, 500, 20_000)
        std = delta_N.std(ddof=1)
        logits_N = -1.2 * np.tanh(delta_N / std) + 0.7 * difficulty_N - 0.4
        shown = replace(model, delta_len_N=delta_N, preference_N=expit(logits_N))
        rates.append(
            (100 * shown.preference_N.mean(), length_controlled(shown, C=100, resamples=1))
        )
    (raw_brief, at_brief), (raw_verbose, at_verbose) = rates
    truth = 100 * expit(-0.4 + 0.7 * difficulty_N).mean()
    assert raw_verbose - raw_brief > 30
    assert at_brief.win_rate == pytest.approx(truth, abs=0.2)
    assert at_verbose.win_rate == pytest.approx(truth, abs=0.2)


def test_predictions_from_weights():
    weights = FittedWeights(length=-9.0, difficulty=2.0, constant=-1.0)
    # Sigmoids of -1, 1 and -2; the length's weight has no part.
    expected = [0.2689414213699951, 0.7310585786300049, 0.11920292202211755]
    found = predictions(weights, np.array([0.0, 1.0, -0.5]), 3)
    assert found == pytest.approx(expected, abs=1e-15)
    assert predictions(weights, None, 2) == pytest.approx([expected[0]] * 2, abs=1e-15)


@pytest.mark.parametrize("gamed", [None, gamed_rows()], ids=["alone", "gamed"])
def test_without_difficulty_the_term_is_dropped(gamed):
    comparisons = replace(drawn(), difficulty_N=None)
    bare = gamed and replace(gamed, difficulty_G=None)
    found = length_controlled(comparisons, bare, resamples=1)
    assert found.weights.difficulty is None
    assert found.win_rate == pytest.approx(100 * expit(found.weights.constant), abs=1e-9)
    assert found.prediction_error < 1e-12
    # As if every difficulty were 0.
    zero = replace(comparisons, difficulty_N=np.zeros(200))
    zero_gamed = gamed and replace(gamed, difficulty_G=np.zeros(120))
    same = length_controlled(zero, zero_gamed, C=found.C, resamples=1)
    assert same.win_rate == pytest.approx(found.win_rate, abs=0.02)
    assert same.weights.difficulty == 0


def test_failed_annotations_are_predicted_and_not_fitted():
    comparisons = drawn()
    failed_N = comparisons.preference_N.copy()
    failed_N[::7] = np.nan
    found = length_controlled(replace(comparisons, preference_N=failed_N), C=2.0, resamples=20)
    features, labels, _ = table(comparisons, None)
    kept = np.arange(200) % 7 != 0
    model = LogisticRegression(
        C=2.0, l1_ratio=1, solver="liblinear", random_state=123, fit_intercept=False
    )
    model.fit(
        np.concatenate([features[kept], features[kept]]),
        np.repeat([1, 0], kept.sum()),
        sample_weight=np.concatenate([labels[kept], 1 - labels[kept]]),
    )
    assert found.weights.constant == pytest.approx(model.coef_[0][2], abs=1e-12)
    every = expit(model.coef_[0][2] + model.coef_[0][1] * comparisons.difficulty_N)
    assert found.win_rate == pytest.approx(100 * every.mean(), abs=1e-9)
    assert found.interval[0] < found.win_rate < found.interval[1]


@pytest.mark.parametrize("delta", [0.0, 250.0])
def test_lengths_that_all_differ_alike_have_no_part(delta):
    comparisons = replace(drawn(), delta_len_N=np.full(200, delta))
    found = length_controlled(comparisons, resamples=5)
    assert found.weights.length == 0
    assert found.win_rate == pytest.approx(100 * comparisons.preference_N.mean(), abs=2)


@pytest.mark.parametrize("preference", [0.0, 1.0])
def test_a_model_that_loses_or_wins_everything_has_a_rate(preference):
    comparisons = replace(drawn(), preference_N=np.full(200, preference))
    found = length_controlled(comparisons, gamed_rows(), resamples=5)
    assert abs(found.win_rate - 100 * preference) < 2
    assert 0 <= found.interval[0] <= found.interval[1] <= 100


def test_the_interval_is_as_wide_as_the_figure_moves():
    # Other instructions, drawn again and again, move the figure as much as the bootstrap says.
    moved = [length_controlled(drawn(150, seed=s), C=3.0, resamples=1).win_rate for s in range(80)]
    low, high = length_controlled(drawn(150, seed=3), C=3.0, resamples=300).interval
    assert (high - low) / (2 * 1.96) == pytest.approx(np.std(moved), rel=0.35)


def test_the_interval_is_the_same_every_time():
    first, second = (length_controlled(drawn(60), C=3.0, resamples=30) for _ in range(2))
    assert first == second


def test_too_few_preferences_for_the_folds():
    four = drawn(4)
    with pytest.raises(ValueError, match=r"4 preferences are too few to choose C by 5 folds.*C"):
        length_controlled(four)
    assert 0 < length_controlled(four, C=1.0, resamples=2).win_rate < 100
    assert 0 < length_controlled(four, gamed_rows(), resamples=2).win_rate < 100


@pytest.mark.parametrize("C", [0.0, -1.0, float("inf"), float("nan")])
def test_a_wrong_c_is_refused(C):
    with pytest.raises(ValueError, match=r"C: .* cannot be used; give a positive number"):
        length_controlled(drawn(10), C=C)
