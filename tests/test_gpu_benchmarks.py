"""The GPU benchmarks run end to end on a CPU at their tiny size, and say what they must."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

GPU = Path(__file__).parent.parent / "benchmarks" / "gpu"
pytest.importorskip("trl", reason="the training benchmark's peer is not installed")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Policy and judge are made once."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def run(models, tmp_path, monkeypatch):
    def call(script: str, *words: str) -> dict[str, Any]:
        output = tmp_path / "report.json"
        common = ["--tiny", "--rounds", "1", "--folder", str(models), "--output", str(output)]
        monkeypatch.setattr(sys, "argv", [script, *words, *common])
        monkeypatch.syspath_prepend(str(GPU))
        runpy.run_path(str(GPU / script), run_name="__main__")
        return json.loads(output.read_text())

    return call


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_dpo_steps(run, kind):
    found = run("dpo_step.py", kind, "--batch", "4", "--steps", "2", "--set", "beta=0.2")
    assert found["tiny"] is True
    assert found["training"]["beta"] == 0.2
    assert (found["training"]["lora"] is None) == (kind == "full")
    assert found["ratio"] > 0
    # Both sides start from the same policy and see the same pairs.
    for side in ("ours", "trl"):
        assert found["losses"][side][0] == pytest.approx(0.693, abs=0.01)


def test_the_sampler(run):
    found = run("sampler.py", "--prompts", "3", "--batches", "24")
    assert found["samples"] == 8
    assert found["ours"][0] > 0
    assert found["versions"]["torch"]


def test_armorm_gives_the_peers_scores(run):
    found = run("armorm.py", "--prompts", "3")
    assert found["responses"] == 24
    assert found["largest_difference"] < 0.05


def test_one_iteration_stands_beside_its_prediction(run, tmp_path):
    found = run("one_iteration.py", "--prompts", "8", "--run", str(tmp_path / "run"))
    stages = [one["stage"] for one in found["stages"]]
    assert stages[0] == "prompts"
    assert stages[-1] == "selection"
    assert all(one["predicted"] > 0 for one in found["stages"])
    policy = tmp_path / "run/direct/iteration_0/selection/policy"
    assert (policy / "adapter/adapter_model.safetensors").is_file()


def test_without_a_gpu_the_script_says_so(run, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sampler.py"])
    monkeypatch.syspath_prepend(str(GPU))
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="--tiny"):
        runpy.run_path(str(GPU / "sampler.py"), run_name="__main__")
