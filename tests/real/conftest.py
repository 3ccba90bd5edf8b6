"""The real model: SmolLM2-135M-Instruct in bfloat16, built once by `make real-model`."""

from pathlib import Path

import pytest
from build_model import FOLDER, reason_file


@pytest.fixture(scope="session")
def real_model() -> Path:
    """A folder that any loader of Hugging Face models takes; read it only."""
    if not (FOLDER / "config.json").is_file():
        missing = reason_file(FOLDER)
        reason = missing.read_text().strip() if missing.is_file() else "run `make real-model` first"
        pytest.skip(f"there is no real model: {reason}")
    return FOLDER
