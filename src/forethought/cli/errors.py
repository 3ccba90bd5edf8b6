"""A user's mistake is one clear message."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console

from forethought.progress.harmless import harmless
from forethought.progress.reporter import Reporter


@contextmanager
def clear_errors(reporter: Reporter) -> Iterator[None]:
    """A user's mistake is one clear message; the traceback goes to the run's log only.

    Raises: SystemExit with 1 after a ValueError or OSError, with 130 after Ctrl-C. Errors of other
    classes pass through.
    """
    errors = Console(stderr=True)
    try:
        yield
    except KeyboardInterrupt:
        errors.print("Interrupted. Nothing sealed is lost; the same command goes on from here.")
        sys.exit(130)
    except (ValueError, OSError) as error:
        # Where the disk is full the log is, too.
        with suppress(OSError):
            reporter.keep(traceback.format_exc())
        errors.print("[bold red]error:[/bold red] ", end="")
        errors.print(harmless(_advice(error)), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


def _advice(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return (
            f"{error.strerror}{where}. What was sealed is safe: once that is put right, the same "
            "command goes on from here"
        )
    return str(error)
