"""All that a recipe names is looked at before the first stage, and by `plan`, without a model."""

import json
import os
from pathlib import Path

import pytest
from huggingface_hub import constants
from small_run import ROOT, SMALL, small_recipe
from tiny import save_policy
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config.recipe_files import dump
from forethought.runs.schedule import stage_refs
from forethought.stages.checks.first_look import look_first
from forethought.storage.files import write_json

SERVER = "{base_url: 'http://localhost:9/v1', model: m, backoff: 0.01}"
RATING = "judge={type: rating, engine: {type: openai, " + SERVER[1:] + "}"
ALPACA = f"measures.alpaca_eval={{instructions: FOLDER/NAME, baseline: b, annotator: {SERVER}}}"
WRONG = {
    "judge.function=gsm9k": "'gsm9k' is no verifier",
    "judge.function=no_module.x:grade": "module 'no_module.x'",
    "judge={type: custom, import_path: 'no_module:Judge'}": "judge.import_path: module 'no_module'",
    "judge={type: reward_model, path: FOLDER/nowhere}": "judge.path: FOLDER/nowhere does not exist",
    "judge={type: reward_model, path: FOLDER/plain}": "it has 2 labels",
    "judge={type: armorm, path: FOLDER/plain}": "an ArmoRM's is",
    "judge={type: rating, prompt: no.yaml, engine: {type: scripted, path: s}}": "judge.prompt: no",
    "prompts.train=FOLDER/no.jsonl": "prompts.train.0.path: FOLDER/no.jsonl does not exist",
    "prompts.train=[{type: datasets, name: ./no}]": "prompts.train.0.name: folder ./no does not",
    "thought_format=think": "thought_format: 'think' is neither",
    "thought_format=FOLDER/empty.yaml": "thought_format: FOLDER/empty.yaml: name is missing",
    "thought_format=FOLDER/mute.yaml": "thought_format: FOLDER/mute.yaml has no thoughts",
    "sampling={type: scripted, path: FOLDER/no.jsonl}": "path: FOLDER/no.jsonl does not exist",
    ALPACA.replace("NAME", "no.json"): "measures.alpaca_eval.instructions: FOLDER/no.json does not",
    f"measures.arena_hard={{questions: no, baseline: b, judge: {SERVER}}}": "arena_hard.questions",
    "measures.second_judge.judge={type: reward_model, path: FOLDER/nowhere}": "measures.second_"
    "judge.judge.path: FOLDER/nowhere does not exist",
    "measures.second_judge.judge={type: verifier, function: gsm9k}": "measures.second_judge.judge "
    "(verifier gsm9k) cannot be used",
    "measures.gsm8k={sources: FOLDER/no.jsonl}": "measures.gsm8k.sources.0.path: FOLDER/no.jsonl",
    "measures.gsm8k={sources: FOLDER/a.jsonl, after: last}": "has no reference",
    "measures.gsm8k={sources: [{type: microworld, count: 2}], verifier: gsm9k}": "gsm8k.verifier",
}
"""An override, and what is said of it wherever it is looked at."""
NOT_HERE = {
    RATING: "judge (m, rating (rating_1_to_10)) cannot be used: openai engine: http://localhost:9",
    "judge={type: reward_model, path: some/nowhere}": "judge.path: some/nowhere is not on this",
    "prompts.train=[{type: datasets, name: some/nowhere}]": "prompts.train.0.name: some/nowhere",
    "model.path=some/nowhere": "model: some/nowhere is not on this machine",
    "sampling.type=vllm": "vllm is not installed",
    "sampling={type: openai, " + SERVER[1:]: "sampling (openai microworld) cannot be used",
}
"""What may be there on another machine, or later: a plan says so, a run does not begin."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("named")
    save_policy(folder / "plain")
    (folder / "empty.yaml").write_text("{}\n")
    (folder / "mute.yaml").write_text("{name: mute, instruction: Think.}\n")
    (folder / "a.jsonl").write_text(json.dumps({"prompt": "What is 2 + 3?"}))
    return folder


@pytest.fixture
def no_hub(monkeypatch):
    """Whether this machine has a network or not."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://nowhere.invalid")
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def said(command: str, run: Path, *overrides: str):
    words = [command, str(ROOT / "recipes/quickstart.yaml"), *SMALL, f"run={run}", *overrides]
    return CliRunner().invoke(app, words, env={"COLUMNS": "200"})


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("override", WRONG)
def test_what_is_wrong_is_said_before_the_first_stage(command, override, folder, tmp_path):
    done = said(command, tmp_path / "run", override.replace("FOLDER", str(folder)))
    assert done.exit_code == 1, done.output
    assert WRONG[override].replace("FOLDER", str(folder)) in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("override", NOT_HERE)
def test_what_is_not_here_ends_a_run_and_is_a_line_of_a_plan(override, no_hub, tmp_path):
    planned = said("plan", tmp_path / "run", override)
    assert planned.exit_code == 0, planned.output
    [line] = [line for line in planned.stdout.splitlines() if line.startswith("not here yet: ")]
    assert NOT_HERE[override] in line
    done = said("run", tmp_path / "run", override)
    assert done.exit_code == 1
    assert NOT_HERE[override] in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_plan_for_another_machine_is_not_told_what_is_missing_here(tmp_path):
    done = said("plan", tmp_path / "run", "sampling.type=vllm", "--gpu", "h200")
    assert done.exit_code == 0, done.output
    assert "not here yet" not in done.output


def test_of_what_is_finished_nothing_is_asked(tmp_path):
    recipe = small_recipe(tmp_path / "run", RATING)
    assert len(look_first(recipe)) == 1
    refs = list(stage_refs(recipe))
    for ref in refs[:-1]:
        write_json_of(ref.folder)
        # The judge has shown that it works; a server that is down now may be up when it is needed.
        if ref.stage == "judgements":
            assert look_first(recipe) == []
    write_json_of(refs[-1].folder)
    assert look_first(recipe) == []


def test_a_finished_run_needs_no_server(tmp_path):
    recipe = small_recipe(tmp_path / "run", RATING)
    for ref in stage_refs(recipe):
        write_json_of(ref.folder)
    write_json(recipe.run / "config.json", dump(recipe))
    done = said("plan", recipe.run, RATING)
    assert done.exit_code == 0, done.output
    assert "not here" not in done.output


def write_json_of(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
