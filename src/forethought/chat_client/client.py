"""One client of OpenAI-compatible chat endpoints, for samplers, judges, annotators and the proxy.

The key is read once from the environment and stands in the client's headers. Where a server repeats
it in an error it is taken out.

Why not the `openai` package: measured with benchmarks/chat_client.py (openai 3.54, two CPU cores,
November 2026), it takes 136 µs of processor per streamed chunk where this takes 27, 2.0 ms per
request where this takes 1.0, and 1.8 s to import. It gives an error in a body of status 200 as a
reply and a whole body as an empty stream, times reads and not calls, so that a trickle never ends,
does not try 425 again nor what asks for more than two minutes, and its errors carry the key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any

import httpx

from forethought.chat_client.bounds import bound, bound_async
from forethought.types import Message

PASSING = frozenset({408, 409, 425, 429})
"""Statuses that another try may not meet; every 5xx is another one."""
REFUSALS = frozenset({400, 413, 422})
"""Statuses that are about one request."""
OLD_LIMIT, NEW_LIMIT = "max_tokens", "max_completion_tokens"
"""Names of one field: some servers refuse the one, some do not know the other."""
WORDS = 300
"""Characters of a server's message that are shown."""


class ChatClient:
    """Connections to one server. To be used in one event loop and closed there.

    Its methods, and those of `http`, raise httpx.HTTPError where the server cannot be reached or
    the connection breaks.

    Example: `ChatClient("http://localhost:8000/v1", key=None, timeout=httpx.Timeout(600))`
    """

    def __init__(
        self,
        base_url: str,
        *,
        key: str | None,
        timeout: httpx.Timeout,
        limits: httpx.Limits | None = None,
    ) -> None:
        """`base_url` and `key` are such as `checked_address` and `key_of` give."""
        self.base_url = base_url
        self.without_key: Callable[[str], str] = str
        if key is not None:
            self.without_key = lambda text: text.replace(key, "[key]")
        # Over HTTP/1.1 a closed connection is how a server learns that nobody listens any more.
        self.http = httpx.AsyncClient(
            headers=_headers(key),
            timeout=timeout,
            limits=limits or httpx.Limits(),
            event_hooks={"response": [bound_async]},
        )

    async def begin(self, body: Mapping[str, Any]) -> httpx.Response:
        """The answer to a chat request, its content still to be read; the caller closes it."""
        request = self.http.build_request(
            "POST",
            f"{self.base_url}/chat/completions",
            content=encoded(body),
        )
        return await self.http.send(request, stream=True)

    async def words(self, response: httpx.Response) -> str:
        """What the server says in an error, on one line; empty where it says nothing."""
        try:
            await response.aread()
        except httpx.HTTPError:
            return ""
        value: Any = None
        with suppress(ValueError, RecursionError):
            value = json.loads(response.text)
        return shortened(self.without_key(error_message(value) or response.text))

    async def close(self) -> None:
        """Close the connections."""
        await self.http.aclose()


def get_models(base_url: str, key: str | None, seconds: float) -> httpx.Response:
    """The answer of `/models`, without an event loop.

    Raises: httpx.HTTPError.
    """
    with _plain_client(key, seconds) as client:
        return client.get(f"{base_url}/models")


def post_chat(
    base_url: str, key: str | None, body: Mapping[str, Any], seconds: float
) -> httpx.Response:
    """The whole answer to a chat request, without an event loop.

    Raises: httpx.HTTPError.
    """
    with _plain_client(key, seconds) as client:
        return client.post(f"{base_url}/chat/completions", content=encoded(body))


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


def as_turns(messages: Iterable[Message]) -> list[dict[str, str]]:
    """A conversation as a request has it."""
    return [{"role": message.role, "content": message.content} for message in messages]


def laid_over(body: Mapping[str, Any], extra_body: Mapping[str, Any]) -> dict[str, Any]:
    """A request's body with the user's own fields; a null takes a field out.

    Example: `laid_over({"n": 1, "top_p": 1}, {"top_p": None, "top_k": 5}) == {"n": 1, "top_k": 5}`
    """
    fields = {**body, **extra_body}
    return {name: value for name, value in fields.items() if value is not None}


def encoded(value: Any) -> bytes:
    """JSON, with half a surrogate pair as `?`: it has no UTF-8."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def error_message(value: Any) -> str:
    """The message in a JSON value that is an error, however a server wraps it; else empty."""
    for field in ("error", "message", "detail"):
        if isinstance(value, dict) and field in value:
            value = value[field]
    return value if isinstance(value, str) else ""


def shortened(text: str) -> str:
    """On one line, and of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= WORDS else line[:WORDS] + "…"


def _plain_client(key: str | None, seconds: float) -> httpx.Client:
    return httpx.Client(headers=_headers(key), timeout=seconds, event_hooks={"response": [bound]})


def _headers(key: str | None) -> httpx.Headers:
    # Compression would hold back what is streamed.
    headers = httpx.Headers({"Content-Type": "application/json", "Accept-Encoding": "identity"})
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return headers
