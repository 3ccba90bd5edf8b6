"""Files at addresses such as `s3://bucket/name`: read whole, and folders written there.

fsspec opens them; the package of a protocol (`s3fs`, `gcsfs`, …) and its credentials are the
user's, as fsspec documents them. A run directory is always a folder of a POSIX disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def read_bytes(url: str, field: str) -> bytes:
    """The content of a file.

    Raises: ValueError naming the recipe's field if it cannot be opened.
    """
    with _mistakes(url, field, "read"):
        files, path = _filesystem(url)
        return files.cat_file(path)


def missing_package(url: str, field: str) -> str | None:
    """What an address cannot be opened without, in a sentence; `None` if nothing is missing.

    Raises: ValueError if nobody knows its protocol.
    """
    import fsspec

    protocol = url.partition("://")[0].lower()
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        return f"{field}: {url} cannot be read: {error}"
    except ValueError as error:
        raise ValueError(f"{field}: {url} cannot be read: {error}; correct the address") from None
    return None


def refuse_existing(url: str, field: str) -> None:
    """Raises: ValueError if something is there already, or the address cannot be looked at."""
    with _mistakes(url, field, "looked at"):
        files, path = _filesystem(url)
        there = files.exists(path)
    if there:
        raise ValueError(f"{field}: {url} exists; name another folder, or remove it first")


def write_folder(folder: Path, url: str, field: str, *, last: str) -> None:
    """Copy a folder's files to an address, the file named `last` after all others.

    Nothing is renamed there: an object store cannot. A copy that was cut off lacks `last`.

    Raises: ValueError naming the field if it cannot be written.
    """
    with _mistakes(url, field, "written"):
        files, path = _filesystem(url)
        inside = [source for source in sorted(folder.rglob("*")) if source.is_file()]
        for source in sorted(inside, key=lambda source: source == folder / last):
            target = f"{path.rstrip('/')}/{source.relative_to(folder).as_posix()}"
            files.makedirs(target.rpartition("/")[0], exist_ok=True)
            files.put_file(str(source), target)


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    return fsspec.core.url_to_fs(url)


@contextmanager
def _mistakes(url: str, field: str, verb: str) -> Iterator[None]:
    try:
        yield
    # Each protocol brings its library's own errors.
    except Exception as error:
        raise ValueError(
            f"{field}: {url} cannot be {verb}: {type(error).__name__}: {error}; correct the "
            "address, install the package of its protocol (s3fs, gcsfs, …) or give its credentials"
        ) from error
