"""Bfloat16 weights that nothing is lost in."""

from pathlib import Path

import pytest
import torch

from forethought.models.masters import joined, restore, rounded, split, write_rests


def test_what_is_split_is_joined_bit_for_bit():
    torch.manual_seed(0)
    odd = torch.tensor([0.0, -0.0, 1e-40, -1e-40, float("inf"), 1.0, -3.14159])
    for weight in (torch.randn(7, 33) * 0.02, torch.randn(5), odd):
        low, rest = split(weight)
        assert low.dtype == torch.bfloat16
        assert rest.dtype == torch.int16
        assert torch.equal(joined(low, rest).view(torch.int32), weight.view(torch.int32))
        assert torch.equal(rounded(weight), low)


def test_a_weight_that_bfloat16_has_stays():
    weight = torch.randn(999).to(torch.bfloat16)
    assert torch.equal(rounded(weight.float()), weight)


@pytest.mark.parametrize("change", [1e-6, -1e-6, 1e-5, 5e-5])
def test_changes_of_less_than_half_a_step_stay_on_average(change: float):
    """At 0.02 half a step is 6e-5: rounded to the nearest, all of these would be gone."""
    start = torch.full((400_000,), 0.02).to(torch.bfloat16)
    trained = start.float() + change
    assert torch.equal(trained.to(torch.bfloat16), start)
    moved = (rounded(trained).double() - start.double()).mean()
    assert float(moved) == pytest.approx(change, rel=0.05)


def test_rests_of_another_model_are_refused(tmp_path: Path):
    parameter = torch.nn.Parameter(torch.randn(3))
    low, rest = split(parameter.data)
    write_rests(tmp_path / "masters" / "rests.safetensors", {"a": rest})
    with pytest.raises(ValueError, match="belongs to another model"):
        restore(tmp_path / "masters" / "rests.safetensors", [("b", parameter)])
    found = torch.nn.Parameter(low.float())
    restore(tmp_path / "masters" / "rests.safetensors", [("a", found)])
    assert torch.equal(found, parameter)
