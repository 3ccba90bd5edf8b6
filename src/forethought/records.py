"""Dataclass records to Parquet tables and back, by their type hints.

Every noun of `types.py` is a row: numbers, strings, tuples and nested records, no code in a file.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from functools import cache, partial
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

Record = TypeVar("Record")


def to_table(records: Iterable[Any], record_type: type) -> pa.Table:
    """Rows of one record type as a table with an exact schema, also when there are none."""
    rows = [_encode(record) for record in records]
    schema = pa.schema(list(_struct(record_type)))
    return pa.Table.from_pylist(rows, schema=schema)


def from_table(table: pa.Table, record_type: type[Record]) -> list[Record]:
    """The records of a table.

    Raises: ValueError if the table's columns are not those of the record type.
    """
    expected = list(_hints(record_type))
    if table.column_names != expected:
        raise ValueError(
            f"columns {table.column_names} are not those of {record_type.__name__}: {expected}"
        )
    decode = _decoder(record_type)
    assert decode is not None, "a record is a dataclass"
    return [decode(row) for row in table.to_pylist()]


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
        rest = [one for one in get_args(hint) if one is not type(None)]
        assert len(rest) == 1, f"{hint} has no single Arrow type"
        return rest[0]
    return hint


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {name: _encode(getattr(value, name)) for name in _hints(type(value))}
    if isinstance(value, tuple):
        if value and not isinstance(value[0], (int, float, str)):
            return [_encode(item) for item in value]
        return list(value)
    return str(value) if isinstance(value, StrEnum) else value


Decoder = Callable[[Any], Any]


@cache
def _decoder(hint: Any) -> Decoder | None:
    """Makes a value of Arrow one of this type; `None` where they are the same."""
    decode = _decoder_of_some(_without_none(hint))
    if decode is None or _without_none(hint) is hint:
        return decode
    return lambda value: None if value is None else decode(value)


def _decoder_of_some(hint: Any) -> Decoder | None:
    if dataclasses.is_dataclass(hint):
        fields = [(name, _decoder(one)) for name, one in _hints(hint).items()]  # type: ignore[arg-type]
        return partial(_decode_record, hint, fields)
    if get_origin(hint) is tuple:
        item = _decoder(get_args(hint)[0])
        return tuple if item is None else lambda value: tuple(map(item, value))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint
    return None


def _decode_record(
    record_type: Any, fields: Sequence[tuple[str, Decoder | None]], row: dict[str, Any]
) -> Any:
    return record_type(
        **{name: row[name] if decode is None else decode(row[name]) for name, decode in fields}
    )
