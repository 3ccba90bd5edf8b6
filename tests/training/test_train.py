"""The loop: parity with itself under other cuts, checks before weights move, what it leaves."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import make_pairs, run, settings, tiny_model
from transformers import AutoModelForCausalLM

from forethought.config import LoraSettings
from forethought.training import train as train_module
from forethought.training.packing import pack
from forethought.training.policy_module import open_reference
from forethought.training.reference import reference_logprobs, sequence_sums, trained_sums


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("llama")
    tiny_model("llama").save_pretrained(folder)
    (folder / "tokenizer.json").write_text('{"stands": "for a tokenizer"}')
    return str(folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_near(one: Path, other: Path, tolerance: float) -> None:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert (tensor - right[name]).abs().max() <= tolerance, name


def test_one_microbatch_equals_many(llama: str, tmp_path: Path):
    pairs = make_pairs(9)
    whole, whole_logs = run(
        llama, pairs, settings(batch_size=8, learning_rate=1e-3), tmp_path / "a"
    )
    config = settings(batch_size=8, learning_rate=1e-3, tokens_per_microbatch=1)
    _, cut_logs = run(llama, pairs, config, tmp_path / "b")
    assert whole.steps == 4
    for one, other in zip(whole_logs, cut_logs, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)


def test_golden_trajectory(llama: str, tmp_path: Path):
    _, logs = run(llama, make_pairs(8), settings(learning_rate=1e-3), tmp_path)
    assert [log.loss for log in logs] == pytest.approx(GOLDEN_LOSSES, abs=2e-4)
    assert [log.grad_norm for log in logs] == pytest.approx(GOLDEN_NORMS, rel=2e-3)


GOLDEN_LOSSES = [0.693147, 0.690218, 0.459338, 0.421191]
GOLDEN_NORMS = [3.2138, 3.6889, 2.6948, 1.7868]


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "ipo_sum", "sigmoid_norm"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_loss_learns_the_preference(llama: str, tmp_path: Path, loss: str, dtype: str):
    config = settings(loss=loss, dtype=dtype, epochs=6, label_smoothing=0.1, warmup_ratio=0)
    _, logs = run(llama, make_pairs(8), config, tmp_path)
    assert logs[0].margin == pytest.approx(0, abs=2e-2)
    assert logs[-1].margin > 0
    assert logs[-1].loss < logs[0].loss
    assert logs[-1].accuracy > 0.9
    assert logs[-1].chosen_reward == pytest.approx(
        logs[-1].chosen_thought_reward + logs[-1].chosen_response_reward
    )
    assert logs[-1].rejected_response_reward == 0


def test_what_a_training_leaves(llama: str, tmp_path: Path):
    pairs = make_pairs(10)
    result, logs = run(llama, pairs, settings(max_length=30), tmp_path)
    assert result.left_out > 0
    assert result.pairs + result.left_out == 10
    assert result.way == "packed"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "epoch_1",
        "epoch_2",
        "fingerprint.json",
        "result.json",
        "steps.jsonl",
        "written.jsonl",
    ]
    lines = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert lines == [dataclasses.asdict(log) for log in logs]
    assert [line["step"] for line in lines] == list(range(result.steps))
    copied = tmp_path / "epoch_1" / "tokenizer.json"
    assert copied.read_text() == '{"stands": "for a tokenizer"}'
    again, no_logs = run(llama, pairs, settings(max_length=30), tmp_path)
    assert (again, no_logs) == (result, [])


def test_the_checkpoint_is_the_policy(llama: str, tmp_path: Path):
    """An epoch's folder, loaded as a reference, gives the rewards that its policy had."""
    pairs = make_pairs(4)
    config = settings(epochs=2, schedule="constant")
    _, logs = run(llama, pairs, config, tmp_path)
    before = reference_logprobs(llama, pairs, config, device="cpu")
    after = reference_logprobs(str(tmp_path / "epoch_1"), pairs, config, device="cpu")
    margins = [
        (b.chosen - a.chosen) - (b.rejected - a.rejected)
        for a, b in zip(before, after, strict=True)
    ]
    assert config.beta * sum(margins) / 4 == pytest.approx(logs[1].margin, abs=1e-4)


@pytest.mark.parametrize("stored", ["bfloat16", "float32"])
def test_checkpoints_keep_the_original_number_type(tmp_path: Path, stored: str):
    dtype = getattr(torch, stored)
    tiny_model("llama", tie_word_embeddings=True).to(dtype).save_pretrained(tmp_path / "start")
    run(str(tmp_path / "start"), make_pairs(4), settings(epochs=1), tmp_path / "out")
    saved = weights(tmp_path / "out" / "epoch_1")
    assert {tensor.dtype for tensor in saved.values()} == {dtype}
    assert saved.keys() == weights(tmp_path / "start").keys()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lora_leaves_merged_weights_where_a_number_type_is_given(
    llama: str, tmp_path: Path, dtype: str
):
    pairs = make_pairs(4)
    lora = LoraSettings(rank=2, dropout=0.1)
    config = settings(dtype=dtype, lora=lora, schedule="constant", checkpoint_dtype="original")
    _, logs = run(llama, pairs, config, tmp_path)
    assert logs[0].loss == pytest.approx(math.log(2), abs=1e-2)
    folder = tmp_path / "epoch_2"
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    start, trained = weights(Path(llama)), weights(folder)
    assert start.keys() == trained.keys()
    changed = {name for name in start if not torch.equal(start[name], trained[name])}
    assert changed
    assert all("proj" in name for name in changed)
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(llama)
    adapted = PeftModel.from_pretrained(base, str(folder / "adapter"))
    ids = torch.arange(3, 20)[None]
    expected = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    torch.testing.assert_close(adapted(ids).logits, expected, atol=1e-4, rtol=1e-4)


def test_gradient_checkpointing_changes_nothing(llama: str, tmp_path: Path):
    pairs = make_pairs(6)
    _, plain = run(llama, pairs, settings(), tmp_path / "a")
    _, recomputed = run(llama, pairs, settings(gradient_checkpointing=True), tmp_path / "b")
    for one, other in zip(plain, recomputed, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-6)
    assert_near(tmp_path / "a" / "epoch_2", tmp_path / "b" / "epoch_2", 1e-5)


def test_reference_of_slices_is_the_reference_of_the_whole(llama: str):
    pairs, config = make_pairs(9), settings()
    with open_reference(llama, config, "cpu") as policy:
        whole = reference_logprobs(llama, pairs, config, device="cpu", policy=policy)
        parts = [
            record
            for start in (0, 4)
            for record in reference_logprobs(
                llama,
                pairs[start : start + 4] if start == 0 else pairs[4:],
                config,
                device="cpu",
                policy=policy,
            )
        ]
    assert [record.prompt_id for record in whole] == [pair.prompt_id for pair in pairs]
    for one, other in zip(whole, parts, strict=True):
        assert dataclasses.astuple(one)[1:] == pytest.approx(
            dataclasses.astuple(other)[1:], abs=1e-4
        )
    assert all(record.rejected_response == 0 for record in whole)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo_sum"])
def test_a_reference_of_another_model_is_refused(llama: str, tmp_path: Path, loss: str):
    tiny_model("llama", initializer_range=0.25).save_pretrained(tmp_path / "other")
    pairs, config = make_pairs(6), settings(loss=loss)
    reference = reference_logprobs(str(tmp_path / "other"), pairs, config, device="cpu")
    with pytest.raises(ValueError, match="belong to another model"):
        run(llama, pairs, config, tmp_path / "out", reference)
    with pytest.raises(ValueError, match="5 pairs have no reference"):
        run(llama, pairs, config, tmp_path / "few", reference[:1])


def test_no_usable_pair(llama: str, tmp_path: Path):
    with pytest.raises(ValueError, match=r"none of 3 pairs .* raise training.max_length"):
        run(llama, make_pairs(3), settings(max_length=2), tmp_path)


def test_another_training_in_the_directory_is_refused(llama: str, tmp_path: Path):
    pairs = make_pairs(4)
    run(llama, pairs, settings(epochs=1), tmp_path)
    with pytest.raises(ValueError, match="holds a training on something else"):
        run(llama, pairs, settings(epochs=1, beta=0.2), tmp_path)


def test_a_loss_that_is_not_finite_names_its_pairs(llama: str, tmp_path: Path):
    pairs, config = make_pairs(4), settings()
    reference = reference_logprobs(llama, pairs, config, device="cpu")
    reference[2] = dataclasses.replace(reference[2], chosen=math.inf)
    with pytest.raises(ValueError, match="loss of step 0 is not finite for prompts prompt-2;"):
        run(llama, pairs, config, tmp_path, reference)


def test_a_gradient_that_is_not_finite_leaves_the_weights(
    llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            return grads[0] * math.nan

    steps: list[Any] = []

    def broken_at_step_1(logps_M: torch.Tensor, batch: Any, config: Any) -> Any:
        sums_S, tokens_S = trained_sums(logps_M, batch, config)
        return (Broken.apply(sums_S) if steps else sums_S), tokens_S

    pairs, config = make_pairs(8), settings(save_every=1)
    reference = reference_logprobs(llama, pairs, config, device="cpu")
    monkeypatch.setattr(train_module, "trained_sums", broken_at_step_1)
    with pytest.raises(ValueError, match=r"gradient of step 1 is not finite; .*prompt-"):
        train_module.train(
            model=llama,
            pairs=pairs,
            reference=reference,
            config=config,
            seed=0,
            directory=tmp_path,
            device="cpu",
            on_step=steps.append,
        )
    state = torch.load(tmp_path / "state" / "state.pt")
    assert state["step"] == 1
    assert all(bool(master.isfinite().all()) for master in state["masters"].values())


def test_packing_rows_never_mix_pairs(llama: str):
    """A pair's log-probs do not depend on its neighbours, bit for bit but for float rounding."""
    pairs = make_pairs(5)
    with open_reference(llama, settings(), "cpu") as policy:
        together = sequence_sums(policy(pack(pairs)), pack(pairs))
        alone = torch.stack([sequence_sums(policy(pack([pair])), pack([pair])) for pair in pairs])
    torch.testing.assert_close(together.view(2, -1).t(), alone, atol=1e-4, rtol=1e-5)
