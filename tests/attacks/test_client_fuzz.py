"""schemathesis, which we did not write, reads the OpenAPI description and attacks what it says."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from scripted_backend import ScriptedBackend, script
from served import served

from forethought.serving.http.keys import new_key

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "ignored_auth",
)


@pytest.mark.parametrize("open_to_all", [True, False])
def test_no_request_breaks_the_server(tmp_path, open_to_all):
    key = new_key("fuzzer")
    keys = tmp_path / "keys"
    keys.write_text(key.line)
    backend = ScriptedBackend(script("t <R> an answer"))
    with served(backend, api_keys=None if open_to_all else keys) as server:
        words = [
            *("run", server.url + "/openapi.json", "--checks", ",".join(CHECKS)),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", "150"),
            *("--generation-deterministic", "--no-color", "--workers", "1"),
        ]
        if not open_to_all:
            words += ["--header", f"Authorization: Bearer {key.secret}"]
        command = [str(Path(sys.executable).with_name("schemathesis")), *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert len(backend.draws) > 50, "hardly a request of it was ever good"
        assert " 500 " not in server.log()
        health = httpx.get(server.url + "/health")
    assert health.json() == {"status": "ok"}
