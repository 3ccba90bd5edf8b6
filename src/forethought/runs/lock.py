"""One process at a time writes to a run directory."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from forethought.storage.sealed_stage import StageError


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold a run directory: one process at a time writes to it.

    The lock is the kernel's, so it is gone with the process however that ends.

    Raises: StageError that names the process that holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with _opened(run / "lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StageError(
                f"run: {run} is in use by {_named(run)}; wait for it, stop it, or give this one a "
                "directory of its own (run=…)"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.ctime()}\n")
        file.flush()
        yield


def _opened(path: Path) -> TextIO:
    """The lock's file, made if it is not there; what a link leads to is not written over."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if path.is_symlink():
            raise StageError(f"{path} is a symbolic link, not a lock; remove it") from error
        raise
    return os.fdopen(descriptor, "r+", encoding="utf-8")


def holder(run: Path) -> str | None:
    """The process that holds a run directory, as it named itself; `None` where none does."""
    if not (run / "lock").is_file():
        return None
    with (run / "lock").open() as file:
        try:
            # Shared: two that look do not find each other.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _named(run)
    return None


def _named(run: Path) -> str:
    return (run / "lock").read_text(encoding="utf-8").strip() or "another process"
