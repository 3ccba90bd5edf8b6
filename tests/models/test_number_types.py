"""bfloat16 on CPUs that multiply it and on those that do not: the same values."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import save_policy, save_reward_model

from forethought.config import RewardModelJudge, TrainingConfig
from forethought.judging.scoring.reward_model import load_network
from forethought.models.loading import load_model, load_runnable
from forethought.models.number_types import cpu_has_bfloat16, product_type, said
from forethought.models.shared_policy import read_weights
from forethought.training.policy_module import open_policy, open_reference

CPU = torch.device("cpu")


@pytest.fixture(params=["with", "without"])
def products(request, monkeypatch) -> Iterator[torch.dtype]:
    """A CPU with bfloat16 kernels, and one without: the type of its products."""
    has = request.param == "with"
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: has)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has)
    cpu_has_bfloat16.cache_clear()
    yield torch.bfloat16 if has else torch.float32
    cpu_has_bfloat16.cache_clear()


def test_only_bfloat16_on_a_cpu_is_multiplied_otherwise(products):
    assert product_type(torch.bfloat16, CPU) == products
    assert product_type(torch.bfloat16, "cuda") == torch.bfloat16
    assert product_type(torch.float32, CPU) == torch.float32
    assert ("products are in float32" in said("bfloat16", CPU)) == (products == torch.float32)
    assert said("float32", CPU) == ""


def test_a_loaded_model_has_bfloat16_values(products, tmp_path: Path):
    folder = str(save_policy(tmp_path / "policy"))
    exact = dict(load_model(folder, dtype="float32", device="cpu").named_parameters())
    model = load_runnable(folder, dtype="bfloat16", device="cpu")
    assert {p.dtype for p in model.parameters()} == {products}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, exact[name].to(torch.bfloat16).to(products))
    # Rotary frequencies are float32's, whatever the weights: rounded ones lose far positions.
    finer = dict(load_model(folder, dtype="float32", device="cpu").named_buffers())
    assert finer
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, finer[name]), name
    # The same where weights are read into a module that is there.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert read_weights(model, folder, dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, exact[name].to(torch.bfloat16).to(products))


def test_a_reward_model_keeps_its_frequencies(products, tmp_path: Path):
    folder = save_reward_model(tmp_path / "judge")
    network = load_network(RewardModelJudge(path=str(folder), device="cpu", dtype="bfloat16"))
    exact = load_network(RewardModelJudge(path=str(folder), device="cpu", dtype="float32"))
    assert {p.dtype for p in network.parameters()} == {products}
    for (name, buffer), (_, finer) in zip(
        network.named_buffers(), exact.named_buffers(), strict=True
    ):
        assert torch.equal(buffer, finer), name


def test_a_model_is_trained_in_the_type_of_the_products(products, tmp_path: Path):
    """Where that is float32 the masters are trained themselves; the reference is not rounded."""
    folder = str(save_policy(tmp_path / "policy"))
    config = TrainingConfig(dtype="bfloat16")
    exact = dict(load_model(folder, dtype="float32", device="cpu").named_parameters())
    with open_reference(folder, config, "cpu") as reference:
        for name, parameter in reference.model.named_parameters():
            assert torch.equal(parameter, exact[name].to(products))
    with open_policy(folder, config, "cpu") as trainee:
        masters = trainee.masters
        assert {p.dtype for p in masters.working} == {products}
        with torch.no_grad():
            for master in masters.masters:
                assert master.dtype == torch.float32
                master.mul_(1.01)
        masters.publish()
        for working, master in zip(masters.working, masters.masters, strict=True):
            assert torch.equal(working, master.to(products))
            assert (working is master) == (products == torch.float32)
