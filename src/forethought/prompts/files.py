"""Records of a file: JSON lines, a JSON list, CSV or Parquet; local or at an address, also packed.

A bad record refuses its whole file, by name and line: nothing of it is silently left out.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from forethought.config import ColumnsConfig
from forethought.prompts.conversations import PromptRecord, columns_wanted
from forethought.storage.expansion import bounded, refuse_larger, text_columns, unpacked
from forethought.storage.remote_files import read_bytes

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
PACKED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
"""Endings that may stand behind those of `FORMATS`, and what pyarrow calls them."""
LARGEST = 2 * 2**30
"""Bytes that a packed or a Parquet file may stand for. One that is not packed shows its size."""
CUT = "cut it into several files, or leave out what is no prompt"
ROWS = 256
"""Of a Parquet file, decoded at a time."""
LONGEST_CELL = 2**31 - 1
"""The csv module's own limit of 128 KiB is less than a prompt may have."""


def file_records(
    path: Path | str, columns: ColumnsConfig, field: str = "prompts"
) -> Iterator[PromptRecord]:
    """The records of a file; of a Parquet file only the columns that `columns` names are read.

    `field` is the recipe's, for errors.

    Raises: ValueError naming the file, and the line or row where there is one.
    """
    ending, packed = _endings(path)
    if ending not in FORMATS:
        raise ValueError(
            f"{field}: {path} is of no kind that is read; give a file that ends in "
            f"{', '.join(FORMATS)}, also with {', '.join(PACKED)} behind it"
        )
    if isinstance(path, Path) and not path.is_file():
        raise ValueError(f"{field}: {path} does not exist; correct `path`")
    if ending == ".parquet":
        return _parquet_records(path, packed, columns, field)
    return text_records(path, field)


def text_records(path: Path | str, field: str = "prompts") -> Iterator[PromptRecord]:
    """The records of a JSON or CSV file with all they hold; an unknown ending means JSON lines.

    Raises: ValueError naming the file, and the line where there is one.
    """
    ending, packed = _endings(path)
    if ending == ".parquet":
        raise ValueError(f"{path} is Parquet, whose lines cannot be added to; give JSON lines")
    content = _content(path, packed, field)
    if ending in (".csv", ".tsv"):
        return _csv_records(content, str(path), "," if ending == ".csv" else "\t")
    return _json_records(content, str(path), ending)


def column_names(path: Path | str, field: str = "prompts") -> list[str]:
    """The names of a file's columns; of JSON all that any record has.

    Raises: ValueError as `file_records` does.
    """
    ending, packed = _endings(path)
    if ending == ".parquet":
        with _parquet(path, packed, field) as file:
            return file.schema_arrow.names
    records = file_records(path, ColumnsConfig(), field)
    return list(dict.fromkeys(name for record in records for name in record.row))


def stem(path: Path | str) -> str:
    """A file's name without its endings."""
    name = PurePosixPath(path).name
    ending, packed = _endings(path)
    return name.removesuffix(packed).removesuffix(ending) or name


def _endings(path: Path | str) -> tuple[str, str]:
    pure = PurePosixPath(path)
    packed = pure.suffix if pure.suffix in PACKED else ""
    return PurePosixPath(pure.name.removesuffix(packed)).suffix, packed


def _content(path: Path | str, packed: str, field: str) -> bytes:
    content = path.read_bytes() if isinstance(path, Path) else read_bytes(path, field)
    if not packed:
        return content
    try:
        with pa.input_stream(pa.py_buffer(content), compression=PACKED[packed]) as stream:
            return unpacked(stream, LARGEST)
    except ValueError as error:
        raise ValueError(f"{field}: {path}: {error}; {CUT}") from error
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{field}: {path} cannot be unpacked ({error}); is it a whole {packed} file?"
        ) from error


def _json_records(content: bytes, path: str, ending: str) -> Iterator[PromptRecord]:
    """JSON lines, or in a `.json` file also one list. Only LF and CRLF end a line."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    if ending == ".json" and content.lstrip().startswith(b"["):
        listed = enumerate(_parse_json(content, path), start=1)
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


def _csv_records(content: bytes, path: str, delimiter: str) -> Iterator[PromptRecord]:
    """Rows below a line of column names; a quoted cell may have line ends of its own."""
    try:
        text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: not UTF-8 ({error}); save the file as UTF-8"
        ) from error
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    begins = 1
    try:
        for cells in reader:
            # A record with line ends in its cells is named by its first line.
            where, begins = f"{path}, line {begins}", reader.line_num + 1
            if not cells:
                continue
            if names is None:
                names = cells
                if len(set(names)) < len(names):
                    raise ValueError(f"{where}: two columns have one name, got {names!r:.120}")
                continue
            if len(cells) != len(names):
                raise ValueError(
                    f"{where}: {len(cells)} cells and {len(names)} column names; quote cells that "
                    f"hold {delimiter!r} or a line end"
                )
            yield PromptRecord(where, dict(zip(names, cells, strict=True)))
    except csv.Error as error:
        raise ValueError(f"{path}, line {begins}: not CSV ({error})") from error


def _parquet_records(
    path: Path | str, packed: str, columns: ColumnsConfig, field: str
) -> Iterator[PromptRecord]:
    with _parquet(path, packed, field) as file:
        wanted = columns_wanted(columns, file.schema_arrow.names, str(path))
        number = 0
        for batch in bounded(file.iter_batches(batch_size=ROWS, columns=wanted), LARGEST):
            for row in batch.to_pylist():
                number += 1
                yield PromptRecord(f"{path}, row {number}", row)


@contextmanager
def _parquet(path: Path | str, packed: str, field: str) -> Iterator[pq.ParquetFile]:
    local = isinstance(path, Path) and not packed
    content = path if local else pa.BufferReader(_content(path, packed, field))
    try:
        with pq.ParquetFile(content) as file:
            refuse_larger(file.metadata, LARGEST)
            texts = text_columns(file.metadata)
        with pq.ParquetFile(content, read_dictionary=texts) as file:
            yield file
    # Arrow's errors of content are ValueErrors, too.
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{field}: {path} is no readable Parquet file: {error}") from error
    except ValueError as error:
        raise ValueError(f"{field}: {path}: {error}; {CUT}") from error
