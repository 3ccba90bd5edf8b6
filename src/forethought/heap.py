"""Give what the C heap has free back to the system.

Tensors of every size come and go among what stays (for bfloat16 products oneDNN keeps a compiled
one for each shape it meets), so the heap ends up with thousands of holes. Nothing leaks, but the
pages stay resident, more of them by the hour: after nine minutes of 100 clients a server had 727
MiB in use and 512 MiB of holes (benchmarks/README.md), and a run that keeps SmolLM2-135M loaded has
1.6 to 2.3 GB of them after a training.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PERIOD_SECONDS = 60.0


def trim_heap() -> None:
    """Give the heap's free pages back; does nothing where the C library is not glibc.

    It runs without Python's lock; other threads wait where they want the arena in its hands.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    trim(0)


@contextmanager
def trimmed_heap(period: float = PERIOD_SECONDS) -> Iterator[None]:
    """Within it the free pages of the C heap go back every `period` seconds."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(period):
            trim_heap()

    thread = threading.Thread(target=work, name="forethought-heap", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
