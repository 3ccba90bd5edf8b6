"""What the C heap has free goes back to the system."""

import ctypes
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forethought.heap import trimmed_heap

HOLES = 15_000
BYTES = 20_000


def resident_mib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


def main() -> None:
    """Make a heap of holes between what stays, and wait until the pages have gone back."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    holes = []
    for _ in range(HOLES):
        holes.append(libc.malloc(BYTES))
        ctypes.memset(holes[-1], 1, BYTES)
        libc.malloc(16)
    full = resident_mib()
    for hole in holes:
        libc.free(hole)
    print(full, resident_mib())
    with trimmed_heap(0.05):
        until = time.monotonic() + 10
        while resident_mib() > full - 150 and time.monotonic() < until:
            time.sleep(0.05)
    print(resident_mib())


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="is glibc's")
def test_holes_of_the_heap_go_back_to_the_system():
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True)
    full, freed, trimmed = map(int, done.stdout.split())
    assert freed > full - 50, "the C library gave the holes back by itself"
    assert trimmed < full - 150


if __name__ == "__main__":
    main()
