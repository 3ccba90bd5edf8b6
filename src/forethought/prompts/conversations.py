"""The prompt in a record of a file or data set.

What a record may hold in its prompt column:

- a string: one user turn;
- a list of messages: an optional system turn, then user and assistant in turn. `{role, content}`
  ends with the user's turn; `{from, value}` is ShareGPT's form (`human`, `gpt`, `system` and their
  other names), whose last answer, if there is one, is left out: the policy is to write it. Other
  keys of a message are ignored. An empty system turn is dropped, and the assistant's turns lose
  their thoughts: a thought is never part of a history;
- such a list as JSON in a string, as tables hold it;
- a list of strings, such as the `turns` of MT-bench: user turns whose replies are not known. They
  become one user message, joined by a blank line, because most chat templates demand that roles
  alternate and no answer may be made up.

Text is taken as it is: no trimming, no normalisation; control characters and NUL stay. A lone
surrogate is refused, because it has no UTF-8 form that a tokenizer or Parquet could hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from typing import Any, cast

from forethought.config import ColumnsConfig
from forethought.storage.files import content_hash
from forethought.types import Message, Prompt, Role

StripThought = Callable[[str], str]
"""Such as the `strip_thought` of a thought format."""

DEFAULT_COLUMN = ColumnsConfig().prompt
OTHER_NAMES = ("messages", "conversations")
"""Taken where the recipe names no prompt column and a record has none of the default name."""
SPEAKERS: Mapping[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
}
"""Who speaks in ShareGPT's form."""
LOOKS_LIKE_MESSAGES = re.compile(
    r"""\s*\[\s*\{\s*['"](role|from|content|value)['"]\s*:.*\}\s*\]\s*""", re.S
)
"""A text that can hardly be meant as a question."""


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """One record of a source, and where it stands.

    Example: `PromptRecord("prompts.jsonl, line 3", {"prompt": "Hi"})`
    """

    where: str
    row: Mapping[str, Any]

    def wrong(self, column: str, problem: str, value: Any, way_out: str) -> ValueError:
        """The error for a value of this record, naming its place and the way out."""
        shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}…"
        return ValueError(f"{self.where}, column {column!r}: {problem}, got {shown}; {way_out}")


def prompt_id_of(messages: Sequence[Message]) -> str:
    """The content hash that names a conversation."""
    return content_hash([{"role": m.role, "content": m.content} for m in messages])[:16]


def prompt_column(columns: ColumnsConfig, there: Collection[str]) -> str:
    """The column that holds the prompt, of those that are there."""
    if columns.prompt != DEFAULT_COLUMN or columns.prompt in there:
        return columns.prompt
    return next((name for name in OTHER_NAMES if name in there), columns.prompt)


def columns_wanted(columns: ColumnsConfig, there: Collection[str], place: str) -> list[str]:
    """The names of the columns to read.

    Raises: ValueError naming the place and the column that is not there.
    """
    prompt = prompt_column(columns, there)
    named = (prompt, columns.input, columns.category, columns.reference)
    wanted = [column for column in named if column is not None]
    for column in wanted:
        if column not in there:
            raise missing_column(place, column, there)
    return wanted


def missing_column(place: str, column: str, available: Iterable[str]) -> ValueError:
    """The error for a column that a source has not."""
    return ValueError(
        f"prompts: {place} has no column {column!r}; it has {sorted(available)}: "
        "set `columns` of this source to the names it uses"
    )


def prompt_of(
    record: PromptRecord, columns: ColumnsConfig, source: str, strip_thought: StripThought
) -> Prompt:
    """The prompt in a record.

    Raises: ValueError naming the record's place and the column.
    """
    column = prompt_column(columns, record.row.keys())
    if column not in record.row:
        raise missing_column(record.where, column, record.row)
    messages = _messages(record, column, strip_thought)
    if columns.input is not None and record.row.get(columns.input) not in (None, ""):
        below = _text(record, columns.input, record.row[columns.input], "the input")
        whole = f"{messages[-1].content}\n\n{below}"
        messages = (*messages[:-1], Message(role="user", content=whole))
    return Prompt(
        prompt_id=prompt_id_of(messages),
        messages=messages,
        category=_label(record, columns.category),
        source=source,
        reference=_reference(record, columns.reference),
    )


def _messages(
    record: PromptRecord, column: str, strip_thought: StripThought
) -> tuple[Message, ...]:
    value = record.row[column]
    if isinstance(value, str):
        value = _unpacked(record, column, value)
    if isinstance(value, str):
        return (Message(role="user", content=_text(record, column, value, "the prompt")),)
    if isinstance(value, list) and value and all(isinstance(turn, str) for turn in value):
        turns = [_text(record, column, turn, f"turn {n}") for n, turn in enumerate(value, start=1)]
        return (Message(role="user", content="\n\n".join(turns)),)
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return _conversation(record, column, value, strip_thought)
    way_out = "give a string, a list of {role, content} messages, or a list of user turns"
    raise record.wrong(column, "not a prompt", value, way_out)


def _unpacked(record: PromptRecord, column: str, text: str) -> Any:
    """The messages that a string holds as JSON, else the string."""
    if not LOOKS_LIKE_MESSAGES.fullmatch(text):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = f"it looks like messages and is not JSON ({error})"
        way_out = "store the list itself, or what json.dumps makes of it"
        raise record.wrong(column, problem, text, way_out) from error


def _conversation(
    record: PromptRecord,
    column: str,
    turns: Sequence[Mapping[str, Any]],
    strip_thought: StripThought,
) -> tuple[Message, ...]:
    messages: list[Message] = []
    spoken = [_spoken(record, column, number, turn) for number, turn in enumerate(turns, start=1)]
    if _is_sharegpt(turns[-1]) and spoken[-1][0] == "assistant":
        spoken.pop()
    for number, (role, content) in enumerate(spoken, start=1):
        name = f"turn {number}"
        if role == "system" and number == 1 and isinstance(content, str) and not content.strip():
            continue
        allowed: tuple[Role, ...] = ("assistant",) if _asks(messages) else ("user",)
        allowed = ("system", "user") if number == 1 else allowed
        if role not in allowed:
            problem = f"{name} must be of role {' or '.join(allowed)}"
            way_out = "after an optional system turn, user and assistant alternate"
            raise record.wrong(column, problem, turns[number - 1], way_out)
        text = _text(record, column, content, name)
        if role == "assistant" and not (text := strip_thought(text)).strip():
            way_out = "a thought is no part of a history: remove the turns or give the answer"
            raise record.wrong(column, f"{name} holds a thought and no answer", content, way_out)
        messages.append(Message(role=cast(Role, role), content=text))
    if not _asks(messages):
        way_out = "leave the last answer out: the policy is to write it"
        raise record.wrong(column, "the last turn is not the user's", turns[-1], way_out)
    return tuple(messages)


def _spoken(
    record: PromptRecord, column: str, number: int, turn: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Role and content of a turn in either form."""
    if not _is_sharegpt(turn):
        return turn.get("role"), turn.get("content")
    speaker = turn["from"]
    if speaker not in SPEAKERS:
        problem = f"turn {number} is from {speaker!r}, which is none of {', '.join(SPEAKERS)}"
        raise record.wrong(column, problem, turn, "remove such turns, or rename who speaks")
    return SPEAKERS[speaker], turn.get("value")


def _is_sharegpt(turn: Mapping[str, Any]) -> bool:
    return "from" in turn and "role" not in turn


def _asks(messages: Sequence[Message]) -> bool:
    return bool(messages) and messages[-1].role == "user"


def _text(record: PromptRecord, column: str, value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise record.wrong(column, f"{name} is not text", value, "give a string")
    if not value.strip():
        raise record.wrong(column, f"{name} is empty", value, "remove the record or fill it in")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        problem = f"{name} has a lone surrogate at character {error.start}"
        shown = value[error.start : error.start + 20]
        raise record.wrong(column, problem, shown, "repair or remove the character") from error
    return value


def _reference(record: PromptRecord, column: str | None) -> str | None:
    """As a label; a list of objects, such as constraints, is kept as JSON. Tables give every object
    of a list all fields, and those that it has not are null."""
    value = None if column is None else record.row.get(column)
    if not (isinstance(value, list) and value and all(isinstance(one, dict) for one in value)):
        return _label(record, column)
    given = [{key: field for key, field in one.items() if field is not None} for one in value]
    return json.dumps(given, ensure_ascii=False)


def _label(record: PromptRecord, column: str | None) -> str | None:
    """A category or reference: text, or a number written without exponent."""
    value = None if column is None else record.row.get(column)
    if column is None or value is None or value == "":
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float | Decimal) and isfinite(value)):
        return format(Decimal(str(value)), "f")
    return _text(record, column, value, "the value")
