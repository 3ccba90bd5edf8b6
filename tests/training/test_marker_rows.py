"""New tokens' rows: the maximum of the likelihood that the whole softmax gives in float64."""

from typing import Any

import pytest
import torch
from tiny_training import tiny_model
from transformers import GraniteConfig, GraniteForCausalLM

from forethought.training.marker_rows import PULL, fit_marker_rows
from forethought.types import TrainingExample

NEW = [50, 51]


def examples(count=12, *, new=NEW):
    """Outputs that open with one new token and have the other in their middle."""
    generator = torch.Generator().manual_seed(5)

    def ids(length):
        return tuple(torch.randint(5, 45, (length,), generator=generator).tolist())

    return [
        TrainingExample(
            prompt_id=f"prompt {i}",
            sample_index=0,
            prompt_token_ids=ids(4 + i % 3),
            token_ids=(*new[:1], *ids(3), *new[1:], *ids(2)),
            response_start=5,
            score=None,
        )
        for i in range(count)
    ]


def exact_loss(model, rows, start, given):
    """Cross-entropy of all output tokens, the new ones' rows replaced, and the pull."""
    losses = []
    weight = model.get_output_embeddings().weight.detach().clone()
    weight = weight.index_copy(0, torch.tensor(NEW), rows)
    for example in given:
        whole = torch.tensor([[*example.prompt_token_ids, *example.token_ids]])
        hidden = model.base_model(input_ids=whole).last_hidden_state[0].detach()
        logits = hidden[len(example.prompt_token_ids) - 1 : -1] @ weight.t()
        targets = torch.tensor(example.token_ids)
        losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
    return torch.cat(losses).mean() + PULL * (rows - start).square().sum()


def test_nothing_near_the_fitted_rows_is_likelier():
    model, given = tiny_model("llama"), examples()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = fit_marker_rows(model, NEW, given)
    assert found is not None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    exact = tiny_model("llama").double()
    head: Any = exact.get_output_embeddings()
    start = head.weight.detach()[NEW].clone()
    rows = found.rows_TD.double().requires_grad_()
    loss = exact_loss(exact, rows, start, given)
    loss.backward()
    assert rows.grad is not None
    assert rows.grad.abs().max() < 1e-4
    assert loss < exact_loss(exact, start, start, given) - 0.1
    assert found.after < found.before


def test_without_a_new_token_in_the_examples_there_is_nothing_to_fit():
    assert fit_marker_rows(tiny_model("llama"), NEW, examples(new=[])) is None
    assert fit_marker_rows(tiny_model("llama"), NEW, []) is None


def test_a_head_that_scales_its_logits_is_left_alone():
    torch.manual_seed(0)
    config = GraniteConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        logits_scaling=8.0,
    )
    assert fit_marker_rows(GraniteForCausalLM(config).eval(), NEW, examples()) is None


@pytest.mark.parametrize("family", ["qwen3", "gemma"])
def test_tied_and_untied_heads_are_fitted(family):
    found = fit_marker_rows(tiny_model(family), NEW, examples())
    assert found is not None
    assert found.after < found.before
