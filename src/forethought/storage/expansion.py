"""What a packed or a Parquet file stands for, before memory is given to it.

A few kilobytes can stand for gigabytes: by compression, by lengths of runs, and in Parquet by a
dictionary whose one long text is that of a million rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

VALUE = 8
"""Bytes that a value takes at least once it is decoded, a missing one too."""
PIECE = 1024 * 1024


def unpacked(stream: Any, most: int) -> bytes:
    """All that a stream of pyarrow gives. Raises: ValueError if it is more than so many bytes."""
    pieces, size = [], 0
    while piece := stream.read(PIECE):
        size += len(piece)
        if size > most:
            raise ValueError(f"it unpacks to more than {in_words(most)}")
        pieces.append(piece)
    return b"".join(pieces)


def refuse_larger(metadata: pq.FileMetaData, most: int) -> None:
    """Look at what a Parquet file says of itself. Raises: ValueError if it is too much."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    columns = [group.column(index) for group in groups for index in range(group.num_columns)]
    size = sum(max(each.total_uncompressed_size, VALUE * each.num_values) for each in columns)
    if max(size, VALUE * metadata.num_rows) > most:
        raise ValueError(f"it stands for more than {in_words(most)}")


def text_columns(metadata: pq.FileMetaData) -> list[str]:
    """Paths of the columns that may have a dictionary of texts, for `ParquetFile`'s
    `read_dictionary`: such a column is decoded without repeating them.
    """
    columns = [metadata.schema.column(index) for index in range(metadata.num_columns)]
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def bounded(batches: Iterable[pa.RecordBatch], most: int) -> Iterator[pa.RecordBatch]:
    """The batches as long as their values are no more than so many bytes, repeated texts counted
    each time. Raises: ValueError where they are.
    """
    size = 0
    for batch in batches:
        size += sum(map(_size, batch.columns))
        if size > most:
            raise ValueError(f"its values are more than {in_words(most)}")
        yield batch


def _size(array: Any) -> int:
    if isinstance(array, pa.DictionaryArray):
        lengths = pc.call_function("binary_length", [array.dictionary])
        repeated = pc.call_function("sum", [lengths.take(array.indices)])
        return VALUE * len(array) + (repeated.as_py() or 0)
    if isinstance(array, pa.StructArray):
        return sum(map(_size, array.flatten()))
    if isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        return VALUE * len(array) + _size(array.flatten())
    return max(array.nbytes, VALUE * len(array))


def in_words(size: int) -> str:
    """A number of bytes. Example: `in_words(2**31) == "2 GiB"`."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size} bytes"
