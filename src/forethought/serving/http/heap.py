"""Give what the C heap has free back to the system while a server runs.

A sampler's tensors of every size come and go among what stays (for bfloat16 products oneDNN keeps a
compiled one for each shape it meets), so the heap ends up with thousands of holes. Nothing leaks,
but the pages stay resident, more of them by the hour: after nine minutes of 100 clients a server
had 727 MiB in use and 512 MiB of holes (benchmarks/README.md).
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PERIOD_SECONDS = 60.0


@contextmanager
def trimmed_heap(period: float = PERIOD_SECONDS) -> Iterator[None]:
    """Within it the free pages of the C heap go back every `period` seconds.

    Does nothing where the C library is not glibc: `malloc_trim` is its own.
    """
    trim = _malloc_trim()
    if trim is None:
        yield
        return
    over = threading.Event()

    def work() -> None:
        while not over.wait(period):
            trim(0)

    thread = threading.Thread(target=work, name="forethought-heap", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _malloc_trim() -> Callable[[int], int] | None:
    """It runs without Python's lock; other threads wait where they want the arena in its hands."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim
