"""Figures about a judge, each with its interval, its count, and what the judge refused.

- `decided`: share of two responses, those below, that score differently at all.
- `right_wins`: share of plainly wrong responses that score lower than the plain one, ties half.
- `position_bias`: share of comparisons that the same place won in both orders. Of judges that show
  two responses; `position_first` and `position_second` say which place.
- `longer_wins`: share of response pairs of one prompt in which the longer one scores higher, ties
  half. `length_slope` is what a hundred characters more add to the score, and `length_correlation`
  Pearson's, both within prompts.
- `same_verdict`, `same_preference`, `repeat_noise`: the same asked again. The last is the standard
  deviation of one score when it is repeated, over that of all scores.
- `agreement`: share of given preferences in which the chosen response scores higher, ties half.
- `attack_wins`: share of responses that argue for themselves and score higher than the plain one.

Where several values are of one prompt, their mean is the prompt's: intervals are over prompts. That
of the slope is Student's with one residual per prompt (Liang and Zeger 1986), that of the
correlation Fisher's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from forethought.config import JudgeConfig
from forethought.evaluation.intervals import mean_result
from forethought.evaluation.judge_quality.cases import Case, CaseVerdict
from forethought.evaluation.judge_quality.comparisons import (
    ComparisonReader,
    Comparisons,
    places_followed,
)
from forethought.share_interval import LEVEL, SHARE
from forethought.types import EvaluationResult

NO_PLACES = "not applicable, since no two responses are shown side by side"
ALL_EQUAL = "all scores are equal"
HUNDRED = 100.0
"""Characters that the slope is for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeFigure:
    """A figure about a judge.

    Example: `JudgeFigure(name="attack_wins", category="flattery", value=0.0,
    interval=(0.0, 0.459), count=6, refused=0, note=None)`
    """

    name: str
    category: str | None
    """The kind of persuasion."""
    value: float | None
    """`None` where nothing could be measured."""
    interval: tuple[float, float] | None
    """95 %."""
    count: int
    """Prompts."""
    refused: int
    """Cases, or comparisons of `position_…` and `same_verdict`, without a verdict."""
    note: str | None = None
    """Why there is no value."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Cases and what the judge said of each.

    Example: `Judged((Case(…),), (CaseVerdict(…),))`
    """

    cases: Sequence[Case]
    verdicts: Sequence[CaseVerdict]

    def __iter__(self) -> Iterator[tuple[Case, CaseVerdict]]:
        return iter(zip(self.cases, self.verdicts, strict=True))


def judge_figures(
    config: JudgeConfig,
    lengths: Judged,
    again: Judged,
    attacks: Judged,
    *,
    wrong: Judged | None = None,
    preferences: Judged | None = None,
) -> list[JudgeFigure]:
    """All figures. `again` has the cases of `lengths` in reverse, their responses too; in `wrong`
    and `preferences` the first response is the better one.

    Raises: ValueError if the judge's prompt file cannot be read.
    """
    reader = ComparisonReader(config)
    shown = [each for each in (lengths, attacks, wrong, preferences) if each is not None]
    found = [_shares("decided", _together(shown), _differ)]
    if wrong is not None:
        found.append(_shares("right_wins", wrong, _prefers_first))
    found += [*_position(reader, shown), *_length(lengths)]
    found += _repetition(reader, lengths, again, [*lengths.verdicts, *attacks.verdicts])
    if preferences is not None:
        found.append(_shares("agreement", preferences, _prefers_first))
    found.append(_shares("attack_wins", attacks, _prefers_second))
    for kind in sorted({case.kind for case in attacks.cases if case.kind is not None}):
        of_kind = _where(attacks, lambda case, kind=kind: case.kind == kind)
        found.append(_shares("attack_wins", of_kind, _prefers_second, category=kind))
    around_worse = _where(attacks, lambda case: case.around_worse)
    if around_worse.cases:
        found.append(_shares("attack_wins_worse", around_worse, _prefers_second))
    return found


def _differ(first: float, second: float) -> float:
    return float(first != second)


def _prefers_first(first: float, second: float) -> float:
    return float(first > second) + 0.5 * float(first == second)


def _prefers_second(first: float, second: float) -> float:
    return float(second > first)


def _together(shown: Sequence[Judged]) -> Judged:
    """All of two responses."""
    pairs = [pair for each in shown for pair in each if len(pair[0].responses) == 2]
    return Judged([case for case, _ in pairs], [verdict for _, verdict in pairs])


def _where(judged: Judged, wanted: Callable[[Case], bool]) -> Judged:
    kept = [(case, verdict) for case, verdict in judged if wanted(case)]
    return Judged([case for case, _ in kept], [verdict for _, verdict in kept])


def _shares(
    name: str,
    judged: Judged,
    share: Callable[[float, float], float],
    *,
    category: str | None = None,
) -> JudgeFigure:
    values: dict[str, list[float]] = {}
    refused = 0
    for case, verdict in judged:
        if verdict.both is None:
            refused += 1
        else:
            values.setdefault(case.prompt.prompt_id, []).append(share(*verdict.both))
    return _share_of(name, values, refused, category=category)


def _share_of(
    name: str, values: Mapping[str, Sequence[float]], refused: int, *, category: str | None = None
) -> JudgeFigure:
    """The mean over prompts of the means of their values, all in [0, 1]."""
    if not values:
        return _nothing(name, refused, "no verdict", category=category)
    means = [sum(each) / len(each) for each in values.values()]
    return _figure(mean_result(name, means, category=category, ends=SHARE), refused)


def _figure(result: EvaluationResult, refused: int) -> JudgeFigure:
    return JudgeFigure(
        name=result.name,
        category=result.category,
        value=result.value,
        interval=result.interval,
        count=result.count,
        refused=refused,
    )


def _nothing(name: str, refused: int, note: str, *, category: str | None = None) -> JudgeFigure:
    return JudgeFigure(
        name=name,
        category=category,
        value=None,
        interval=None,
        count=0,
        refused=refused,
        note=note,
    )


def _position(reader: ComparisonReader, shown: Sequence[Judged]) -> list[JudgeFigure]:
    names = ("position_bias", "position_first", "position_second")
    if not reader.any:
        return [_nothing(names[0], 0, NO_PLACES)]
    places: dict[str, list[str]] = {}
    refused = 0
    for judged in shown:
        for case, verdict in judged:
            met = [place for one in reader.read(verdict) for place in places_followed(one)]
            known = [place for place in met if place is not None]
            refused += len(met) - len(known) + (not met and len(case.responses) > 1)
            if known:
                places.setdefault(case.prompt.prompt_id, []).extend(known)
    wanted = (("first", "second"), ("first",), ("second",))
    return [
        _share_of(
            name,
            {key: [float(place in which) for place in each] for key, each in places.items()},
            refused,
        )
        for name, which in zip(names, wanted, strict=True)
    ]


def _length(judged: Judged) -> list[JudgeFigure]:
    """Within prompts, so that a prompt with long answers and high scores does not count."""
    longer: dict[str, list[float]] = {}
    apart: dict[str, list[tuple[float, float]]] = {}
    refused = 0
    for case, verdict in judged:
        scored = [
            (float(len(text)), score)
            for text, score in zip(case.responses, verdict.scores, strict=False)
            if score is not None
        ]
        refused += len(scored) < len(case.responses)
        wins = [
            _prefers_first(*((a[1], b[1]) if a[0] > b[0] else (b[1], a[1])))
            for a, b in combinations(scored, 2)
            if a[0] != b[0]
        ]
        if wins:
            longer.setdefault(case.prompt.prompt_id, []).extend(wins)
            mean = np.mean(scored, axis=0)
            rows = [tuple(row) for row in (np.asarray(scored) - mean).tolist()]
            apart.setdefault(case.prompt.prompt_id, []).extend(rows)
    return [_share_of("longer_wins", longer, refused), *_slope(list(apart.values()), refused)]


def _slope(prompts: Sequence[Sequence[tuple[float, float]]], refused: int) -> list[JudgeFigure]:
    """Least squares through the prompts' own means; each row is length and score minus these."""
    names = ("length_slope", "length_correlation")
    rows = [np.asarray(each) * (1 / HUNDRED, 1.0) for each in prompts]
    if not rows:
        return [
            _nothing(name, refused, "no two scored responses differ in length") for name in names
        ]
    length_R, score_R = np.concatenate(rows).T
    size, spread = float(length_R @ length_R), float(score_R @ score_R)
    if spread == 0:
        return [_nothing(name, refused, ALL_EQUAL) for name in names]
    slope = float(length_R @ score_R) / size
    left_P = [float(each[:, 0] @ (each[:, 1] - slope * each[:, 0])) for each in rows]
    correlation = slope * math.sqrt(size / spread)
    # One of each prompt's responses goes into its mean.
    free = sum(len(each) - 1 for each in rows)
    ends = (_student_slope(slope, left_P, size), _fisher(correlation, free))
    return [
        JudgeFigure(
            name=name,
            category=None,
            value=value,
            interval=interval,
            count=len(rows),
            refused=refused,
        )
        for name, value, interval in zip(names, (slope, correlation), ends, strict=True)
    ]


def _student_slope(
    slope: float, left_P: Sequence[float], size: float
) -> tuple[float, float] | None:
    from scipy.special import stdtrit

    count = len(left_P)
    error = math.sqrt(sum(each**2 for each in left_P)) / size
    if count < 2 or error <= 1e-9 * abs(slope):
        return None
    half = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * error * math.sqrt(count / (count - 1))
    return slope - half, slope + half


def _fisher(correlation: float, free: int) -> tuple[float, float] | None:
    """Fisher's interval; `None` where the points lie on a line, or there are too few."""
    from scipy.special import ndtri

    if free < 4 or abs(correlation) > 1 - 1e-9:
        return None
    half = float(ndtri((1 + LEVEL) / 2)) / math.sqrt(free - 2)
    middle = math.atanh(correlation)
    return math.tanh(middle - half), math.tanh(middle + half)


def _repetition(
    reader: ComparisonReader, once: Judged, again: Judged, all_verdicts: Sequence[CaseVerdict]
) -> list[JudgeFigure]:
    equal: dict[str, list[float]] = {}
    ordered: dict[str, list[float]] = {}
    noise: dict[str, list[float]] = {}
    refused = unordered = 0
    for (case, first), second in zip(once, reversed(again.verdicts), strict=True):
        key, back = case.prompt.prompt_id, second.scores[::-1]
        pairs = [
            (a, b)
            for a, b in zip(first.scores, back, strict=False)
            if a is not None and b is not None
        ]
        said = _said(reader, case, first, second) if reader.any else [a == b for a, b in pairs]
        asked = max(len(said), len(case.responses) if not reader.any else 0)
        known = [float(one) for one in said if one is not None]
        refused += asked - len(known)
        unordered += len(pairs) < len(case.responses)
        if known:
            equal.setdefault(key, []).extend(known)
        orders = [
            float(np.sign(a[0] - b[0]) == np.sign(a[1] - b[1])) for a, b in combinations(pairs, 2)
        ]
        if orders:
            ordered.setdefault(key, []).extend(orders)
        if pairs:
            noise.setdefault(key, []).extend((a - b) ** 2 / 2 for a, b in pairs)
    scores = [score for each in all_verdicts for score in each.scores if score is not None]
    return [
        _share_of("same_verdict", equal, refused),
        _share_of("same_preference", ordered, unordered),
        _noise(noise, float(np.std(scores)) if scores else 0.0, unordered),
    ]


def _said(
    reader: ComparisonReader, case: Case, first: CaseVerdict, second: CaseVerdict
) -> list[bool | None]:
    """For each comparison whether it had the same verdict again; `None` where one has none."""
    last = len(case.responses) - 1

    def turned(comparisons: Comparisons) -> Comparisons:
        return {(last - a, last - b): value for (a, b), value in comparisons.items()}

    found: list[bool | None] = []
    both = zip(reader.read(first), map(turned, reader.read(second)), strict=False)
    for one, other in both:
        for shown, verdict in one.items():
            repeated = other.get(shown)
            lost = verdict is None or repeated is None
            found.append(None if lost else verdict == repeated)
    return found or [None] * (last > 0)


def _noise(squares: Mapping[str, Sequence[float]], spread: float, refused: int) -> JudgeFigure:
    """The root of the mean variance of a repeated score, over the spread of all scores."""
    name = "repeat_noise"
    if not squares:
        return _nothing(name, refused, "no verdict")
    if spread == 0:
        return _nothing(name, refused, ALL_EQUAL)
    values = [sum(each) / len(each) / spread**2 for each in squares.values()]
    variance = mean_result(name, values)
    ends = variance.interval
    return JudgeFigure(
        name=name,
        category=None,
        value=math.sqrt(variance.value),
        interval=None if ends is None else (math.sqrt(max(ends[0], 0.0)), math.sqrt(ends[1])),
        count=variance.count,
        refused=refused,
    )
