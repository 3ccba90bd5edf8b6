"""Files that are whole or not there, and messages that name the file a disk refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

RUSTS = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust tell of an error of the system."""
TEMPORARY = (".tmp", ".partial")
"""How the hidden names end under which something is written before it is whole."""


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file so that after a crash either the old or the new content is there, whole.

    Raises: OSError naming the file if the disk is full; the target is then as it was.
    """
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """The file to write a path's new content to, which takes its place when the block ends; where
    that raises, the target is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with naming(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the disk names what was being written: the kernel says only that writing failed,
    and safetensors has an error of its own for it.

    Raises: OSError as it came, with this path where it had none; other errors as they came.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        told = RUSTS.search(str(error))
        number = int(told[1]) if told else getattr(error, "errno", None)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of indented JSON."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """A value as `write_json` writes it."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def table_bytes(table: pa.Table) -> bytes:
    """A table as Parquet whose damage would be noticed."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def sync_folder(folder: Path) -> None:
    """Make the folder's entries survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_temporary(path: Path) -> bool:
    """Whether a killed attempt left it before it was whole."""
    return path.name.startswith(".") and path.name.endswith(TEMPORARY)


def sha256_file(path: Path) -> str:
    """Content hash of a file."""
    with path.open("rb") as file, naming(path):
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """The same, not read again in this process while the file looks the same on disk."""
    seen = _seen(path)
    if seen not in _digests:
        _digests[seen] = sha256_file(path)
    return _digests[seen]


_Seen = tuple[int, int, int, int]
_digests: dict[_Seen, str] = {}
"""Digest of each file whose content this process has read, by what the disk says of it."""


def _seen(path: Path) -> _Seen:
    """What tells a file's content apart without reading it."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def content_hash(value: Any) -> str:
    """Hash of a JSON value, whatever the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
