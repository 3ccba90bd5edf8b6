"""What is sent to a client: completions, chunks, usage, model cards, in OpenAI's shapes.

A thought gets in here only as `reasoning`, which is `None` for all who may not see it; fields that
a key may not see are left out, not null. There is no `system_fingerprint`: nothing behind this
server promises that equal fingerprints mean equal outputs.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from forethought.serving.backends.base import AnswerEnd, TokenLogprob

Json = dict[str, Any]
LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot say."""
DONE = b"data: [DONE]\n\n"


def encoded(value: Json) -> bytes:
    """As JSON in pure ASCII, which also halves of characters survive."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def event(value: Json) -> bytes:
    """As an event of a stream."""
    return b"data: " + encoded(value) + b"\n\n"


def new_id() -> str:
    """A request's id."""
    return "chatcmpl-" + secrets.token_hex(12)


@dataclass
class Gathered:
    """An answer as far as it is there.

    Example: `Gathered(response=["5"])`
    """

    response: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    """Filled for callers that may see it, and for nobody else."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    end: AnswerEnd | None = None


class Replies:
    """Writes the replies to one request.

    Example: `Replies("chatcmpl-1", "microworld", reasoning=False, logprobs=False)`
    """

    def __init__(
        self, request_id: str, model: str, *, reasoning: bool, logprobs: bool, usage: bool = False
    ) -> None:
        """`usage`: the stream ends with it, and chunks before say null."""
        self._head = {"id": request_id, "created": int(time.time()), "model": model}
        self._tail: Json = {"usage": None} if usage else {}
        self._reasoning = reasoning
        self._logprobs = logprobs

    def completion(self, answers: Sequence[Gathered]) -> Json:
        """The whole reply to a request that does not stream."""
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        ends = [answer.end for answer in answers if answer.end is not None]
        return {
            **self._head,
            "object": "chat.completion",
            "choices": choices,
            "usage": usage(ends),
        }

    def opening(self, index: int) -> Json:
        """The first delta of a choice."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def delta(
        self, index: int, response: str, reasoning: str, logprobs: Sequence[TokenLogprob]
    ) -> Json:
        """A later one."""
        delta: Json = {"content": response} if response or not reasoning else {}
        if self._reasoning and reasoning:
            delta |= {"reasoning": reasoning, "reasoning_content": reasoning}
        return self._chunk(index, delta, logprobs=self._listed(logprobs) if logprobs else None)

    def closing(self, index: int, end: AnswerEnd) -> Json:
        """The last one of a choice."""
        return self._chunk(index, {}, finish_reason=end.finish_reason)

    def usage_chunk(self, ends: Sequence[AnswerEnd]) -> Json:
        """The last one of all, where usage is asked for."""
        return {
            **self._head,
            "object": "chat.completion.chunk",
            "choices": [],
            "usage": usage(ends),
        }

    def _chunk(
        self,
        index: int,
        delta: Json,
        *,
        logprobs: Json | None = None,
        finish_reason: str | None = None,
    ) -> Json:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return chunk | self._tail

    def _choice(self, index: int, answer: Gathered) -> Json:
        assert answer.end is not None, "the answer is not whole"
        message: Json = {"role": "assistant", "content": "".join(answer.response), "refusal": None}
        if self._reasoning:
            thought = "".join(answer.reasoning)
            message |= {"reasoning": thought, "reasoning_content": thought}
        return {
            "index": index,
            "message": message,
            "logprobs": self._listed(answer.logprobs) if self._logprobs else None,
            "finish_reason": answer.end.finish_reason,
        }

    def _listed(self, logprobs: Sequence[TokenLogprob]) -> Json:
        content = [
            {
                **_token(entry.token, entry.logprob),
                "top_logprobs": [_token(token, logprob) for token, logprob in entry.top],
            }
            for entry in logprobs
        ]
        return {"content": content, "refusal": None}


def usage(ends: Sequence[AnswerEnd]) -> Json:
    """What a request cost: its conversation once, all that was written for it."""
    prompt = max((end.prompt_tokens for end in ends), default=0)
    completion = sum(end.completion_tokens for end in ends)
    reasoning = sum(end.reasoning_tokens for end in ends)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def model_card(model: str, created: int, *, think_off: bool) -> Json:
    """An entry of `/v1/models`; `think_off` is whether it may be asked not to think."""
    card = {"id": model, "object": "model", "created": created, "owned_by": "forethought"}
    return {**card, "think_off": think_off}


def _token(token: str, logprob: float) -> Json:
    # Not a number and minus infinity have no place in JSON.
    number = max(logprob, LEAST_LOGPROB) if math.isfinite(logprob) else LEAST_LOGPROB
    return {
        "token": token,
        "logprob": number,
        "bytes": list(token.encode("utf-8", "surrogatepass")),
    }
