"""Sealed stage directories: write whole, mark last, resume only from what is marked.

A stage's folder holds `intent.json` (what it is, written first), its parts, and `manifest.json`
(written last: the seal). A folder without a manifest cannot be read; one with it never changes.
Identity is `sha256(stage, version, config, digests of the inputs)`, so the same folder can never
hold the work of another recipe.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from forethought.storage.expansion import refuse_larger
from forethought.storage.files import (
    sha256_file,
    sha256_once,
)
from forethought.storage.records import from_table

Record = TypeVar("Record")
MANIFEST = "manifest.json"
"""File that seals a stage."""
SCRATCH = "scratch"
"""Folder in an unsealed stage for what a resumed attempt may use; the seal removes it."""
INTENT = "intent.json"
LARGEST_PART = 64 * 2**30
"""Bytes that a part may stand for by its own word."""
Count = int | float | str | None | list[Any] | dict[str, Any]


class Part(BaseModel):
    """One file of a sealed stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Path below the stage's folder."""
    rows: int | None
    """Records, for Parquet parts."""
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """The seal of a stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    version: int
    fingerprint: str
    digest: str
    """Hash of the fingerprint and of every part: what later stages name as their input."""
    parts: tuple[Part, ...]
    inputs: dict[str, str]
    """Input stage folder to its digest."""
    counts: dict[str, Count]
    """What the stage reports of itself: parse statuses, missing groups, tokens …"""
    seconds: float
    """Wall-clock time over all attempts."""


class StageError(ValueError):
    """A stage's folder is not what the run needs; the message names the way out."""


class ArmStoppedError(StageError):
    """An arm has nothing more to learn from. What does not build on it can still be done."""


def is_begun(folder: Path) -> bool:
    """Whether a stage has been claimed for some work, which may be done."""
    return (folder / INTENT).is_file()


def is_sealed(folder: Path) -> bool:
    """Whether a stage is finished and may be read."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """The seal of a stage.

    Raises: StageError if the stage is not sealed or the manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise StageError(f"{folder} is not finished: it has no {MANIFEST}; run it first")
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise StageError(f"{path} is damaged; {redo(folder)}") from error


def read_records(
    folder: Path, record_type: type[Record], prefix: str = "", rows: slice | None = None
) -> list[Record]:
    """All records of a sealed stage's parts whose names begin with `prefix`, in part order.

    `rows`, with a start and a stop, are those wanted of each part; there is mostly one.

    Raises: StageError if the stage is not sealed, or a part is missing or damaged.
    """
    parts = sealed_parts(folder, prefix)
    return [record for part in parts for record in read_part(folder, part, record_type, rows)]


def sealed_parts(folder: Path, prefix: str = "") -> list[Part]:
    """The Parquet parts of a sealed stage whose names begin with `prefix`, in order.

    Raises: StageError if the stage is not sealed.
    """
    parts = read_manifest(folder).parts
    return [
        part for part in parts if part.name.endswith(".parquet") and part.name.startswith(prefix)
    ]


def read_part(
    folder: Path, part: Part, record_type: type[Record], rows: slice | None = None
) -> list[Record]:
    """The records of one part of a sealed stage; `rows`, with a start and a stop, if not all.

    Raises: StageError if the part is missing or damaged.
    """
    check_part(folder, part)
    with _opened(folder / part.name) as file:
        table = file.read()
    if rows is not None:
        table = table.slice(rows.start, rows.stop - rows.start)
    return from_table(table, record_type)


def read_columns(folder: Path, part: Part, columns: Sequence[str]) -> pa.Table:
    """Some columns of one part of a sealed stage; dots reach into records.

    Raises: StageError if the part is missing or damaged.
    """
    check_part(folder, part)
    with _opened(folder / part.name) as file:
        return file.read(columns=list(columns))


def _opened(path: Path) -> pq.ParquetFile:
    """Raises: StageError if it stands for more than any part of ours does."""
    file = pq.ParquetFile(path)
    try:
        refuse_larger(file.metadata, LARGEST_PART)
    except ValueError as error:
        file.close()
        raise StageError(f"{path}: {error}; it was not written by forethought") from error
    return file


def check_part(folder: Path, part: Part) -> None:
    """Raises: StageError if the part is missing or does not match its seal."""
    path = folder / part.name
    if not path.is_file():
        raise StageError(f"{path} is missing though the stage is sealed; {redo(folder)}")
    if path.stat().st_size != part.bytes or sha256_file(path) != part.sha256:
        raise StageError(f"{path} is damaged: it does not match its seal; {redo(folder)}")


def check_files(folder: Path, below: str = "") -> None:
    """Check a sealed stage's files, or those below a folder of it, before they are used.

    What was read once in this process is not read again while it looks the same on disk.

    Raises: StageError if the stage is not sealed, or a file is missing or damaged.
    """
    for part in read_manifest(folder).parts:
        if part.name.startswith(below):
            path = folder / part.name
            if not path.is_file() or sha256_once(path) != part.sha256:
                check_part(folder, part)


def redo(folder: Path) -> str:
    """The way out where a sealed stage is damaged."""
    return (
        "to make it again, move the folder away (forethought check RUN --repair does it, or "
        f"mv {folder} {folder}.damaged) and run the same command; what was made from other "
        "content will then be refused and named in the same way"
    )


def read_json(path: Path) -> Any:
    """Raises: StageError if the file is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from error


def read_object(path: Path) -> dict[str, Any]:
    """Raises: StageError if the file is no JSON object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise damaged(path, f"an object is wanted, found {value!r:.60}")
    return value


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON Lines file that may still be written; one begun is left out.

    Raises: StageError naming the line that is no JSON object.
    """
    rows: list[dict[str, Any]] = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if line.endswith(b"\n") and line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise damaged(path, f"line {number}: {error}") from error
            if not isinstance(row, dict):
                raise damaged(path, f"line {number}: an object is wanted, found {row!r:.60}")
            rows.append(row)
    return rows


def damaged(path: Path, why: str) -> StageError:
    """The error for a file that cannot be what was written, with the smallest mend."""
    if path.name == "seconds.json" or not is_begun(path.parent):
        return StageError(
            f"{path} is damaged ({why}); move it away (mv {path} {path}.damaged) and run the same "
            "command: it is written anew"
        )
    return StageError(f"{path} is damaged ({why}); {redo(path.parent)}")
