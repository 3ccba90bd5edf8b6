"""Supervised fine-tuning: its loss is the cross-entropy of all output tokens, and it resumes."""

import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import load_file
from tiny import save_policy
from tiny_training import make_pairs, tiny_model

from forethought.config import LoraSettings, ModelSource, TrainingConfig
from forethought.training.batches import packed_tokens
from forethought.training.fine_tune import chosen_outputs, fine_tune
from forethought.training.logprobs import PolicyLogprobs
from forethought.training.loss import nll_losses
from forethought.training.packing import pack_examples
from forethought.training.reference import sequence_sums
from forethought.types import TrainingExample

CONFIG = TrainingConfig(
    learning_rate=1e-2, epochs=2, batch_size=4, dtype="float32", save_every=1, warmup_ratio=0.0
)


def make_examples(count=6):
    generator = torch.Generator().manual_seed(3)

    def ids(length):
        return tuple(torch.randint(5, 60, (length,), generator=generator).tolist())

    return [
        TrainingExample(
            prompt_id=f"prompt {i // 2}",
            sample_index=i,
            prompt_token_ids=ids(3 + i),
            token_ids=ids(2 + (5 * i) % 9),
            response_start=1,
            score=None,
        )
        for i in range(count)
    ]


def cross_entropy(model, examples):
    """Of all output tokens of all examples, one sequence at a time in float64."""
    losses = []
    for example in examples:
        whole = torch.tensor([[*example.prompt_token_ids, *example.token_ids]])
        logits = model(input_ids=whole).logits[0, len(example.prompt_token_ids) - 1 : -1]
        targets = torch.tensor(example.token_ids)
        losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
    return torch.cat(losses).mean()


@pytest.mark.parametrize("mode", ["packed", "padded", "plain"])
def test_loss_and_gradient_are_those_of_torchs_cross_entropy_in_float64(mode):
    model, examples = tiny_model("llama"), make_examples()
    exact = tiny_model("llama").double()
    expected = cross_entropy(exact, examples)
    expected.backward()

    policy = PolicyLogprobs.in_mode(model, mode)
    batch = pack_examples(examples)
    loss = nll_losses(
        sequence_sums(policy(batch), batch),
        batch.tokens_S,
        mean="token",
        batch_outputs=len(examples),
        batch_tokens=sum(len(example.token_ids) for example in examples),
    ).mean()
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    wanted = dict(exact.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(
            parameter.grad.double(), wanted[name].grad, atol=1e-6, rtol=1e-4, msg=name
        )


def test_packed_tokens_is_what_packing_takes():
    for example in make_examples():
        assert len(pack_examples([example]).ids_N) == packed_tokens(example)


def run(folder, model, examples, **more):
    return fine_tune(
        model=ModelSource(path=str(model)),
        examples=examples,
        config=CONFIG.model_copy(update=more.pop("config", {})),
        seed=0,
        directory=folder,
        device="cpu",
        **more,
    )


def steps(folder):
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def weights(folder):
    return load_file(folder / "epoch_2" / "model.safetensors")


def test_it_learns_the_examples_whatever_the_microbatches(tmp_path):
    model, examples = save_policy(tmp_path / "model"), make_examples()
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    result = run(tmp_path / "whole", model, examples)
    assert (result.pairs, result.left_out, result.steps) == (6, 0, 4)
    logs = steps(tmp_path / "whole")
    assert logs[-1]["loss"] < logs[0]["loss"]
    assert [log["epoch"] for log in logs] == [1, 1, 2, 2]
    run(tmp_path / "cut", model, examples, config={"tokens_per_microbatch": 1})
    for one, other in zip(logs, steps(tmp_path / "cut"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_the_loss_that_is_logged_is_the_mean_over_tokens(tmp_path):
    from transformers import AutoModelForCausalLM

    model, examples = save_policy(tmp_path / "model"), make_examples(4)
    run(tmp_path / "run", model, examples, config={"epochs": 2})
    exact = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    expected = cross_entropy(exact, examples).item()
    assert steps(tmp_path / "run")[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_on_pairs_it_is_the_likelihood_of_the_chosen_outputs_alone(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path / "model")
    pairs = make_pairs(4)
    exact, losses = tiny_model("llama").double(), []
    for pair in pairs:
        whole = torch.tensor([[*pair.prompt_token_ids, *pair.chosen.token_ids]])
        logits = exact(input_ids=whole).logits[0, len(pair.prompt_token_ids) - 1 : -1]
        targets = torch.tensor(pair.chosen.token_ids)
        losses += (-logits.log_softmax(-1)[torch.arange(len(targets)), targets]).tolist()
    run(tmp_path / "run", tmp_path / "model", chosen_outputs(pairs), config={"loss": "nll"})
    first = steps(tmp_path / "run")[0]
    assert first["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    outputs = [(*pair.prompt_token_ids, *pair.chosen.token_ids) for pair in pairs]
    assert first["tokens"] == sum(map(len, outputs))


class KilledError(Exception):
    pass


@pytest.mark.parametrize("last", [0, 1, 2])
def test_it_goes_on_to_the_same_bits(tmp_path, last):
    model, examples = save_policy(tmp_path / "model"), make_examples()
    run(tmp_path / "calm", model, examples)

    def kill(log):
        if log.step == last:
            raise KilledError

    with pytest.raises(KilledError):
        run(tmp_path / "torn", model, examples, on_step=kill)
    result = run(tmp_path / "torn", model, examples)
    assert result == run(tmp_path / "calm", model, examples)
    found, expected = weights(tmp_path / "torn"), weights(tmp_path / "calm")
    assert all(tensor.equal(expected[name]) for name, tensor in found.items())
    timeless = [
        [{k: v for k, v in log.items() if "second" not in k} for log in steps(tmp_path / name)]
        for name in ("torn", "calm")
    ]
    assert timeless[0] == timeless[1]


def test_adapters_are_trained_alone(tmp_path):
    model = save_policy(tmp_path / "model")
    run(tmp_path / "run", model, make_examples(), config={"lora": LoraSettings(rank=2)})
    adapter = tmp_path / "run" / "epoch_2" / "adapter" / "adapter_model.safetensors"
    assert any(tensor.abs().max() > 0 for name, tensor in load_file(adapter).items() if "B" in name)
    assert not (tmp_path / "run" / "epoch_2" / "model.safetensors").exists()


def test_what_is_too_long_is_left_out_and_nothing_else(tmp_path):
    model, examples = save_policy(tmp_path / "model"), make_examples()
    longest = max(len(e.prompt_token_ids) + len(e.token_ids) for e in examples)
    result = run(tmp_path / "some", model, examples, config={"max_length": longest - 1})
    assert result.left_out == 1
    with pytest.raises(ValueError, match=r"none of 6 examples .* raise training\.max_length"):
        run(tmp_path / "none", model, examples, config={"max_length": 2})


def test_another_training_is_refused(tmp_path):
    model, examples = save_policy(tmp_path / "model"), make_examples()
    run(tmp_path / "run", model, examples)
    changed = [dataclasses.replace(examples[0], token_ids=(7,)), *examples[1:]]
    with pytest.raises(ValueError, match="holds a training on something else"):
        run(tmp_path / "run", model, changed)


def test_a_loss_that_is_not_finite_leaves_the_weights(tmp_path):
    model = save_policy(tmp_path / "model")
    with pytest.raises(ValueError, match="not finite"):
        run(tmp_path / "run", model, make_examples(), config={"learning_rate": math.inf})
    assert not (tmp_path / "run" / "epoch_1").exists()
