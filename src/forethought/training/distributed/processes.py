"""Have a job done by several processes of this machine, and watch them."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from forethought.storage.sealed_stage import read_json
from forethought.training.distributed.job import Job
from forethought.training.distributed.torchrun import REASON, failure_file

POLL = 0.2
"""Seconds between two looks at how far the processes are."""
LAST_SECONDS = 60.0
"""What a process may need to end, with a whole GPU to give back."""


class ProcessesError(ValueError):
    """The processes of a training ended before it did; the message says why."""


def run_processes(job: Job, folder: Path, watch: Callable[[], None]) -> None:
    """Do a job by `job.processes` processes; `folder` takes their log, `watch` is called often.

    However this ends, so do the processes.

    Raises: ProcessesError if one of them fails or is killed.
    """
    for rank in range(job.processes):
        failure_file(folder, rank).unlink(missing_ok=True)
    (folder / REASON).unlink(missing_ok=True)
    path, log = folder / "job.json", folder / "processes.log"
    job.write(path)
    words = ["-m", "forethought.training.distributed.torchrun", str(path), str(job.processes)]
    lifeline, theirs = socket.socketpair()
    with lifeline, log.open("wb") as output:
        with theirs:
            # A session of their own: Ctrl-C reaches this process alone, which ends the others.
            child = subprocess.Popen(
                [sys.executable, *words],
                stdin=theirs.fileno(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            while child.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(POLL)
                watch()
        finally:
            lifeline.shutdown(socket.SHUT_WR)
            child.wait()
            # Ends when the last process that has the other end is gone.
            lifeline.settimeout(LAST_SECONDS)
            with contextlib.suppress(TimeoutError):
                lifeline.recv(1)
    if child.returncode != 0:
        raise ProcessesError(_reason(folder, child.returncode, log))


def _reason(folder: Path, status: int, log: Path) -> str:
    reason = {"message": f"torchrun ended with status {status}", "explained": False}
    if (folder / REASON).exists():
        reason = read_json(folder / REASON)
    place = "" if reason["explained"] else f" (what the processes wrote: {log})"
    return f"{reason['message']}{place}"
