"""What names a model in a hash."""

import torch
from safetensors.torch import load_file, save_file
from tiny import save_policy

from forethought.models.loading import identity


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
