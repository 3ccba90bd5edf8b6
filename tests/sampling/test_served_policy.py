"""The loop with the policy at a server: one that holds the seed, and one started per policy."""

import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from forethought.config.recipe_files import load_recipe
from forethought.pipeline.loop import run_recipe
from forethought.progress.reporter import Reporter
from forethought.storage.sealed_stage import read_manifest, read_records
from forethought.types import Rollout

SERVER = Path(__file__).parents[1] / "openai_server.py"


def write_recipe(folder, **sampling):
    recipe = {
        "run": str(folder / "run"),
        "model": {"path": "microworld", "dtype": "float32"},
        "arms": ["thought"],
        "iterations": 1,
        "prompts_per_iteration": 16,
        "prompts": {
            "train": [{"type": "microworld", "count": 16}],
            "validation": {
                "count": 4,
                "sources": [{"type": "microworld", "split": "validation", "count": 4}],
            },
        },
        "sampling": {"samples": 6, "max_new_tokens": 64, "part_size": 8} | sampling,
        "judge": {"type": "verifier", "function": "microworld"},
        "training": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3},
        "launch": {"threads": 1},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return load_recipe([str(path)])


def run(recipe):
    run_recipe(recipe, Reporter(Console(quiet=True)))


def command(*words):
    return " ".join([sys.executable, str(SERVER), "--model", "{model}", "--port", "{port}", *words])


@pytest.mark.slow
def test_a_server_is_started_for_every_policy(tmp_path):
    recipe = write_recipe(
        tmp_path,
        type="openai",
        base_url="http://127.0.0.1:{port}/v1",
        command=command("--dtype", "float32"),
        price={"prompt": 1, "completion": 2},
    )
    run(recipe)
    rollouts = read_records(tmp_path / "run/thought/iteration_0/rollouts", Rollout)
    assert len(rollouts) == 96
    assert all(rollout.completion.token_ids for rollout in rollouts)
    counts = read_manifest(tmp_path / "run/thought/iteration_0/rollouts").counts
    assert counts["sampling_calls"]["calls"] == 96  # pyright: ignore
    assert counts["sampling_calls"]["cost"] > 0  # pyright: ignore
    selection = read_manifest(tmp_path / "run/thought/iteration_0/selection")
    assert selection.counts["sampling_calls"]["calls"] >= 8  # pyright: ignore
    assert not list((tmp_path / "run").rglob("*.sqlite*"))


def test_a_server_that_does_not_start_says_why(tmp_path):
    for words, problem in [
        ("no-such-command --port {port} {model}", "no program 'no-such-command'"),
        (f"{sys.executable} -c exit(3) {{port}} {{model}}", "ended with status 3"),
        (f"{sys.executable} -c oops {{port}} {{model}}", "name 'oops' is not defined"),
    ]:
        recipe = write_recipe(
            tmp_path, type="openai", base_url="http://127.0.0.1:{port}/v1", command=words
        )
        with pytest.raises(ValueError, match=r"sampling\.command") as caught:
            run(recipe)
        assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"base_url": "http://x:{port}/v1"}, "only a command can fill"),
        ({"base_url": "http://x:1/v1", "command": "a {model} {port}"}, "base_url: .*lacks {port}"),
        ({"base_url": "http://x:{port}/v1", "command": "a {port}"}, "command: .*lacks {model}"),
    ],
)
def test_a_command_has_its_two_places(tmp_path, fields, problem):
    with pytest.raises(ValueError, match=problem):
        write_recipe(tmp_path, type="openai", **fields)
