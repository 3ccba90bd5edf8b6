"""What a user's file of prompts holds, found out before a recipe says it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forethought.config import ColumnsConfig, FilePrompts, path_or_url
from forethought.judging.verifier.final_number import HEADING, final_number
from forethought.prompts.conversations import DEFAULT_COLUMN, OTHER_NAMES
from forethought.prompts.files import column_names, file_records
from forethought.types import Prompt

PROMPT_NAMES = (
    *(DEFAULT_COLUMN, *OTHER_NAMES),
    *("instruction", "question", "query", "problem", "input", "text", "turns"),
)
"""Names under which files keep prompts, the likeliest first."""
CATEGORY_NAMES = ("category", "topic")
REFERENCE_NAMES = ("reference", "answer", "solution", "final_answer")
PLAIN_NUMBER = re.compile(r"\W*[\d.,/ ]+\W*")
"""A reference that is a number and its currency or sign, and no sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFile:
    """A file of prompts with the columns that were recognised.

    Example: `PromptFile(source=FilePrompts(path=Path("p.jsonl")), names=("prompt", "answer"))`
    """

    source: FilePrompts
    names: tuple[str, ...]
    """Every column of the file."""

    @property
    def columns(self) -> dict[str, str]:
        """The columns whose names a recipe has to say."""
        return self.source.columns.model_dump(exclude_defaults=True)


def look_at(path: str) -> PromptFile:
    """Recognise a file's columns by their names.

    Raises: ValueError if the file cannot be read or none of its columns is known to hold prompts.
    """
    place = path_or_url(path)
    if isinstance(place, Path) and not place.expanduser().is_file():
        what = "is a folder" if place.expanduser().is_dir() else "does not exist"
        raise ValueError(f"PROMPTS: {path} {what}; name a file of prompts, such as prompts.jsonl")
    place = place.expanduser() if isinstance(place, Path) else place
    names = column_names(place)
    prompt = _first(PROMPT_NAMES, names)
    if prompt is None:
        raise ValueError(
            f"PROMPTS: {path} has the columns {', '.join(names)}, and none is named as prompts "
            f"are: {', '.join(PROMPT_NAMES)}; rename the one that holds them"
        )
    columns = ColumnsConfig(
        prompt=DEFAULT_COLUMN if prompt in OTHER_NAMES else prompt,
        input="input" if prompt == "instruction" and "input" in names else None,
    )
    labels = {
        field: name
        for field, known in (("category", CATEGORY_NAMES), ("reference", REFERENCE_NAMES))
        if (name := _first(known, names)) is not None and _fits(place, field, name)
    }
    columns = columns.model_copy(update=labels)
    return PromptFile(source=FilePrompts(path=place, columns=columns), names=tuple(names))


def graded_by_number(prompts: Sequence[Prompt]) -> bool:
    """Whether every prompt has a reference that is a number, or ends on one as GSM8K's do."""
    return bool(prompts) and all(_is_graded(prompt.reference or "") for prompt in prompts)


def _is_graded(reference: str) -> bool:
    if final_number(reference) is None:
        return False
    return bool(PLAIN_NUMBER.fullmatch(reference) or HEADING.search(reference))


def _first(known: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in known if name in names), None)


def _fits(path: Path | str, field: str, column: str) -> bool:
    """Whether a column's values are texts and numbers, or as references a prompt's constraints."""
    values = [record.row.get(column) for record in file_records(path, ColumnsConfig(prompt=column))]
    return all(
        isinstance(value, str | int | float | None)
        or (field == "reference" and _are_constraints(value))
        for value in values
    )


def _are_constraints(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) and "type" in one for one in value)
