"""The run that most tests of the page look at."""

from pathlib import Path

import pytest
from example_run import write_run


@pytest.fixture
def complete_run(tmp_path: Path) -> Path:
    """Two arms, two iterations, everything there."""
    run = tmp_path / "quickstart"
    write_run(run)
    return run
