"""A user's own run on a real model: a JSONL file of prompts, both arms, killed once, to the report.

SmolLM2-135M-Instruct hardly ever writes the markers of the shipped formats, so the run has a format
of its own, with words that the model uses: whatever follows "is" is the response. Its judge is a
user's function that prefers short responses. So pairs come from outputs that parse; what does not
parse stands on the rejected side, within a quota that is raised to all.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from forethought.storage.sealed_stage import read_manifest

pytestmark = pytest.mark.real

THINGS = (
    "the capital of France", "the largest planet", "a noun", "the colour of grass", "a square",
    "water made of", "the opposite of hot", "a good breakfast", "the moon", "a prime number",
    "photosynthesis", "the boiling point of water",
)  # fmt: skip
FORMAT = """\
name: "is"
instruction: Answer in one short sentence.
response_starts_after: [" is", " are"]
"""
CHECKS = "def short(prompt, response):\n    return -float(len(response))\n"


def recipe(folder: Path, model: Path, **more: Any) -> Path:
    lines = [
        json.dumps({"prompt": f"In one short sentence: what is {thing}?", "category": "what"})
        for thing in THINGS
    ]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "is.yaml").write_text(FORMAT)
    (folder / "checks.py").write_text(CHECKS)
    content = {
        "run": str(folder / "run"),
        "model": {"path": str(model), "dtype": "bfloat16", "device": "cpu"},
        "thought_format": str(folder / "is.yaml"),
        "arms": ["thought", "direct"],
        "iterations": 1,
        "prompts_per_iteration": 4,
        "prompts": {
            "train": [{"type": "file", "path": str(folder / "prompts.jsonl")}],
            "validation": {"count": 2},
            "test": {"count": 2},
        },
        "sampling": {"type": "transformers", "samples": 4, "max_new_tokens": 64, "part_size": 2},
        "judge": {"type": "verifier", "function": "checks:short"},
        "pairs": {"max_unparsable": 1.0},
        "training": {"epochs": 1, "batch_size": 4, "dtype": "bfloat16"},
        "launch": {"threads": 1, "keep_engines": True},
        **more,
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def command(folder: Path, *words: str | Path) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "forethought.cli", *map(str, words)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=500)
    assert process.returncode == 0, said
    return said


def first_loss(run: Path, arm: str) -> float:
    path = run / arm / "iteration_0" / "training" / "steps.jsonl"
    return json.loads(path.read_text().splitlines()[0])["loss"]


def test_a_run_of_ones_own_is_killed_resumed_and_reported(real_model, tmp_path):
    mine = recipe(tmp_path, real_model)
    run = tmp_path / "run"
    killed = command(tmp_path, "run", mine)
    while not (run / "thought" / "iteration_0" / "rollouts" / "part_00000.parquet").is_file():
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (run / "report.html").exists()

    said = finish(command(tmp_path, "run", mine))
    assert "the slow way" not in said
    assert "sampling the fast way" in said
    assert (run / "report.html").is_file()
    for arm in ("thought", "direct"):
        assert read_manifest(run / arm / "iteration_0" / "pairs").counts["pairs"]
        assert first_loss(run, arm) == pytest.approx(0.6931, abs=1e-3)
    exported = tmp_path / "out"
    finish(command(tmp_path, "export", run, exported))
    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert tokenizer.chat_template
    AutoModelForCausalLM.from_pretrained(exported)
