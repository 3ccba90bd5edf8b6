"""The quickstart's world under other judges: a reward model, a chat model at a server, a mixture.

Each run has to complete and to improve on its own judge's scores.
"""

import json
import threading
import time
from pathlib import Path
from typing import Any

import openai_server
import pytest
import yaml
from microworld_judges import microworld_prompts, train_reward_model
from rich.console import Console

from forethought.config.recipe_files import load_recipe
from forethought.pipeline.loop import run_recipe
from forethought.planning.bounds import plan
from forethought.progress.reporter import Reporter
from forethought.storage.sealed_stage import read_json, read_manifest, read_records
from forethought.types import Rollout

COUNTS = {"train": 200, "validation": 24, "test": 100}
MORE = {"train": 320, "validation": 40, "test": 120}
"""A judge that only compares shows a gain on more prompts."""

pytestmark = pytest.mark.slow


def write_recipe(folder: Path, judge: dict[str, Any], counts: dict[str, int]) -> Path:
    recipe = {
        "run": str(folder / "run"),
        "model": {"path": "microworld"},
        "arms": ["thought"],
        "iterations": 1,
        "prompts_per_iteration": counts["train"],
        "prompts": {
            "train": [{"type": "microworld", "count": counts["train"]}],
            "validation": held_out("validation", counts["validation"]),
            "test": held_out("test", counts["test"]),
        },
        "sampling": {"type": "transformers", "samples": 6, "max_new_tokens": 96, "rows": 1024},
        "judge": judge,
        "training": {"beta": 0.3, "learning_rate": 2e-4, "epochs": 3, "batch_size": 16},
        "evaluation": {"samples": 2},
        "launch": {"threads": 1},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def held_out(split: str, count: int) -> dict[str, Any]:
    return {"count": count, "sources": [{"type": "microworld", "split": split, "count": count}]}


def run(folder: Path, judge: dict[str, Any], counts: dict[str, int] = COUNTS) -> list[float]:
    """Test scores of the seed and of the policy trained from it."""
    recipe = load_recipe([str(write_recipe(folder, judge, counts))])
    run_recipe(recipe, Reporter(Console(quiet=True)))
    rows = read_json(recipe.run / "summary.json")["arms"]["thought"]
    return [row["test_score"] for row in rows]


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory):
    prompts = microworld_prompts(**COUNTS)
    return train_reward_model(tmp_path_factory.mktemp("reward_model"), prompts)


def test_a_reward_model(tmp_path, reward_model):
    judge = {"type": "reward_model", "path": str(reward_model), "dtype": "float32"}
    before, after = run(tmp_path, judge)
    assert after > before
    judgements = tmp_path / "run/thought/iteration_0/judgements"
    spent: Any = read_manifest(judgements).counts["judge_calls"]
    assert spent["calls"] > 0
    assert spent["cost"] == 0


def test_a_mixture(tmp_path, reward_model):
    trained = {"type": "reward_model", "path": str(reward_model), "dtype": "float32"}
    checked = {"type": "verifier", "function": "microworld"}
    judge = {
        "type": "mixture",
        "routes": [
            {"category": ["shopping", "letters", "sort"], "members": [{"judge": checked}]},
            {"members": [{"judge": trained}, {"judge": checked, "weight": 2}]},
        ],
    }
    before, after = run(tmp_path, judge)
    assert before == 0.5, "the baseline against itself"
    assert after > before


def test_a_chat_model_whose_server_is_killed_and_restarted_twice(tmp_path):
    logs = [tmp_path / f"server_{number}.jsonl" for number in range(3)]
    words = ["--judge", "microworld_judges:compare"]
    server = openai_server.start(*words, log=logs[0])
    port = server.base_url.split(":")[2].split("/")[0]
    judge = {
        "type": "pairwise",
        "comparisons": {"rounds": 3},
        "engine": {
            "type": "openai",
            "base_url": server.base_url,
            "concurrency": 8,
            "attempts": 12,
            "backoff": 0.1,
            "price": {"prompt": 1, "completion": 2},
        },
    }
    killed = []

    def kill_twice():
        now = server
        for log in logs[1:]:
            while len(now.requests()) < 700:
                time.sleep(0.05)
            now.process.kill()
            killed.append(time.monotonic())
            time.sleep(0.5)
            now = openai_server.start(*words, log=log, port=int(port))
        servers.append(now)

    servers: list[openai_server.Server] = []
    killer = threading.Thread(target=kill_twice, daemon=True)
    killer.start()
    before, after = run(tmp_path, judge, MORE)
    killer.join(timeout=60)
    assert len(killed) == 2
    servers[0].stop()
    assert before == 0.5, "the baseline against itself"
    assert after > before + 0.02
    counts: Any = read_manifest(tmp_path / "run/thought/iteration_0/judgements").counts
    assert not counts["missing"]
    assert counts["judge_calls"]["prompt_tokens"] > 0
    assert counts["judge_calls"]["cost"] > 0
    asked = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    refuse_thoughts(tmp_path / "run", json.dumps(asked, ensure_ascii=False))
    [row] = [
        row
        for row in plan(load_recipe([str(tmp_path / "recipe.yaml")]))
        if row.ref.label == "thought iteration 0 judgements"
    ]
    assert row.calls == MORE["train"] * 18
    assert 0 < counts["judge_calls"]["calls"] <= row.calls


def refuse_thoughts(run: Path, sent: str) -> None:
    thoughts = {
        record.parsed.thought
        for record in read_records(run / "thought/iteration_0/rollouts", Rollout)
        if record.parsed.thought is not None and len(record.parsed.thought) > 20
    }
    assert len(thoughts) > 100
    assert "Here is my thought process" not in sent
    assert not [thought for thought in thoughts if json.dumps(thought)[1:-1] in sent]
