"""A run directory whose files were changed: what is sealed is what is used, or nothing is."""

import json
import shutil

import pytest
from small_run import ROOT, SMALL, small_run
from typer.testing import CliRunner

from forethought.cli.main import app

QUICKSTART = ROOT / "recipes" / "quickstart.yaml"
SHORT = ("iterations=1", "prompts_per_iteration=12", "training.epochs=1")


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("sealed") / "run", *SHORT).run


@pytest.fixture
def run(sealed, tmp_path):
    return shutil.copytree(sealed, tmp_path / "run")


def forethought(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done, " ".join(done.output.split())


def again(run, *words):
    return forethought("run", QUICKSTART, f"run={run}", *SMALL, *SHORT, *words)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    # A new file: in the run the training's epoch is the same one by a hard link.
    path.unlink()
    path.write_bytes(content)


POLICY_FILES = [
    "model.safetensors",
    "tokenizer.json",
    "chat_template.jinja",
    "generation_config.json",
    "config.json",
]


@pytest.mark.parametrize("name", POLICY_FILES)
def test_a_changed_policy_is_used_by_nothing(run, name):
    file = run / "thought/iteration_0/selection/policy" / name
    flip(file)
    policy = f"{run}/thought/1"
    for words in (
        ("serve", policy),
        ("chat", policy),
        ("evaluate", "probe", policy),
        ("run", QUICKSTART, f"run={run}-next", *SMALL, f"model.path={policy}"),
    ):
        done, said = forethought(*words)
        assert done.exit_code == 1, words
        assert str(file) in said.replace(" ", ""), words
        assert "damaged" in said
    done, said = again(run, "iterations=2")
    assert done.exit_code == 1
    assert f"{file} is damaged" in said
    assert not (run / "thought/iteration_1/rollouts/manifest.json").exists()


def test_a_changed_epoch_is_not_chosen(run):
    (run / "thought/iteration_0/selection/manifest.json").unlink()
    file = run / "thought/iteration_0/training/epoch_1/model.safetensors"
    flip(file)
    done, said = again(run)
    assert done.exit_code == 1
    assert f"{file} is damaged" in said


def test_a_stage_that_does_not_say_what_it_is_is_noticed(run):
    (run / "thought/iteration_0/pairs/intent.json").unlink()
    done, said = again(run)
    assert done.exit_code == 1
    assert "iteration_0/pairs is sealed and has no intent.json" in said


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"attempts": 1', "\x00\xff", "[" * 9999])
@pytest.mark.parametrize("name", ["run.json", "config.json", "summary.json"])
def test_a_record_of_the_run_is_moved_away_and_nothing_else(run, name, content):
    (run / name).write_text(content, encoding="latin-1")
    for words in (("report", run), ("status", run), ("export", run, f"{run}-out")):
        done, said = forethought(*words)
        if done.exit_code:
            assert str(run / name) in said, words
        assert "rm -r" not in said
    done, said = again(run)
    assert "rm -r" not in said
    if done.exit_code:
        assert f"mv {run / name} {run / name}.damaged" in said
        (run / name).rename(run / f"{name}.damaged")
        done, said = again(run)
    assert done.exit_code == 0, said


def test_a_damaged_log_of_training_is_named_by_line(run):
    log = run / "thought/iteration_0/training/steps.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([lines[0], "[1]\n", *lines[1:]]))
    done, said = forethought("report", run)
    assert done.exit_code == 1
    assert f"{log} is damaged (line 2: an object is wanted" in said


def test_weights_that_are_cut_off_are_one_message(run, tmp_path):
    model = shutil.copytree(run / "thought/iteration_0/selection/policy", tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    prompts = tmp_path / "in.jsonl"
    prompts.write_text(json.dumps({"prompt": "What is 2 plus 3?"}) + "\n")
    done, said = forethought(
        "sample", prompts, tmp_path / "out.jsonl", f"model.path={model}", "sampling.samples=1"
    )
    assert done.exit_code == 1
    assert f"{model} could not be loaded" in said


def test_all_seals_are_checked_and_damage_is_moved_aside(run):
    done, said = forethought("check", run)
    assert done.exit_code == 0, said
    assert "are as sealed" in said
    policy = run / "thought/iteration_0/selection/policy/model.safetensors"
    flip(policy)
    pairs = run / "direct/iteration_0/pairs/pairs.parquet"
    pairs.unlink()
    (run / "evaluation/thought/policy_0/intent.json").unlink()
    (run / "run.json").write_text("[]")
    before = {path.name: path.read_bytes() for path in policy.parent.iterdir() if path.is_file()}
    done, said = forethought("check", run)
    assert done.exit_code == 1
    for name in ("policy/model.safetensors", "pairs.parquet", "intent.json", "run.json"):
        assert name in said
    assert said.count("damaged:") == 4
    done, said = forethought("check", run, "--repair")
    assert done.exit_code == 0, said
    aside = run / "damaged/thought_iteration_0_selection.1/policy"
    assert {path.name: path.read_bytes() for path in aside.iterdir() if path.is_file()} == before
    done, said = again(run)
    assert done.exit_code == 0, said
    done, said = forethought("check", run)
    assert done.exit_code == 0, said
