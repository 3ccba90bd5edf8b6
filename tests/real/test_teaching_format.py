"""A warm start on a real model: a few prompts of its own teach it a format that it never wrote.

SmolLM2-135M-Instruct, thought arm, `generic`. What six prompts can teach is that there are markers,
and where; so the demonstrations are short, and the judge, a user's function, likes what is short.
"""

import json
from collections import Counter
from typing import Any

import pytest
import yaml
from test_whole_run import command

from forethought.config.recipe_files import load_run
from forethought.models.loading import load_tokenizer
from forethought.models.rendering import decode
from forethought.runs.check import check_run
from forethought.runs.layout import WARM_START, StageRef
from forethought.runs.schedule import stage_refs
from forethought.storage.sealed_stage import read_json, read_manifest, read_records
from forethought.thoughts import GENERIC
from forethought.types import Rollout, TrainingExample

pytestmark = pytest.mark.real

THINGS = ("rain", "a bridge", "bread", "a map", "the moon", "a spoon", "tea", "a kite")
SHOWN = (
    ("What is a door for?", "A door opens and closes.", "It lets people in and out."),
    ("What is milk for?", "Milk is a drink.", "People and calves drink it."),
    ("What is a ladder for?", "A ladder leads up.", "One climbs to a high place on it."),
)
CHECKS = "def short(prompt, response):\n    return 1.0 / len(response.split())\n"


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def recipe_file(folder, model):
    (folder / "checks.py").write_text(CHECKS)
    prompts = [{"prompt": f"What is {thing} for?"} for thing in THINGS]
    shown = [dict(zip(("prompt", "thought", "response"), row, strict=True)) for row in SHOWN]
    content = {
        "run": str(folder / "run"),
        # Not every CPU multiplies in bfloat16.
        "model": {"path": str(model), "dtype": "float32", "device": "cpu"},
        "arms": ["thought"],
        "iterations": 0,
        "prompts": {"train": written(folder / "prompts.jsonl", prompts), "test": {"count": 2}},
        "sampling": {"max_new_tokens": 64},
        "evaluation": {"attempts": 1},
        "judge": {"type": "verifier", "function": "checks:short"},
        "warm_start": {
            "demonstrations": written(folder / "shown.jsonl", shown),
            "prompts": 6,
            "samples": 4,
            "epochs": 3,
            "batch_size": 4,
            "learning_rate": 1e-4,
        },
        "launch": {"threads": 1, "keep_engines": True},
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def run(folder, path):
    process = command(folder, "run", path)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return " ".join(said.split())


def read(recipe, stage):
    return StageRef(recipe=recipe, stage=stage, arm="thought", index=WARM_START)


# Three minutes of one thread, and of a busy one as many times that.
@pytest.mark.timeout(1800)
def test_a_few_prompts_teach_a_real_model_the_format(real_model, tmp_path):
    path = recipe_file(tmp_path, real_model)
    said = run(tmp_path, path)
    recipe = load_run(tmp_path / "run")
    refs = list(stage_refs(recipe))
    assert len(refs) == 8
    assert all(ref.sealed for ref in refs)
    assert not check_run(recipe).damages
    assert "thought warm start: " in said

    examples_keep_what_was_sampled(recipe)
    log = (read(recipe, "training").folder / "steps.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in log]
    assert losses[-1] < losses[0] / 2
    seed = read_manifest(read(recipe, "evaluation").folder).counts
    assert seed["parse_failures"] == 1.0
    taught: Any = read_manifest(read(recipe, "selection").folder).counts
    assert taught["count"] == 6
    assert taught["parse_failures"] <= 0.5

    sealed = {ref.name: (ref.folder / "manifest.json").stat().st_mtime_ns for ref in refs}
    again = run(tmp_path, path)
    assert "trying before anything is sampled" not in again
    assert {ref.name: (ref.folder / "manifest.json").stat().st_mtime_ns for ref in refs} == sealed
    assert read_json(recipe.run / "run.json")["attempts"][1]["seconds"] == 0.0


def examples_keep_what_was_sampled(recipe):
    """Outputs that parse, each marker once, with their own tokens, behind the bare prompt."""
    rollouts = read_records(read(recipe, "rollouts").folder, Rollout)
    assert len(rollouts) == 24
    drawn = {(each.prompt_id, each.sample_index): each for each in rollouts}
    examples = read_records(read(recipe, "examples").folder, TrainingExample)
    assert examples
    assert max(Counter(each.prompt_id for each in examples).values()) <= 2
    tokenizer = load_tokenizer(str(recipe.model.path))
    for example in examples:
        rollout = drawn[example.prompt_id, example.sample_index]
        assert example.token_ids == rollout.completion.token_ids
        text = rollout.completion.text
        assert GENERIC.parse(text).response
        assert Counter(text.count(marker) for marker in ("thought process:", "my response:")) == {
            1: 2
        }
        asked = decode(tokenizer, example.prompt_token_ids, markers=())
        assert "Write your thoughts after" in asked
        assert "door" not in asked
        assert "door" in decode(tokenizer, rollout.prompt_token_ids, markers=())
