"""Which policies' weights a run keeps, and that none is ever half there."""

import json
import os
from pathlib import Path

import pytest
from small_run import small_recipe, small_run
from test_near_online import LONG, digests
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config import Recipe
from forethought.runs.retention import drop_weights
from forethought.runs.schedule import stage_refs
from forethought.storage.sealed_stage import read_manifest


def policies(recipe: Recipe, arm: str) -> list[int]:
    """Those whose weights are there."""
    found = recipe.run.glob(f"{arm}/iteration_*/selection/policy/model.safetensors")
    return sorted(int(path.parents[2].name.removeprefix("iteration_")) + 1 for path in found)


def test_policies_are_kept_by_rule(tmp_path: Path):
    words = [*LONG, "selection.by=last", "evaluation.every=2"]
    recipe = small_run(tmp_path / "run", *words, "keep={every: 2}")
    for arm in ("thought", "direct"):
        assert policies(recipe, arm) == [2, 4, 5]
        evaluated = sorted(path.name for path in (recipe.run / "evaluation" / arm).iterdir())
        assert evaluated == ["policy_0", "policy_2", "policy_4", "policy_5"]
    assert not list(recipe.run.glob("*/iteration_*/training/epoch_*"))
    assert not list(recipe.run.rglob("*.dropped"))
    assert len(list(recipe.run.glob("*/iteration_*/pairs/manifest.json"))) == 10
    summary = json.loads((recipe.run / "summary.json").read_text())
    for rows in summary["arms"].values():
        assert [row["iteration"] for row in rows] == [0, 2, 4, 5]
    assert summary["difference"]["iteration"] == 5

    # The same command finds nothing to do, and one with another rule drops what it does not name.
    before = digests(recipe)
    again = small_run(tmp_path / "run", *words, "keep=last")
    assert digests(again) == before
    assert policies(again, "thought") == [5]

    # What is not there is said, wherever it is asked for.
    for words in (
        ["vllm-plugin", f"{recipe.run}/thought/2", str(tmp_path / "hide.py")],
        ["export", str(recipe.run), str(tmp_path / "out"), "--policy", "2"],
    ):
        result = CliRunner().invoke(app, words)
        assert result.exit_code != 0, words
        assert "dropped (keep: last)" in " ".join(result.output.split()), result.output
        assert "Traceback" not in result.output
    report = CliRunner().invoke(app, ["report", str(recipe.run)])
    assert report.exit_code == 0, report.output


@pytest.mark.slow
def test_the_best_policy_is_kept(tmp_path: Path):
    words = ["keep=best", "prompts.test=null", "arms=[thought]", *LONG]
    recipe = small_run(tmp_path / "run", *words)
    scores = {}
    for ref in stage_refs(recipe):
        if ref.stage == "selection":
            counts = read_manifest(ref.folder).counts
            rows = counts["scores"]
            assert isinstance(rows, list)
            scores[ref.index + 1] = max(row["score"] for row in rows)
    best = {index for index, score in scores.items() if score == max(scores.values())}
    assert set(policies(recipe, "thought")) == best | {5}


def test_a_kill_while_dropping_leaves_no_half_of_a_model(tmp_path: Path, monkeypatch):
    recipe = small_run(tmp_path / "run", "arms=[thought]", "prompts.test=null")
    dropping = small_recipe(tmp_path / "run", "arms=[thought]", "prompts.test=null", "keep=last")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: os._exit(9))
        pid = os.fork()
        if pid == 0:
            drop_weights(dropping)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    drop_weights(dropping)
    assert policies(recipe, "thought") == [2]
    assert not list(recipe.run.rglob("*.dropped"))
    assert not list(recipe.run.glob("*/iteration_*/training/epoch_*"))
