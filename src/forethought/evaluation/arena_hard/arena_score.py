"""Arena-Hard v0.1: the verdicts of two games a question become a score with its interval.

Every question is judged twice against the baseline's answer, in swapped order (arena_protocol.py).
A verdict is a battle; a significant one, `>>`, is three. The score is the share of battles that the
model wins, ties half, in percent. The published code fits Bradley-Terry by logistic regression and
predicts the win rate; where all models meet the baseline only, that is the same number.

Two intervals, both by bootstrap, 95 % between percentiles:

- `questions` (default) draws questions again, each with all its battles: the two games of a
  question and the three battles of one verdict belong together. This is the interval to report.
- `published` draws battles again, as the published code does. It takes a verdict that counts three
  times for three independent ones, and the two games of a question for independent, so it is too
  narrow: 4.9 points instead of 8.0 for gpt-4-0613, and in data drawn from that model's verdicts it
  holds the true score 77 times in 100. Use it to compare with published intervals. The published
  code draws 100 times, over the battles of all models; here it is `rounds` times, over those of the
  model.

A game without a verdict is left out and counted; the question's other game stays, as in the
published code of v0.1. Neither interval can know what the data do not show: where all verdicts are
alike, or there is a single question, it has no width.

Shapes: Q questions, U units that are drawn again, K kinds of them, R rounds.

Example::

    [score] = score_file(Path("judgments.jsonl"))  # of arena_files.py
    score.score, score.interval
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from forethought.types import EvaluationResult

Games = tuple[str | None, str | None]
"""Labels of a question: game 1 shows the baseline as A, game 2 the model; `None` is no verdict."""
IntervalKind = Literal["questions", "published"]

SIGNIFICANT = 3
"""Battles of a `>>` verdict."""
BATTLES = {
    "A>>B": (1.0,) * SIGNIFICANT,
    "A>B": (1.0,),
    "A=B": (0.5,),
    "B>A": (0.0,),
    "B>>A": (0.0,) * SIGNIFICANT,
}
"""What A wins of each battle of a verdict."""
VIEWS = {
    "A>>B": "significantly_better",
    "A>B": "slightly_better",
    "A=B": "tie",
    "B>A": "slightly_worse",
    "B>>A": "significantly_worse",
}
"""What a verdict says of A."""
MIRRORED: dict[str | None, str | None] = {
    None: None,
    **dict(zip(BATTLES, reversed(BATTLES), strict=True)),
}
"""The same verdict with the names changed over: `BATTLES` runs from the best for A to the worst."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLabels:
    """All verdicts about one model.

    Example: `ModelLabels(model="gpt-4-0613", games={"b4b1c3f7…": ("A>B", "B>>A")})`
    """

    model: str
    games: Mapping[str, Games]
    """By question."""

    def __post_init__(self) -> None:
        for question_id, games in self.games.items():
            for label in games:
                if label is not None and label not in BATTLES:
                    raise ValueError(
                        f"{self.model}, question {question_id}: {label!r} is no label; the labels "
                        f"are {', '.join(BATTLES)}, and null for a game without a verdict"
                    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaHardScore:
    """A model's score.

    Example: `ArenaHardScore(model="gpt-4-0613", score=37.9, interval=(34.0, 42.0),
    interval_kind="questions", n_questions=500, n_games=1000, n_missing=0, n_battles=1244,
    verdicts={"tie": 173, …})`
    """

    model: str
    score: float
    """Percent."""
    interval: tuple[float, float]
    """95 %, in percent."""
    interval_kind: IntervalKind
    n_questions: int
    """Questions with a verdict in one game at least."""
    n_games: int
    """Games with a verdict."""
    n_missing: int
    """Games without."""
    n_battles: int
    """Games, those with a `>>` verdict three times."""
    verdicts: Mapping[str, int]
    """Games by what the verdict says of the model, `significantly_better` to
    `significantly_worse`."""

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"interval": list(self.interval), "verdicts": dict(self.verdicts)}

    def as_result(self) -> EvaluationResult:
        """The figure as every measure reports it, in percent, counting questions."""
        return EvaluationResult(
            name="arena_hard", value=self.score, interval=self.interval, count=self.n_questions
        )


def battles(games: Games) -> tuple[float, ...]:
    """What the model wins of each battle of a question: 1, 0.5 or 0; none without a verdict.

    Example: `battles(("A>B", "A>>B")) == (0.0, 1.0, 1.0, 1.0)`
    """
    return tuple(won for view in _views(games) for won in BATTLES[view])


def score_labels(
    labels: ModelLabels,
    *,
    interval: IntervalKind = "questions",
    rounds: int = 10_000,
    seed: int = 0,
) -> ArenaHardScore:
    """The score of a model with one of the two intervals; `rounds` and `seed` are the bootstrap's.

    Raises: ValueError if no game has a verdict, or the interval is none of the two.
    """
    questions = [fought for games in labels.games.values() if (fought := battles(games))]
    if not questions:
        raise ValueError(
            f"{labels.model}: no game of its {len(labels.games)} questions has a verdict, so there "
            "is no score; look at what the judge said, or take another judge"
        )
    views = Counter(view for games in labels.games.values() for view in _views(games))
    played = sum(views.values())
    sums_Q2 = np.array([(sum(fought), len(fought)) for fought in questions])
    won, fought = sums_Q2.sum(axis=0).tolist()
    match interval:
        case "questions":
            units_U2 = sums_Q2
        case "published":
            units_U2 = np.array([(outcome, 1.0) for fought in questions for outcome in fought])
        case _:
            raise ValueError(f"interval: {interval!r} is neither questions nor published")
    return ArenaHardScore(
        model=labels.model,
        score=100 * won / fought,
        interval=_interval(units_U2, rounds, seed),
        interval_kind=interval,
        n_questions=len(questions),
        n_games=played,
        n_missing=2 * len(labels.games) - played,
        n_battles=int(fought),
        verdicts={VIEWS[view]: views[view] for view in BATTLES},
    )


def _views(games: Games) -> list[str]:
    """The verdicts of both games as if the model had been A in each."""
    first, second = games
    return [view for view in (MIRRORED[first], second) if view is not None]


def _interval(units_U2: np.ndarray, rounds: int, seed: int) -> tuple[float, float]:
    """95 % between percentiles of the win share over units drawn again, in percent.

    Row u of `units_U2` holds what the model won in unit u, and of how many battles. Units are of
    few kinds, so that how often each kind is drawn is all there is to draw.
    """
    kinds_K2, counts_K = np.unique(units_U2, axis=0, return_counts=True)
    units = len(units_U2)
    draws_RK = np.random.default_rng(seed).multinomial(units, counts_K / units, size=rounds)
    sums_R2 = draws_RK @ kinds_K2
    low, high = np.percentile(100 * sums_R2[:, 0] / sums_R2[:, 1], (2.5, 97.5)).tolist()
    return low, high
