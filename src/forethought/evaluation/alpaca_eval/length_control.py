"""AlpacaEval 2's length-controlled win rate: what the win rate would be if lengths were equal.

A logistic model without intercept explains the preference p in [0, 1] of each instruction by
`tanh(delta_len / std)`, the instruction's difficulty and a constant (`not_gamed_baseline`).
`delta_len` is the characters of the baseline's output minus those of the model's, `std` its sample
deviation over the annotations. The length-controlled win rate is the mean prediction with
`delta_len` set to 0. Gamed rows, which are the baseline told to be concise or verbose, have the
constant 0 and enter with weight 0.1 each: they tie the length and difficulty terms down.

The set-up is that of the `alpaca_eval` package's `length_controlled_v1` (tatsu-lab/alpaca_eval,
Apache-2.0), down to liblinear's random state, since its stopping rule leaves the figure some 0.004
from the optimum: soft labels as two weighted rows, an L1 penalty, C out of ten from 1e-4 to 1e4 by
five folds, the gamed rows first. Without a difficulty the term is dropped; without gamed rows
the model does without. Rows whose preference is missing are not fitted but predicted, as there.

The package's standard error is the spread of the predictions over instructions, which says how
different instructions are, not how sure the figure is. The 95 % interval here is a percentile
bootstrap: instructions are drawn with replacement and the model is fitted again at the same C. The
figure is meant for the whole evaluation set: with a few dozen instructions a small C may be chosen,
and the penalty then draws figure and interval to 50.

Shapes: N annotations, G gamed rows, M rows to fit, F features.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

GRID = np.logspace(-4, 4, 10)
"""Values of C that are tried."""
FOLDS = 5
GAMED_WEIGHT = 0.1
RANDOM_STATE = 123
RESAMPLES = 500
"""Bootstrap samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparisons:
    """A model against the baseline, one entry per annotation.

    Example: `Comparisons(preference_N=np.array([0.9, 0.2]), delta_len_N=np.array([310, -42]),
    difficulty_N=None)`
    """

    preference_N: np.ndarray
    """In [0, 1], 1 where the model wins; NaN where there is no preference."""
    delta_len_N: np.ndarray
    """Characters of the baseline's output minus those of the model's."""
    difficulty_N: np.ndarray | None
    """The instructions' difficulty; `None` drops the term."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GamedRows:
    """The baseline against itself, told to be concise or verbose.

    Example: `GamedRows(preference_G=np.array([0.4]), std_delta_len_G=np.array([2.9]),
    difficulty_G=np.array([0.1]))`
    """

    preference_G: np.ndarray
    """In [0, 1]."""
    std_delta_len_G: np.ndarray
    """Already divided by the standard deviation."""
    difficulty_G: np.ndarray | None
    """`None` only where the comparisons have no difficulty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedWeights:
    """What was fitted.

    Example: `FittedWeights(length=-1.81, difficulty=0.83, constant=-1.31)`
    """

    length: float
    """Of `tanh(delta_len / std)`."""
    difficulty: float | None
    """`None` where the term was dropped."""
    constant: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthControl:
    """The length-controlled win rate and what stands behind it.

    Example: `LengthControl(win_rate=25.25, prediction_error=0.52, interval=(22.9, 27.8), C=2.78,
    weights=FittedWeights(…))`
    """

    win_rate: float
    """Percent."""
    prediction_error: float
    """The package's `lc_standard_error`, percent: sample deviation of the predictions / sqrt(N)."""
    interval: tuple[float, float]
    """95 %, percent: percentile bootstrap over instructions at this C."""
    C: float
    weights: FittedWeights


def length_controlled(
    comparisons: Comparisons,
    gamed: GamedRows | None = None,
    *,
    C: float | None = None,
    resamples: int = RESAMPLES,
) -> LengthControl:
    """Fit the model, with a C by cross-validation if none is given, and predict at equal length.

    Raises: ValueError if there are fewer preferences than folds, or C is not positive.
    """
    if C is not None and not 0 < C < np.inf:
        raise ValueError(f"C: {C:g} cannot be used; give a positive number or leave it out")
    rows = _rows(comparisons, gamed)
    if C is None:
        C = _cross_validated(rows)
    weights = _fit(rows, C, np.random.RandomState(RANDOM_STATE))
    predicted_N = predictions(_as_weights(weights), comparisons.difficulty_N, _count(comparisons))
    return LengthControl(
        win_rate=100 * float(predicted_N.mean()),
        prediction_error=100 * float(predicted_N.std(ddof=1)) / float(np.sqrt(len(predicted_N))),
        interval=_bootstrap(comparisons, gamed, C, resamples),
        C=float(C),
        weights=_as_weights(weights),
    )


def predictions(weights: FittedWeights, difficulty_N: np.ndarray | None, count: int) -> np.ndarray:
    """The preference (N,) for the model that is expected at equal length, per instruction."""
    if difficulty_N is None or weights.difficulty is None:
        return np.full(count, _logistic(np.array(weights.constant)))
    return _logistic(weights.constant + weights.difficulty * difficulty_N)


@dataclass(frozen=True, slots=True)
class _Observations:
    """What is fitted; `label_M` is soft."""

    features_MF: np.ndarray
    label_M: np.ndarray
    weight_M: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> _Observations:
        return _Observations(self.features_MF[chosen], self.label_M[chosen], self.weight_M[chosen])


def _rows(comparisons: Comparisons, gamed: GamedRows | None) -> _Observations:
    own = _own_rows(comparisons)
    if gamed is None:
        return own
    columns = [np.tanh(gamed.std_delta_len_G), np.zeros(len(gamed.preference_G))]
    if comparisons.difficulty_N is not None:
        assert gamed.difficulty_G is not None, "both have the term or neither"
        columns.insert(1, gamed.difficulty_G)
    return _Observations(
        np.concatenate([np.stack(columns, axis=1), own.features_MF]),
        np.concatenate([gamed.preference_G, own.label_M]),
        np.concatenate([np.full(len(gamed.preference_G), GAMED_WEIGHT), own.weight_M]),
    )


def _own_rows(comparisons: Comparisons) -> _Observations:
    std = float(np.std(comparisons.delta_len_N, ddof=1))
    # Where all lengths differ by the same there is nothing to control for.
    scaled_N = comparisons.delta_len_N / std if std > 0 else np.zeros(_count(comparisons))
    columns = [np.tanh(scaled_N), np.ones(_count(comparisons))]
    if comparisons.difficulty_N is not None:
        columns.insert(1, comparisons.difficulty_N)
    every = _Observations(
        np.stack(columns, axis=1), comparisons.preference_N, np.ones(_count(comparisons))
    )
    return every[~np.isnan(comparisons.preference_N)]


def _cross_validated(rows: _Observations) -> float:
    """The C of the grid with the best mean log likelihood on held-out rows, ties to the smaller."""
    from sklearn.model_selection import GroupKFold

    count = len(rows.label_M)
    if count < FOLDS:
        raise ValueError(
            f"length control: {count} preferences are too few to choose C by {FOLDS} folds; "
            f"annotate {FOLDS} instructions or more, or give C"
        )
    # Folds are of row pairs, one per label, in the order in which the package holds them.
    groups = np.tile(np.arange(count), 2)
    scores: list[list[float]] = []
    for train, test in GroupKFold(FOLDS).split(np.zeros(2 * count), groups=groups):
        kept, held_out = rows[train[train < count]], rows[test[test < count]]
        # One stream of random numbers per fold, along the grid.
        random = np.random.RandomState(RANDOM_STATE)
        scores.append([_score(_fit(kept, C, random), held_out) for C in GRID])
    return float(GRID[np.mean(scores, axis=0).argmax()])


def _score(weights_F: np.ndarray, rows: _Observations) -> float:
    predicted_M = np.clip(_logistic(rows.features_MF @ weights_F), 1e-15, 1 - 1e-15)
    likelihood_M = rows.label_M * np.log(predicted_M) + (1 - rows.label_M) * np.log1p(-predicted_M)
    return float(np.mean(rows.weight_M * likelihood_M))


def _fit(rows: _Observations, C: float, random: np.random.RandomState) -> np.ndarray:
    """The weights (F,): of the length, of the difficulty if there is one, the constant."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    count = len(rows.label_M)
    model = LogisticRegression(
        C=C, l1_ratio=1, solver="liblinear", fit_intercept=False, random_state=random
    )
    with warnings.catch_warnings():
        # The package, too, takes what liblinear has after its 100 rounds.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(
            np.concatenate([rows.features_MF, rows.features_MF]),
            np.repeat([1, 0], count),
            sample_weight=np.concatenate(
                [rows.label_M * rows.weight_M, (1 - rows.label_M) * rows.weight_M]
            ),
        )
    return model.coef_[0]


def _bootstrap(
    comparisons: Comparisons, gamed: GamedRows | None, C: float, resamples: int
) -> tuple[float, float]:
    annotated = np.flatnonzero(~np.isnan(comparisons.preference_N))
    draws = np.random.default_rng(RANDOM_STATE)
    rates: list[float] = []
    for _ in range(resamples):
        sample = _chosen(comparisons, draws.choice(annotated, size=len(annotated)))
        weights_F = _fit(_rows(sample, gamed), C, np.random.RandomState(RANDOM_STATE))
        predicted_N = predictions(_as_weights(weights_F), sample.difficulty_N, len(annotated))
        rates.append(100 * float(predicted_N.mean()))
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def _chosen(comparisons: Comparisons, rows: np.ndarray) -> Comparisons:
    difficulty_N = comparisons.difficulty_N
    return Comparisons(
        preference_N=comparisons.preference_N[rows],
        delta_len_N=comparisons.delta_len_N[rows],
        difficulty_N=None if difficulty_N is None else difficulty_N[rows],
    )


def _as_weights(weights_F: np.ndarray) -> FittedWeights:
    length, *difficulty, constant = weights_F.tolist()
    return FittedWeights(
        length=length, difficulty=difficulty[0] if difficulty else None, constant=constant
    )


def _count(comparisons: Comparisons) -> int:
    return len(comparisons.preference_N)


def _logistic(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))
