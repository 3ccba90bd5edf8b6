"""What weakens a run's figures is said, at its end and on its page."""

import json
import shutil
from io import StringIO

import pytest
from rich.console import Console
from small_run import small_run
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config.recipe_files import load_run
from forethought.report.page import write_report
from forethought.runs.cautions import cautions
from forethought.runs.summary import summary_table
from forethought.storage.files import write_json


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """8 test prompts, 24 prompts an iteration."""
    run = tmp_path_factory.mktemp("cautions") / "run"
    small_run(run, console=Console(file=StringIO()))
    return run


@pytest.fixture
def recipe(finished, tmp_path):
    """A copy of the run for each test to change."""
    return load_run(shutil.copytree(finished, tmp_path / "run"))


def counts_of(recipe, stage, **changes):
    """Change what a sealed stage says it counted."""
    path = recipe.run / stage / "manifest.json"
    manifest = json.loads(path.read_text())
    write_json(path, manifest | {"counts": manifest["counts"] | changes})


def test_few_test_prompts_are_said_with_the_number_that_is_needed(recipe):
    [said] = [caution for caution in cautions(recipe) if "rests on" in caution]
    assert said.startswith("The test score rests on 8 prompts;")
    assert "± 3 points needs up to 1,068." in said
    assert said in " ".join(write_report(recipe.run).read_text().split())
    done = CliRunner().invoke(app, ["run", str(recipe.run / "config.json")])
    assert "note: The test score rests on 8 prompts" in " ".join(done.stdout.split())


def test_amounts_of_pairs_are_compared(recipe):
    for number in range(2):
        counts_of(recipe, f"thought/iteration_{number}/pairs", pairs=40)
        counts_of(recipe, f"direct/iteration_{number}/pairs", pairs=14)
    said = cautions(recipe)
    assert any(each.startswith("The direct arm has 28 pairs; fewer than 30") for each in said)
    assert any("thought arm has 80 pairs and the direct arm 28" in each for each in said)
    for number in range(2):
        counts_of(recipe, f"direct/iteration_{number}/pairs", pairs=20)
    assert not any("pairs" in each for each in cautions(recipe))


def test_answers_without_a_response_are_said(recipe):
    counts_of(recipe, "evaluation/thought/policy_2", parse_failures=0.25, count=100)
    counts_of(recipe, "evaluation/direct/policy_2", parse_failures=0.1, count=100)
    counts_of(recipe, "thought/iteration_1/rollouts", statuses={"complete": 72, "truncated": 24})
    said = cautions(recipe)
    assert [each[:60] for each in said if "first answers" in each] == [
        "Of the thought arm's first answers to the test prompts 25% h"
    ]
    assert any("were answered again" in each for each in said)
    once = recipe.evaluation.model_copy(update={"attempts": 1})
    said_once = cautions(recipe.model_copy(update={"evaluation": once}))
    assert any("these prompts count as lost" in each for each in said_once)
    assert not any("answered again" in each for each in said_once)
    assert any("25% were cut off inside the response" in each for each in said)
    assert not any("rests on" in each for each in said)


def test_a_model_that_does_not_write_the_format_can_be_taught(recipe):
    for arm in recipe.arms:
        counts_of(recipe, f"evaluation/{arm}/policy_2", parse_failures=0.75, count=100)
    [taught] = [each for each in cautions(recipe) if "A warm start teaches" in each]
    assert taught.startswith("Of the thought arm's first answers to the test prompts 75% have no")


def test_scores_in_hundreds_leave_room_for_the_other_columns(recipe):
    summary = json.loads((recipe.run / "summary.json").read_text())
    for rows in summary["arms"].values():
        for row in rows:
            row |= {"test_score": -163.167, "interval": [-215.178, -111.156]}
    said = StringIO()
    Console(file=said, width=80).print(summary_table(summary))
    assert "thought │ -163.2 │ [-215.2, -111.2] │" in said.getvalue()
