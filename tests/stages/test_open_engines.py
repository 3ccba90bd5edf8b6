"""Every engine is opened once before a run samples: what cannot be used is said, nothing paid."""

import json
from pathlib import Path

import pytest
from own_code import save_own
from rich.console import Console
from small_run import ROOT, SMALL, small_recipe
from test_trial import BROKEN
from tiny import save_policy, save_reward_model
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.models.model_cache import caches_models
from forethought.pipeline.launch import try_engine
from forethought.progress.reporter import Reporter
from forethought.runs.schedule import stage_refs
from forethought.stages.checks.open_engines import open_engine, owed_engines

HERE = "test_open_engines"


def strict(prompt, response):
    """A verifier that takes no response but JSON."""
    return float(json.loads(response)["score"])


def lonely(response):
    """No verifier: it is not given the prompt."""
    return 1.0


WRONG = {
    "a reward model's folder holds another model": (
        "judge={type: reward_model, path: {folder}/plain, device: cpu}",
        ["judge (reward_model {folder}/plain) cannot be used", "labels"],
    ),
    "a reward model of NaN": (
        "judge={type: reward_model, path: {folder}/nan, device: cpu}",
        ["judge (reward_model {folder}/nan) cannot be used", "nan, no finite number"],
    ),
    "a misspelt verifier": (
        f"judge={{type: verifier, function: '{HERE}:strct'}}",
        ["judge (verifier test_open_engines:strct) cannot be used", "has no 'strct'", "'strict'"],
    ),
    "a verifier that scores nothing": (
        "judge={type: verifier, function: gsm8k} "
        "prompts.train=[{type: file, path: {folder}/a.jsonl}]",
        ["judge (verifier gsm8k) cannot be used", "none of 24 prompts", "columns.reference"],
    ),
    "a function that takes no prompt": (
        f"judge={{type: verifier, function: '{HERE}:lonely'}}",
        ["judge (verifier test_open_engines:lonely)", "cannot be called as f(prompt, response)"],
    ),
    "no module of a custom judge": (
        "judge={type: custom, import_path: 'no_such_module:Judge'}",
        ["judge (custom no_such_module:Judge)", "judge.import_path", "could not be imported"],
    ),
    "a member of a mixture": (
        "judge={type: mixture, routes: [{members: [{judge: {type: verifier, function: microworld}},"
        " {judge: {type: reward_model, path: {folder}/plain, device: cpu}}]}]}",
        ["judge.routes.0.members.1.judge (reward_model {folder}/plain) cannot be used", "labels"],
    ),
    "a server that is not there": (
        "judge={type: rating, engine: {type: openai, base_url: 'http://localhost:9/v1', "
        "model: big, attempts: 1}}",
        ["judge (big, rating", "http://localhost:9/v1", "see that the server runs"],
    ),
    "a chat model as judge that is no chat model": (
        "judge={type: rating, engine: {type: transformers}, "
        "model: {path: {folder}/mute, device: cpu}}",
        ["judge ({folder}/mute, rating", "no chat template"],
    ),
    "a measure's verifier": (
        "measures.gsm8k={sources: [{type: microworld, split: test, count: 4}], "
        f"verifier: '{HERE}:strct'}}",
        ["measures.gsm8k.verifier (verifier test_open_engines:strct)", "has no 'strct'"],
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_policy(folder / "plain")
    rows = [json.dumps({"prompt": f"What is {i}?"}) for i in range(60)]
    (folder / "a.jsonl").write_text("\n".join(rows))
    (save_policy(folder / "mute") / "chat_template.jinja").unlink()
    save_reward_model(folder / "nan")
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder / "nan")
    model.score.weight.data.fill_(float("nan"))
    model.save_pretrained(str(folder / "nan"))
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_used_is_one_message_before_anything_is_sampled(name, folder, tmp_path):
    override, expected = WRONG[name]
    overrides = override.replace("{folder}", str(folder)).split(" prompts.")
    words = [*SMALL, f"run={tmp_path / 'run'}", overrides[0]]
    words += [f"prompts.{one}" for one in overrides[1:]]
    done = CliRunner().invoke(app, ["run", str(ROOT / "recipes/quickstart.yaml"), *words])
    assert done.exit_code == 1
    for part in expected:
        assert part.replace("{folder}", str(folder)) in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.output
    assert done.stderr.strip().endswith("nothing was sampled yet")
    assert not list((tmp_path / "run").glob("*/iteration_0"))
    assert not (tmp_path / "run" / "evaluation").exists()


def test_a_verifier_may_refuse_what_no_model_has_said(tmp_path):
    recipe = prepared(tmp_path, f"judge={{type: verifier, function: '{HERE}:strict'}}")
    open_engine(recipe, "judge")


def test_a_judge_may_refuse_some_prompts(folder, tmp_path):
    rows = [
        {"prompt": f"Add {i} and {i}.", "sum": f"{2 * i}" if i > 20 else "?"} for i in range(30)
    ]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"{{type: file, path: {tmp_path}/sums.jsonl, columns: {{reference: sum}}}}"
    recipe = prepared(
        tmp_path, f"prompts.train=[{source}]", "judge={type: verifier, function: gsm8k}"
    )
    open_engine(recipe, "judge")


def test_what_a_sealed_stage_has_shown_is_not_tried_again(tmp_path):
    words = ("arms=[direct]", "iterations=1")
    recipe = small_recipe(tmp_path / "run", *words)
    tried = {}
    for ref in stage_refs(recipe):
        tried[ref.stage, ref.index] = owed_engines(stage_refs(recipe))
        ref.folder.mkdir(parents=True)
        (ref.folder / "manifest.json").write_text("{}")
    everything = ["judge", "sampling", "training"]
    assert tried["prompts", 0] == tried["evaluation", 0] == everything
    assert tried["rollouts", 0] == tried["judgements", 0] == ["judge", "training"]
    assert tried["pairs", 0] == tried["reference", 0] == ["training"]
    assert tried["training", 0] == tried["evaluation", 1] == []
    assert owed_engines(stage_refs(small_recipe(tmp_path / "run", "arms=[direct]"))) == []
    gsm8k = "measures.gsm8k={sources: [{type: microworld, count: 4}], verifier: microworld}"
    assert owed_engines(stage_refs(small_recipe(tmp_path / "run", *words, gsm8k))) == ["gsm8k"]
    kept = small_recipe(tmp_path / "other", "launch.keep_engines=true")
    assert owed_engines(stage_refs(kept)) == ["training", "judge", "sampling"]
    apart = "launch={type: torchrun, processes: 2}"
    assert owed_engines(stage_refs(small_recipe(tmp_path / "other", apart))) == everything[:2]


@pytest.mark.parametrize(
    "launch",
    [
        pytest.param("{process_per_stage: true}", marks=pytest.mark.slow),
        "{keep_engines: true}",
    ],
)
def test_what_cannot_be_trained_is_said_wherever_stages_run(launch, tmp_path):
    broken = save_own(tmp_path / "seed")
    (broken / "halves.py").write_text("import torch\n" + BROKEN)
    model = f"model={{path: {broken}, dtype: float32, trust_remote_code: true}}"
    recipe = prepared(tmp_path, model, "arms=[direct]", f"launch={launch}")
    with pytest.raises(ValueError, match=r"training: .*no backward on this device"):
        try_engine(recipe, "training")
    assert not caches_models()


def prepared(folder: Path, *overrides: str):
    """A run that has its prompts and nothing else."""
    from forethought.config.recipe_files import dump
    from forethought.runs.layout import StageRef
    from forethought.stages.table import run_stage
    from forethought.storage.files import write_json

    recipe = small_recipe(folder / "run", *overrides)
    recipe.run.mkdir()
    write_json(recipe.run / "config.json", dump(recipe))
    ref = StageRef(recipe=recipe, stage="prompts", arm=recipe.arms[0], index=0)
    run_stage(ref, Reporter(Console(quiet=True)))
    return recipe
