"""A judge that compares responses two by two, always in both orders, and scores by Bradley-Terry.

The paper's pairwise judge is the Self-Taught Evaluator, a 70B model; any chat model on any engine
with any prompt file (prompt_file.py) works the same way. A verdict adds its weights to the wins
`B_mn` of the two responses, so that a plain judge gives

    B_mn = 1[shown m first, prefers m] + 1[shown n first, prefers m]

and from these come the scores (bradley_terry.py): log odds within one prompt, mean 0, that mean
nothing across prompts. Where the paper is silent: the scores have a prior, equal responses are
compared as one, and two responses have met only where both orders have a verdict, since one order
alone would favour a place. Where too few could be read, the prompt stays owed whole: every response
needs `min_read` of its meetings, and no failure may part what was asked to hang together.

`comparisons: {rounds: n}` or `{circles: n}` holds a tournament instead (tournament.py). All prompts
of a call advance together, so that the engine gets each round, or all circles, as one batch.

Evidence is a JSON list of `[first, second, label, reason]`: the indices of the two responses in the
order in which they were shown, of equal ones the first; the verdict; how its reasoning ends. Where
there is no verdict it is null, and the reason says why; the other order does not count then.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Self

import numpy as np

from forethought.config import PairwiseJudge, most_circles
from forethought.judging.llm.bradley_terry import SMALLEST_PRIOR, bradley_terry
from forethought.judging.llm.prompt_file import VerdictWeights, load_prompt
from forethought.judging.llm.tournament import (
    Meeting,
    all_meetings,
    circles,
    is_complete,
    next_round,
)
from forethought.judging.llm.verdicts import (
    MISSING_REFERENCE,
    AsksModel,
    NoVerdict,
    Verdict,
    ask,
    ending,
    only,
    open_model,
)
from forethought.sampling.base import Sampler
from forethought.storage.files import content_hash
from forethought.storage.reply_cache import Cache
from forethought.types import Judgement, ResponseGroup, SampleRequest, Unjudged

SCORE_DIGITS = 9
"""Scores that differ by less are equal: the difference is rounding, and no preference."""
REASON_CHARACTERS = 300
EVIDENCE_CHARACTERS = 6000
"""All reasons of a prompt together; with many comparisons each gets less."""
LEAST_CHARACTERS = 40
"""A shorter end of a reason tells nothing and is left out."""

_Answer = Verdict[str] | NoVerdict
_Verdicts = Mapping[str, VerdictWeights]


@dataclass(slots=True, kw_only=True)
class _Contest:
    """Where the comparisons of one group stand; equal responses are one."""

    group: ResponseGroup
    texts: tuple[str, ...]
    order: tuple[int, ...]
    """Stable, whatever the order of responses in the group."""
    wins_MN: np.ndarray
    asked: set[Meeting] = field(default_factory=set)
    read: set[Meeting] = field(default_factory=set)
    """Those with a verdict in both orders."""
    comparisons: list[tuple[int, int, str | None, str]] = field(default_factory=list)
    missing: int = 0
    """Comparisons without a verdict."""
    failure: str = ""
    """Why the first of them has none."""
    problem: str | None = None
    """Why the whole group has no score."""

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

    def count(self, meeting: Meeting, answers: Sequence[_Answer], verdicts: _Verdicts) -> None:
        """Add a meeting: its comparisons in both orders, and the wins if both have a verdict."""
        self.asked.add(meeting)
        a, b = meeting
        both = list(zip(((a, b), (b, a)), answers, strict=True))
        for (first, second), answer in both:
            places = (self.place(first), self.place(second))
            if isinstance(answer, NoVerdict):
                self.missing += 1
                pair = f"response {places[0]} before {places[1]}"
                self.failure = self.failure or f"{pair}: {answer.reason}"
                self.comparisons.append((*places, None, answer.reason))
            else:
                reason = ending(answer.said, REASON_CHARACTERS)
                self.comparisons.append((*places, answer.value, reason))
        known = [(shown, answer) for shown, answer in both if not isinstance(answer, NoVerdict)]
        if len(known) == len(both):
            self.read.add(meeting)
            for (first, second), verdict in known:
                weights = verdicts[verdict.value]
                self.wins_MN[first, second] += weights.first
                self.wins_MN[second, first] += weights.second

    def shortage(self, min_read: float, to_come: int = 0) -> str | None:
        """Why there are too few verdicts, if every response had `to_come` more good meetings."""
        if not self.missing:
            return None
        asked, read = _meetings_of_each(self.asked), _meetings_of_each(self.read)
        for index in range(len(self.texts)):
            needed = max(ceil(min_read * (asked[index] + to_come)), min(asked[index], 1))
            if read[index] + to_come < needed:
                return (
                    f"response {self.place(index)}: {read[index]} of {asked[index]} meetings have "
                    f"verdicts in both orders, judge.min_read {min_read:g} asks for {needed}; "
                    f"{self.failure}"
                )
        if not to_come and _groups(self.read) != _groups(self.asked):
            return f"no verdict joins all responses that were compared; {self.failure}"
        return None

    def evidence(self) -> str:
        """The comparisons as JSON; empty if there were none."""
        if not self.comparisons:
            return ""
        share = EVIDENCE_CHARACTERS // len(self.comparisons)
        room = share if share >= LEAST_CHARACTERS else 0
        rows = [(*row, ending(reason, room)) for *row, reason in self.comparisons]
        return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


class Pairwise(AsksModel):
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
        self.name = judge_name(config)
        super().__init__(open_model(config, cache) if sampler is None else sampler)

    def judge(self, groups: Sequence[ResponseGroup]) -> Iterator[Judgement | Unjudged]:
        """All groups are compared, round by round, before the first answer comes.

        Raises: ValueError where the engine itself fails.
        """
        contests = [self._contest(group) for group in groups]
        rounds = self._config.rounds or 1
        for index in range(rounds):
            self._play([(contest, self._meetings(contest, index)) for contest in contests])
            for contest in contests:
                # What is owed in any case costs no more calls.
                to_come = rounds - 1 - index
                contest.problem = contest.problem or contest.shortage(
                    self._config.min_read, to_come
                )
        for contest in contests:
            yield self._answer(contest)

    def _contest(self, group: ResponseGroup) -> _Contest:
        contest = _Contest.of(group)
        if group.prompt.reference is None and "reference" in self._prompt.fields:
            contest.problem = MISSING_REFERENCE
        return contest

    def _meetings(self, contest: _Contest, index: int) -> list[Meeting]:
        """Who meets in this round; all in the first one where the tournament is large enough."""
        count, config = len(contest.texts), self._config
        if contest.problem is not None:
            return []
        if config.rounds is not None and not is_complete(count, config.rounds):
            return next_round(contest.order, self._scores(contest), contest.asked)
        if index > 0:
            return []
        if config.circles is not None and config.circles <= most_circles(count):
            return circles(contest.order, config.circles)
        return all_meetings(count)

    def _play(self, draws: Sequence[tuple[_Contest, Sequence[Meeting]]]) -> None:
        """Ask about every meeting in both orders and count the verdicts."""
        played = [(contest, meeting) for contest, meetings in draws for meeting in meetings]
        requests = [
            self._request(contest, first, second)
            for contest, (a, b) in played
            for first, second in ((a, b), (b, a))
        ]
        replies = ask(self._sampler, requests, self._read, self._prompt.finish)
        answers = [answer for (answer,) in replies]
        for place, (contest, meeting) in enumerate(played):
            contest.count(meeting, answers[2 * place : 2 * place + 2], self._prompt.verdicts)

    def _request(self, contest: _Contest, first: int, second: int) -> SampleRequest:
        prompt = contest.group.prompt
        shown = (contest.texts[first], contest.texts[second])
        return SampleRequest(
            prompt_id=prompt.prompt_id,
            messages=self._prompt.messages(prompt, shown),
            seeds=self._config.seeds,
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
            missing=contest.missing,
        )


def judge_name(config: PairwiseJudge) -> str:
    """What stands in every judgement of a judge with these settings."""
    return f"pairwise:{Path(config.prompt).stem}:{config.model_name}"


def _meetings_of_each(meetings: Iterable[Meeting]) -> Counter[int]:
    return Counter(index for meeting in meetings for index in meeting)


def _groups(meetings: Iterable[Meeting]) -> set[frozenset[int]]:
    """Who hangs together by meetings."""
    groups: set[frozenset[int]] = set()
    for meeting in meetings:
        touched = {group for group in groups if not group.isdisjoint(meeting)}
        groups = (groups - touched) | {frozenset(meeting).union(*touched)}
    return groups
