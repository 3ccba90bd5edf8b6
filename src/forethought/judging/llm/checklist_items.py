"""The items of checklists: read from a file, or found in what a chat model wrote.

A file has a record for each prompt, `prompt` or `messages` as in prompt files, and its `items`:

    {"prompt": "Describe rain.", "items": ["It names a river.",
        {"item": "It has at most 30 words.", "weight": 2, "verifier": "constraints",
         "reference": [{"type": "words", "at_most": 30}]}]}

An item is a statement that is true or false of a response. `weight` is 1 where nothing is said. A
`verifier` answers in place of the model; its `reference` is the prompt's own if there is none. A
prompt is found by what it says, whatever file it came from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from forethought.config import ChecklistJudge, ColumnsConfig, ConfigModel, VerifierJudge, explain
from forethought.judging.llm.prompt_file import ItemsPrompt, load_prompt
from forethought.judging.llm.verdicts import NoVerdict
from forethought.judging.verifier.constraints import constraints_of
from forethought.judging.verifier.verifier_judge import Verifier
from forethought.prompts import PromptRecord, prompt_of, text_records
from forethought.prompts.conversations import prompt_column
from forethought.storage.files import content_hash
from forethought.types import Prompt

FIELD = "judge.items"
WAY_OUT = 'give lines of {"prompt": "…", "items": ["a statement about a response", "…"]}'
MOST_CHARACTERS = 500
"""Of a written item; more is no statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Example: `Item(text="It names a river.", weight=2.0)`"""

    text: str
    weight: float
    verifier: str | None = None
    """The function that answers in place of the model."""
    reference: str | None = None
    """For the verifier, in place of the prompt's."""

    def asked_of(self, prompt: Prompt) -> Prompt:
        """The prompt as the verifier is given it."""
        return prompt if self.reference is None else replace(prompt, reference=self.reference)


Items = tuple[Item, ...]


class _Row(ConfigModel):
    """An item of a file with more than its words."""

    item: str
    weight: float = Field(default=1, gt=0)
    verifier: str | None = None
    reference: str | float | list[dict[str, Any]] | None = None


_Rows = Annotated[tuple[str | _Row, ...], Field(min_length=1)]
_SHAPE: TypeAdapter[tuple[str | _Row, ...]] = TypeAdapter(_Rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFile:
    """The checklists of a file.

    Example: `ItemFile(path=Path("items.jsonl"), by_prompt={"9f2c…": (Item(…),)})`
    """

    path: Path
    by_prompt: Mapping[str, Items]

    @property
    def digest(self) -> str:
        """A hash of all items."""
        return content_hash(
            [
                [key, [asdict(item) for item in self.by_prompt[key]]]
                for key in sorted(self.by_prompt)
            ]
        )

    def verifiers(self) -> dict[str, Verifier]:
        """Those that answer items, by name.

        Raises: ValueError if one is not there.
        """
        names = {item.verifier for items in self.by_prompt.values() for item in items}
        found: dict[str, Verifier] = {}
        for name in sorted(name for name in names if name is not None):
            try:
                found[name] = Verifier(VerifierJudge(function=name))
            except ValueError as error:
                reason = str(error).removeprefix("judge.function: ")
                raise ValueError(f"{FIELD}: {self.path}: an item's verifier: {reason}") from error
        return found

    def mistake_in(self, prompt: Prompt) -> str | None:
        """Why no response to this prompt could be judged; `None` where nothing is known to be wrong
        with it."""
        items = self.by_prompt.get(prompt.prompt_id)
        if items is None:
            asked = " ".join(prompt.messages[-1].content.split())
            return (
                f"{FIELD}: {self.path} has no items for this prompt, {asked!r:.60}; add a line "
                "with it as the run's prompt file has it, or let the model write all: "
                f"{FIELD}=per_prompt"
            )
        for item in items:
            if item.verifier == "constraints":
                try:
                    constraints_of(item.asked_of(prompt).reference)
                except ValueError as error:
                    return f"{FIELD}: {self.path}, item {item.text!r:.60}: {error}"
        return None


def item_file(config: ChecklistJudge) -> ItemFile | None:
    """The file that a judge's items are in; `None` where the model writes them.

    Raises: ValueError that names file, line, field and value.
    """
    if not isinstance(config.items, Path):
        return None
    path = config.items.expanduser()
    if not path.is_file():
        raise ValueError(
            f"{FIELD}: {path} does not exist; correct it, or let the model write the items: "
            f"{FIELD}=per_prompt"
        )
    there = path.stat()
    return _read(path, config.max_items, (there.st_mtime_ns, there.st_size))


def identity_of_items(config: ChecklistJudge) -> str:
    """What names the items in a hash: those of the file, or the words that ask for them.

    Raises: ValueError if a file cannot be read.
    """
    file = item_file(config)
    if file is not None:
        return file.digest
    return content_hash(items_prompt(config).model_dump(mode="json"))


def items_prompt(config: ChecklistJudge) -> ItemsPrompt:
    """What a model is told that writes items.

    Raises: ValueError if the prompt file cannot be read.
    """
    return load_prompt(config.items_prompt, "items", "judge.items_prompt")


def written_items(said: str, prompt: ItemsPrompt, most: int) -> Items | NoVerdict:
    """The items that a model has written, or why they are none."""
    low, high = prompt.scale
    lines = prompt.lines_in(said)
    items = tuple(Item(text=" ".join(text.split()), weight=weight) for weight, text in lines)
    if not items:
        return NoVerdict(reason="no items")
    if len(items) > most:
        return NoVerdict(
            reason=f"{len(items)} items, {FIELD.partition('.')[0]}.max_items is {most}"
        )
    for item in items:
        if not low <= item.weight <= high:
            reason = f"weight {item.weight:g} is not on the scale from {low:g} to {high:g}"
            return NoVerdict(reason=reason)
        if not 0 < len(item.text) <= MOST_CHARACTERS:
            return NoVerdict(reason=f"an item of {len(item.text)} characters")
    if all(item.weight == 0 for item in items):
        return NoVerdict(reason="all weights are 0")
    if (twice := _twice(items)) is not None:
        return NoVerdict(reason=f"an item that stands there twice: {twice!r:.60}")
    return items


@lru_cache(maxsize=8)
def _read(path: Path, most: int, _: tuple[int, int]) -> ItemFile:
    by_prompt: dict[str, Items] = {}
    places: dict[str, str] = {}
    for record in text_records(path, FIELD):
        if prompt_column(ColumnsConfig(), record.row.keys()) not in record.row:
            raise _wrong(record, f"there is no prompt, only {sorted(record.row)}")
        prompt = prompt_of(record, ColumnsConfig(), "items", lambda text: text)
        key = prompt.prompt_id
        if key in by_prompt:
            raise _wrong(record, f"the prompt of {places[key]} again; put all its items there")
        places[key] = record.where
        by_prompt[key] = _items(record, most)
    if not by_prompt:
        raise ValueError(f"{FIELD}: {path} has no records; {WAY_OUT}")
    return ItemFile(path=path, by_prompt=by_prompt)


def _items(record: PromptRecord, most: int) -> Items:
    given = record.row.get("items")
    if not isinstance(given, list) or not given:
        raise _wrong(record, f"items must be a list with at least one item, got {given!r:.60}")
    try:
        rows = _SHAPE.validate_python(given)
    except ValidationError as error:
        mistakes = "; ".join(explain(error, _Rows, "items").splitlines())
        raise _wrong(record, mistakes) from None
    items = tuple(_item(row) for row in rows)
    if len(items) > most:
        raise _wrong(record, f"{len(items)} items, and judge.max_items is {most}; raise it")
    for number, item in enumerate(items):
        if not item.text:
            raise _wrong(record, f"items.{number} is empty")
    if (twice := _twice(items)) is not None:
        raise _wrong(record, f"items has one twice, {twice!r:.60}; leave one out, or weigh it more")
    return items


def _item(row: str | _Row) -> Item:
    if isinstance(row, str):
        return Item(text=row.strip(), weight=1.0)
    reference = row.reference
    if isinstance(reference, list):
        reference = json.dumps(reference, ensure_ascii=False)
    elif reference is not None and not isinstance(reference, str):
        reference = f"{reference:.15g}"
    return Item(
        text=row.item.strip(), weight=row.weight, verifier=row.verifier, reference=reference
    )


def _twice(items: Sequence[Item]) -> str | None:
    """An item that says the same as one before it."""
    seen: set[str] = set()
    for item in items:
        folded = " ".join(item.text.split()).casefold()
        if folded in seen:
            return item.text
        seen.add(folded)
    return None


def _wrong(record: PromptRecord, problem: str) -> ValueError:
    return ValueError(f"{FIELD}: {record.where}: {problem}; {WAY_OUT}")
