"""What a model's name means, and what names it in a hash."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_policy

from forethought.config import ModelSource
from forethought.models.loading import identity, resolve


def test_weights_trained_anew_in_place_are_another_model(tmp_path):
    folder = save_policy(tmp_path / "policy")
    before = identity(str(folder))
    assert identity(str(folder)) == before
    weights = load_file(folder / "model.safetensors")
    same = {name: tensor.clone() for name, tensor in weights.items()}
    save_file(same, folder / "model.safetensors", metadata={"format": "pt"})
    assert identity(str(folder)) == before
    changed = {name: tensor + 1e-3 * torch.randn_like(tensor) for name, tensor in weights.items()}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    assert identity(str(folder)) != before
    assert identity("organisation/model") == {"name": "organisation/model"}


def test_a_name_in_a_folder_that_is_here_is_asked_of_no_hub(tmp_path, monkeypatch):
    save_policy(tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    assert resolve("runs/mine") == "runs/mine"
    with pytest.raises(ValueError, match=r"runs/nothere does not exist, and runs .* holds mine\."):
        resolve("runs/nothere")
    assert resolve("organisation/model") == "organisation/model"
    assert resolve(ModelSource(path="runs/model", revision="main")) == "runs/model"
