"""The server that most tests of the endpoint ask."""

from collections.abc import Iterator

import pytest
from scripted_backend import ScriptedBackend, script
from served import Served, served


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """Open, with a page; every output is the same."""
    backend = ScriptedBackend(script("a secret thought <R> The answer is 5.", cut=5))
    with served(backend, page="<!doctype html><p>chat") as running:
        yield running
