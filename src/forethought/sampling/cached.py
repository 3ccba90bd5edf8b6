"""Outputs of a local engine that are kept as they are drawn, for judges that are chat models.

Requests go to the engine in slices of fixed places, and the outputs of a slice are kept together
once all are drawn. So a run that was killed and goes on gives the engine the very slices that it
would have been given, and its outputs are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Self

from forethought.sampling.base import Sampler
from forethought.storage.files import content_hash
from forethought.storage.reply_cache import Cache
from forethought.types import Completion, SampledPrompt, SampleRequest, Unsampled

SLICE = 256
"""Requests per call of the engine: what is drawn again at most after a kill."""


class CachedSampler:
    """Asks `sampler` only for outputs that are not in the cache.

    `identity` is a JSON value that names the engine, its model and how outputs are drawn. A request
    that the engine cannot take is not kept: it is tried again next time. Leaving the block leaves
    the engine's; the cache stays open.

    Example: `CachedSampler(TransformersSampler.load(…), cache, {"model": "…", "params": {…}})`
    """

    def __init__(self, sampler: Sampler, cache: Cache, identity: dict[str, Any]) -> None:
        self._sampler = sampler
        self._cache = cache
        self._identity = identity

    def __enter__(self) -> Self:
        self._sampler.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._sampler.__exit__(None, None, None)

    def sample(self, requests: Sequence[SampleRequest]) -> Iterator[SampledPrompt | Unsampled]:
        """One result per request in order, slice by slice."""
        for start in range(0, len(requests), SLICE):
            yield from self._slice(requests[start : start + SLICE])

    def _slice(self, requests: Sequence[SampleRequest]) -> Iterator[SampledPrompt | Unsampled]:
        keys = [self._keys(request) for request in requests]
        answers = {
            key: answer
            for key in chain.from_iterable(keys)
            if (answer := self._cache.find(key)) is not None
        }
        owed: dict[int, SampleRequest] = {}
        for place, request in enumerate(requests):
            pairs = zip(request.seeds, keys[place], strict=True)
            missing = tuple(seed for seed, key in pairs if key not in answers)
            # A request without seeds is asked for too: only the engine knows its prompt's ids.
            if missing or not request.seeds:
                owed[place] = replace(request, seeds=missing)
        drawn: dict[int, SampledPrompt | Unsampled] = {}
        if owed:
            drawn = dict(zip(owed, self._sampler.sample(list(owed.values())), strict=True))
            new = {
                place: dict(zip(requests[place].seeds, keys[place], strict=True)) for place in owed
            }
            answers = self._kept(owed, drawn, new) | answers
        for place, request in enumerate(requests):
            result = drawn.get(place)
            if isinstance(result, Unsampled):
                yield result
            else:
                yield _assembled(request, [answers[key] for key in keys[place]], result)

    def _kept(
        self,
        owed: Mapping[int, SampleRequest],
        drawn: Mapping[int, SampledPrompt | Unsampled],
        keys: Mapping[int, Mapping[int, str]],
    ) -> dict[str, dict[str, Any]]:
        """The new answers by key, once all are on file. `keys` are each request's, by seed."""
        answers: dict[str, dict[str, Any]] = {}
        tokens: dict[str, tuple[int, int]] = {}
        for place, result in drawn.items():
            if isinstance(result, Unsampled):
                continue
            for seed, completion in zip(owed[place].seeds, result.completions, strict=True):
                key = keys[place][seed]
                # The same question twice in a slice: both get the answer that will be found later.
                answers.setdefault(key, to_answer(completion, result.prompt_token_ids))
                tokens[key] = (len(result.prompt_token_ids), len(completion.token_ids))
        self._cache.keep_all(answers, tokens)
        return answers

    def _keys(self, request: SampleRequest) -> list[str]:
        messages = [(message.role, message.content) for message in request.messages]
        asked = [self._identity, messages]
        if request.opening_ids:
            asked.append(request.opening_ids)
        if request.never_opens_with:
            asked.append(["never", request.never_opens_with])
        return [content_hash([*asked, seed]) for seed in request.seeds]


def to_answer(completion: Completion, prompt_token_ids: Sequence[int]) -> dict[str, Any]:
    """An output as the JSON value that a cache keeps."""
    return {
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "token_ids": list(completion.token_ids),
        "prompt_token_ids": list(prompt_token_ids),
    }


def to_completion(answer: dict[str, Any]) -> Completion:
    """The output that `to_answer` was given."""
    return Completion(
        text=answer["text"],
        token_ids=tuple(answer["token_ids"]),
        finish_reason=answer["finish_reason"],
    )


def _assembled(
    request: SampleRequest, answers: Sequence[dict[str, Any]], drawn: SampledPrompt | None
) -> SampledPrompt:
    prompt_ids = drawn.prompt_token_ids if drawn else answers[0]["prompt_token_ids"]
    return SampledPrompt(
        prompt_id=request.prompt_id,
        prompt_token_ids=tuple(prompt_ids),
        completions=tuple(map(to_completion, answers)),
    )
