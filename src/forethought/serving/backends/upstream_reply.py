"""Reads the reply of an OpenAI-compatible server, streamed or whole, into pieces.

Tokens are counted by `usage` where a chunk has it (vLLM and SGLang say so far how many), else by
`logprobs`, else as one per chunk with text; what `usage` at the end says beyond that is in the last
piece. A reply that came whole is cut into as many pieces as it has tokens, of equal length, so that
limits in tokens hold for it too, about.

Reasoning that the server has taken out of the output (`reasoning`, or `reasoning_content`, which
means the same, or parts of `content` that are thinking) stands in a field of its own. Of several
such fields the first counts that holds more than white space. One output was asked for: choices
with an index other than 0 are passed over.

Where the format's markers are tokens the server sends token ids (`return_token_ids`), and the text
is decoded here: its own would not tell a marker from text that spells one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from forethought.chat_client.reply import counted, how_it_ended, said_and_thought
from forethought.serving.backends.base import BackendError, Piece, TokenLogprob
from forethought.serving.backends.detokenize import IncrementalDetokenizer
from forethought.types import FinishReason

DONE = b"[DONE]"
LOWEST = -9999.0
"""Stands for a log-probability that JSON has no number for."""
SURROGATES = re.compile("[\ud800-\udfff]")
HIGH_SURROGATES = re.compile("[\ud800-\udbff]$")


class UpstreamReply:
    """One reply. `read` takes the payloads of its events, `read_whole` a body that is not streamed.

    Both raise BackendError, never with words of the reply.
    """

    def __init__(
        self,
        *,
        text_is_response: bool,
        max_tokens: int | None = None,
        by_token: IncrementalDetokenizer | None = None,
    ) -> None:
        """`max_tokens` tells an output of which no end is said from one that was cut off there.
        With `by_token` the text is that of the reply's token ids, and its own is not looked at."""
        self._by_token = by_token
        self._text_is_response = text_is_response
        self._max_tokens = max_tokens
        self._text, self._reasoning = _Characters(), _Characters()
        self._prompt_tokens: int | None = None
        self._total: int | None = None
        self._counted = 0
        self.finish_reason: FinishReason | None = None
        self.done = False
        """Nothing more is to come."""

    def read(self, data: bytes) -> Piece | None:
        """What a chunk adds, if anything."""
        if data.strip() == DONE:
            self.done = True
            return None
        chunk = _parsed(data)
        self._read_usage(chunk)
        choice = _first_choice(chunk)
        if choice is None:
            return None
        return self._piece(choice, _fields(choice, "delta"))

    def read_whole(self, body: bytes) -> Iterator[Piece]:
        """The pieces of a reply in one body."""
        chunk = _parsed(body)
        self._read_usage(chunk)
        choice = _first_choice(chunk)
        if choice is None:
            raise BackendError("the upstream gave a reply without choices")
        total, self._total = self._total, None
        piece = self._piece(choice, _fields(choice, "message"))
        self._total, self._counted = total, 0
        self.done = True
        if piece is not None:
            for part in _cut(piece, total):
                self._counted += part.tokens
                yield part

    def last(self) -> Piece:
        """The end, with the tokens that no piece has counted.

        Raises: BackendError if the output has no end.
        """
        if self.finish_reason is None:
            if not self.done:
                raise BackendError("the upstream broke off in the middle of an output")
            total = self._total or self._counted
            cut = self._max_tokens is not None and total >= self._max_tokens
            self.finish_reason = "length" if cut else "stop"
        tokens = max((self._total or 0) - self._counted, 0)
        text = self._text.flush() if self._by_token is None else self._by_token.finish()
        return self._made(text, self._reasoning.flush(), tokens, (), self.finish_reason)

    def _piece(self, choice: dict[str, Any], fields: dict[str, Any]) -> Piece | None:
        text, thought = _content_of(fields)
        names = ("reasoning", "reasoning_content")
        said = [text for text in (thought, *(_text_of(fields, name) for name in names)) if text]
        reasoning = next((text for text in said if text.strip()), said[0] if said else "")
        if reasoning:
            reasoning = self._reasoning.feed(reasoning)
        if self._by_token is not None:
            text = "".join(map(self._by_token.push, _token_ids(choice, text)))
        elif text:
            text = self._text.feed(text)
        logprobs = _read_logprobs(choice.get("logprobs"))
        if self._total is not None:
            tokens = max(self._total - self._counted, 0)
        else:
            tokens = len(logprobs) or int(bool(text or reasoning))
        self._counted += tokens
        self._read_finish(choice.get("finish_reason"))
        if not (text or reasoning or tokens):
            return None
        return self._made(text, reasoning, tokens, logprobs, None)

    def _made(
        self,
        text: str,
        reasoning: str,
        tokens: int,
        logprobs: tuple[TokenLogprob, ...],
        finish_reason: FinishReason | None,
    ) -> Piece:
        return Piece(
            text=text,
            tokens=tokens,
            logprobs=logprobs,
            prompt_tokens=self._prompt_tokens,
            finish_reason=finish_reason,
            reasoning=reasoning,
            text_is_response=self._text_is_response,
        )

    def _read_usage(self, chunk: dict[str, Any]) -> None:
        usage = chunk.get("usage")
        if not isinstance(usage, dict):
            return
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if (count := counted(prompt)) is not None:
            self._prompt_tokens = count
        if (count := counted(completion)) is not None:
            self._total = count

    def _read_finish(self, reason: Any) -> None:
        match how_it_ended(reason):
            case "unsaid":
                return
            case "stop" | "length" as ended:
                self.finish_reason = ended
            case "refused":
                raise BackendError(f"the upstream ended an output with finish_reason {reason}")
            case "broken":
                raise BackendError(
                    "the upstream broke an output off, or ended it with an unknown finish_reason"
                )


class _Characters:
    """Whole characters out of chunks that may cut a surrogate pair in two."""

    def __init__(self) -> None:
        self._high = ""

    def feed(self, text: str) -> str:
        if not self._high and not SURROGATES.search(text):
            return text
        text = self._high + text
        self._high = text[-1] if HIGH_SURROGATES.search(text) else ""
        text = text[: len(text) - len(self._high)]
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def flush(self) -> str:
        """Half a character at the end is none."""
        high, self._high = self._high, ""
        return "\ufffd" if high else ""


def _parsed(data: bytes) -> dict[str, Any]:
    """The object that a payload is, an error in it raised."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        # Outside the except clause: the error there holds the payload.
        raise BackendError("the upstream sent something other than a JSON object")
    if value.get("error"):
        raise BackendError("the upstream reported an error in the middle of an output")
    return value


def _first_choice(chunk: dict[str, Any]) -> dict[str, Any] | None:
    choices = chunk.get("choices")
    if not choices:
        return None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise BackendError("the upstream sent choices that are no list of objects")
    return next((choice for choice in choices if choice.get("index") in (None, 0)), None)


def _fields(choice: dict[str, Any], name: str) -> dict[str, Any]:
    fields = choice.get(name) or {}
    if not isinstance(fields, dict):
        raise BackendError(f"the upstream sent a {name} that is no object")
    return fields


def _content_of(fields: dict[str, Any]) -> tuple[str, str]:
    """The text, and what the upstream says is thinking in parts of its own."""
    try:
        return said_and_thought(fields.get("content"))
    except ValueError:
        pass
    raise BackendError("the upstream sent a content that is no text")


def _token_ids(choice: dict[str, Any], text: str) -> list[int]:
    ids = choice.get("token_ids")
    if ids is None and not text:
        return []
    if isinstance(ids, list) and all(type(id_) is int and id_ >= 0 for id_ in ids):
        return ids
    raise BackendError("the upstream sent text without its token ids, by which it is to be split")


def _text_of(fields: dict[str, Any], name: str) -> str:
    text = fields.get(name)
    if text is not None and not isinstance(text, str):
        raise BackendError(f"the upstream sent a {name} that is no text")
    return text or ""


def _read_logprobs(value: Any) -> tuple[TokenLogprob, ...]:
    content = value.get("content") if isinstance(value, dict) else None
    if not content:
        return ()
    try:
        return tuple(
            TokenLogprob(
                token=_scalar(entry["token"]),
                logprob=_number(entry["logprob"]),
                top=tuple(
                    (_scalar(rival["token"]), _number(rival["logprob"]))
                    for rival in entry.get("top_logprobs") or ()
                ),
            )
            for entry in content
        )
    except (KeyError, TypeError, AttributeError, OverflowError):
        pass
    raise BackendError("the upstream sent log-probabilities that cannot be read")


def _scalar(token: Any) -> str:
    return SURROGATES.sub("\ufffd", token)


def _number(value: Any) -> float:
    number = float(value or 0.0) if not isinstance(value, str) else math.nan
    return max(number, LOWEST) if math.isfinite(number) else LOWEST


def _cut(piece: Piece, total: int | None) -> Iterator[Piece]:
    """A whole reply in pieces of a token each: as its tokens are, or else of equal length."""
    tokens = total if total is not None else piece.tokens
    of_text = tokens
    if piece.reasoning:
        share = len(piece.text) / (len(piece.reasoning) + len(piece.text))
        of_text = round(tokens * share)
        yield replace(piece, text="", tokens=tokens - of_text, logprobs=())
    if not piece.text:
        return
    if "".join(logprob.token for logprob in piece.logprobs) == piece.text:
        for logprob in piece.logprobs:
            yield replace(piece, text=logprob.token, tokens=1, logprobs=(logprob,), reasoning="")
        return
    count = max(min(of_text, len(piece.text)), 1)
    for index in range(count):
        start, end = (len(piece.text) * place // count for place in (index, index + 1))
        yield replace(piece, text=piece.text[start:end], tokens=1, logprobs=(), reasoning="")
