"""Asking a judge model, reading its verdicts strictly, asking once more where there is none.

A reply counts if it ended by itself and states exactly one distinct verdict (stated.py) outside its
reasoning (reasoning.py). Several, none, or a reply cut off by the token limit is no verdict:
the judge is told once, as the next turn of the same conversation, to finish. If that gives no
verdict either, there is none: nothing is guessed and neither side is favoured. The paper does not
say what becomes of such replies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from forethought.config import LLMJudge
from forethought.decoding.request import SamplingParams
from forethought.judging.llm.frame import printable
from forethought.judging.llm.reasoning import without_reasoning
from forethought.models.control_tokens import without_well_known
from forethought.sampling.base import Sampler
from forethought.sampling.open import open_sampler
from forethought.storage.reply_cache import Cache
from forethought.types import Completion, Message, SampledPrompt, SampleRequest, Unsampled

V = TypeVar("V")

SHOWN = 160
"""Characters of a reply that stand in the reason why it is no verdict; its end tells most."""
MISSING_REFERENCE = "the prompt has no reference, which the judge's prompt file shows"
SILENCE = "I have not come to a verdict yet."
"""The judge's turn where all it said was reasoning; templates and servers refuse an empty one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Generic[V]):
    """Example: `Verdict(value="[[A]]", said="Both are right, A is clearer. [[A]]")`"""

    value: V
    said: str
    """The judge's words without its reasoning; both turns where it took two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoVerdict:
    """Example: `NoVerdict(reason="no verdict: 'Both are fine.'")`"""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unread:
    """A reply after which the judge is asked once more."""

    said: str
    why: str


Read = Callable[[str], V | NoVerdict]
"""The verdict in what a judge said, or why there is none."""


def open_model(config: LLMJudge, cache: Cache | None) -> Sampler:
    """The judge model's sampler. What is in the cache is not asked again.

    Raises: ValueError if the model cannot be loaded or the engine cannot be used so.
    """
    params = SamplingParams(
        temperature=config.temperature, top_p=config.top_p, max_new_tokens=config.max_new_tokens
    )
    return open_sampler(
        config.engine, model=config.model, params=params, cache=cache, token_ids=False
    )


class AsksModel:
    """A judge that asks a chat model, which is open as long as the judge is."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def __enter__(self) -> Self:
        self._sampler.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._sampler.__exit__(None, None, None)


def ask(
    sampler: Sampler, requests: Sequence[SampleRequest], read: Read[V], finish: str
) -> list[list[Verdict[V] | NoVerdict]]:
    """For each request its verdicts, one per seed, or why one is missing.

    All requests go to the sampler in one call, and all second turns in another.

    Raises: ValueError where the engine itself fails.
    """
    if not requests:
        return []
    replies = [
        _replies(request, result, read)
        for request, result in zip(requests, sampler.sample(requests), strict=True)
    ]
    unread = [
        (request, index, of_request, reply)
        for request, of_request in zip(requests, replies, strict=True)
        for index, reply in enumerate(of_request)
        if isinstance(reply, _Unread)
    ]
    if unread:
        turns = [_second_turn(request, index, reply, finish) for request, index, _, reply in unread]
        for (_, index, of_request, reply), result in zip(
            unread, sampler.sample(turns), strict=True
        ):
            of_request[index] = _second_reply(reply, result, read)
    return [[_known(reply) for reply in of_request] for of_request in replies]


def only(verdicts: Sequence[V]) -> V | NoVerdict:
    """The one distinct verdict, or why there is none."""
    match verdicts:
        case []:
            return NoVerdict(reason="no verdict")
        case [verdict]:
            return verdict
        case _:
            return NoVerdict(reason=f"several verdicts ({', '.join(map(str, verdicts[:5]))})")


def ending(text: str, characters: int) -> str:
    """The end of a text on one line, with `…` before it where something was left out."""
    words = " ".join(text.split())
    if len(words) <= characters:
        return words
    return f"…{words[len(words) - characters :]}" if characters else ""


def _replies(
    request: SampleRequest, result: SampledPrompt | Unsampled, read: Read[V]
) -> list[Verdict[V] | NoVerdict | _Unread]:
    if isinstance(result, Unsampled):
        return [NoVerdict(reason=result.reason) for _ in request.seeds]
    assert len(result.completions) == len(request.seeds), "a sampler gives one output per seed"
    return [_reply(completion, read) for completion in result.completions]


def _reply(completion: Completion, read: Read[V]) -> Verdict[V] | _Unread:
    text = printable(completion.text)
    said, ended = without_reasoning(text)

    def unread(why: str) -> _Unread:
        return _Unread(said=said, why=f"{why}: {ending(text, SHOWN)!r}")

    if completion.finish_reason == "length":
        return unread("cut off by the token limit")
    if not ended:
        return unread("reasoning without an end")
    value = read(said)
    if isinstance(value, NoVerdict):
        return unread(value.reason)
    return Verdict(value=value, said=said.strip())


def _second_turn(request: SampleRequest, index: int, reply: _Unread, finish: str) -> SampleRequest:
    said = without_well_known(reply.said).strip() or SILENCE
    turns = (Message(role="assistant", content=said), Message(role="user", content=finish))
    return SampleRequest(
        prompt_id=request.prompt_id,
        messages=(*request.messages, *turns),
        seeds=(request.seeds[index],),
    )


def _second_reply(
    first: _Unread, result: SampledPrompt | Unsampled, read: Read[V]
) -> Verdict[V] | NoVerdict:
    if isinstance(result, Unsampled):
        return NoVerdict(reason=f"{first.why}; asked once more: {result.reason}")
    second = _reply(result.completions[0], read)
    if isinstance(second, _Unread):
        return NoVerdict(reason=f"{first.why}; asked once more: {second.why}")
    return Verdict(value=second.value, said=f"{first.said.strip()}\n{second.said}".strip())


def _known(reply: Verdict[V] | NoVerdict | _Unread) -> Verdict[V] | NoVerdict:
    assert not isinstance(reply, _Unread), "it was asked once more"
    return reply
