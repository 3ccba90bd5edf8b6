"""Controls of a run: chosen outputs alone in place of preferences."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_run import small_recipe, start
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config import Recipe
from forethought.config.recipe_files import load_recipe
from forethought.pipeline.loop import run_recipe
from forethought.planning.costs import recipe_costs
from forethought.planning.devices import find_device
from forethought.progress.reporter import Reporter
from forethought.report.page import write_report
from forethought.runs.cautions import cautions
from forethought.runs.check import check_run
from forethought.runs.layout import StageRef
from forethought.runs.schedule import stage_refs
from forethought.storage.sealed_stage import read_json, read_manifest, read_records
from forethought.types import PreferencePair

PAPER = str(Path(__file__).parents[2] / "recipes" / "paper-llama3-8b.yaml")
ONE_ARM = [
    "iterations=1",
    "arms=[thought]",
    "prompts_per_iteration=12",
    "prompts.test={count: 4, sources: [{type: microworld, split: test, count: 4}]}",
    "training.save_every=1",
    "selection.by=last",
]


def run(recipe: Recipe) -> Recipe:
    run_recipe(recipe, Reporter(Console(quiet=True)))
    return recipe


def stage(recipe: Recipe, name: str, arm: Any = "thought") -> StageRef:
    return StageRef(recipe=recipe, stage=name, arm=arm, index=0)


def digests(recipe: Recipe) -> dict[str, str]:
    return {ref.name: read_manifest(ref.folder).digest for ref in stage_refs(recipe)}


def kill_within(recipe: Recipe, folder: Path, there: str) -> None:
    """A run is killed as soon as a stage has left so much."""
    pid = start(recipe)
    while not (folder / there).exists():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it ended before it was killed"
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


# --- training.loss: nll ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chosen_alone(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A finished run of one arm on the chosen outputs of its pairs."""
    return run(small_recipe(tmp_path_factory.mktemp("nll") / "run", *ONE_ARM, "training.loss=nll"))


@pytest.mark.slow
def test_without_preferences_there_is_no_reference_and_all_else_is_there(chosen_alone: Recipe):
    recipe = chosen_alone
    assert not stage(recipe, "reference").folder.exists()
    assert all(ref.stage != "reference" and ref.sealed for ref in stage_refs(recipe))
    pairs = read_records(stage(recipe, "pairs").folder, PreferencePair, "pairs")
    assert pairs
    log = (stage(recipe, "training").folder / "steps.jsonl").read_text().splitlines()
    tokens = sum(len(p.prompt_token_ids) + len(p.chosen.token_ids) for p in pairs)
    assert sum(json.loads(line)["tokens"] for line in log) == recipe.training.epochs * tokens
    assert read_json(recipe.run / "summary.json")["arms"]["thought"][1]["margin_kept"] is None
    assert not check_run(recipe).damages


@pytest.mark.slow
def test_its_page_card_and_notes_say_what_it_is(chosen_alone: Recipe, tmp_path: Path):
    recipe = chosen_alone
    assert "training.loss: nll" in cautions(recipe)[0]
    page = write_report(recipe.run).read_text()
    assert cautions(recipe)[0] in page
    assert "chart-loss" in page
    assert "chart-accuracy" not in page
    said = CliRunner().invoke(app, ["export", str(recipe.run), str(tmp_path / "policy")])
    assert said.exit_code == 0, said.output
    card = (tmp_path / "policy" / "README.md").read_text()
    assert "chosen outputs alone" in card
    assert "DPO" not in card


@pytest.mark.slow
def test_killed_in_its_training_it_ends_with_the_same_bytes(chosen_alone: Recipe, tmp_path: Path):
    torn = small_recipe(tmp_path / "run", *ONE_ARM, "training.loss=nll")
    kill_within(torn, stage(torn, "training").folder, "state")
    kill_within(torn, stage(torn, "training").folder, "epoch_1")
    run(torn)
    assert digests(torn) == digests(chosen_alone)


def test_the_plan_knows_that_there_is_one_side_and_no_reference():
    def training(*words: str) -> tuple[set[str], float]:
        costs = recipe_costs(load_recipe([PAPER, *words]), find_device("h200"), 8)
        [own] = [c for c in costs.stages if (c.stage, c.arm) == ("training", "direct")]
        return {cost.stage for cost in costs.stages}, own.effort.flops

    stages, on_pairs = training()
    fewer, on_chosen = training("training.loss=nll")
    assert stages - fewer == {"reference"}
    assert 0.5 < on_chosen / on_pairs < 0.7


def test_a_likelihood_beside_itself_is_refused():
    with pytest.raises(ValueError, match=r"nll_weight: 0\.5 .* leave training\.nll_weight out"):
        load_recipe([PAPER, "training.loss=nll", "training.nll_weight=0.5"])
