"""A judge that rates each response alone, on the scale of its prompt file.

Any chat model on any engine; cheaper than comparing (pairwise.py), and its scores mean the same
for every prompt. The paper does not use one. With `votes` above 1 the scores are means over so many
ratings, each drawn with a seed of its own. A response of which less than `min_read` of the votes
can be read has no score, and a prompt stays owed where that leaves fewer than `min_read` of its
responses, or one alone. Equal responses are rated once.

Evidence is a JSON list of `[response, ratings, reason]`: the index of the response, of equal ones
the first; the ratings that could be read; how the reasoning of the first one ends, or why there is
none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from math import ceil, fsum
from pathlib import Path

from forethought.config import RatingJudge
from forethought.judging.llm.prompt_file import load_prompt
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
from forethought.storage.reply_cache import Cache
from forethought.types import Judgement, ResponseGroup, SampleRequest, Unjudged

REASON_CHARACTERS = 300

Ratings = list[Verdict[float] | NoVerdict]


class Rating(AsksModel):
    """Rates each response alone.

    Example: `Rating(RatingJudge(engine=OpenAIEngine(base_url="http://localhost:8000/v1")))`
    """

    def __init__(
        self, config: RatingJudge, cache: Cache | None = None, *, sampler: Sampler | None = None
    ) -> None:
        """With a `sampler`, that one is asked instead of the config's engine.

        Raises: ValueError if the prompt file or the model cannot be used.
        """
        self._prompt = load_prompt(config.prompt, "rating")
        self._seeds = config.seeds
        self._min_read = config.min_read
        self.name = f"rating:{Path(config.prompt).stem}:{config.model_name}"
        self.floor: float | None = self._prompt.scale[0]
        super().__init__(open_model(config, cache) if sampler is None else sampler)

    def judge(self, groups: Sequence[ResponseGroup]) -> Iterator[Judgement | Unjudged]:
        """All responses of all groups are rated in one batch.

        Raises: ValueError where the engine itself fails.
        """
        calls = [
            (index, text)
            for index, group in enumerate(groups)
            if not self._lacks_reference(group)
            for text in dict.fromkeys(group.responses)
        ]
        requests = [self._request(groups[index], text) for index, text in calls]
        answers = ask(self._sampler, requests, self._read, self._prompt.finish)
        ratings: list[dict[str, Ratings]] = [{} for _ in groups]
        for (index, text), answer in zip(calls, answers, strict=True):
            ratings[index][text] = answer
        for group, by_text in zip(groups, ratings, strict=True):
            yield self._answer(group, by_text)

    def _lacks_reference(self, group: ResponseGroup) -> bool:
        return group.prompt.reference is None and "reference" in self._prompt.fields

    def _request(self, group: ResponseGroup, text: str) -> SampleRequest:
        messages = self._prompt.messages(group.prompt, (text,))
        return SampleRequest(prompt_id=group.prompt.prompt_id, messages=messages, seeds=self._seeds)

    def _read(self, said: str) -> float | NoVerdict:
        rating = only(self._prompt.verdicts_in(said))
        low, high = self._prompt.scale
        if isinstance(rating, NoVerdict) or low <= rating <= high:
            return rating
        return NoVerdict(reason=f"{rating:g} is not on the scale from {low:g} to {high:g}")

    def _answer(self, group: ResponseGroup, by_text: dict[str, Ratings]) -> Judgement | Unjudged:
        prompt_id = group.prompt.prompt_id
        if self._lacks_reference(group):
            return Unjudged(prompt_id=prompt_id, judge=self.name, reason=MISSING_REFERENCE)
        scores: dict[str, float | None] = {}
        rows: list[tuple[int, list[float], str]] = []
        missing, failure = 0, ""
        for text, answers in by_text.items():
            place = group.responses.index(text)
            values = [answer.value for answer in answers if isinstance(answer, Verdict)]
            said = [answer.said for answer in answers if isinstance(answer, Verdict)]
            why = [answer.reason for answer in answers if isinstance(answer, NoVerdict)]
            missing += len(why)
            if why:
                failure = failure or f"response {place}: {why[0]}"
            read = len(values) >= ceil(self._min_read * len(answers))
            scores[text] = fsum(values) / len(values) if read else None
            rows.append((place, values, ending(said[0], REASON_CHARACTERS) if said else why[0]))
        scored = sum(scores[text] is not None for text in group.responses)
        needed = max(ceil(self._min_read * len(group.responses)), min(len(group.responses), 2))
        if scored < needed:
            reason = (
                f"{scored} of {len(group.responses)} responses have enough ratings, needed are "
                f"{needed}; {failure}"
            )
            return Unjudged(prompt_id=prompt_id, judge=self.name, reason=reason)
        return Judgement(
            prompt_id=prompt_id,
            judge=self.name,
            scores=tuple(scores[text] for text in group.responses),
            evidence=json.dumps(rows, ensure_ascii=False, separators=(",", ":")) if rows else "",
            missing=missing,
        )
