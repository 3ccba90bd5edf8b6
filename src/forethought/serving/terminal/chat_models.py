"""The models that a terminal chat talks with: one at an OpenAI-compatible endpoint, or a local one.

A model gives an answer as pieces of response and, where it may be seen, of thought. Whatever goes
wrong is one line that says what to do; nothing here raises what a server wrote as a traceback.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from forethought.chat_client.client import (
    ChatClient,
    as_turns,
    checked_address,
    error_message,
    get_models,
    shortened,
)
from forethought.chat_client.reply import ModelCard, read_models
from forethought.chat_client.sse import payloads
from forethought.serving.backends.base import (
    AnswerEnd,
    Answerer,
    AnswerRequest,
    BackendError,
    NoResponseError,
    RefusedDrawError,
)
from forethought.types import Message

TIMEOUT = httpx.Timeout(600.0, connect=10.0)
"""A model may think for long before its first word."""
LOOK = 20.0
"""Seconds to say which models there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyDelta:
    """A piece of an answer; the last one may have a `finish_reason`.

    Example: `ReplyDelta(response="It is", thought="", finish_reason=None)`
    """

    response: str
    thought: str
    finish_reason: str | None


class ChatError(Exception):
    """No answer, or none any more; the message is one line for the user."""


class ChatModel(Protocol):
    """Answers conversations."""

    @property
    def name(self) -> str:
        """Shown when the chat begins."""
        ...

    @property
    def can_answer_directly(self) -> bool:
        """Whether thinking can be turned off."""
        ...

    def reply(self, turns: Sequence[Message], think: bool) -> AsyncGenerator[ReplyDelta, None]:
        """The next turn, piece by piece; closing it early stops the other side.

        Raises: ChatError.
        """
        ...

    async def close(self) -> None:
        """Free the model or the connections."""
        ...


class ServedModel:
    """A model behind a URL.

    Example: `ServedModel("http://localhost:8000", api_key=None)`
    """

    def __init__(self, url: str, *, api_key: str | None, model: str | None = None) -> None:
        """The only model is taken where none is named.

        Raises: ValueError if no such endpoint answers, or it does not have this one model.
        """
        self._base = base_url(url)
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("api_key: a key is one line of plain ASCII; this one is not")
        self._client = ChatClient(self._base, key=api_key, timeout=TIMEOUT)
        try:
            cards = _listed(get_models(self._base, api_key, LOOK), self._base)
        except httpx.HTTPError as error:
            raise ValueError(_unreached(self._base, error)) from None
        models = [card.id for card in cards]
        if model is None and len(models) != 1:
            raise ValueError(
                f"model: {self._base} serves {', '.join(models) or 'no model'}; name the one to "
                "talk with"
            )
        self._model = model or models[0]
        if models and self._model not in models:
            raise ValueError(f"model: {self._base} serves {', '.join(models)}, not {model}")
        self._think_off = all(
            card.think_off is not False for card in cards if card.id == self._model
        )

    @property
    def name(self) -> str:
        """The model and where it is."""
        return f"{self._model} at {self._base}"

    @property
    def can_answer_directly(self) -> bool:
        """As `ChatModel` says; a server that says nothing of it is asked, and may refuse."""
        return self._think_off

    async def reply(
        self, turns: Sequence[Message], think: bool
    ) -> AsyncGenerator[ReplyDelta, None]:
        """As `ChatModel` says."""
        body = {"model": self._model, "messages": as_turns(turns), "stream": True}
        if not think:
            body["think"] = False
        try:
            async with aclosing(await self._client.begin(body)) as reply:
                if reply.status_code != 200:
                    raise ChatError(_refused(reply.status_code, await reply.aread()))
                async with aclosing(events(reply.aiter_bytes())) as stream:
                    async for event in stream:
                        yield _delta(event)
        except httpx.HTTPError as error:
            raise ChatError(_unreached(self._base, error)) from None

    async def close(self) -> None:
        """As `ChatModel` says."""
        await self._client.close()


class LocalModel:
    """A model of this process, through its answerer.

    Example: `LocalModel(answerer, name="runs/a/policy", can_answer_directly=True,
    temperature=0.8, top_p=0.95, max_tokens=512, close=backend.close)`
    """

    def __init__(
        self,
        answerer: Answerer,
        *,
        name: str,
        can_answer_directly: bool,
        hybrid: bool = False,
        temperature: float,
        top_p: float,
        max_tokens: int | None,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self._answerer = answerer
        self._name = name
        self._think_off = can_answer_directly
        self._hybrid = hybrid
        self._temperature = temperature
        self._top_p = top_p
        self._max_tokens = max_tokens
        self._close = close

    @property
    def name(self) -> str:
        """The model's."""
        return self._name

    @property
    def can_answer_directly(self) -> bool:
        """As `ChatModel` says."""
        return self._think_off

    async def reply(
        self, turns: Sequence[Message], think: bool
    ) -> AsyncGenerator[ReplyDelta, None]:
        """As `ChatModel` says."""
        question = AnswerRequest(
            messages=tuple(turns),
            think=think or self._hybrid,
            mode="direct" if self._hybrid and not think else "auto",
            temperature=self._temperature,
            top_p=self._top_p,
            seed=None,
            max_tokens=self._max_tokens,
            stop=(),
            top_logprobs=None,
        )
        try:
            async with aclosing(self._answerer.answer(question)) as answer:
                async for part in answer:
                    if isinstance(part, AnswerEnd):
                        yield ReplyDelta(response="", thought="", finish_reason=part.finish_reason)
                    else:
                        yield ReplyDelta(
                            response=part.response, thought=part.thought, finish_reason=None
                        )
        except NoResponseError:
            raise ChatError("The model thought and never answered; ask again.") from None
        except (RefusedDrawError, BackendError) as error:
            raise ChatError(str(error)) from None

    async def close(self) -> None:
        """As `ChatModel` says."""
        await self._close()


def base_url(url: str) -> str:
    """Where `/models` and `/chat/completions` are, of an address as people write it.

    Raises: ValueError if it is no address of a server.
    """
    parsed = httpx.URL(checked_address(url, field="url"))
    path = parsed.path.rstrip("/").removesuffix("/chat/completions")
    return str(parsed.copy_with(path=path or "/v1", query=None, fragment=None)).rstrip("/")


async def events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON objects of a server-sent stream, up to `[DONE]`; comments are passed over.

    Raises: ChatError if the stream is none, or ends before it is done.
    """
    try:
        async with aclosing(payloads(chunks)) as stream:
            async for payload in stream:
                if payload.strip() == b"[DONE]":
                    return
                event = json.loads(payload)
                if not isinstance(event, dict):
                    raise ValueError("not an object")
                yield event
    except ValueError:
        wrong = "The server sent what is no JSON object; is it an OpenAI one?"
        raise ChatError(wrong) from None
    raise ChatError("The answer broke off: the server closed the stream before its end.")


def _delta(event: dict[str, Any]) -> ReplyDelta:
    """What a chunk adds; unknown fields are passed over.

    Raises: ChatError for an error's event and for a chunk of another shape.
    """
    if "error" in event:
        raise ChatError(f"The server failed: {_message(event)}")
    match event.get("choices"):
        case [{"delta": dict(delta), **rest}, *_]:
            thought = delta.get("reasoning") or delta.get("reasoning_content") or ""
            return ReplyDelta(
                response=str(delta.get("content") or ""),
                thought=str(thought),
                finish_reason=rest.get("finish_reason"),
            )
        case []:
            return ReplyDelta(response="", thought="", finish_reason=None)
    raise ChatError("The server sent a chunk without choices; is it an OpenAI one?")


def _listed(reply: httpx.Response, base: str) -> list[ModelCard]:
    """The models that an endpoint lists.

    Raises: ValueError if it is none.
    """
    if reply.status_code in (401, 403):
        raise ValueError(f"api_key: {_refused(reply.status_code, reply.content)}")
    if reply.is_success:
        with suppress(ValueError):
            return read_models(reply.content)
    raise ValueError(
        f"url: {base}/models answers with status {reply.status_code} and lists no models, so "
        "there is no OpenAI-compatible endpoint; is a part of the address missing, such as /v1?"
    )


def _refused(status: int, content: bytes) -> str:
    match status:
        case 401 | 403:
            return f"The server refuses the key, or wants one (status {status})."
        case 429:
            return "The server is busy; wait a little and ask again."
    try:
        said = _message(json.loads(content))
    except ValueError:
        said = ""
    return f"The server refuses this (status {status}){': ' if said else ''}{said or '.'}"


def _message(event: Any) -> str:
    """The message in an error of OpenAI's shape, on one line."""
    return shortened(error_message(event)) or "no reason is given"


def _unreached(base: str, error: httpx.HTTPError) -> str:
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout():
            why = "is it started, and is the address right?"
            return f"No server answers at {base}; {why}"
        case httpx.TimeoutException():
            return f"{base} did not answer in time."
    return f"The connection to {base} broke ({type(error).__name__}); ask again."
