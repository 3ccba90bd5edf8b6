"""A mistake is said before anything heavy is loaded, and so is what only looks.

What a command has loaded is asked of the process itself, not of a clock.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
QUICKSTART = str(ROOT / "recipes" / "quickstart.yaml")
HEAVY = {
    *("torch", "transformers", "vllm", "ray", "datasets", "peft", "accelerate", "tensorboard"),
    *("scipy", "sklearn", "pandas", "trl", "openai", "tokenizers", "safetensors"),
}
SERVER = """
import json, os, sys
from forethought.cli.main import main

def answer():
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    return 0

for line in sys.stdin:
    read, write = os.pipe()
    if not os.fork():
        os.dup2(write, 1)
        os.dup2(write, 2)
        sys.argv[1:] = json.loads(line)
        code = answer()
        print("LOADED", code, *sys.modules, flush=True)
        os._exit(0)
    os.close(write)
    print(json.dumps(open(read).read()), flush=True)
    os.wait()
"""
"""Each command in a process of its own, forked from one that has the command line alone."""
COMMANDS = (
    *("run", "status", "plan", "config", "report", "view", "export", "sample", "judge"),
    *("serve", "chat", "vllm-plugin", "new-key", "doctor"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "in.jsonl").write_text('{"prompt": "Hi", "responses": ["a", "b"]}\n')
    (folder / "empty").mkdir()
    (folder / "config.json").write_text('{"prompts_per_iteration": 3}')
    (folder / "bad.yaml").write_text("name: 3\n")
    (folder / "wrong.yaml").write_text("sampling: {sampels: 3}\n")
    recipe = yaml.safe_load(Path(QUICKSTART).read_text())
    recipe["prompts"]["train"] = [{"type": "file", "path": "nowhere.jsonl"}]
    (folder / "no_prompts.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    """Of a command: exit code, what is said, and the heavy modules that were loaded for it."""
    words = [sys.executable, "-c", SERVER]
    env = {**os.environ, "COLUMNS": "200"}
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipes, cwd=folder, env=env) as server:
        to, back = server.stdin, server.stdout
        assert to is not None
        assert back is not None

        def ask(*words: str) -> tuple[int, str, set[str]]:
            print(json.dumps(words), file=to, flush=True)
            said, _, end = json.loads(back.readline()).rpartition("LOADED ")
            code, *modules = end.split()
            return int(code), said, HEAVY & set(modules)

        yield ask
        to.close()


@pytest.mark.parametrize("command", ["", *COMMANDS, "evaluate", "evaluate probe"])
def test_help_loads_nothing_heavy(loaded, command):
    code, _, modules = loaded(*command.split(), "--help")
    assert (code, modules) == (0, set())


JUDGED = "judge={type: reward_model, path: ./nowhere}"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", QUICKSTART, "sampling.sampels=4"], "did you mean samples?"),
        (["run", "nowhere.yaml"], "recipe nowhere.yaml does not exist"),
        (["run", "no_prompts.yaml"], "prompts.train.0.path: nowhere.jsonl does not exist"),
        (["run", QUICKSTART, "run=x", "model.path=./nowhere"], "model: ./nowhere does not exist"),
        (["run", QUICKSTART, "run=x", JUDGED], "judge.path: ./nowhere does not exist"),
        (["run", QUICKSTART, "run=x", "thought_format=no.yaml"], "'no.yaml' is neither a file"),
        (["run", QUICKSTART, "run=x", "thought_format=bad.yaml"], "name: give text"),
        (["doctor", QUICKSTART, "sampling.sampels=4"], "did you mean samples?"),
        (["doctor", "nowhere.yaml"], "recipe nowhere.yaml does not exist"),
        (["plan", QUICKSTART, "sampling.sampels=4"], "did you mean samples?"),
        (["plan", QUICKSTART, "sampling.sampels=4", "--gpu", "h200"], "did you mean samples?"),
        (["plan", QUICKSTART, "--gpu", "abacus"], "abacus"),
        (["plan", QUICKSTART, "model.path=./nowhere"], "model: ./nowhere does not exist"),
        (["config", QUICKSTART, "judge.type=tgi"], "judge.type: give one of verifier"),
        (["status", "nowhere"], "nowhere is not a run directory"),
        (["status", "."], "config.json is not a recipe"),
        (["report", "nowhere"], "nowhere"),
        (["view", "nowhere"], "nowhere"),
        (["export", "nowhere", "out"], "nowhere"),
        (["sample", "in.jsonl", "out.jsonl", "sampling.sampels=4"], "did you mean samples?"),
        (["sample", "in.jsonl", "out.jsonl", "sampling.samples=4"], "give model.path"),
        (["sample", "no.jsonl", "out.jsonl", "model.path=microworld"], "no.jsonl does not exist"),
        (["sample", "in.jsonl", "out.jsonl", "model.path=./no"], "model: ./no does not exist"),
        (["sample", "in.jsonl", "empty", "model.path=microworld"], "empty exists"),
        (["judge", "in.jsonl", "out.jsonl", "judge.type=verifer"], "judge.type: give one of"),
        (["judge", "in.jsonl", "out.jsonl", JUDGED], "judge.path: ./nowhere does not exist"),
        (["judge", "no.jsonl", "out.jsonl", QUICKSTART], "no.jsonl does not exist"),
        (["serve", "./nowhere"], "./nowhere does not exist"),
        (["serve", "empty"], "empty has no config.json"),
        (["serve", "microworld", "--thought-format", "bad.yaml"], "name: give text"),
        (["chat", "./nowhere"], "./nowhere does not exist"),
        (["vllm-plugin", "./nowhere", "out.py"], "./nowhere does not exist"),
        (["evaluate", "gsm8k", "microworld"], "measures.gsm8k.sources is missing"),
        (["evaluate", "probe", "microworld", "sampling.sampels=4"], "did you mean samples?"),
        (["evaluate", "probe", "./nowhere"], "./nowhere does not exist"),
        (["evaluate", "win-rate", "./nowhere", "microworld"], "judge: a win rate needs one"),
        (["evaluate", "alpaca-eval", "--annotations", "nowhere.json"], "nowhere.json"),
        (["evaluate", "arena-hard", "--labels", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
    ids=str,
)
def test_a_mistake_is_said_before_anything_heavy_is_loaded(folder, loaded, words, says):
    code, said, modules = loaded(*words)
    assert code == 1, said
    assert says in said
    assert modules == set()
    assert not (folder / "x").exists(), "the run directory of a wrong recipe"


def test_looking_loads_nothing_heavy(folder, loaded):
    assert loaded("config", QUICKSTART)[::2] == (0, set())
    assert loaded("plan", QUICKSTART, "run=y")[::2] == (0, set())
    text = loaded("config", QUICKSTART, "run=y")[1]
    (folder / "y").mkdir()
    config = {**yaml.safe_load(text), "run": "y"}
    (folder / "y" / "config.json").write_text(json.dumps(config))
    code, said, modules = loaded("status", "y")
    assert (code, modules) == (0, set()), said
