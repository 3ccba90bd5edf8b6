"""Who judges part by part: a judge in this process, or workers that hold it, with what is kept.

Only this process opens the cache. A worker is sent a part's groups with what the cache holds of
them and sends back what it computed: so a worker computes the same conversations in the same
batches as this process would, which decides the last bits of a score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from forethought.cache import Cache
from forethought.config import JudgeConfig, LaunchConfig, Route, ScoringJudge, Workers
from forethought.judging.base import checked
from forethought.judging.open import open_judge
from forethought.judging.scoring import find_kept, scoring_identity
from forethought.types import Judgement, ResponseGroup, Unjudged
from forethought.workers.base import Crew, Here
from forethought.workers.pool import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What a judge says of a part.

    Example: `Verdicts(answers=[Judgement(…)], judge="verifier:gsm8k", floor=0.0)`
    """

    answers: list[Judgement | Unjudged]
    """One per group, in their order."""
    judge: str
    """The judge's name."""
    floor: float | None
    """Its worst possible score."""


JudgingCrew = Crew[Sequence[ResponseGroup], Verdicts]
Known = dict[str, Any]
"""Answers of a cache by its keys."""
_Sent = tuple[Sequence[ResponseGroup], Known]


def judging_crew(config: JudgeConfig, cache: Cache, launch: LaunchConfig) -> JudgingCrew:
    """The crew of a recipe's judge. What is in the `cache` is not computed again.

    Raises: ValueError if the judge cannot be opened, or its workers cannot be had.
    """
    if config.pool is None:
        return Here(partial(_open_here, config, cache))
    return PooledJudge(config, config.pool, cache, launch)


class PooledJudge:
    """Workers, and the cache on this side."""

    def __init__(
        self, config: JudgeConfig, workers: Workers, cache: Cache, launch: LaunchConfig
    ) -> None:
        """Raises: ValueError if the judge's model cannot be found, or its workers not be had."""
        self._cache = cache
        self._find = _kept_answers(config)
        self._pool = Pool(
            partial(_open_worker, config),
            workers,
            launch,
            name=f"judge {config.title}",
            gpus=config.gpus,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self._pool.__exit__(kind)

    def each(
        self, numbers: Sequence[int], part: Callable[[int], Sequence[ResponseGroup]]
    ) -> Iterator[tuple[int, Verdicts]]:
        return self._keep(self._pool.each(numbers, partial(self._sent, part)))

    def _sent(self, part: Callable[[int], Sequence[ResponseGroup]], number: int) -> _Sent:
        groups = part(number)
        return groups, self._find(self._cache, groups)

    def _keep(
        self, results: Iterator[tuple[int, tuple[Verdicts, Known]]]
    ) -> Iterator[tuple[int, Verdicts]]:
        for number, (verdicts, computed) in results:
            self._cache.keep_all(computed)
            yield number, verdicts


@contextmanager
def _open_here(
    config: JudgeConfig, cache: Cache
) -> Iterator[Callable[[Sequence[ResponseGroup]], Verdicts]]:
    with open_judge(config, cache) as judge:

        def score(groups: Sequence[ResponseGroup]) -> Verdicts:
            answers = list(checked(judge, groups))
            return Verdicts(answers=answers, judge=judge.name, floor=judge.floor)

        yield score


@contextmanager
def _open_worker(
    config: JudgeConfig,
) -> Iterator[Callable[[_Sent], tuple[Verdicts, Known]]]:
    with Cache() as cache, _open_here(config, cache) as score:

        def score_with(part: _Sent) -> tuple[Verdicts, Known]:
            groups, known = part
            # What a part left that failed half-way is not another's.
            cache.take_all()
            cache.keep_all(known)
            verdicts = score(groups)
            new = cache.take_all()
            return verdicts, {key: value for key, value in new.items() if key not in known}

        yield score_with


def _kept_answers(
    config: JudgeConfig,
) -> Callable[[Cache, Sequence[ResponseGroup]], Known]:
    """Finds what a cache holds of groups that this judge would be shown."""
    if isinstance(config, ScoringJudge):
        model = scoring_identity(config)
        return lambda cache, groups: find_kept(cache, model, groups)
    routes = [
        (route, [_kept_answers(member.judge) for member in route.members])
        for route in config.panels
    ]
    return partial(_kept_of_routes, routes)


def _kept_of_routes(
    routes: Sequence[tuple[Route, Sequence[Callable[[Cache, Sequence[ResponseGroup]], Known]]]],
    cache: Cache,
    groups: Sequence[ResponseGroup],
) -> Known:
    taken: Mapping[int, list[ResponseGroup]] = {place: [] for place in range(len(routes))}
    for group in groups:
        first = (i for i, (route, _) in enumerate(routes) if route.fits(group.prompt))
        if (place := next(first, None)) is not None:
            taken[place].append(group)
    found: Known = {}
    for place, (_, members) in enumerate(routes):
        for find in members:
            found |= find(cache, taken[place])
    return found
