"""AlpacaEval 2's annotator: asks a judge at an OpenAI-compatible endpoint which output is better.

One call per comparison, of one token with the five likeliest and their log-probabilities; what is
asked and how it is read stands in weighted_preference.py. Equal outputs are a draw and are not
asked about. A reply is kept as it arrives, so that each is paid for once.

An annotation whose call was refused, or whose reply names neither output, is null with its reason;
the package leaves its row in the file and out of the win rate, and so do we. A judge other than
gpt-4-1106-preview gives figures that compare with nothing published. One that refuses `max_tokens`
takes `extra_body: {max_tokens: null, max_completion_tokens: 1}`.

A judge is shown instructions and outputs. Outputs are responses: the thought is cut off before.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, Field

from forethought.chat_client.background import Background
from forethought.chat_client.client import check_extra_body, encoded, laid_over
from forethought.chat_client.reply import Usage, refuse_broken_off
from forethought.chat_client.retrying import RefusedError, RetryingClient
from forethought.config import OpenAIEngine
from forethought.evaluation.alpaca_eval.weighted_preference import (
    FIRST,
    SECOND,
    OutputPair,
    is_switched,
    judge_messages,
    preference_for_second,
)
from forethought.storage.files import content_hash
from forethought.storage.reply_cache import Cache

DRAW = 1.5
USELESS = 5
"""After so many replies without a preference and none with one, the judge is given up."""
OURS = ("model", "messages", "n", "stream", "logprobs", "top_logprobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """What the judge said of a comparison.

    Example: `Annotation(preference=1.98, switched=False, logprobs={"M": -0.02, "m": -3.9},
    reason=None)`
    """

    preference: float | None
    """In [1, 2], 2 where `output_2` is better; `None` where the annotation failed."""
    switched: bool
    """Whether `output_2` was shown first."""
    logprobs: dict[str, float] | None
    """Of the likeliest tokens; `None` where there was no reply, or no need for one."""
    reason: str | None
    """Why the annotation failed."""


class _Token(BaseModel):
    token: str
    logprob: float = Field(le=0.01)
    """Rounding may leave it above 0."""


class _Position(BaseModel):
    top_logprobs: list[_Token] | None = None


class _LogProbs(BaseModel):
    content: list[_Position] | None = None


class _AnnotatorChoice(BaseModel):
    logprobs: _LogProbs | None = None
    finish_reason: Any = None


class _AnnotatorReply(BaseModel):
    choices: list[_AnnotatorChoice] = Field(min_length=1)
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class _Failed:
    """No preference, and why."""

    reason: str


Outcome = dict[str, float] | _Failed
"""Log-probabilities of the likeliest tokens, or why there are none."""


class Annotator:
    """Asks a judge at an OpenAI-compatible endpoint. Replies are kept as they arrive.

    Example::

        engine = OpenAIEngine(base_url="https://…/v1", model="gpt-4-1106-preview")
        with Annotator(engine, replies) as annotator:
            annotations = annotator.annotate([OutputPair(…), OutputPair(…)])
    """

    def __init__(self, config: OpenAIEngine, replies: Cache) -> None:
        """Read the key, and ask the server for its models where none is named.

        Raises: ValueError if the key, the server or its model cannot be used.
        """
        check_extra_body(config.extra_body, OURS)
        self._config = config
        self._replies = replies
        self._client = RetryingClient(config)
        self._background = Background(config.concurrency)
        try:
            self.model = (
                config.model
                or self._background.start(self._client.model(None, role="the judge")).result().id
            )
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._background.close(self._client.close())

    def annotate(
        self, comparisons: Sequence[OutputPair], advance: Callable[[int], None] = lambda _: None
    ) -> list[Annotation]:
        """One annotation per comparison; `advance` is told how many more are done.

        Raises: ValueError if the server stays down, or its replies hold no preferences.
        """
        bodies = [
            None
            if comparison.output_1 == comparison.output_2
            else self._body(judge_messages(comparison))
            for comparison in comparisons
        ]
        keys = [None if body is None else content_hash(["alpaca_eval", body]) for body in bodies]
        wanted = {
            key: body
            for key, body in zip(keys, bodies, strict=True)
            if key is not None and body is not None
        }
        advance(len(comparisons) - len(wanted))
        outcomes = self._outcomes(wanted, advance)
        return [
            _annotation(comparison.instruction, None if key is None else outcomes[key])
            for comparison, key in zip(comparisons, keys, strict=True)
        ]

    def _outcomes(
        self, bodies: Mapping[str, dict[str, Any]], advance: Callable[[int], None]
    ) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        failed: list[str] = []
        with closing(self._background.results(bodies.items(), self._outcome)) as results:
            while len(outcomes) < len(bodies):
                try:
                    (key, _), outcome = next(results)
                except ValueError as error:
                    raise ValueError(
                        f"{error}. {len(outcomes)} of {len(bodies)} replies had come and are kept "
                        "where a cache is; the same command goes on from here"
                    ) from None
                outcomes[key] = outcome
                if isinstance(outcome, _Failed):
                    failed.append(outcome.reason)
                if len(failed) == len(outcomes) >= min(USELESS, len(bodies)):
                    raise ValueError(
                        f"{self._client.name}: no preference came of {len(failed)} calls, the "
                        f"last: {failed[-1]}; the judge must name {FIRST} or {SECOND} as its first "
                        "token and the server give log-probabilities (top_logprobs); extra_body "
                        "sets other fields of the request"
                    )
                advance(1)
        return outcomes

    async def _outcome(self, item: tuple[str, dict[str, Any]], give_up: asyncio.Event) -> Outcome:
        key, body = item
        if (kept := self._replies.find(key)) is not None:
            return _checked(kept)
        try:
            reply = await self._client.ask("/chat/completions", _read_reply, body, give_up)
        except RefusedError as refusal:
            return _Failed(str(refusal))
        logprobs = _logprobs(reply)
        if isinstance(logprobs, _Failed):
            return logprobs
        # Before it is checked: a reply that names neither output is paid for, too.
        self._client.keep(self._replies, key, logprobs, reply.usage)
        return _checked(logprobs)

    def _body(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "max_tokens": 1,
            "temperature": 1,
            "top_p": 1,
            "logprobs": True,
            "top_logprobs": 5,
        }
        return laid_over(body, self._config.extra_body)


def _read_reply(body: bytes) -> _AnnotatorReply:
    """Raises: ValueError if it is no chat completion; BrokenOffError if it was not ended."""
    reply = _AnnotatorReply.model_validate_json(encoded(json.loads(body)))
    refuse_broken_off(reply.choices[0].finish_reason)
    return reply


def _logprobs(reply: _AnnotatorReply) -> Outcome:
    """Those of the one token that was asked for."""
    given = reply.choices[0].logprobs
    positions = (given and given.content) or []
    if not positions or not positions[0].top_logprobs:
        return _Failed("the reply has no log-probabilities")
    if len(positions) != 1:
        return _Failed(f"the reply has {len(positions)} tokens, not the one that was asked for")
    return {logprob.token: logprob.logprob for logprob in positions[0].top_logprobs}


def _checked(logprobs: dict[str, float]) -> Outcome:
    if preference_for_second(logprobs) is None:
        likeliest = ", ".join(map(repr, logprobs))
        return _Failed(f"neither {FIRST} nor {SECOND} is among the likeliest tokens: {likeliest}")
    return logprobs


def _annotation(instruction: str, outcome: Outcome | None) -> Annotation:
    """What an outcome says of a comparison, `None` being that of equal outputs."""
    switched = is_switched(instruction)
    if outcome is None:
        return Annotation(preference=DRAW, switched=switched, logprobs=None, reason=None)
    if isinstance(outcome, _Failed):
        return Annotation(preference=None, switched=switched, logprobs=None, reason=outcome.reason)
    shown_second = preference_for_second(outcome)
    assert shown_second is not None, "it was checked as it came"
    preference = 3 - shown_second if switched else shown_second
    return Annotation(preference=preference, switched=switched, logprobs=outcome, reason=None)
