"""AlpacaEval 2: win rate and length-controlled win rate of a model against a baseline.

The figures are those of the `alpaca_eval` package: the win rate is the mean preference in percent,
its standard error the sample deviation / sqrt(n), a win is a preference above one half. Annotations
that failed have no part in these; the length-controlled model predicts them. A model that is its
own baseline has 50 at equal length. `avg_length` is in characters, cut to a whole number as there.

Departures: a failed annotation is counted (`n_missing`), and both rates have a 95 % interval, that
of the win rate from share_interval.py over instructions, that of the length-controlled one a
bootstrap (length_control.py).

Example::

    [score] = score_annotations(Path("annotations.json"), difficulty=Path("difficulty.csv"))
    print(score.length_controlled_win_rate, score.C)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from forethought.evaluation.alpaca_eval.alpaca_files import (
    ModelAnnotations,
    read_annotations,
    read_difficulty,
    read_gamed,
)
from forethought.evaluation.alpaca_eval.length_control import (
    RESAMPLES,
    Comparisons,
    FittedWeights,
    GamedRows,
    length_controlled,
)
from forethought.evaluation.intervals import mean_result
from forethought.share_interval import interval_between
from forethought.types import EvaluationResult

PERCENT = (0.0, 100.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlpacaEvalScore:
    """One model's figures; the fields are the keys of the JSON. Rates are percent.

    Example: `AlpacaEvalScore(model="claude-2.1", win_rate=15.73, n_wins=115, …)`
    """

    model: str
    baseline: str | None
    win_rate: float
    standard_error: float
    win_rate_interval: tuple[float, float]
    """95 %, see share_interval.py; the standard error is the published one."""
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    """Annotations with a preference."""
    n_missing: int
    """Annotations that failed."""
    discrete_win_rate: float
    """Wins, and half of the draws, among `n_total`."""
    avg_length: int
    """Characters of the model's outputs."""
    length_controlled_win_rate: float
    lc_standard_error: float
    """The package's: the spread of predictions over instructions."""
    length_controlled_interval: tuple[float, float]
    """95 %, bootstrap over instructions."""
    C: float | None
    """Of the length-controlled model; `None` where the model is its own baseline."""
    glm: Literal["full", "minimal", "baseline"]
    """`minimal` is without the difficulty term; for a model that is its own baseline nothing is
    fitted."""
    gamed_rows: int
    """Gamed rows in the fit."""
    weights: FittedWeights | None
    by_dataset: dict[str, float]
    """Win rate of each part of the evaluation set, where the annotations name it."""


def score_annotations(
    path: Path,
    *,
    difficulty: Path | None = None,
    gamed: Path | None = None,
    model: str | None = None,
    C: float | None = None,
    resamples: int = RESAMPLES,
) -> list[AlpacaEvalScore]:
    """Score a file of annotations: all its models, or the one that is named.

    Without `difficulty` the length-controlled model is minimal; without `C` it is chosen by
    cross-validation.

    Raises: ValueError that names file, field, value and the way out.
    """
    found = read_annotations(path)
    chosen = [annotated for annotated in found if model in (None, annotated.model)]
    if not chosen:
        names = ", ".join(annotated.model for annotated in found)
        raise ValueError(f"model: {model} is not in {path}; it has {names}")
    table = None if difficulty is None else read_difficulty(difficulty)
    rows = None if gamed is None else read_gamed(gamed, difficulty=table is not None)
    try:
        return [
            score(annotated, difficulty=table, gamed=rows, C=C, resamples=resamples)
            for annotated in chosen
        ]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def score(
    annotations: ModelAnnotations,
    *,
    difficulty: Mapping[int, float] | None = None,
    gamed: GamedRows | None = None,
    C: float | None = None,
    resamples: int = RESAMPLES,
) -> AlpacaEvalScore:
    """Score one model's annotations; `resamples` are the bootstrap's.

    Raises: ValueError if they are too few, or an index has no difficulty.
    """
    preference_N = np.array(annotations.preferences, dtype=np.float64) - 1
    valid_N = preference_N[~np.isnan(preference_N)]
    if len(valid_N) < 2:
        raise ValueError(
            f"{annotations.model}: {len(valid_N)} of {len(preference_N)} annotations have a "
            "preference; two at least are needed for a win rate with its error"
        )
    wins, losses = int((valid_N > 0.5).sum()), int((valid_N < 0.5).sum())
    draws = len(valid_N) - wins - losses
    own_baseline = annotations.model == annotations.baseline
    control = None
    if not own_baseline:
        if annotations.baseline is None and annotations.lengths == annotations.baseline_lengths:
            raise ValueError(
                f"{annotations.model}: its outputs are all as long as the baseline's, so it is the "
                'baseline itself or not to be told from it; name the baseline in "baseline"'
            )
        comparisons = _comparisons(annotations, preference_N, difficulty)
        try:
            control = length_controlled(comparisons, gamed, C=C, resamples=resamples)
        except ValueError as error:
            raise ValueError(f"{annotations.model}: {error}") from error
    return AlpacaEvalScore(
        model=annotations.model,
        baseline=annotations.baseline,
        win_rate=100 * float(valid_N.mean()),
        standard_error=100 * float(valid_N.std(ddof=1)) / float(np.sqrt(len(valid_N))),
        win_rate_interval=interval_between((100 * valid_N).tolist(), PERCENT),
        n_wins=wins,
        n_wins_base=losses,
        n_draws=draws,
        n_total=len(valid_N),
        n_missing=len(preference_N) - len(valid_N),
        discrete_win_rate=100 * (wins + draws / 2) / len(valid_N),
        avg_length=sum(annotations.lengths) // len(annotations.lengths),
        length_controlled_win_rate=control.win_rate if control else 50.0,
        length_controlled_interval=control.interval if control else (50.0, 50.0),
        lc_standard_error=control.prediction_error if control else 0.0,
        C=control.C if control else None,
        glm="baseline" if own_baseline else "minimal" if difficulty is None else "full",
        gamed_rows=len(gamed.preference_G) if control and gamed else 0,
        weights=control.weights if control else None,
        by_dataset={
            name: float(np.mean([100 * value for value in values]))
            for name, values in _by_dataset(annotations, preference_N).items()
        },
    )


def as_json(scored: AlpacaEvalScore) -> dict[str, Any]:
    """The fields as JSON values."""
    return asdict(scored)


def as_results(annotations: ModelAnnotations, scored: AlpacaEvalScore) -> list[EvaluationResult]:
    """Both rates in percent, then the win rate of each part of the evaluation set."""
    rates = [
        EvaluationResult(
            name="win_rate",
            value=scored.win_rate,
            interval=scored.win_rate_interval,
            count=scored.n_total,
        ),
        EvaluationResult(
            name="length_controlled_win_rate",
            value=scored.length_controlled_win_rate,
            interval=scored.length_controlled_interval,
            count=len(annotations.preferences),
        ),
    ]
    preference_N = np.array(annotations.preferences, dtype=np.float64) - 1
    parts = _by_dataset(annotations, preference_N)
    return rates + [
        mean_result("win_rate", [100 * value for value in values], category=name, ends=PERCENT)
        for name, values in parts.items()
        if len(values) > 1
    ]


def _comparisons(
    annotations: ModelAnnotations,
    preference_N: np.ndarray,
    difficulty: Mapping[int, float] | None,
) -> Comparisons:
    lengths_N = np.array(annotations.lengths, dtype=np.float64)
    return Comparisons(
        preference_N=preference_N,
        delta_len_N=np.array(annotations.baseline_lengths, dtype=np.float64) - lengths_N,
        difficulty_N=None if difficulty is None else _looked_up(annotations, difficulty),
    )


def _looked_up(annotations: ModelAnnotations, difficulty: Mapping[int, float]) -> np.ndarray:
    missing = [place for place in annotations.places if place not in difficulty]
    if missing:
        raise ValueError(
            f"{annotations.model}: {len(missing)} annotations have no difficulty, the first at "
            f"index {missing[0]}, while the table has {len(difficulty)} from {min(difficulty)} to "
            f"{max(difficulty)}; give the difficulties of this evaluation set, or none"
        )
    return np.array([difficulty[place] for place in annotations.places])


def _by_dataset(annotations: ModelAnnotations, preference_N: np.ndarray) -> dict[str, list[float]]:
    """The preferences that are there, by the part of the evaluation set."""
    parts: dict[str, list[float]] = {}
    for name, value in zip(annotations.datasets, preference_N.tolist(), strict=True):
        if name is not None and not math.isnan(value):
            parts.setdefault(name, []).append(value)
    return parts
