"""The run that the exports are taken from."""

from pathlib import Path

import pytest
from small_run import small_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms, two iterations, a probe, on the microworld; nobody writes into it."""
    run = tmp_path_factory.mktemp("exported") / "little run"
    small_run(run, "measures.probe={prompts: 6, after: last}")
    return run
