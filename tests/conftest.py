"""What all tests share: one thread, no network, no progress bars of libraries, one browser, and
random draws that are the same each time."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch

# The environment of the vLLM engine's tests has none, and they need none.
with suppress(ImportError):
    from hypothesis import settings

    # The same draws everywhere, and no limit of time that a busy machine would break. To look for
    # new failures: pytest --hypothesis-profile=explore
    settings.register_profile("same", derandomize=True, deadline=None)
    settings.register_profile("explore", derandomize=False, deadline=None)
    settings.load_profile("same")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """The server that most tests of the endpoint ask: open, with a page, every output the same."""
    from scripted_backend import ScriptedBackend, script
    from served import served

    backend = ScriptedBackend(script("a secret thought <R> The answer is 5.", cut=5))
    with served(backend, page="<!doctype html><p>chat") as running:
        yield running


CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium; tests that need it are skipped where it is not installed."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip("there is no chromium")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield opened
        opened.close()
