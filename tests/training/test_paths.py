"""Which way the log-probs of a model are computed, where its build or the kernel's differs."""

from typing import Any

import pytest
import torch
from tiny_training import make_pairs, settings, tiny_model

from forethought.config import LoraSettings
from forethought.training.attention import takes_all
from forethought.training.logprobs import PolicyLogprobs
from forethought.training.packing import pack
from forethought.training.policy_module import add_adapter

LLAMA4: dict[str, Any] = {
    "intermediate_size_mlp": 64,
    "num_local_experts": 2,
    "attention_chunk_size": 64,
    "no_rope_layers": [1, 0],
}
MLA: dict[str, Any] = {
    "kv_lora_rank": 16,
    "q_lora_rank": None,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "head_dim": 8,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}


@pytest.mark.parametrize(("kind", "options"), [("llama4_text", LLAMA4), ("deepseek_v3", MLA)])
def test_the_log_probs_are_the_models_own(kind: str, options: dict[str, Any]):
    model = tiny_model(kind, **options)
    batch = pack(make_pairs(3))
    with torch.no_grad():
        expected = PolicyLogprobs.in_mode(model, "plain")(batch)
        policy = PolicyLogprobs.open(model)
        assert policy.forward_mode == ("plain" if kind == "llama4_text" else "packed")
        torch.testing.assert_close(policy(batch), expected, atol=1e-4, rtol=1e-4)
    policy(batch).sum().backward()


def test_the_kernel_of_older_torch_is_not_called():
    def torch_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False): ...

    def torch_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size): ...

    def torch_2_12(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa
    ): ...

    assert [takes_all(one) for one in (None, torch_2_10, torch_2_11, torch_2_12)] == [
        False,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("targets", [("lm_head",), ("q_proj", "lm_head"), ("model.lm_head",)])
def test_an_adapter_on_the_head_is_refused_in_the_recipe(targets: tuple[str, ...]):
    with pytest.raises(ValueError, match="is the model's head"):
        LoraSettings(target_modules=targets)


def test_an_adapter_on_a_head_of_another_name_is_refused_when_it_is_made():
    policy = PolicyLogprobs.in_mode(tiny_model(), "plain")
    lora = LoraSettings.model_construct(
        rank=2, alpha=4, dropout=0.0, target_modules=("q_proj", "lm_head")
    )
    config = settings().model_copy(update={"lora": lora})
    with pytest.raises(ValueError, match="the model's head is among them"):
        add_adapter(policy, config, None)
