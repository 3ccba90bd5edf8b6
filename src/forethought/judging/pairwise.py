"""A judge that compares responses two by two, always in both orders, and scores by Bradley-Terry.

The paper's pairwise judge is the Self-Taught Evaluator, a 70B model; any chat model on any engine
with any prompt file (prompt_file.py) works the same way. A verdict adds its weights to the wins
`B_mn` of the two responses, so that a plain judge gives

    B_mn = 1[shown m first, prefers m] + 1[shown n first, prefers m]

and from these come the scores (bradley_terry.py): log odds within one prompt, mean 0, that mean
nothing across prompts. Where the paper is silent: the scores have a prior, equal responses are
compared as one, and a prompt of which a single comparison has no verdict stays owed whole.

`comparisons: {rounds: n}` holds a tournament instead (tournament.py). All prompts of a call advance
together, so that the engine gets each round as one batch.

Evidence is a JSON list of `[first, second, label, reason]`: the indices of the two responses in the
order in which they were shown, of equal ones the first; the verdict; how its reasoning ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from forethought.cache import Cache
from forethought.config import PairwiseJudge, Rounds
from forethought.judging.bradley_terry import SMALLEST_PRIOR, bradley_terry
from forethought.judging.calls import (
    MISSING_REFERENCE,
    NoVerdict,
    Verdict,
    ask,
    ending,
    model_name,
    only,
    open_model,
)
from forethought.judging.prompt_file import Weights, load_prompt
from forethought.judging.tournament import Meeting, all_meetings, is_complete, next_round
from forethought.sampling.base import Sampler
from forethought.store import content_hash
from forethought.types import Judgement, ResponseGroup, SampleRequest, Unjudged

SCORE_DIGITS = 9
"""Scores that differ by less are equal: the difference is rounding, and no preference."""
REASON_CHARACTERS = 300
EVIDENCE_CHARACTERS = 6000
"""All reasons of a prompt together; with many comparisons each gets less."""
LEAST_CHARACTERS = 40
"""A shorter end of a reason tells nothing and is left out."""


@dataclass(slots=True, kw_only=True)
class _Contest:
    """Where the comparisons of one group stand; equal responses are one."""

    group: ResponseGroup
    texts: tuple[str, ...]
    order: tuple[int, ...]
    """Stable, whatever the order of responses in the group."""
    wins_MN: np.ndarray
    met: set[Meeting] = field(default_factory=set)
    comparisons: list[tuple[int, int, str, str]] = field(default_factory=list)
    problem: str | None = None

    @classmethod
    def of(cls, group: ResponseGroup) -> Self:
        texts = tuple(dict.fromkeys(group.responses))
        keys = [content_hash([group.prompt.prompt_id, text]) for text in texts]
        return cls(
            group=group,
            texts=texts,
            order=tuple(sorted(range(len(texts)), key=lambda index: keys[index])),
            wins_MN=np.zeros((len(texts), len(texts))),
        )

    def place(self, index: int) -> int:
        """Where a text first stands in the group."""
        return self.group.responses.index(self.texts[index])

    def fail(self, first: int, second: int, reason: str) -> None:
        """The whole group has no score; the first reason is kept."""
        pair = f"response {self.place(first)} before {self.place(second)}"
        self.problem = self.problem or f"{pair}: {reason}"

    def count(self, first: int, second: int, verdict: Verdict[str], weights: Weights) -> None:
        """Add a verdict's weights."""
        self.wins_MN[first, second] += weights.first
        self.wins_MN[second, first] += weights.second
        self.met.add((min(first, second), max(first, second)))
        reason = ending(verdict.said, REASON_CHARACTERS)
        self.comparisons.append((self.place(first), self.place(second), verdict.value, reason))

    def evidence(self) -> str:
        """The comparisons as JSON; empty if there were none."""
        if not self.comparisons:
            return ""
        share = EVIDENCE_CHARACTERS // len(self.comparisons)
        room = share if share >= LEAST_CHARACTERS else 0
        rows = [(*row, ending(reason, room)) for *row, reason in self.comparisons]
        return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


class Pairwise:
    """Compares the responses of each group.

    Example: `Pairwise(PairwiseJudge(engine=OpenAIEngine(base_url="http://localhost:8000/v1")))`
    """

    floor: float | None = None

    def __init__(
        self, config: PairwiseJudge, cache: Cache | None = None, *, sampler: Sampler | None = None
    ) -> None:
        """With a `sampler`, that one is asked instead of the config's engine.

        Raises: ValueError if the prompt file or the model cannot be used.
        """
        if config.prior < SMALLEST_PRIOR:
            raise ValueError(
                f"judge.prior: {config.prior:g} would be lost in rounding; give "
                f"{SMALLEST_PRIOR:g} or more"
            )
        self._config = config
        self._prompt = load_prompt(config.prompt, "pairwise")
        self.name = f"pairwise:{Path(config.prompt).stem}:{model_name(config)}"
        self._sampler = open_model(config, cache) if sampler is None else sampler

    def __enter__(self) -> Self:
        self._sampler.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._sampler.__exit__(None, None, None)

    def judge(self, groups: Sequence[ResponseGroup]) -> Iterator[Judgement | Unjudged]:
        """All groups are compared, round by round, before the first answer comes.

        Raises: ValueError where the engine itself fails.
        """
        contests = [self._contest(group) for group in groups]
        comparisons = self._config.comparisons
        for index in range(comparisons.rounds if isinstance(comparisons, Rounds) else 1):
            self._play([(one, self._meetings(one, index)) for one in contests])
        for contest in contests:
            yield self._answer(contest)

    def _contest(self, group: ResponseGroup) -> _Contest:
        contest = _Contest.of(group)
        if group.prompt.reference is None and "reference" in self._prompt.fields:
            contest.problem = MISSING_REFERENCE
        return contest

    def _meetings(self, contest: _Contest, index: int) -> list[Meeting]:
        """Who meets in this round; all in the first one where the rounds are enough for that."""
        count, comparisons = len(contest.texts), self._config.comparisons
        if contest.problem is not None:
            return []
        if comparisons == "all" or is_complete(count, comparisons.rounds):
            return all_meetings(count) if index == 0 else []
        return next_round(contest.order, self._scores(contest), contest.met)

    def _play(self, draws: Sequence[tuple[_Contest, Sequence[Meeting]]]) -> None:
        """Ask about every meeting in both orders and count the verdicts."""
        calls = [
            (contest, first, second)
            for contest, meetings in draws
            for one, other in meetings
            for first, second in ((one, other), (other, one))
        ]
        requests = [self._request(*call) for call in calls]
        answers = ask(self._sampler, requests, self._read, self._prompt.finish)
        for (contest, first, second), answer in zip(calls, answers, strict=True):
            if isinstance(answer, NoVerdict):
                contest.fail(first, second, answer.reason)
            else:
                [verdict] = answer
                contest.count(first, second, verdict, self._prompt.verdicts[verdict.value])

    def _request(self, contest: _Contest, first: int, second: int) -> SampleRequest:
        prompt = contest.group.prompt
        shown = (contest.texts[first], contest.texts[second])
        return SampleRequest(
            prompt_id=prompt.prompt_id, messages=self._prompt.messages(prompt, shown), seeds=(0,)
        )

    def _read(self, said: str) -> str | NoVerdict:
        return only(self._prompt.verdicts_in(said))

    def _scores(self, contest: _Contest) -> list[float]:
        exact_M = bradley_terry(contest.wins_MN, self._config.prior)
        # Adding 0 turns -0.0 into 0.0.
        return [round(score, SCORE_DIGITS) + 0.0 for score in exact_M.tolist()]

    def _answer(self, contest: _Contest) -> Judgement | Unjudged:
        prompt_id = contest.group.prompt.prompt_id
        if contest.problem is not None:
            return Unjudged(prompt_id=prompt_id, judge=self.name, reason=contest.problem)
        scores = dict(zip(contest.texts, self._scores(contest), strict=True))
        return Judgement(
            prompt_id=prompt_id,
            judge=self.name,
            scores=tuple(scores[text] for text in contest.group.responses),
            evidence=contest.evidence(),
        )


def calls_per_group(config: PairwiseJudge, responses: int) -> int:
    """Calls of the judge model for one prompt with so many responses, at most, without retries."""
    all_calls = responses * (responses - 1)
    if config.comparisons == "all":
        return all_calls
    return min(all_calls, config.comparisons.rounds * 2 * (responses // 2))
