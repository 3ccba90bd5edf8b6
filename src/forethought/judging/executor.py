"""The executor that judges: one judge in this process, or one in each worker on Ray.

Only this process opens the cache. A worker is sent a part's groups with what the cache holds of
them and sends back what it computed: so a worker computes the same conversations in the same
batches as this process would, which decides the last bits of a score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from forethought.config import JudgeConfig, LaunchConfig, Route, ScoringJudge
from forethought.judging.base import checked
from forethought.judging.open import open_judge
from forethought.judging.scoring.score_cache import find_kept, scoring_identity
from forethought.storage.reply_cache import Cache
from forethought.types import Judgement, ResponseGroup, Unjudged
from forethought.workers.base import Do, Executor
from forethought.workers.executor import open_executor


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


JudgingExecutor = Executor[Sequence[ResponseGroup], Verdicts]
Known = dict[str, Any]
"""Answers of a cache by its keys."""
_Sent = tuple[Sequence[ResponseGroup], Known]
Find = Callable[[Cache, Sequence[ResponseGroup]], Known]
"""What a cache holds of groups that a judge would be shown."""


@contextmanager
def judging_executor(
    config: JudgeConfig, cache: Cache, launch: LaunchConfig
) -> Iterator[JudgingExecutor]:
    """An executor of a recipe's judge. What is in the `cache` is not computed again.

    Raises: ValueError if the judge cannot be opened, or its workers cannot be had.
    """
    name = f"judge {config.title}"
    if config.pool is None:
        factory = partial(_open, config, cache)
        with open_executor(factory, None, launch, name=name) as executor:
            yield executor
        return
    find = _known_answers(config)
    factory = partial(_open_worker, config)
    with open_executor(factory, config.pool, launch, name=name, gpus=config.gpus) as executor:
        yield _CachingExecutor(executor, cache, find)


@dataclass(frozen=True, slots=True)
class _CachingExecutor:
    """Workers, and the cache on this side."""

    workers: Executor[_Sent, tuple[Verdicts, Known]]
    cache: Cache
    find: Find

    def each(
        self, numbers: Sequence[int], part: Callable[[int], Sequence[ResponseGroup]]
    ) -> Iterator[tuple[int, Verdicts]]:
        def sent(number: int) -> _Sent:
            groups = part(number)
            return groups, self.find(self.cache, groups)

        for number, (verdicts, computed) in self.workers.each(numbers, sent):
            self.cache.keep_all(computed)
            yield number, verdicts


@contextmanager
def _open(config: JudgeConfig, cache: Cache) -> Iterator[Do[Sequence[ResponseGroup], Verdicts]]:
    with open_judge(config, cache) as judge:

        def score(groups: Sequence[ResponseGroup]) -> Verdicts:
            answers = list(checked(judge, groups))
            return Verdicts(answers=answers, judge=judge.name, floor=judge.floor)

        yield score


@contextmanager
def _open_worker(config: JudgeConfig) -> Iterator[Do[_Sent, tuple[Verdicts, Known]]]:
    with Cache() as cache, _open(config, cache) as score:

        def score_with(part: _Sent) -> tuple[Verdicts, Known]:
            groups, known = part
            # What a part left that failed half-way is not another's.
            cache.take_all()
            cache.keep_all(known)
            verdicts = score(groups)
            new = cache.take_all()
            return verdicts, {key: value for key, value in new.items() if key not in known}

        yield score_with


def _known_answers(config: JudgeConfig) -> Find:
    if isinstance(config, ScoringJudge):
        model = scoring_identity(config)
        return lambda cache, groups: find_kept(cache, model, groups)
    routes = [
        (route, [_known_answers(member.judge) for member in route.members])
        for route in config.panels
    ]
    return partial(_known_of_routes, routes)


def _known_of_routes(
    routes: Sequence[tuple[Route, Sequence[Find]]],
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
