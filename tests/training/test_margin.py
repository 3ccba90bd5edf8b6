"""What is learned survives the checkpoint: masters, adapters, and the share that is measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import make_pairs, run, settings, tiny_model

from forethought.models.loading import find_adapter, identity, load_model, merged, skeleton
from forethought.training.margin import some_of
from forethought.training.reference import reference_logprobs
from forethought.training.train import train

RATE = {"learning_rate": 1e-4, "batch_size": 8}
LORA = {"lora": {"rank": 4}, "learning_rate": 1e-3, "batch_size": 8}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bfloat16 model whose weights move by less than a step of bfloat16 at `RATE`."""
    folder = tmp_path_factory.mktemp("llama")
    model: Any = tiny_model("llama", hidden_size=64, intermediate_size=128)
    model.to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


def parameters(folder: Path | str) -> dict[str, torch.Tensor]:
    model = load_model(str(folder), dtype="float32", device="cpu")
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_masters_keep_the_margin_in_bfloat16(llama: str, tmp_path: Path, dtype: str):
    result, logs = run(llama, make_pairs(40), settings(dtype=dtype, **RATE), tmp_path)
    assert result.margin_kept == pytest.approx([1, 1], abs=0.05)
    assert [log.margin_kept for log in logs if log.margin_kept] == list(result.margin_kept)
    assert {t.dtype for t in load_file(tmp_path / "epoch_2/model.safetensors").values()} == {
        torch.bfloat16
    }


@pytest.mark.parametrize("how", ["original", "bfloat16"])
def test_rounding_to_the_nearest_is_measured(llama: str, tmp_path: Path, how: str):
    result, _ = run(llama, make_pairs(40), settings(checkpoint_dtype=how, **RATE), tmp_path)
    assert max(share or 0 for share in result.margin_kept) < 0.85


def test_what_is_sampled_in_float32_is_what_was_trained(llama: str, tmp_path: Path):
    pairs, config = make_pairs(8), settings(**RATE)
    result = train(
        model=llama,
        pairs=pairs,
        reference=reference_logprobs(llama, pairs, config, device="cpu"),
        config=config,
        seed=0,
        directory=tmp_path,
        device="cpu",
        sampled="float32",
    )
    assert result.margin_kept == (1.0, 1.0)


def test_nothing_learned_is_no_share(llama: str, tmp_path: Path):
    result, _ = run(llama, make_pairs(8), settings(learning_rate=1e-12), tmp_path)
    assert result.margin_kept == (None, None)


def test_the_next_training_starts_from_the_exact_weights(llama: str, tmp_path: Path):
    """Two trainings from bfloat16 with bits beside are two from plain float32 folders."""
    for name, how in (("masters", "masters"), ("plain", "float32")):
        config = settings(checkpoint_dtype=how, epochs=1, **RATE)
        run(llama, make_pairs(8), config, tmp_path / name / "1")
        second = str(tmp_path / name / "1" / "epoch_1")
        _, logs = run(second, make_pairs(8, seed=4), config, tmp_path / name / "2")
        assert logs[0].loss == pytest.approx(math.log(2), abs=1e-6)
    for index in ("1", "2"):
        exact = parameters(tmp_path / "plain" / index / "epoch_1")
        assert_equal(parameters(tmp_path / "masters" / index / "epoch_1"), exact)
        rounded = load_file(tmp_path / "masters" / index / "epoch_1" / "model.safetensors")
        assert any(not torch.equal(exact[name], rounded[name].float()) for name in exact)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_goes_on_where_it_was(llama: str, tmp_path: Path, dtype: str):
    result, first = run(llama, make_pairs(16), settings(dtype=dtype, **LORA), tmp_path / "1")
    folder = tmp_path / "1" / "epoch_2"
    assert result.margin_kept == pytest.approx([1, 1], abs=0.05)
    assert not list(folder.glob("*.safetensors")), "the base is not copied"
    adapter = find_adapter(str(folder))
    assert adapter is not None
    assert (adapter.base.path, adapter.rank) == (llama, 4)
    # A rate that moves nothing leaves the adapter bit for bit, and its base is still the seed.
    still = settings(**(LORA | {"dtype": dtype, "learning_rate": 1e-30}))
    _, logs = run(str(folder), make_pairs(16), still, tmp_path / "still")
    assert logs[0].loss == pytest.approx(math.log(2), abs=1e-6)
    before = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert_equal(load_file(tmp_path / "still/epoch_2/adapter/adapter_model.safetensors"), before)
    assert find_adapter(str(tmp_path / "still" / "epoch_2")) is not None
    # Going on from there learns on top of what was learned.
    config = settings(dtype=dtype, **LORA)
    run(str(folder), make_pairs(16), config, tmp_path / "2")
    margins = []
    for at in (llama, str(folder), str(tmp_path / "2" / "epoch_2")):
        records = reference_logprobs(at, make_pairs(16), config, device="cpu")
        margins.append(sum(record.chosen - record.rejected for record in records) / 16)
    assert margins[0] < margins[1] < margins[2]
    assert first[-1].margin > 0


def test_an_adapter_is_one_model_wherever_it_is_loaded(llama: str, tmp_path: Path):
    run(llama, make_pairs(16), settings(**LORA), tmp_path)
    folder = str(tmp_path / "epoch_2")
    ids = torch.arange(3, 20)[None]
    apart, whole = load_model(folder, dtype="float32", device="cpu"), merged(folder)
    torch.testing.assert_close(apart(ids).logits, whole(ids).logits, atol=1e-4, rtol=1e-4)
    half = load_model(folder, dtype="bfloat16", device="cpu")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    empty = skeleton(folder, dtype="float32")
    assert [n for n, _ in empty.named_parameters()] == [n for n, _ in apart.named_parameters()]
    before = identity(folder)
    path = tmp_path / "epoch_2" / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\x00\x01")
    assert identity(folder) != before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lora": None}, "give training.lora with its settings"),
        ({"lora": {"rank": 8}}, "has rank 4 and alpha 32, and 8 and 32 are asked for"),
    ],
)
def test_an_adapter_that_cannot_go_on(
    llama: str, tmp_path: Path, options: dict[str, Any], says: str
):
    run(llama, make_pairs(4), settings(**LORA | {"epochs": 1}), tmp_path / "1")
    with pytest.raises(ValueError, match=says):
        run(str(tmp_path / "1" / "epoch_1"), make_pairs(4), settings(**options), tmp_path / "2")


def test_a_missing_base_is_named(llama: str, tmp_path: Path):
    run(llama, make_pairs(4), settings(**LORA | {"epochs": 1}), tmp_path / "1")
    config = tmp_path / "1/epoch_1/adapter/adapter_config.json"
    config.write_text(config.read_text().replace(llama, "/nowhere/model"))
    with pytest.raises(ValueError, match="was trained on /nowhere/model, which is not there"):
        load_model(str(tmp_path / "1" / "epoch_1"), dtype="float32", device="cpu")


def test_the_pairs_that_are_looked_at_are_few_and_always_the_same():
    assert len(some_of(make_pairs(5))) == 5
    assert len(some_of(make_pairs(50))) == 8
    assert len(some_of(make_pairs(2000))) == 64
    assert some_of(make_pairs(2000)) == some_of(make_pairs(2000))
    assert len(some_of(make_pairs(600, longest=30_000))) < 20
