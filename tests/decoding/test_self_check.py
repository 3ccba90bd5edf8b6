"""The fast decoder's trial: it says no where an architecture is decoded wrong, and only there."""

from typing import Any

import pytest
import random_models
import torch

from forethought.decoding import prefix_cache, self_check, shared_prefix
from forethought.decoding.excerpt import excerpt, ordinary_tokens

DTYPES = [torch.float32, torch.bfloat16]
LLAMA4 = {
    "layer_types": ["chunked_attention", "chunked_attention", "full_attention"],
    "no_rope_layers": [1, 1, 0],
    "attention_chunk_size": 4,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "moe_layers": [],
    "intermediate_size_mlp": 48,
}
SHARED_KEYS = {
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "sliding_window": 6,
    "num_kv_shared_layers": 1,
    "vocab_size_per_layer_input": 64,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "altup_num_inputs": 2,
    "activation_sparsity_pattern": [0.0, 0.0, 0.0],
}


def made(variant: str, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> Any:
    model: Any = random_models.model(variant, **changes)
    return model.to(dtype)


def reason(model) -> str | None:
    with torch.no_grad():
        return self_check.unsupported(model)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", random_models.VARIANTS)
def test_these_architectures_share_prompts(variant, dtype):
    assert reason(made(variant, dtype)) is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("variant", "changes", "words"),
    [
        ("gpt_oss", {}, "would differ"),
        ("llama4_text", LLAMA4, "chunks"),
        ("gemma3n_text", SHARED_KEYS, "keys and values of their own"),
        ("bloom", {}, "attention"),
        ("qwen3_next", {}, "attention"),
    ],
)
def test_these_do_not(variant, changes, words, dtype):
    assert words in (reason(made(variant, dtype, **changes)) or "")


def changed(name, function):
    """What a fault makes of the arguments of a layer's attention."""
    original = shared_prefix.attention

    def attention(module, query, key, value, mask, **given):
        return original(module, query, key, value, mask, **{**given, name: function(given)})

    return attention


FAULTS = {
    "no soft cap": ("gemma2", "softcap", lambda given: None),
    "default scaling": ("gemma3", "scaling", lambda given: None),
    "no window": ("mistral", "windows", lambda given: [None] * 3),
    "windows of other layers": ("gemma3", "windows", lambda given: given["windows"][::-1][1:] * 2),
    "a window too long by one": (
        "gemma2",
        "windows",
        lambda given: [one and one + 1 for one in given["windows"]],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_attention_is_seen_in_bfloat16(fault, monkeypatch):
    variant, name, function = FAULTS[fault]
    # No default of the layers' own: 32 for heads of 8.
    scalar: Any = {"query_pre_attn_scalar": 32} if variant.startswith("gemma") else {}
    model = made(variant, **scalar)
    assert reason(model) is None
    faulty = changed(name, function)
    registry = shared_prefix.AttentionInterface._global_mapping
    monkeypatch.setitem(registry, shared_prefix.ATTENTION, faulty)
    assert "would differ" in (reason(model) or "")


def test_a_fault_in_steps_is_seen_in_bfloat16(monkeypatch):
    model = made("llama")
    step = shared_prefix.SharedPrefixDecoder.step

    def late(self, tokens_R):
        self.positions_R = self.positions_R + 1
        return step(self, tokens_R)

    monkeypatch.setattr(shared_prefix.SharedPrefixDecoder, "step", late)
    assert "would differ" in (reason(model) or "")


def test_seen_padding_is_seen(monkeypatch):
    model = made("llama")

    def careless(self):
        columns = torch.arange(self.width + self.columns)
        mask = torch.zeros(len(columns)).masked_fill_(
            columns >= self.width + self.drawn, -torch.inf
        )
        self.mask = mask.to(self.layers[0].prefix_keys.dtype)[None, None, None]

    monkeypatch.setattr(prefix_cache.PrefixCache, "_rebuild_mask", careless)
    assert "would differ" in (reason(model) or "")


@pytest.mark.parametrize("ends", [[2, 3, 4, 5], list(range(8))], ids=["middle", "all"])
def test_a_vocabulary_without_ordinary_tokens_is_tried_all_the_same(ends):
    model = made("llama", vocab_size=8, pad_token_id=None, bos_token_id=None, eos_token_id=ends)
    model.generation_config.eos_token_id = ends
    assert ordinary_tokens(model)
    assert reason(model) is None


def test_an_excerpt_is_small_exact_and_apart():
    model = made("gemma3", num_hidden_layers=9, layer_types=None)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    types = model.config.layer_types
    small: Any = excerpt(model)
    # Gemma 3's sixth layer is the first one without a window.
    assert types.index("full_attention") == 5
    assert small.config.layer_types == types[:6]
    assert len(small.model.layers) == small.config.num_hidden_layers == 6
    assert small.dtype == torch.float32
    tokens = ordinary_tokens(model)
    embedded = small.get_input_embeddings().weight
    assert torch.equal(embedded, model.get_input_embeddings().weight[tokens].float())
    assert model.config.num_hidden_layers == len(model.config.layer_types) == 9
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_weights_in_float32_are_shared():
    model = made("llama", torch.float32)
    small: Any = excerpt(model)
    mine, theirs = (one.model.layers[1].mlp.up_proj.weight for one in (small, model))
    assert mine.data_ptr() == theirs.data_ptr()


def test_ordinary_tokens_are_no_control_tokens():
    model = random_models.model(vocab_size=49152, eos_token_id=[2, 20000], pad_token_id=30000)
    tokens = ordinary_tokens(model)
    assert len(set(tokens)) == 32
    assert min(tokens) >= 49152 // 4
    assert max(tokens) < 49152 * 3 // 4
    small = random_models.model(vocab_size=40, eos_token_id=15)
    assert 15 not in ordinary_tokens(small)
