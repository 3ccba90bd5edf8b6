"""What servers put into two fields of a chat reply beside what the protocol names: one reading.

`finish_reason` is `stop` or `length` in the protocol. Servers also write the names of their own
engines (`eos`, `eos_token`, `end_turn`, `stop_sequence`, `max_tokens`), an empty string or null at
an ordinary end, and `abort` or `error` where they broke the output off. A reason that is not known
counts as broken off: an output of which nobody knows how it ended is no answer.

`content` is a text in the protocol. Servers of models that think also send a list of parts, of
which some are thinking.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from forethought.chat_client.client import encoded

Ending = Literal["stop", "length", "unsaid", "refused", "broken"]

STOP = frozenset(
    {"stop", "eos", "eos_token", "end_turn", "end_of_turn", "stop_sequence", "stop_token"}
    | {"stop_string", "stop_str", "complete", "completed", "done", "end", "finish", "finished"}
)
LENGTH = frozenset(
    {"length", "max_tokens", "max_token", "max_length", "max_new_tokens", "max_output_tokens"}
    | {"model_length", "model_context_window_exceeded"}
)
REFUSED = frozenset(
    {"content_filter", "tool_calls", "tool_use", "function_call", "refusal", "safety"}
)
"""Ends that another try would meet again."""
TEXTS = frozenset({"text", "output_text", "input_text", None})
THOUGHTS = ("thinking", "reasoning", "thought", "summary", "text", "content")
"""Fields in which a part that thinks holds its words."""
MOST_TOKENS = 2**31 - 1
"""Of one reply; a server that says more has not counted."""


class _Message(BaseModel):
    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: Any = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


def counted(value: Any) -> int | None:
    """A number of tokens as a server says it; `None` where it is none that there can be.

    Example: `counted(12) == 12`, `counted(-1) is None`, `counted(10**30) is None`
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= MOST_TOKENS and value == int(value) else None


_Count = Annotated[int | None, BeforeValidator(counted)]


class Usage(BaseModel):
    """Tokens that a server counted.

    Example: `Usage(prompt_tokens=10, completion_tokens=3)`
    """

    prompt_tokens: _Count = None
    completion_tokens: _Count = None


class ChatReply(BaseModel):
    """A chat completion, with the token ids that some servers add."""

    choices: list[_Choice] = Field(min_length=1)
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = None


class ModelCard(BaseModel):
    """A model that a server lists.

    Example: `ModelCard(id="policy", root="runs/a/thought/iteration_0/selection/policy")`
    """

    id: str
    root: str | None = None
    """Where the server has loaded it from, as vLLM and SGLang say."""
    think_off: bool | None = None
    """Whether it may be asked not to think, as our own server says."""


class _ModelCards(BaseModel):
    data: list[ModelCard]


class BrokenOffError(ValueError):
    """The server broke its output off; another try may end well."""


def how_it_ended(reason: Any) -> Ending:
    """What a `finish_reason` means, whichever way it is spelled.

    Example: `how_it_ended("eos_token") == "stop"`, `how_it_ended("abort") == "broken"`
    """
    if isinstance(reason, dict):
        # SGLang's own: {"type": "stop", "matched": 2}.
        reason = reason.get("type")
    if reason is None:
        return "unsaid"
    if not isinstance(reason, str):
        return "broken"
    match reason.strip().lower():
        case "" | "null" | "none":
            return "unsaid"
        case word if word in STOP:
            return "stop"
        case word if word in LENGTH:
            return "length"
        case word if word in REFUSED:
            return "refused"
        case _:
            return "broken"


def said_and_thought(content: Any) -> tuple[str, str]:
    """The text of a message's `content`, and the thinking that stands in it as parts of its own.

    Raises: ValueError if it is neither a text nor parts.
    """
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    parts = [content] if isinstance(content, dict) else content
    if not isinstance(parts, list):
        raise ValueError(f"a content that is a {type(content).__name__}")
    said: list[str] = []
    thought: list[str] = []
    for part in parts:
        if isinstance(part, str):
            said.append(part)
        elif not isinstance(part, dict):
            raise ValueError(f"a part of a content that is a {type(part).__name__}")
        elif part.get("type") in TEXTS:
            said.append(_words(part.get("text")))
        else:
            # Thinking, or nothing that is said, such as a tool's call.
            thought.append(_words([part[name] for name in THOUGHTS if name in part]))
    return "".join(said), "".join(thought)


def read_chat_reply(body: bytes) -> ChatReply:
    """Raises: ValueError if it is no chat completion; BrokenOffError if it was not ended."""
    reply = ChatReply.model_validate_json(encoded(json.loads(body)))
    choice = reply.choices[0]
    said_and_thought(choice.message.content)
    refuse_broken_off(choice.finish_reason)
    return reply


def read_models(body: bytes) -> list[ModelCard]:
    """Raises: ValueError if it is no list of models."""
    return _ModelCards.model_validate_json(body).data


def meant_model(
    cards: Sequence[ModelCard], name: str | None, server: str, advice: str
) -> ModelCard:
    """The model of this name, or the only one.

    Raises: ValueError if it is not there, or there are several.
    """
    meant = [card for card in cards if name is None or card.id == name]
    if len(meant) == 1:
        return meant[0]
    served = ", ".join(card.id for card in cards) or "no model"
    now = f", which is {name!r} now" if name else ""
    raise ValueError(f"{server} serves {served}; {advice}{now}")


def refuse_broken_off(reason: Any) -> None:
    """Raises: BrokenOffError if this `finish_reason` says so, or is unknown."""
    if how_it_ended(reason) == "broken":
        raise BrokenOffError(f"an output that ended with finish_reason {reason!r:.80}")


def _words(value: Any) -> str:
    """All words in a value, however deep servers put them."""
    match value:
        case str():
            return value
        case list():
            return "".join(map(_words, value))
        case dict():
            return "".join(_words(value[name]) for name in THOUGHTS if name in value)
        case _:
            return ""
