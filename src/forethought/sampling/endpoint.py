"""A server with an OpenAI-compatible API, asked with patience and read with care.

What a server may answer falls into three kinds. Trouble that passes is tried again, after what
`Retry-After` says or else an exponential back-off with full jitter: 408, 409, 425, 429, 5xx,
time-outs, dropped connections, bodies that cannot be read, outputs that were broken off. A refusal
is about one request: 400, 413, 422, and a reply that no try made whole. All else is a mistake in
the recipe and stops the work.

The key is read once from the environment and stands in the client's headers. Where a server repeats
it in an error it is taken out, and no error carries the request that failed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx

from forethought.config import OpenAIEngine
from forethought.sampling.chat_reply import BrokenOffError

T = TypeVar("T")

PASSING = frozenset({408, 409, 425, 429})
REFUSALS = frozenset({400, 413, 422})
NO_SUCH_PATH = frozenset({404, 405})
LONGEST_BACKOFF = 60.0
"""Seconds."""
LONGEST_RETRY_AFTER = 300.0
"""Seconds: a server that asks for more is asked again sooner, and may say it again."""
CONNECT = 30.0
"""Seconds to reach the server at all."""
WORDS = 300
"""Characters of a server's message that are shown."""
SECRET = 8
"""Shorter keys, such as a local server's `EMPTY`, are no secrets but words."""


class RefusedError(Exception):
    """The server does not take this request; it may take others."""


class UnreadableError(RefusedError):
    """The server answers, and in no try with what can be read; it may answer others well."""


class NeverWholeError(RefusedError):
    """The server breaks this output off in every try."""


class UnknownPathError(ValueError):
    """The server answers, and has nothing under this path."""


class UnansweredError(ValueError):
    """All tries of a call are used up."""


@dataclass(frozen=True, slots=True)
class _Trouble:
    reason: str
    way_out: str = "see that the server runs and base_url is right"
    retry_after: float | None = None
    """Seconds, as the server wishes."""
    alone: type[RefusedError] | None = None
    """What it is when the tries are used up, where it need not be about other requests, too."""


class Endpoint:
    """Calls to one server. To be used in one event loop and closed there.

    Raises: ValueError if the address or the key cannot be used.
    """

    def __init__(self, config: OpenAIEngine) -> None:
        self.name = f"openai engine: {config.base_url}"
        self._config = config
        self._base = checked_address(config.base_url)
        headers = httpx.Headers({"Content-Type": "application/json"})
        self._without_key: Callable[[str], str] = str
        if (key := key_of(config.api_key_env)) is not None:
            headers["Authorization"] = f"Bearer {key}"
            if len(key) >= SECRET:
                self._without_key = lambda text: text.replace(key, "[key]")
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(None, connect=CONNECT),
            limits=httpx.Limits(
                max_connections=config.concurrency, max_keepalive_connections=config.concurrency
            ),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def ask(
        self,
        path: str,
        read: Callable[[bytes], T],
        *,
        body: bytes | None = None,
        give_up: asyncio.Event,
    ) -> T:
        """The body of the answer as `read` makes it out; POST with a `body`, else GET.

        A ValueError of `read` counts as trouble that passes. Once `give_up` is set, nothing is
        tried again.

        Raises: RefusedError; UnreadableError and NeverWholeError, which are such, and
            UnansweredError when the attempts are used up; ValueError for what no repetition helps.
        """
        attempt = 1
        while isinstance(outcome := await self._try(path, read, body), _Trouble):
            pause = seconds_to_pause(attempt, self._config.backoff, outcome.retry_after)
            if attempt >= self._config.attempts or await _set_within(pause, give_up):
                tries = f"{attempt} tries" if attempt > 1 else "1 try"
                if outcome.alone is not None:
                    raise outcome.alone(
                        f"{self.name} gave no whole answer in {tries}, the last was "
                        f"{outcome.reason} ({outcome.way_out})"
                    )
                raise UnansweredError(
                    f"{self.name} did not answer in {tries}, the last with {outcome.reason} "
                    f"({outcome.way_out})"
                )
            attempt += 1
        return outcome

    async def _try(self, path: str, read: Callable[[bytes], T], body: bytes | None) -> T | _Trouble:
        # Errors are turned into values here: a raised one would carry the request and its key.
        method = "GET" if body is None else "POST"
        try:
            async with asyncio.timeout(self._config.timeout):
                response = await self._client.request(method, self._base + path, content=body)
        except TimeoutError:
            reason = f"nothing within {self._config.timeout:g} s"
            return _Trouble(reason, "see to the server, or raise timeout")
        except httpx.RequestError as error:
            reason = f"{type(error).__name__} {error}".strip()
            return _Trouble(self._without_key(shortened(reason)))
        if response.is_success:
            try:
                return read(response.content)
            except BrokenOffError as error:
                return _Trouble(str(error), "see to the server", alone=NeverWholeError)
            except (ValueError, RecursionError):
                reason = f"a body that cannot be read: {self._words(response)}"
                return _Trouble(reason, "see to the server", alone=UnreadableError)
        reason = f"status {response.status_code}: {self._words(response)}"
        if response.status_code in PASSING or response.is_server_error:
            way_out = "see to the server"
            if response.status_code == 429:
                way_out = "lower concurrency, or raise attempts and backoff"
            return _Trouble(reason, way_out, _retry_after(response.headers.get("Retry-After")))
        if response.status_code in REFUSALS:
            raise RefusedError(f"the server refused it with {reason}")
        kind = UnknownPathError if response.status_code in NO_SUCH_PATH else ValueError
        raise kind(f"{self.name} answered with {reason}; {self._way_out(response)}")

    def _words(self, response: httpx.Response) -> str:
        """What the server says in an error, however it wraps it."""
        text = response.text
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        for field in ("error", "message", "detail"):
            if isinstance(value, dict) and field in value:
                value = value[field]
        words = value if isinstance(value, str) and value else text
        return self._without_key(shortened(words)) or "nothing more"

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
                target = self._without_key(response.headers["Location"])
                return f"status {status} points to {target}: correct base_url"
            case _:
                return "check base_url and what the server says"


def seconds_to_pause(attempt: int, backoff: float, retry_after: float | None) -> float:
    """How long to wait after this attempt, 1 being the first.

    At least what the server wishes, else anything up to the back-off, which doubles: calls that
    failed together are kept apart.
    """
    if retry_after is not None:
        return min(retry_after, LONGEST_RETRY_AFTER) + random.uniform(0, backoff)
    return random.uniform(0, min(LONGEST_BACKOFF, backoff * 2 ** min(attempt - 1, 32)))


def checked_address(base_url: str, field: str = "base_url") -> str:
    """Without a slash at its end. `field` is what it is called where the user gives it.

    Raises: ValueError if it is no address of a server.
    """
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{field}: {base_url!r} is no address: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(
            f"{field}: {base_url!r} is no address; give one such as http://localhost:8000/v1"
        )
    return base_url.rstrip("/")


def key_of(variable: str | None, field: str = "api_key_env") -> str | None:
    """What an environment variable holds. `field` is where the user names the variable.

    Raises: ValueError if it holds nothing, or what cannot be sent.
    """
    if variable is None:
        return None
    if not variable.isidentifier():
        raise ValueError(
            f"{field}: what stands there is no name of an environment variable (it is not "
            "repeated here, in case it is the key itself); give the variable's name"
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(
            f"{field}: the environment variable {variable} is not set or empty; put the key "
            f"there (export {variable}=…)"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(
            f"{field}: the environment variable {variable} holds a blank or a character beyond "
            "plain ASCII, which no key has; put the key there and nothing else"
        )
    return key


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


async def _set_within(seconds: float, event: asyncio.Event) -> bool:
    """Wait so long, or until the event is set; whether it is."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def shortened(text: str) -> str:
    """On one line, and of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= WORDS else line[:WORDS] + "…"


def check_extra_body(
    extra_body: Mapping[str, Any], ours: Collection[str], field: str = "extra_body"
) -> None:
    """Refuse fields of a request that are set by ourselves, and what JSON has no words for.

    Raises: ValueError.
    """
    for name in ours:
        if name in extra_body:
            raise ValueError(f"{field}: {name} is not for you to set; take it out")
    try:
        json.dumps(dict(extra_body), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{field}: {extra_body} cannot be sent as JSON: {error}") from None
