"""Servers that end with the test."""

import json
from typing import Any

import openai_server
import pytest


@pytest.fixture
def serve(tmp_path):
    """Starts servers; the test's end is theirs."""
    servers = []

    def start(*words: str, rules: list[dict[str, Any]] | None = None, **options):
        given = [*words, "--rules", json.dumps(rules or [])]
        log = tmp_path / f"log_{len(servers)}.jsonl"
        servers.append(openai_server.start(*given, log=log, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
