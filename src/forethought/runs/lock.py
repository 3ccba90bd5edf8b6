"""One process at a time writes to a run directory."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forethought.storage.sealed_stage import StageError


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold a run directory: one process at a time writes to it.

    The lock is the kernel's, so it is gone with the process however that ends.

    Raises: StageError that names the process that holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise StageError(
                f"run: {run} is in use by {holder}; wait for it, stop it, or give this one a "
                "directory of its own (run=…)"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.ctime()}\n")
        file.flush()
        yield
