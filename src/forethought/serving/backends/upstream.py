"""A server with an OpenAI-compatible API as backend: vLLM, SGLang, llama.cpp, Ollama, hosted.

One draw is one streamed `POST /chat/completions`; closing the draw closes its connection, and such
servers then stop at once. Connections are kept and used again.

- Contents go to the upstream as they are. Control tokens spelled out in them are for the upstream's
  tokenizer to see to.
- Reasoning that the upstream has taken out itself is not put back into the text: it travels beside
  it and stays thought whatever it holds and wherever in the output it comes. What it says about the
  text stands in thought_filter.py. Where the upstream's parser knows the format
  (`text_is_response`), the text is response.
- `max_tokens` becomes `max_completion_tokens`, and `continuous_usage_stats` or `stream_options` are
  left out, for good, once a refusal names them.
- An upstream that cannot be reached, or closes before a byte of its answer, is tried again a
  little. Nothing else is: an output may have begun.
- Errors hold no body, with one exception: a refusal of the conversation (400, 413, 422) is shown
  shortened where nothing but the client's own words had been sent, and the key is taken out of it.

    backend = UpstreamBackend("http://localhost:8000/v1", model="policy")
    async for piece in backend.draw(draw): ...
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

import httpx

from forethought.chat_client.client import (
    NEW_LIMIT,
    OLD_LIMIT,
    PASSING,
    REFUSALS,
    ChatClient,
    as_turns,
    check_extra_body,
    checked_address,
    get_models,
    key_of,
    laid_over,
    post_chat,
)
from forethought.chat_client.reply import meant_model, read_chat_reply, read_models
from forethought.chat_client.sse import EventTooLongError, payloads
from forethought.models.rendering import encode_output
from forethought.serving.backends.base import BackendError, Draw, Piece, RefusedDrawError
from forethought.serving.backends.detokenize import IncrementalDetokenizer
from forethought.serving.backends.upstream_reply import UpstreamReply
from forethought.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OURS = ("model", "messages", "n", "stream")
GOING_ON = {"continue_final_message": True, "add_generation_prompt": False}
"""Fields that ask for the rest of the last turn, which is the model's own."""
TOKEN_IDS = {"return_token_ids": True}
PAUSES = (0.1, 0.4, None)
"""Seconds after each try that did not reach the upstream."""
CONNECT = 10.0
"""Seconds to reach the upstream at all."""
LOOK = 5.0
"""Seconds for a question about its health or its models."""
CONTINUES = 120.0
"""Seconds to write the one token that shows whether it goes on from a text."""
AFTER_FINISH = 5.0
"""Seconds for the usage that follows the end of an output."""
AFTER_DONE = 0.05
"""Seconds for the end of the body, so that its connection can be used again."""
IDLE = 4.0
"""Seconds that an idle connection is kept: less than common servers keep theirs."""
BEFORE_THE_ANSWER = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.RemoteProtocolError,
)


class UpstreamBackend:
    """Draws at another server. To be used in one event loop and closed there.

    Example: `UpstreamBackend("http://localhost:8000/v1", model="policy", can_continue=True)`
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        api_key_env: str | None = None,
        can_continue: bool = False,
        text_is_response: bool = False,
        extra_body: Mapping[str, Any] | None = None,
        by_token: PreTrainedTokenizerBase | None = None,
        markers: Sequence[str] = (),
    ) -> None:
        """`model` is its name at the upstream, see `upstream_model`.

        `api_key_env` names the environment variable that holds the key. `can_continue`: the
        upstream knows `continue_final_message`, see `check_continues`. `text_is_response`: its
        reasoning parser splits by the policy's own format. `extra_body` is laid over the body, a
        null in it takes a field out. With the tokenizer `by_token`, of which each of `markers` is
        a token, outputs are decoded here from their ids, see `sends_token_ids`.

        Raises: ValueError if the address, the key or `extra_body` cannot be used.
        """
        address = checked_address(base_url, field="upstream")
        self._model = model
        self._can_continue = can_continue
        self._text_is_response = text_is_response
        self._tokenizer, self._markers = by_token, tuple(markers)
        self._extra = dict(extra_body or {})
        check_extra_body(self._extra, OURS, field="upstream body")
        self._limit = OLD_LIMIT
        self._stream_options: dict[str, bool] = {
            "include_usage": True,
            "continuous_usage_stats": True,
        }
        self._client = ChatClient(
            address,
            key=key_of(api_key_env, field="upstream key"),
            timeout=httpx.Timeout(None, connect=CONNECT),
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=512, keepalive_expiry=IDLE
            ),
        )

    @property
    def model(self) -> str:
        """The model's name at the upstream."""
        return self._model

    @property
    def can_continue(self) -> bool:
        """As the operator said."""
        return self._can_continue

    async def draw(self, draw: Draw) -> AsyncGenerator[Piece, None]:
        """One output, piece by piece.

        Raises: RefusedDrawError, BackendError.
        """
        if draw.barred:
            raise RefusedDrawError(
                "the server behind this one cannot keep an answer from thinking; leave think out"
            )
        assert self._can_continue or not draw.begun, "asked to go on by a caller that may not"
        response = await self._begin(draw)
        reply = UpstreamReply(
            text_is_response=self._text_is_response,
            max_tokens=draw.max_tokens,
            by_token=self._detokenizer(draw),
        )
        broken = ""
        try:
            if _streams(response):
                async with aclosing(payloads(response.aiter_bytes())) as events:
                    async for data in events:
                        piece = reply.read(data)
                        if piece is not None:
                            yield piece
                        if reply.done or reply.finish_reason is not None:
                            break
                    await _read_rest(events, reply)
            else:
                for piece in reply.read_whole(await response.aread()):
                    yield piece
        except httpx.HTTPError as error:
            broken = f"the connection to the upstream broke ({type(error).__name__})"
        except EventTooLongError:
            broken = "the upstream sent an event that is too long"
        finally:
            await response.aclose()
        if broken:
            raise BackendError(broken)
        yield reply.last()

    async def healthy(self) -> bool:
        """Whether the upstream answers `/models`, or `/health` where it has no models."""
        base = self._client.base_url
        root = base.removesuffix("/v1")
        for address in (f"{base}/models", f"{root}/health"):
            try:
                response = await self._client.http.get(address, timeout=LOOK)
            except httpx.HTTPError:
                return False
            if response.status_code != httpx.codes.NOT_FOUND:
                return response.is_success
        return False

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _begin(self, draw: Draw) -> httpx.Response:
        """The answer of the upstream, its body still to be read."""
        while True:
            sent = (self._limit, dict(self._stream_options))
            response = await self._send(self._body(draw))
            if response.is_success:
                return response
            async with aclosing(response):
                words = await self._client.words(response)
            if response.status_code not in REFUSALS:
                raise BackendError(_trouble(response.status_code))
            self._leave_out_what_is_named_in(words)
            if sent == (self._limit, self._stream_options):
                reason = "the upstream does not take this conversation"
                if words and not draw.begun:
                    # What is gone on from is a thought, and a refusal may repeat it.
                    reason = f"{reason}: {words}"
                raise RefusedDrawError(f"{reason} (status {response.status_code})")

    async def _send(self, body: dict[str, Any]) -> httpx.Response:
        failure = ""
        for pause in PAUSES:
            try:
                return await self._client.begin(body)
            except BEFORE_THE_ANSWER as error:
                failure = type(error).__name__
            if pause is not None:
                await asyncio.sleep(pause)
        raise BackendError(f"the upstream cannot be reached ({failure})")

    def _body(self, draw: Draw) -> dict[str, Any]:
        turns = as_turns(draw.messages)
        body: dict[str, Any] = {
            "model": self._model,
            "messages": turns,
            "n": 1,
            "stream": True,
            "stream_options": self._stream_options or None,
            "temperature": draw.temperature,
            "top_p": draw.top_p,
            "seed": None if draw.seed is None else draw.seed % 2**31,
            self._limit: draw.max_tokens,
        }
        if draw.top_logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": draw.top_logprobs}
        if self._tokenizer is not None:
            body |= TOKEN_IDS
        if draw.begun:
            turns.append({"role": "assistant", "content": draw.begun})
            body |= GOING_ON
        return laid_over(body, self._extra)

    def _detokenizer(self, draw: Draw) -> IncrementalDetokenizer | None:
        if self._tokenizer is None:
            return None
        before = encode_output(self._tokenizer, draw.begun, self._markers)
        return IncrementalDetokenizer(self._tokenizer, before, self._markers)

    def _leave_out_what_is_named_in(self, words: str) -> None:
        if NEW_LIMIT in words:
            self._limit = NEW_LIMIT
        if "continuous_usage_stats" in words:
            self._stream_options.pop("continuous_usage_stats", None)
        elif "stream_options" in words:
            self._stream_options.clear()


def upstream_model(base_url: str, *, model: str | None, api_key_env: str | None) -> str:
    """The name of the model that the upstream serves: the given one, or its only one.

    Raises: ValueError if it cannot be asked, does not serve that model, or serves several.
    """
    base = checked_address(base_url, field="upstream")
    try:
        response = get_models(base, key_of(api_key_env, field="upstream key"), CONNECT)
    except httpx.HTTPError as error:
        failure = type(error).__name__
    else:
        failure = "" if response.is_success else f"status {response.status_code}"
        if not failure:
            return _meant(response, base, model)
    raise ValueError(
        f"upstream: {base}/models cannot be asked ({failure}); see that the server runs, that the "
        "address is right (it mostly ends in /v1) and that the key is its key"
    )


def check_continues(
    base_url: str, *, model: str, api_key_env: str | None, extra_body: Mapping[str, Any]
) -> None:
    """See that the upstream goes on from a text, as vLLM and SGLang do, and does not begin anew.

    Asked to go on from it, a server leaves out what closes the last turn and opens the next, so the
    conversation has fewer tokens than without being asked to.

    Raises: ValueError if it has not, or if the upstream does not say how many it has.
    """
    base = checked_address(base_url, field="upstream")
    key = key_of(api_key_env, field="upstream key")
    body: dict[str, Any] = {
        "model": model,
        "messages": as_turns(
            [Message(role="user", content="Hello"), Message(role="assistant", content="Yes")]
        ),
        "max_tokens": 1,
    }
    lengths: list[int] = []
    for fields in (GOING_ON, {}):
        try:
            response = post_chat(base, key, laid_over(body | fields, extra_body), CONTINUES)
        except httpx.HTTPError as error:
            raise ValueError(_does_not_continue(base, type(error).__name__)) from None
        if not response.is_success:
            raise ValueError(_does_not_continue(base, f"status {response.status_code}"))
        lengths.append(_prompt_tokens(response, base))
    going_on, anew = lengths
    if going_on >= anew:
        raise ValueError(_does_not_continue(base, "it begins a new turn behind the text"))


def sends_token_ids(
    base_url: str, *, model: str, api_key_env: str | None, extra_body: Mapping[str, Any]
) -> bool:
    """Whether the upstream gives an output's token ids, as vLLM does.

    Raises: ValueError if it cannot be asked.
    """
    base = checked_address(base_url, field="upstream")
    body: dict[str, Any] = {
        "model": model,
        "messages": as_turns([Message(role="user", content="Hello")]),
        "max_tokens": 1,
    }
    key = key_of(api_key_env, field="upstream key")
    try:
        response = post_chat(base, key, laid_over(body | TOKEN_IDS, extra_body), CONTINUES)
    except httpx.HTTPError as error:
        failure = type(error).__name__
        raise ValueError(f"upstream: {base} does not write one token ({failure})") from None
    if not response.is_success:
        return False
    try:
        choices = read_chat_reply(response.content).choices
    except ValueError:
        return False
    return bool(choices and choices[0].token_ids)


def _prompt_tokens(response: httpx.Response, base: str) -> int:
    try:
        usage = read_chat_reply(response.content).usage
    except ValueError:
        usage = None
    if usage is None or usage.prompt_tokens is None:
        raise ValueError(_does_not_continue(base, "it does not say how long a prompt is"))
    return usage.prompt_tokens


def _does_not_continue(base: str, why: str) -> str:
    return (
        f"--upstream-continues: {base} was asked to go on from a text, and nothing shows that it "
        f"does ({why}); what it writes behind a thought that was cut off may be another thought, "
        "so leave the option out"
    )


def _meant(response: httpx.Response, base: str, model: str | None) -> str:
    try:
        cards = read_models(response.content)
    except ValueError:
        raise ValueError(f"upstream: {base}/models is no list of models; correct it") from None
    return meant_model(cards, model, f"upstream: {base}", "name the one to use").id


async def _read_rest(events: AsyncGenerator[bytes, None], reply: UpstreamReply) -> None:
    """Behind the last text: the usage, and the end of the body if it comes soon."""
    if not reply.done and reply.finish_reason is None:
        return
    loop = asyncio.get_running_loop()
    patience = AFTER_DONE if reply.done else AFTER_FINISH
    # Whatever goes wrong from here on, the output is whole.
    with suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(patience) as limit:
            async for data in events:
                reply.read(data)
                if reply.done:
                    limit.reschedule(loop.time() + AFTER_DONE)


def _streams(response: httpx.Response) -> bool:
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind != "application/json"


def _trouble(status: int) -> str:
    match status:
        case 401 | 403:
            reason = "it does not take our key"
        case 404:
            reason = "it has no such address or no such model"
        case _ if status in PASSING or status >= 500:
            reason = "it is in trouble or too busy"
        case _:
            reason = "that is no answer of a chat endpoint"
    return f"the upstream answered with status {status}: {reason}"
