"""Move a run directory aside, so that the same recipe begins anew."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from forethought.runs.lock import run_lock
from forethought.runs.policies import is_run


def move_aside(run: Path) -> Path | None:
    """Rename the folder to `RUN.1`, or the next number that is free; `None` where there is none.

    Raises: StageError if a process works on it; ValueError if it holds something else than a run.
    """
    if not run.exists():
        return None
    if not is_run(run):
        raise ValueError(
            f"run: {run} is not a run directory, so --fresh does not move it; name another run=…"
        )
    with run_lock(run):
        numbered = (run.with_name(f"{run.name}.{number}") for number in count(1))
        return run.rename(next(path for path in numbered if not path.exists()))
