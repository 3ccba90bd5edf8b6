"""Demonstrations: prompts with a thought and a response, those of the package or a user's own.

A record has `prompt` or `messages`, as those of prompt files (conversations.py), with `thought` and
`response`. They are plain data: a thought format puts its markers around them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forethought.config import ColumnsConfig
from forethought.config.warm_start import DEFAULT
from forethought.prompts.conversations import PromptRecord, StripThought, prompt_of
from forethought.prompts.files import text_records
from forethought.types import Demonstration

FIELD = "warm_start.demonstrations"
PACKAGED = Path(__file__).parent / "demonstrations.jsonl"


def demonstrations_file(given: str) -> Path:
    """The file that a recipe's `warm_start.demonstrations` names.

    Raises: ValueError if it does not exist.
    """
    path = PACKAGED if given == DEFAULT else Path(given)
    if not path.is_file():
        raise ValueError(f"{FIELD}: {path} does not exist; correct it, or give {DEFAULT}")
    return path


def read_demonstrations(given: str, strip_thought: StripThought) -> list[Demonstration]:
    """All records of the file, in order; `strip_thought` takes thoughts out of their histories.

    Raises: ValueError naming file, line and field for the first record that is none.
    """
    path = demonstrations_file(given)
    found = [_demonstration(record, strip_thought) for record in text_records(path, FIELD)]
    if not found:
        raise ValueError(f"{FIELD}: {path} has no records; give it some, or give {DEFAULT}")
    return found


def _demonstration(record: PromptRecord, strip_thought: StripThought) -> Demonstration:
    response = _text(record, "response")
    if response is None:
        way_out = "give the response as a string, without any marker"
        raise record.wrong("response", "there is none", record.row.get("response"), way_out)
    return Demonstration(
        where=record.where,
        prompt=prompt_of(record, ColumnsConfig(), "demonstrations", strip_thought),
        thought=_text(record, "thought"),
        response=response,
    )


def _text(record: PromptRecord, column: str) -> str | None:
    """A column's text without white space around it; `None` where there is none."""
    value: Any = record.row.get(column)
    if value is None:
        return None
    if not isinstance(value, str):
        raise record.wrong(column, "it is not text", value, "give a string")
    return value.strip() or None
