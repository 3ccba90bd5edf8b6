"""Dataclass records to Parquet tables and back, by their type hints.

Every noun of `types.py` is a row: numbers, strings, tuples and nested records, no code in a file.
Columns are converted whole: token ids are most of all values, and one by one they would be most of
the time that reading and writing take.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import cache
from itertools import accumulate, chain, pairwise
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

Record = TypeVar("Record")
BATCH = 1024
"""Rows converted at a time: their columns are in memory beside the records."""


def to_table(records: Iterable[Any], record_type: type, *, without: Sequence[str] = ()) -> pa.Table:
    """Rows of one record type as a table with an exact schema, also when there are none.

    `without` are columns at the type's end that have their defaults in all rows: `from_table` gives
    them back.
    """
    columns = _encode_fields(list(records), record_type)
    return pa.Table.from_arrays(columns, schema=table_schema(record_type)).drop_columns(
        list(without)
    )


def table_schema(record_type: type, *, without: Sequence[str] = ()) -> pa.Schema:
    """Columns of a record type, but for those that are left out."""
    return pa.schema([field for field in _struct(record_type) if field.name not in without])


def from_table(table: pa.Table, record_type: type[Record]) -> list[Record]:
    """The records of a table. A column that the type has gained at its end gets its default.

    Raises: ValueError if the table's columns are not those of the record type.
    """
    expected = list(_hints(record_type))
    gained = dataclasses.fields(record_type)[len(table.column_names) :]  # type: ignore[arg-type]
    for field in gained:
        if field.default is dataclasses.MISSING:
            break
        values = pa.array([field.default] * table.num_rows, _arrow(_hints(record_type)[field.name]))
        table = table.append_column(field.name, values)
    if table.column_names != expected:
        raise ValueError(
            f"columns {table.column_names} are not those of {record_type.__name__}: {expected}"
        )
    records: list[Record] = []
    for batch in table.to_batches(max_chunksize=BATCH):
        records += _decode_fields(batch.columns, record_type)
    return records


@cache
def _hints(record_type: type) -> dict[str, Any]:
    return get_type_hints(record_type)


@cache
def _struct(record_type: type) -> pa.StructType:
    return pa.struct([pa.field(n, _arrow(hint)) for n, hint in _hints(record_type).items()])


def _arrow(hint: Any) -> pa.DataType:
    hint = _without_none(hint)
    if dataclasses.is_dataclass(hint):
        return _struct(hint)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        return pa.list_(pa.int64() if item is int else _arrow(item))
    if get_origin(hint) is Literal:
        return pa.string()
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return pa.string()
    return {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}[hint]


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        rest = [arg for arg in get_args(hint) if arg is not type(None)]
        assert len(rest) == 1, f"{hint} has no single Arrow type"
        return rest[0]
    return hint


def _encode_fields(records: Sequence[Any], record_type: type) -> list[pa.Array]:
    """A column per field; a record that is `None` has none."""
    return [
        _encode([None if record is None else getattr(record, name) for record in records], hint)
        for name, hint in _hints(record_type).items()
    ]


def _encode(values: Sequence[Any], hint: Any) -> pa.Array:
    hint = _without_none(hint)
    if dataclasses.is_dataclass(hint):
        columns = _encode_fields(values, hint)  # type: ignore[arg-type]
        return pa.StructArray.from_arrays(columns, fields=list(_arrow(hint)), mask=_missing(values))
    if get_origin(hint) is tuple:
        lengths = (0 if value is None else len(value) for value in values)
        items = list(chain.from_iterable(value for value in values if value is not None))
        return pa.ListArray.from_arrays(
            pa.array(accumulate(lengths, initial=0), pa.int32()),
            _encode(items, get_args(hint)[0]),
            type=_arrow(hint),
            mask=_missing(values),
        )
    return pa.array(values, _arrow(hint))


def _missing(values: Sequence[Any]) -> pa.Array | None:
    missing = [value is None for value in values]
    return pa.array(missing, pa.bool_()) if any(missing) else None


def _decode_fields(columns: Sequence[pa.Array], record_type: type) -> list[Any]:
    hints = _hints(record_type)
    values = [_decode(column, hint) for column, hint in zip(columns, hints.values(), strict=True)]
    return [record_type(**dict(zip(hints, row, strict=True))) for row in zip(*values, strict=True)]


def _decode(column: pa.Array, hint: Any) -> list[Any]:
    hint = _without_none(hint)
    if dataclasses.is_dataclass(hint):
        rows = _decode_fields(column.flatten(), hint)  # type: ignore[arg-type]
        return _with_none(rows, column)
    if get_origin(hint) is tuple:
        return _with_none(_decode_tuples(column, get_args(hint)[0]), column)
    if hint in (int, float) and column.null_count == 0:
        return column.to_numpy().tolist()
    values = column.to_pylist()
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return [None if value is None else hint(value) for value in values]
    return values


def _decode_tuples(column: pa.Array, item: Any) -> list[tuple[Any, ...]]:
    # A batch is a slice, and `values` are still those of the whole column.
    ends = column.offsets.to_numpy().tolist()
    items = _decode(column.values.slice(ends[0], ends[-1] - ends[0]), item)
    return [tuple(items[start - ends[0] : stop - ends[0]]) for start, stop in pairwise(ends)]


def _with_none(values: list[Any], column: pa.Array) -> list[Any]:
    """`None` where the column has no value."""
    if column.null_count == 0:
        return values
    present = column.is_valid().to_pylist()
    return [value if there else None for value, there in zip(values, present, strict=True)]
