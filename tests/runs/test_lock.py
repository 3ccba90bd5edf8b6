"""One process at a time writes to a run directory."""

import os
import subprocess
import sys
import textwrap

import pytest

from forethought.runs.lock import run_lock
from forethought.storage.sealed_stage import StageError


def test_a_second_process_is_refused_and_the_first_is_named(tmp_path):
    code = f"""
    from pathlib import Path
    from forethought.runs.lock import run_lock
    with run_lock(Path({str(tmp_path)!r})):
        print("held", flush=True)
        input()
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(StageError, match=f"process {other.pid}"), run_lock(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
    with run_lock(tmp_path):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()
