"""The files of AlpacaEval 2: annotations in two layouts, difficulties, gamed rows, outputs.

Annotations are the package's `annotations.json`, a list of records with `instruction`, `output_1`,
`generator_1`, `output_2`, `generator_2`, `preference`; or one object that holds several models
without their texts:

    {"len_1": [2104, …], "dataset": ["helpful_base", …], "models": {"alpaca-7b":
        {"preference": [1.0000002, …], "len_2": [147, …], "len_1": null, "canon": null}}}

There `len_1` and `dataset` are of the evaluation set; a model that lacks rows says with `canon`
which it has, and may have a `len_1` of its own. In both a preference lies between 1, the baseline
`output_1` wins, and 2; 0 is a draw of old; null is an annotation that failed.

There `baseline` names the model that the others are held against. Where it is missing, a model of
the very lengths of the baseline that draws every row is taken for it. An instruction counts once: a
file that has one twice is refused.

An annotation's difficulty is looked up by its place in the file, as the package does it, even where
rows are missing before it. A record may name its place itself, with `index`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from forethought.evaluation.alpaca_eval.length_control import GamedRows


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnnotations:
    """One model's annotations, N of them.

    Example: `ModelAnnotations(model="alpaca-7b", baseline="gpt4_1106_preview",
    preferences=(1.02, None), baseline_lengths=(2104, 3394), lengths=(147, 344), places=(0, 1),
    datasets=("helpful_base", None))`
    """

    model: str
    baseline: str | None
    """`None` where the file does not say."""
    preferences: tuple[float | None, ...]
    """In [1, 2], 2 where the model wins; `None` where the annotation failed."""
    baseline_lengths: tuple[int, ...]
    """Characters."""
    lengths: tuple[int, ...]
    """Characters of the model's outputs."""
    places: tuple[int, ...]
    """Where to look the difficulty up."""
    datasets: tuple[str | None, ...]


def read_annotations(path: Path) -> list[ModelAnnotations]:
    """The models of an annotations file, in its order.

    Raises: ValueError that names file, record, field and value.
    """
    content = load_json(path)
    if isinstance(content, dict) and isinstance(content.get("models"), dict):
        models = content["models"]
        if not models:
            raise ValueError(f"{path}: models is empty; there is nothing to score")
        return [_compact(path, content, name, models[name]) for name in models]
    if isinstance(content, list) and content:
        return [_official(path, content)]
    raise ValueError(
        f"{path} holds no annotations; give the package's annotations.json, a list of records, or "
        'an object with "models"'
    )


def read_difficulty(path: Path) -> dict[int, float]:
    """Difficulty by index. The index's column may be without a name, as the package saves it.

    Raises: ValueError that names file, line, column and value.
    """
    rows = _read_csv(path)
    index = "" if "" in rows[0][1] and "index" not in rows[0][1] else "index"
    table: dict[int, float] = {}
    for line, row in rows:
        place, value = _number(path, line, row, index), _number(path, line, row, _DIFFICULTY)
        if place != int(place) or table.setdefault(int(place), value) != value:
            raise ValueError(
                f"{path}, line {line}: index: {row[index]} is no whole number or has another "
                "difficulty above; every index has one difficulty"
            )
    return table


def read_gamed(path: Path, *, difficulty: bool) -> GamedRows:
    """The gamed rows; rows without a preference are left out, as the package does it.

    Raises: ValueError that names file, line, column and value.
    """
    kept: list[tuple[float, float, float]] = []
    for line, row in _read_csv(path):
        if row.get("not_gamed_baseline", "False").strip().lower() not in ("false", "0", "0.0"):
            raise ValueError(
                f"{path}, line {line}: not_gamed_baseline: {row['not_gamed_baseline']} is not "
                "False; the file is to hold gamed rows alone"
            )
        if row.get("preference", "?").strip().lower() in ("", "nan"):
            continue
        preference = _number(path, line, row, "preference")
        if not 0 <= preference <= 1:
            raise ValueError(
                f"{path}, line {line}: preference: {preference:g} is not in 0..1; gamed rows count "
                "from 0, the baseline wins, to 1"
            )
        delta = _number(path, line, row, "std_delta_len")
        kept.append((preference, delta, _number(path, line, row, _DIFFICULTY) if difficulty else 0))
    if not kept:
        raise ValueError(
            f"{path} has no row with a preference; leave the file out, or give another"
        )
    columns = np.array(kept, dtype=np.float64).T
    return GamedRows(
        preference_G=columns[0],
        std_delta_len_G=columns[1],
        difficulty_G=columns[2] if difficulty else None,
    )


_DIFFICULTY = "instruction_difficulty"


def _official(path: Path, records: Sequence[Any]) -> ModelAnnotations:
    for place, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"{path}: record {place} is no object but {record!r:.60}")
    lengths = {
        field: tuple(
            _text_length(path, place, record, field) for place, record in enumerate(records)
        )
        for field in ("output_1", "output_2")
    }
    places = _places(path, records)
    for field in ("instruction", "index"):
        _refuse_twice(f"{path}: record", field, [record.get(field) for record in records])
    return ModelAnnotations(
        model=_only(path, records, "generator_2"),
        baseline=_only(path, records, "generator_1"),
        preferences=tuple(
            _preference(f"{path}: record {place}", record.get("preference", _ABSENT))
            for place, record in enumerate(records)
        ),
        baseline_lengths=lengths["output_1"],
        lengths=lengths["output_2"],
        places=places,
        datasets=tuple(_name(record.get("dataset")) for record in records),
    )


def _compact(path: Path, content: Mapping[str, Any], name: str, fields: Any) -> ModelAnnotations:
    where = f"{path}: models: {name}"
    if not isinstance(fields, dict):
        raise ValueError(f"{where} is no object but {fields!r:.60}; give it preference and len_2")
    preferences = _list(where, fields, "preference")
    count = len(preferences)
    rows = range(count) if fields.get("canon") is None else _list(where, fields, "canon")
    own = fields.get("len_1") is not None
    source = _list(where, fields, "len_1") if own else _list(str(path), content, "len_1")
    lengths = _list(where, fields, "len_2")
    datasets = content.get("dataset") or []
    for field, found, wanted in (
        ("canon", len(rows), count),
        ("len_2", len(lengths), count),
        ("len_1", len(source) if own else count, count),
    ):
        if found != wanted:
            raise ValueError(f"{where}: {field} has {found} entries, preference has {wanted}")
    _refuse_twice(f"{where}: entry", "canon", rows)
    # A model's own `len_1` has its rows alone, the shared one the whole evaluation set.
    chosen = range(count) if own else rows
    read = tuple(
        _preference(f"{where}: row {place}", value) for place, value in enumerate(preferences)
    )
    baseline_lengths = tuple(_length(f"{where}: len_1", source, place) for place in chosen)
    own_lengths = tuple(_length(f"{where}: len_2", lengths, place) for place in range(count))
    baseline = _name(content.get("baseline"))
    if baseline is None and own_lengths == baseline_lengths and set(read) <= {DRAW, None}:
        baseline = name
    return ModelAnnotations(
        model=name,
        baseline=baseline,
        preferences=read,
        baseline_lengths=baseline_lengths,
        lengths=own_lengths,
        places=tuple(range(count)),
        datasets=tuple(
            _name(datasets[place]) if place in range(len(datasets)) else None for place in rows
        ),
    )


_ABSENT = object()
DRAW = 1.5


def _refuse_twice(where: str, field: str, values: Iterable[Any]) -> None:
    """Raises: ValueError if a value that is there stands there again, with both places."""
    first: dict[Any, int] = {}
    doubles = [
        (place, first[key])
        for place, value in enumerate(values)
        if value is not None and first.setdefault(key := json.dumps(value), place) != place
    ]
    if doubles:
        (again, before), more = doubles[0], len(doubles) - 1
        others = f" ({more} more stand there twice)" if more else ""
        raise ValueError(
            f"{where} {again}: {field} is that of {before} again{others}; each would count as "
            "often, so keep one of them"
        )


def _preference(where: str, value: Any) -> float | None:
    if value is _ABSENT:
        raise ValueError(f"{where} has no preference; give a number from 1 to 2, or null")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not _is_number(value) or not (1 <= value <= 2 or value == 0):
        raise ValueError(
            f"{where}: preference: {value!r:.60} is not in 1..2; 1 is for the baseline (output_1), "
            "2 for the model (output_2), null for an annotation that failed"
        )
    return float(value) if value else DRAW


def _text_length(path: Path, place: int, record: Mapping[str, Any], field: str) -> int:
    text = record.get(field)
    if not isinstance(text, str):
        raise ValueError(
            f"{path}: record {place}: {field}: {text!r:.60} is no text; its length is needed, so "
            "give the outputs along with the preferences"
        )
    return len(text)


def _only(path: Path, records: Sequence[Mapping[str, Any]], field: str) -> str:
    names = list(dict.fromkeys(record.get(field) for record in records))
    if len(names) != 1 or not isinstance(names[0], str):
        shown = ", ".join(map(repr, names[:5]))
        raise ValueError(
            f"{path}: {field} is {shown}; a file of records is of one model against one baseline, "
            "so give every record the same names, or a file for each model"
        )
    return names[0]


def _places(path: Path, records: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    if not all("index" in record for record in records):
        return tuple(range(len(records)))
    for place, record in enumerate(records):
        if not isinstance(record["index"], int) or isinstance(record["index"], bool):
            raise ValueError(
                f"{path}: record {place}: index: {record['index']!r:.60} is no whole number"
            )
    return tuple(record["index"] for record in records)


def _length(where: str, lengths: Sequence[Any], place: Any) -> int:
    value: Any = lengths[int(place)] if _is_number(place) and place in range(len(lengths)) else None
    if not _is_number(value) or value < 0 or value != int(value):
        raise ValueError(
            f"{where}: row {place!r:.20}: {value!r:.60} is no length; give the number of characters"
        )
    return int(value)


def _list(where: str, fields: Mapping[str, Any], name: str) -> list[Any]:
    value = fields.get(name)
    if not isinstance(value, list):
        raise ValueError(f"{where}: {name} is {value!r:.60}; give a list with an entry per row")
    return value


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def load_json(path: Path) -> Any:
    """Raises: ValueError if there is no such file or it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; name a file") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _read_csv(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and row; there is at least one, and each has every column."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; name a file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not CSV: {error}") from error
    if not rows:
        raise ValueError(f"{path} has no rows; give a CSV with a line of column names")
    for line, row in rows:
        if None in row or None in row.values():
            raise ValueError(f"{path}, line {line}: it has not as many values as there are columns")
    return rows


def _number(path: Path, line: int, row: Mapping[str, str], column: str) -> float:
    if column not in row:
        known = ", ".join(row)
        raise ValueError(f"{path}: there is no column {column}; its columns are {known}")
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{path}, line {line}: {column}: {row[column]!r:.60} is no number")
    return value
