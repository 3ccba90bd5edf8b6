"""A checklist judge at a small chat server: killed and asked for the rest, explained, measured."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai_server
import pytest
from typer.testing import CliRunner

from forethought.cli.main import app

TESTS = Path(__file__).parent.parent
QUESTIONS = [f"Describe rivers, mountains and number {n} plainly." for n in range(12)]
RESPONSES = ["Rivers run.", "Mountains stand, and rivers run, plainly.", "No."]


@pytest.fixture
def server(tmp_path, request):
    """Of words for the server that a test may give."""
    words = ["--judge", "biased_judges:checks_words", *getattr(request, "param", ())]
    server = openai_server.start(*words, log=tmp_path / "log.jsonl")
    yield server
    server.stop()


def words(folder: Path, server: openai_server.Server, target: str) -> list[str]:
    lines = [json.dumps({"prompt": q, "responses": RESPONSES}) for q in QUESTIONS]
    (folder / "responses.jsonl").write_text("\n".join(lines))
    engine = f"judge.engine={{type: openai, base_url: '{server.base_url}', concurrency: 2}}"
    files = [str(folder / "responses.jsonl"), str(folder / target)]
    return ["judge", *files, "judge.type=checklist", engine]


def writing(requests: list[Any]) -> list[str]:
    """The questions for which a list was asked, in order."""
    asked = [request["body"]["messages"][0]["content"] for request in requests]
    return [
        text.partition("[The user's question]\n")[2].partition("\n[End of")[0]
        for text in asked
        if "[The statement]" not in text
    ]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("server", [("--delay", "0.02")], indirect=True)
def test_killed_and_resumed_it_has_the_items_that_it_had(server, tmp_path):
    command = [sys.executable, "-m", "forethought.cli", *words(tmp_path, server, "killed.jsonl")]
    process = subprocess.Popen(command, env={**os.environ}, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    # All lists are written by then, and a part of the verdicts is there.
    while len(server.requests()) < len(QUESTIONS) + 20 and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    before = server.requests()
    assert sorted(writing(before)) == sorted(QUESTIONS)
    assert not (tmp_path / "killed.jsonl").exists()
    resumed = CliRunner().invoke(app, words(tmp_path, server, "killed.jsonl"))
    assert resumed.exit_code == 0, resumed.output
    after = server.requests()[len(before) :]
    assert writing(after) == []
    # Four items each, of every response; the two that were in flight are asked for again.
    wanted = len(QUESTIONS) * (1 + 4 * len(RESPONSES))
    assert wanted <= len(before) + len(after) <= wanted + 2
    whole = CliRunner().invoke(app, words(tmp_path, server, "whole.jsonl"))
    assert whole.exit_code == 0, whole.output
    found = rows(tmp_path / "killed.jsonl")
    assert found == rows(tmp_path / "whole.jsonl")
    # The weights of describe, rivers, mountains and number are 3, 1, 1 and 1.
    assert found[0]["scores"] == [1 / 6, 2 / 6, 0.0]


def test_the_items_stand_in_the_table(server, tmp_path):
    explained = CliRunner().invoke(
        app, [*words(tmp_path, server, "scores.jsonl"), "--explain"], env={"COLUMNS": "200"}
    )
    assert explained.exit_code == 0, explained.output
    lines = [line.split() for line in explained.output.splitlines()]
    assert ["It", "says", "rivers.", "1", "yes", "yes", "no"] in lines
    assert ["score", "0.167", "0.333", "0"] in lines


def test_it_is_measured_as_other_judges_are(server, tmp_path):
    engine = words(tmp_path, server, "-")[-1].replace("concurrency: 2", "concurrency: 16")
    asked = ["evaluate", "judge", "judge.type=checklist", engine, "judge.max_items=4", "--json"]
    done = CliRunner().invoke(app, [*asked, "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    found = {row["category"] or row["name"]: row for row in json.loads(done.stdout)["results"]}
    assert found["same_verdict"]["value"] == 1
    assert found["repeat_noise"]["value"] == 0
    assert found["position_bias"]["value"] is None
    assert found["attack_wins"]["count"] == 30
    # More of the question's words are never fewer.
    assert found["longer_wins"]["value"] >= 0.5


def test_a_prompt_without_items_is_said_with_its_line(server, tmp_path):
    asked = words(tmp_path, server, "scores.jsonl")
    items = tmp_path / "items.jsonl"
    rows = [{"prompt": question, "items": ["It says rivers."]} for question in QUESTIONS[:-1]]
    items.write_text("\n".join(map(json.dumps, rows)))
    done = CliRunner().invoke(app, [*asked, f"judge.items={items}"])
    assert done.exit_code == 1
    said = " ".join(done.output.split())
    assert "line 12: judge.items: " in said
    assert "has no items for this prompt, 'Describe rivers, mountains and number 11" in said
    assert server.requests() == []
