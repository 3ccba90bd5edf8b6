"""The loop end to end on tiny models and real files: what it writes, resumes and refuses."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from text_recipe import run, write_recipe
from tiny import FAMILIES, save_policy
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.runs.schedule import stage_refs
from forethought.storage.sealed_stage import (
    ArmStoppedError,
    StageError,
    read_manifest,
    read_records,
)
from forethought.types import PairDecision, Rollout


@pytest.mark.parametrize("family", FAMILIES)
def test_one_iteration_on_every_architecture(tmp_path, family):
    recipe = run(write_recipe(tmp_path, family))
    rollouts = tmp_path / "run" / "thought" / "iteration_0" / "rollouts"
    counts: dict[str, Any] = dict(read_manifest(rollouts).counts)
    assert counts["outputs"] == 64
    assert sum(counts["statuses"].values()) == 64
    assert len(read_records(rollouts, Rollout)) == 64
    decisions = read_records(rollouts.parent / "pairs", PairDecision, "decisions")
    assert len(decisions) == 16
    policy = rollouts.parent / "selection" / "policy"
    assert json.loads((policy / "thought_format.json").read_text())["name"] == "letters"
    model: Any = AutoModelForCausalLM.from_pretrained(policy)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    turn = [{"role": "user", "content": "Hi"}]
    ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=4).shape[1] > ids["input_ids"].shape[1]
    seed = AutoModelForCausalLM.from_pretrained(recipe.model.path)
    changed = [
        not torch.equal(a, b) for a, b in zip(model.parameters(), seed.parameters(), strict=True)
    ]
    assert any(changed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    recipe_path = write_recipe(folder)
    return recipe_path, run(recipe_path)


def test_a_finished_run_is_left_alone(finished):
    recipe_path, recipe = finished
    before = {path: path.stat().st_mtime_ns for path in recipe.run.rglob("manifest.json")}
    run(recipe_path)
    assert {path: path.stat().st_mtime_ns for path in recipe.run.rglob("manifest.json")} == before
    assert len(before) == len(list(stage_refs(recipe)))


def test_the_summary_has_every_policy_of_both_arms(finished):
    _, recipe = finished
    summary = json.loads((recipe.run / "summary.json").read_text())
    assert set(summary["arms"]) == {"thought", "direct"}
    for rows in summary["arms"].values():
        assert [row["iteration"] for row in rows] == [0, 1]
        for row in rows:
            low, high = row["interval"]
            assert low <= row["test_score"] <= high
            assert 0 <= row["parse_failures"] <= 1
            assert row["response_tokens"] >= 0
    assert all(row["thought_tokens"] == 0 for row in summary["arms"]["direct"])
    assert summary["seconds"] > 0


def test_a_changed_recipe_is_refused_before_anything_runs(finished):
    recipe_path, recipe = finished
    before = sorted(recipe.run.rglob("*"))
    with pytest.raises(StageError, match=r"pairs\.rho: there 0\.2, asked for 0\.4"):
        run(recipe_path, "pairs.rho=0.4")
    assert sorted(recipe.run.rglob("*")) == before


def test_the_number_of_iterations_may_be_raised_up_to_the_prompts_there_are(finished):
    recipe_path, _ = finished
    with pytest.raises(StageError, match="there are 22 training prompts, and 2 iterations of 16"):
        run(recipe_path, "iterations=2")


def test_a_deleted_part_is_named(tmp_path):
    recipe_path = write_recipe(tmp_path)
    run(recipe_path, "arms=[direct]")
    stage = tmp_path / "run" / "direct" / "iteration_0"
    (stage / "rollouts" / "part_00001.parquet").unlink()
    for name in ("judgements", "pairs", "reference", "training", "selection"):
        (stage / name / "manifest.json").unlink()
    with pytest.raises(StageError, match=r"part_00001\.parquet is missing.*--repair"):
        run(recipe_path, "arms=[direct]")


@pytest.mark.slow
def test_a_process_per_stage_gives_the_same_run(tmp_path):
    recipe_path = write_recipe(tmp_path)
    words = ["arms=[direct]", "prompts.test=null"]
    one_process = run(recipe_path, *words)
    other = run(recipe_path, *words, "launch.process_per_stage=true", f"run={tmp_path}/other")
    for part in ("pairs/pairs.parquet", "selection/policy/model.safetensors"):
        path = Path("direct", "iteration_0", part)
        assert (other.run / path).read_bytes() == (one_process.run / path).read_bytes()


def test_all_outputs_unparsable_stops_with_causes_and_the_first_output(tmp_path):
    recipe_path = write_recipe(tmp_path)
    words = ["thought_format=generic", "arms=[thought]", "prompts.test=null"]
    with pytest.raises(ArmStoppedError, match="none of 64 outputs has a response") as error:
        run(recipe_path, *words)
    said = str(error.value)
    assert "without the response marker of thought_format 'generic'" in said
    assert "cut off before it by sampling.max_new_tokens (24)" in said
    assert "What helps here: " in said
    assert "The first output is " in said


def test_no_pair_stops_with_its_cause(tmp_path):
    words = [
        "arms=[direct]",
        "prompts.test=null",
        "pairs.max_unparsable=0",
        "judge={type: verifier, function: 'test_pipeline:constant'}",
    ]
    with pytest.raises(ArmStoppedError, match="none of 16 prompts gave a pair") as error:
        run(write_recipe(tmp_path), *words)
    said = str(error.value)
    assert "whose best and worst response score alike" in said
    assert "a judge with finer scores" in said
    assert f"forethought report {tmp_path}/run" in said


@pytest.mark.parametrize(
    "launch",
    [
        "{threads: 1}",
        pytest.param("{threads: 1, process_per_stage: true}", marks=pytest.mark.slow),
    ],
)
def test_an_arm_that_cannot_go_on_leaves_the_other_and_a_report(tmp_path, launch):
    """No output of the thought arm ever has the marker; the direct arm's always parse."""
    words = [str(write_recipe(tmp_path)), "thought_format=generic", f"launch={launch}"]
    done = CliRunner().invoke(app, ["run", *words])
    assert done.exit_code == 1
    assert "the thought arm ends here; the other one goes on" in done.stdout
    direct = tmp_path / "run" / "direct" / "iteration_0" / "selection"
    assert read_manifest(direct).counts["chosen_epoch"] in (1, 2)
    assert not (tmp_path / "run" / "thought" / "iteration_0" / "training").exists()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<html" in page
    assert f"report: {tmp_path}/run/report.html" in done.stdout.replace("\n", "")
    # Once more: what is done stays, and the message is there again.
    again = CliRunner().invoke(app, ["run", *words])
    assert again.exit_code == 1
    assert "direct iteration 0 training" not in again.stdout


def constant(prompt, response):
    return 1.0


WRONG = [
    (["prompts.train=[{type: file, path: nope.jsonl}]"], "nope.jsonl"),
    (["model.path=/nope"], "/nope does not exist"),
    (["model.path={folder}/bare"], "no tokenizer files"),
    (["model.path={folder}/mute"], "no chat template"),
    (["prompts.train=[{type: file, path: {folder}/bad.jsonl}]"], "line 2"),
    (["prompts_per_iteration=500"], "need 500"),
    (["judge={type: verifier, function: nope:grade}"], "judge.function"),
    (["sampling.max_new_tokens=0"], "sampling.max_new_tokens"),
    (["model.path={folder}/short"], "context"),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG, ids=[m for _, m in WRONG])
def test_a_users_mistake_is_one_clear_message(tmp_path, overrides, message):
    recipe_path = write_recipe(tmp_path)
    bare = save_policy(tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (bare / name).unlink()
    (save_policy(tmp_path / "mute") / "chat_template.jinja").unlink()
    save_policy(tmp_path / "short", max_position_embeddings=64)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    words = [override.replace("{folder}", str(tmp_path)) for override in overrides]
    result = CliRunner().invoke(app, ["run", str(recipe_path), *words])
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(tmp_path):
    recipe_path = write_recipe(tmp_path)
    words = [sys.executable, "-m", "forethought.cli", "run", str(recipe_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    child = subprocess.Popen(words, **pipes)
    while not (tmp_path / "run" / "prompts" / "manifest.json").is_file():
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 130
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    run(recipe_path)
    assert (tmp_path / "run" / "summary.json").is_file()
