"""What stands around single runs: several seeds, the list of runs, one moved aside, one that begins
at another's policy."""

import json
import math
import shutil
import statistics

import pytest
from small_run import ROOT, SMALL, small_recipe
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config.recipe_files import load_run
from forethought.models import loading
from forethought.runs.lock import run_lock
from forethought.runs.policies import find_run_policy
from forethought.runs.seeds import over_seeds
from forethought.runs.summary import summarise
from forethought.storage.sealed_stage import read_json, read_manifest

QUICKSTART = ROOT / "recipes" / "quickstart.yaml"
SHORT = [*SMALL, "iterations=1", "prompts_per_iteration=12", "training.epochs=1"]


def forethought(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """A recipe with two seeds, run to its end, and what was printed."""
    folder = tmp_path_factory.mktemp("seeds") / "both"
    done = forethought("run", QUICKSTART, f"run={folder}", *SHORT, "seeds=[3, 4]")
    assert done.exit_code == 0, done.output
    return folder, done.output


def test_each_seed_is_a_run_of_its_own(seeds):
    folder, _ = seeds
    for seed in (3, 4):
        recipe = load_run(folder / f"seed_{seed}")
        assert (recipe.seed, recipe.seeds) == (seed, ())
        assert (recipe.run / "report.html").is_file()
    digests = {
        read_manifest(folder / f"seed_{seed}/thought/iteration_0/rollouts").digest
        for seed in (3, 4)
    }
    assert len(digests) == 2


def test_means_and_intervals_are_over_the_seeds(seeds):
    folder, output = seeds
    recipes = [load_run(folder / f"seed_{seed}") for seed in (3, 4)]
    found = over_seeds(recipes)
    assert found is not None
    assert found.difference is not None
    values = [summarise(recipe)["difference"]["value"] for recipe in recipes]
    assert found.difference.value == pytest.approx(statistics.mean(values))
    # Student's quantile for two values, from its closed form with one degree of freedom.
    half = math.tan(math.pi * 0.475) * statistics.stdev(values) / math.sqrt(2)
    if half == 0:
        # On some CPU both seeds may differ by as much, and then nothing tells how sure it is.
        assert found.difference.interval is None
    else:
        assert found.difference.interval is not None
        assert found.difference.interval[1] - found.difference.value == pytest.approx(half)
    assert "Last policies of 2 seeds" in output
    assert found.scale.change(statistics.mean(values)) in output
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Over seeds" in page


def test_the_same_command_finds_both_seeds_done(seeds):
    folder, _ = seeds
    before = read_json(folder / "seed_4" / "run.json")["attempts"]
    done = forethought("run", QUICKSTART, f"run={folder}", *SHORT, "seeds=[3, 4]")
    assert done.exit_code == 0, done.output
    again = read_json(folder / "seed_4" / "run.json")["attempts"]
    assert len(again) == len(before) + 1
    assert again[-1]["seconds"] == 0.0


def test_status_and_report_know_the_folder_of_seeds(seeds):
    folder, _ = seeds
    status = forethought("status", folder)
    assert status.exit_code == 0, status.output
    assert status.output.count("evaluation") == 8
    assert forethought("report", folder).exit_code == 0
    assert forethought("check", folder).output.count("are as sealed") == 2
    view = forethought("view", folder)
    assert view.exit_code == 1
    assert "seed_3" in view.output.replace("\n", "")


def test_runs_are_listed_with_their_scores(seeds, monkeypatch):
    folder, _ = seeds
    monkeypatch.setenv("COLUMNS", "200")
    with run_lock(folder / "seed_4"):
        listed = forethought("runs", folder.parent)
    assert listed.exit_code == 0, listed.output
    score = summarise(load_run(folder / "seed_3"))["arms"]["thought"][1]["test_score"]
    [line] = [line for line in listed.output.splitlines() if "seed_3" in line]
    assert "done" in line
    assert f"{score:.3f}" in line
    [line] = [line for line in listed.output.splitlines() if "seed_4" in line]
    assert "at work" in line


def test_a_fresh_run_leaves_the_old_one_whole(seeds, tmp_path):
    folder, _ = seeds
    run = tmp_path / "mine"
    shutil.copytree(folder / "seed_3", run)
    sealed = read_manifest(run / "prompts").digest
    words = ["run", QUICKSTART, f"run={run}", *SHORT, "prompts.test=null"]
    refused = forethought(*words, "seed=3")
    assert refused.exit_code == 1
    assert "--fresh" in refused.output.replace("\n", " ")
    with run_lock(run):
        assert "in use" in forethought(*words, "--fresh").output
    done = forethought(*words, "seed=5", "arms=[direct]", "--fresh")
    assert done.exit_code == 0, done.output
    assert read_manifest(tmp_path / "mine.1/prompts").digest == sealed
    assert load_run(run).seed == 5


def test_what_is_no_run_is_not_moved(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    done = forethought("run", QUICKSTART, f"run={tmp_path / 'notes'}", *SHORT, "--fresh")
    assert done.exit_code == 1
    assert "not a run directory" in done.output
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"


def test_a_run_begins_at_another_runs_policy(seeds, tmp_path):
    folder, _ = seeds
    word = f"{folder}/seed_3/thought/1"
    shown = forethought("config", QUICKSTART, f"run={tmp_path / 'next'}", f"model.path={word}")
    assert shown.exit_code == 0, shown.output
    policy = find_run_policy(word)
    assert policy is not None
    assert f"path: {policy.policy.path}" in shown.output
    done = forethought(
        *("run", QUICKSTART, f"run={tmp_path / 'next'}", *SHORT, f"model.path={word}"),
        *("arms=[thought]", "prompts.test=null"),
    )
    assert done.exit_code == 0, done.output
    begun = read_json(tmp_path / "next/thought/iteration_0/rollouts/intent.json")["config"]
    assert begun["model"] == loading.identity(policy.policy.source)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("thought/7", "model.path"),
        ("thought/7", "has policies [0, 1]"),
        ("", "is a run; name a policy of it"),
    ],
)
def test_a_policy_that_is_not_there_is_named(seeds, tmp_path, word, says):
    folder, _ = seeds
    path = f"{folder}/seed_3/{word}".rstrip("/")
    done = forethought("plan", QUICKSTART, f"run={tmp_path}/x", f"model.path={path}")
    assert done.exit_code == 1
    assert says in " ".join(done.output.split())


def test_one_output_is_drawn_where_one_is_asked_for(tmp_path):
    prompts = tmp_path / "in.jsonl"
    prompts.write_text('{"prompt": "What is 2 plus 3?"}\n')
    words = ["model.path=microworld", "sampling.samples=1", "sampling.max_new_tokens=16"]
    done = forethought("sample", prompts, tmp_path / "out.jsonl", *words)
    assert done.exit_code == 0, done.output
    [line] = (tmp_path / "out.jsonl").read_text().splitlines()
    assert len(json.loads(line)["outputs"]) == 1


def test_a_plan_says_how_often_it_is_done(tmp_path):
    words = ("plan", QUICKSTART, f"run={tmp_path / 'x'}", *SHORT)
    assert "one seed's run" not in forethought(*words).output
    assert "all 3 together take 3 times as much" in forethought(*words, "seeds=[0, 1, 2]").output
    planned = forethought(*words, "seeds=[0, 1, 2]", "--gpu", "h100", "--json")
    assert json.loads(planned.stdout)["seeds"] == 3


def test_seeds_do_not_stand_inside_a_run_of_one(seeds):
    folder, _ = seeds
    done = forethought("run", QUICKSTART, f"run={folder / 'seed_3'}", *SHORT, "seeds=[0, 1]")
    assert done.exit_code == 1
    assert "is a run of one seed" in done.output
    assert not (folder / "seed_3" / "seed_0").exists()


def test_seeds_are_distinct(tmp_path):
    with pytest.raises(ValueError, match=r"seeds: \[1, 1\] names a seed twice"):
        small_recipe(tmp_path, "seeds=[1, 1]")
