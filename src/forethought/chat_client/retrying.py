"""A server asked with patience and read with care: the client of samplers, judges and annotators.

What a server may answer falls into three kinds. Trouble that passes is tried again, after what
`Retry-After` says or else an exponential back-off with full jitter: 408, 409, 425, 429, 5xx,
time-outs, dropped connections, bodies that cannot be read, outputs that were broken off. A refusal
is about one request: 400, 413, 422, and a reply that no try made whole. All else is a mistake in
the recipe and stops the work.

No error carries the request that failed, nor its key.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx

from forethought.chat_client.client import (
    PASSING,
    REFUSALS,
    ChatClient,
    checked_address,
    encoded,
    key_of,
    shortened,
)
from forethought.chat_client.reply import BrokenOffError, ModelCard, Usage, meant_model, read_models
from forethought.config import OpenAIEngine
from forethought.storage.reply_cache import Cache

T = TypeVar("T")

NO_SUCH_PATH = frozenset({404, 405})
LONGEST_BACKOFF = 60.0
"""Seconds."""
LONGEST_RETRY_AFTER = 300.0
"""Seconds: a server that asks for more is asked again sooner, and may say it again."""
CONNECT = 30.0
"""Seconds to reach the server at all."""
SECRET = 8
"""Shorter keys, such as a local server's `EMPTY`, are no secrets but words."""
LOOK, LOOKS = 60.0, 2
"""Most seconds for a list of models, and tries, where nothing but the server's being there is of
interest."""


class RefusedError(Exception):
    """The server does not take this request; it may take others."""


class UnreadableError(RefusedError):
    """The server answers, and in no try with what can be read; it may answer others well."""


class NeverWholeError(RefusedError):
    """The server breaks this output off in every try."""


class UnknownPathError(ValueError):
    """The server answers, and has nothing under this path."""


@dataclass(frozen=True, slots=True)
class _Trouble:
    reason: str
    way_out: str = "see that the server runs and base_url is right"
    retry_after: float | None = None
    """Seconds, as the server wishes."""
    alone: type[RefusedError] | None = None
    """What it is when the tries are used up, where it need not be about other requests, too."""


class RetryingClient(ChatClient):
    """Calls to the server of an engine. To be used in one event loop and closed there.

    Raises: ValueError if the address or the key cannot be used.
    """

    def __init__(self, config: OpenAIEngine) -> None:
        address, key = checked_address(config.base_url), key_of(config.api_key_env)
        super().__init__(
            address,
            key=key,
            timeout=httpx.Timeout(None, connect=CONNECT),
            limits=httpx.Limits(
                max_connections=config.concurrency, max_keepalive_connections=config.concurrency
            ),
        )
        if key is not None and len(key) < SECRET:
            self.without_key = str
        self.name = f"openai engine: {config.base_url}"
        self._config = config

    async def ask(
        self,
        path: str,
        read: Callable[[bytes], T],
        body: Mapping[str, Any] | None = None,
        give_up: asyncio.Event | None = None,
    ) -> T:
        """The content of the answer as `read` makes it out; POST with a `body`, else GET.

        A ValueError of `read` counts as trouble that passes. Once `give_up` is set, nothing is
        tried again.

        Raises: RefusedError, and UnreadableError and NeverWholeError, which are such; ValueError
            for what no repetition helps, or when the attempts are used up.
        """
        content = None if body is None else encoded(body)
        attempt = 1
        while isinstance(outcome := await self._try(path, read, content), _Trouble):
            pause = seconds_to_pause(attempt, self._config.backoff, outcome.retry_after)
            if attempt >= self._config.attempts or await _set_within(pause, give_up):
                tries = f"{attempt} tries" if attempt > 1 else "1 try"
                if outcome.alone is not None:
                    raise outcome.alone(
                        f"{self.name} gave no whole answer in {tries}, the last was "
                        f"{outcome.reason} ({outcome.way_out})"
                    )
                raise ValueError(
                    f"{self.name} did not answer in {tries}, the last with {outcome.reason} "
                    f"({outcome.way_out})"
                )
            attempt += 1
        return outcome

    async def model(self, name: str | None, role: str = "the one to use") -> ModelCard:
        """The model of this name, or the only one. `role` is what the model is for.

        Raises: ValueError if there is not one that is meant.
        """
        try:
            cards = await self.ask("/models", read_models)
        except RefusedError as refusal:
            raise ValueError(f"{self.name}/models: {refusal}") from None
        return meant_model(cards, name, self.name, f"name {role} in the engine's model")

    def keep(self, cache: Cache, key: str, answer: Any, usage: Usage | None) -> None:
        """Keep an answer with what it cost, as far as server and engine tell it.

        Raises: ValueError if the cache cannot be written.
        """
        usage = usage or Usage()
        prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
        price = self._config.price
        money = prompt * price.prompt + completion * price.completion if price else 0.0
        cache.keep(
            key, answer, prompt_tokens=prompt, completion_tokens=completion, cost=money / 1e6
        )

    async def _try(
        self, path: str, read: Callable[[bytes], T], content: bytes | None
    ) -> T | _Trouble:
        method = "GET" if content is None else "POST"
        # Errors are turned into values here: a raised one would carry the request and its key.
        try:
            async with asyncio.timeout(self._config.timeout):
                response = await self.http.request(method, self.base_url + path, content=content)
        except TimeoutError:
            reason = f"nothing within {self._config.timeout:g} s"
            return _Trouble(reason, "see to the server, or raise timeout")
        except httpx.RequestError as error:
            reason = f"{type(error).__name__} {error}".strip()
            return _Trouble(self.without_key(shortened(reason)))
        if response.is_success:
            try:
                return read(response.content)
            except BrokenOffError as error:
                return _Trouble(str(error), "see to the server", alone=NeverWholeError)
            except (ValueError, RecursionError):
                reason = (
                    f"a body that cannot be read: {await self.words(response) or 'nothing more'}"
                )
                return _Trouble(reason, "see to the server", alone=UnreadableError)
        said = await self.words(response) or "nothing more"
        reason = f"status {response.status_code}: {said}"
        if response.status_code in PASSING or response.is_server_error:
            way_out = "see to the server"
            if response.status_code == 429:
                way_out = "lower concurrency, or raise attempts and backoff"
            return _Trouble(reason, way_out, _retry_after(response.headers.get("Retry-After")))
        if response.status_code in REFUSALS:
            raise RefusedError(f"the server refused it with {reason}")
        kind = UnknownPathError if response.status_code in NO_SUCH_PATH else ValueError
        raise kind(f"{self.name} answered with {reason}; {self._way_out(response)}")

    def _way_out(self, response: httpx.Response) -> str:
        match response.status_code, self._config.api_key_env:
            case ((401 | 403), None):
                return (
                    "put a key for it into an environment variable and give the variable's name as "
                    "api_key_env"
                )
            case ((401 | 403), name):
                return f"check the key in the environment variable {name} and what it allows"
            case 404, _:
                return "check base_url, which mostly ends in /v1, and the engine's model"
            case status, _ if response.has_redirect_location:
                target = self.without_key(response.headers["Location"])
                return f"status {status} points to {target}: correct base_url"
            case _:
                return "check base_url and what the server says"


def reach(config: OpenAIEngine) -> None:
    """Find out whether a server is there and takes the key, without a call that could cost.

    Raises: ValueError if it is not or does not.
    """

    async def ask() -> None:
        less = {"timeout": min(config.timeout, LOOK), "attempts": min(config.attempts, LOOKS)}
        client = RetryingClient(config.model_copy(update=less))
        try:
            # Not all servers have a list of models: whatever answers is there.
            with suppress(RefusedError, UnknownPathError):
                await client.ask("/models", lambda _: None)
        finally:
            await client.close()

    asyncio.run(ask())


def seconds_to_pause(attempt: int, backoff: float, retry_after: float | None) -> float:
    """How long to wait after this attempt, 1 being the first.

    At least what the server wishes, else anything up to the back-off, which doubles: calls that
    failed together are kept apart.
    """
    if retry_after is not None:
        return min(retry_after, LONGEST_RETRY_AFTER) + random.uniform(0, backoff)
    return random.uniform(0, min(LONGEST_BACKOFF, backoff * 2 ** min(attempt - 1, 32)))


def _retry_after(header: str | None) -> float | None:
    """Seconds from now, from a number of seconds or an HTTP date; `None` if it is neither."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


async def _set_within(seconds: float, event: asyncio.Event | None) -> bool:
    """Wait so long, or until the event is set; whether it is."""
    try:
        async with asyncio.timeout(seconds):
            await (event or asyncio.Event()).wait()
    except TimeoutError:
        return False
    return True
