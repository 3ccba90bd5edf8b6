"""Load prompts from files, data sets or the microworld, deduplicate and split them.

The paper takes 5,000 fresh prompts for every iteration and 1,500 for validation. Here training
prompts are ordered by a hash of (seed, prompt_id), and iteration i takes the i-th slice of that
order: slices are disjoint, and depend neither on the order of a file nor on how many follow. The
paper does not speak of overlaps; here a prompt that is held out is removed from training and
counted. Near-duplicates are not looked for.

What a record may hold in its prompt column:

- a string: one user turn;
- a list of `{role, content}` messages: an optional system turn, then user and assistant in turn,
  the user's last. Other keys of a message are ignored. An empty system turn is dropped, and the
  assistant's turns lose their thoughts: a thought is never part of a history;
- a list of strings, such as the `turns` of MT-bench: user turns whose replies are not known. They
  become one user message, joined by a blank line, because most chat templates demand that roles
  alternate and no answer may be made up.

Text is taken as it is: no trimming, no normalisation; control characters and NUL stay. A lone
surrogate is refused, because it has no UTF-8 form that a tokenizer or Parquet could hold. A bad
record refuses its whole source: nothing of it is silently left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any, assert_never, cast

import pyarrow as pa
import pyarrow.parquet as pq

from forethought.addresses import read_bytes
from forethought.config import (
    ColumnsConfig,
    DatasetPrompts,
    FilePrompts,
    HeldOut,
    MicroworldPrompts,
    PromptsConfig,
    PromptSource,
)
from forethought.store import content_hash
from forethought.types import Message, Prompt, Role

StripThought = Callable[[str], str]  # such as the `strip_thought` of a thought format

MICROWORLD_SEED = 0
"""A fixed world: the run's seed chooses among its prompts, so that runs share their test set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSplit:
    """Every prompt of a run in its place; no prompt stands in two.

    Example: `PromptSplit(train=(Prompt(…), Prompt(…)), validation=(Prompt(…),), test=(),
    duplicates=1, overlap=0)`
    """

    train: tuple[Prompt, ...]
    """All that may be trained on, in the order in which iterations take their slices."""
    validation: tuple[Prompt, ...]
    test: tuple[Prompt, ...]
    duplicates: int
    """Records left out because an earlier record of the same sources has the same messages."""
    overlap: int
    """Prompts left out of validation or training because a held-out set has them already."""


def split_prompts(config: PromptsConfig, *, seed: int, strip_thought: StripThought) -> PromptSplit:
    """Load all sources, set the held-out prompts aside, put the others in order.

    Held-out sets with sources of their own come first, then those taken out of the training
    sources, test before validation; what one set has, a later one cannot have.

    Raises: ValueError if a source cannot be read or has fewer prompts than are to be held out.
    """
    training, duplicates = load_prompts(config.train, strip_thought)
    held = {"test": config.test, "validation": config.validation}
    sets: dict[str, tuple[Prompt, ...]] = {"test": (), "validation": ()}
    used: set[str] = set()
    overlap = 0
    for name, wanted in held.items():
        if wanted is None or not wanted.sources:
            continue
        own, own_duplicates = load_prompts(wanted.sources, strip_thought)
        free = [prompt for prompt in own if prompt.prompt_id not in used]
        duplicates += own_duplicates
        overlap += len(own) - len(free)
        sets[name] = _hold_out(free, wanted, name, seed)
        used |= {prompt.prompt_id for prompt in sets[name]}
    pool = [prompt for prompt in training if prompt.prompt_id not in used]
    overlap += len(training) - len(pool)
    for name, wanted in held.items():
        if wanted is None or wanted.sources:
            continue
        sets[name] = _hold_out(pool, wanted, name, seed)
        taken = {prompt.prompt_id for prompt in sets[name]}
        pool = [prompt for prompt in pool if prompt.prompt_id not in taken]
    return PromptSplit(
        train=tuple(_ordered(pool, seed, "train")),
        validation=sets["validation"],
        test=sets["test"],
        duplicates=duplicates,
        overlap=overlap,
    )


def load_prompts(
    sources: Sequence[PromptSource], strip_thought: StripThought
) -> tuple[list[Prompt], int]:
    """The prompts of the sources in order, the first of equal ones, and how many were left out.

    Raises: ValueError if a source is missing, empty, or holds a record that is no prompt.
    """
    distinct: dict[str, Prompt] = {}
    records = 0
    for source in sources:
        for prompt in _load(source, strip_thought):
            records += 1
            distinct.setdefault(prompt.prompt_id, prompt)
    return list(distinct.values()), records - len(distinct)


def prompt_id_of(messages: Sequence[Message]) -> str:
    """The content hash that names a conversation."""
    return content_hash([{"role": m.role, "content": m.content} for m in messages])[:16]


def _hold_out(free: Sequence[Prompt], wanted: HeldOut, name: str, seed: int) -> tuple[Prompt, ...]:
    if wanted.count > len(free):
        origin = "its sources hold" if wanted.sources else "the training sources have left"
        raise ValueError(
            f"prompts.{name}.count asks for {wanted.count} prompts, but {origin} {len(free)} "
            f"distinct ones; lower the count or add to prompts.{name}.sources"
        )
    return tuple(_ordered(free, seed, name)[: wanted.count])


def _ordered(prompts: Iterable[Prompt], seed: int, purpose: str) -> list[Prompt]:
    return sorted(prompts, key=lambda prompt: content_hash([seed, purpose, prompt.prompt_id]))


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


def _load(source: PromptSource, strip_thought: StripThought) -> list[Prompt]:
    match source:
        case MicroworldPrompts():
            return _microworld(source)
        case FilePrompts():
            path = source.path.expanduser() if isinstance(source.path, Path) else source.path
            name, place = source.source or PurePosixPath(path).stem, str(path)
            records = _file_records(path, source.columns)
        case DatasetPrompts():
            name, place = source.source or source.name, source.name
            records = _dataset_records(source)
        case _:
            assert_never(source)
    columns, seen, prompts = source.columns, set[str](), []
    for record in islice(records, source.limit):
        seen.update(record.row)
        prompts.append(prompt_of(record, columns, name, strip_thought))
    if not prompts:
        raise ValueError(f"prompts: {place} holds no records; give a source with prompts")
    for column in _wanted(columns):
        if column not in seen:
            raise _missing_column(place, column, seen)
    return prompts


def _microworld(source: MicroworldPrompts) -> list[Prompt]:
    from forethought.microworld.tasks import generate

    tasks = generate(source.split, source.count, MICROWORLD_SEED)
    return [
        Prompt(
            prompt_id=prompt_id_of(messages),
            messages=messages,
            category=task.category,
            source="microworld",
            reference=task.reference,
        )
        for task in tasks
        for messages in [(Message(role="user", content=task.query),)]
    ]


def _wanted(columns: ColumnsConfig) -> list[str]:
    named = (columns.prompt, columns.input, columns.category, columns.reference)
    return [column for column in named if column is not None]


def _missing_column(place: str, column: str, available: Iterable[str]) -> ValueError:
    return ValueError(
        f"prompts: {place} has no column {column!r}; it has {sorted(available)}: "
        "set `columns` of this source to the names it uses"
    )


def _file_records(path: Path | str, columns: ColumnsConfig) -> Iterator[PromptRecord]:
    suffix = PurePosixPath(path).suffix
    known = suffix in (".jsonl", ".json", ".parquet")
    if not known or (isinstance(path, Path) and not path.is_file()):
        raise ValueError(f"prompts: no .jsonl, .json or .parquet file at {path}; correct `path`")
    return _parquet_records(path, columns) if suffix == ".parquet" else json_records(path)


def json_records(path: Path | str) -> Iterator[PromptRecord]:
    """JSON lines, or in a `.json` file also one list. Only LF and CRLF end a line."""
    content = path.read_bytes() if isinstance(path, Path) else read_bytes(path, "prompts")
    content = content.removeprefix(b"\xef\xbb\xbf")
    if PurePosixPath(path).suffix == ".json" and content.lstrip().startswith(b"["):
        listed = enumerate(_parse_json(content, str(path)), start=1)
        rows = ((f"{path}, record {number}", row) for number, row in listed)
    else:
        lines = enumerate(content.split(b"\n"), start=1)
        places = ((f"{path}, line {number}", line) for number, line in lines if line.strip())
        rows = ((where, _parse_json(line, where)) for where, line in places)
    for where, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f'{where}: a record is an object {{"prompt": …}}, got {row!r:.60}')
        yield PromptRecord(where, row)


def _parse_json(text: bytes, where: str) -> Any:
    try:
        return json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 ({error}); save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        way_out = "write one JSON object per line, or one list of objects into a .json file"
        raise ValueError(f"{where}: not JSON ({error}); {way_out}") from error


def _parquet_records(path: Path | str, columns: ColumnsConfig) -> Iterator[PromptRecord]:
    content = path if isinstance(path, Path) else pa.BufferReader(read_bytes(path, "prompts"))
    try:
        with pq.ParquetFile(content) as file:
            names, number = file.schema_arrow.names, 0
            for column in _wanted(columns):
                if column not in names:
                    raise _missing_column(str(path), column, names)
            for batch in file.iter_batches(columns=_wanted(columns)):
                for row in batch.to_pylist():
                    number += 1
                    yield PromptRecord(f"{path}, row {number}", row)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"prompts: {path} is no readable Parquet file: {error}") from error


def _dataset_records(source: DatasetPrompts) -> Iterator[PromptRecord]:
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

    folder = Path(source.name).expanduser()
    if source.name.startswith((".", "/", "~")) and not folder.is_dir():
        raise ValueError(f"prompts: folder {source.name} does not exist; correct `name`")
    name = str(folder) if folder.is_dir() else source.name
    # load_from_disk reads what save_to_disk wrote, load_dataset everything else.
    saved = any((folder / file).is_file() for file in ("state.json", "dataset_dict.json"))
    try:
        if saved:
            loaded = load_from_disk(name)
        else:
            loaded = load_dataset(name, source.subset, split=source.split)
    # The library's many ways to fail share no base class.
    except Exception as error:
        raise ValueError(
            f"prompts: data set {source.name}, subset {source.subset}, split {source.split} could "
            f"not be loaded: {type(error).__name__}: {error}; correct these, or without a network "
            "give a folder that save_to_disk wrote"
        ) from error
    if isinstance(loaded, DatasetDict) and source.split not in loaded:
        raise ValueError(f"prompts: {source.name} has splits {list(loaded)}, no {source.split!r}")
    if isinstance(loaded, DatasetDict):
        loaded = loaded[source.split]
    assert isinstance(loaded, Dataset), type(loaded)
    for column in _wanted(source.columns):
        if column not in loaded.column_names:
            raise _missing_column(source.name, column, loaded.column_names)
    for number, row in enumerate(loaded.select_columns(_wanted(source.columns)), start=1):
        assert isinstance(row, Mapping), type(row)
        yield PromptRecord(f"{source.name}, row {number}", row)


def prompt_of(
    record: PromptRecord, columns: ColumnsConfig, source: str, strip_thought: StripThought
) -> Prompt:
    """The prompt in a record.

    Raises: ValueError naming the record's place and the column.
    """
    if columns.prompt not in record.row:
        raise _missing_column(record.where, columns.prompt, record.row)
    messages = _messages(record, columns.prompt, strip_thought)
    if columns.input is not None and record.row.get(columns.input) not in (None, ""):
        below = _text(record, columns.input, record.row[columns.input], "the input")
        whole = f"{messages[-1].content}\n\n{below}"
        messages = (*messages[:-1], Message(role="user", content=whole))
    return Prompt(
        prompt_id=prompt_id_of(messages),
        messages=messages,
        category=_label(record, columns.category),
        source=source,
        reference=_label(record, columns.reference),
    )


def _messages(
    record: PromptRecord, column: str, strip_thought: StripThought
) -> tuple[Message, ...]:
    value = record.row[column]
    if isinstance(value, str):
        return (Message(role="user", content=_text(record, column, value, "the prompt")),)
    if isinstance(value, list) and value and all(isinstance(turn, str) for turn in value):
        turns = [_text(record, column, turn, f"turn {n}") for n, turn in enumerate(value, start=1)]
        return (Message(role="user", content="\n\n".join(turns)),)
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return _conversation(record, column, value, strip_thought)
    way_out = "give a string, a list of {role, content} messages, or a list of user turns"
    raise record.wrong(column, "not a prompt", value, way_out)


def _conversation(
    record: PromptRecord,
    column: str,
    turns: Sequence[Mapping[str, Any]],
    strip_thought: StripThought,
) -> tuple[Message, ...]:
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        role, content, name = turn.get("role"), turn.get("content"), f"turn {number}"
        if role == "system" and number == 1 and isinstance(content, str) and not content.strip():
            continue
        allowed: tuple[Role, ...] = ("assistant",) if _asks(messages) else ("user",)
        allowed = ("system", "user") if number == 1 else allowed
        if role not in allowed:
            problem = f"{name} must be of role {' or '.join(allowed)}"
            way_out = "after an optional system turn, user and assistant alternate"
            raise record.wrong(column, problem, turn, way_out)
        text = _text(record, column, content, name)
        if role == "assistant" and not (text := strip_thought(text)).strip():
            way_out = "a thought is no part of a history: remove the turns or give the answer"
            raise record.wrong(column, f"{name} holds a thought and no answer", content, way_out)
        messages.append(Message(role=cast(Role, role), content=text))
    if not _asks(messages):
        way_out = "leave the last answer out: the policy is to write it"
        raise record.wrong(column, "the last turn is not the user's", turns[-1], way_out)
    return tuple(messages)


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
