"""Packed, shared and chunked log-probs are those of a plain forward, values and gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_training import SIZES, make_pairs, plain_token_logps, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from forethought.training import attention, logprobs
from forethought.training.attention import PACKED, row_layout
from forethought.training.blocked import QUERY_BLOCK, BlockedCausal
from forethought.training.logprobs import PolicyLogprobs
from forethought.training.packing import pack
from forethought.training.policy_module import cast_parameters
from forethought.training.reference import sequence_sums
from forethought.types import PreferencePair

ARCHITECTURES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True, "attention_bias": True, "num_key_value_heads": 4}),
    ("qwen3", {}),
    ("mistral", {"sliding_window": 5}),
    ("gemma", {}),
    ("gemma2", {"sliding_window": 5, "attn_logit_softcapping": 2.0}),
    (
        "gemma3_text",
        {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    ),
]


def expected_logps(model: PreTrainedModel, pairs: list[PreferencePair]) -> torch.Tensor:
    if model.config.model_type == "gemma2":
        # The default kernel ignores softcapped scores, which are part of the architecture.
        model.set_attn_implementation("eager")
    sides = [(p, p.chosen) for p in pairs] + [(p, p.rejected) for p in pairs]
    return torch.cat(
        [plain_token_logps(model, pair.prompt_token_ids, side.token_ids) for pair, side in sides]
    )


def gradients(model: PreTrainedModel, logps: torch.Tensor) -> dict[str, torch.Tensor]:
    weights = torch.linspace(-1, 1, len(logps))
    model.zero_grad()
    (logps * weights).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-6, name


@pytest.mark.parametrize(("kind", "options"), ARCHITECTURES)
@pytest.mark.parametrize("share", [True, False])
def test_packed_equals_one_by_one(kind: str, options: dict[str, Any], share: bool):
    model = tiny_model(kind, **options)
    pairs = make_pairs(5)
    expected = expected_logps(model, pairs)
    expected_gradients = gradients(model, expected)
    policy = PolicyLogprobs.open(model)
    assert policy.forward_mode == "packed"
    found = policy(pack(pairs, share_prompts=share))
    torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-5)
    assert_same_gradients(gradients(model, found), expected_gradients)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mamba2", {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1}),
        ("cohere", {"logit_scale": 0.25}),
        ("bloom", {"n_head": 4}),
    ],
)
def test_models_that_cannot_be_packed_take_a_way_that_is_right(kind: str, options: dict[str, Any]):
    model = tiny_model(kind, **options)
    pairs = make_pairs(4)
    policy = PolicyLogprobs.open(model)
    assert policy.forward_mode == {"mamba2": "padded", "cohere": "plain", "bloom": "padded"}[kind]
    expected = expected_logps(model, pairs)
    expected_gradients = gradients(model, expected)
    found = policy(pack(pairs))
    torch.testing.assert_close(found, expected.detach(), atol=2e-5, rtol=1e-5)
    assert_same_gradients(gradients(model, found), expected_gradients)


def test_a_layer_that_hides_its_window_is_not_packed(monkeypatch: pytest.MonkeyPatch):
    model = tiny_model("mistral", sliding_window=400)
    monkeypatch.setattr(
        logprobs, "_declared_windows", lambda model: {model.config.sliding_window + 1}
    )
    policy = PolicyLogprobs.open(model)
    assert policy.forward_mode == "padded"
    assert model.config._attn_implementation != PACKED


def test_head_in_small_chunks(monkeypatch: pytest.MonkeyPatch):
    model = tiny_model("gemma2", final_logit_softcapping=30.0)
    pairs = make_pairs(5)
    policy = PolicyLogprobs.open(model)
    whole = policy(pack(pairs))
    whole_gradients = gradients(model, whole)
    monkeypatch.setattr(logprobs, "LOGITS_AT_A_TIME", 7 * 97)
    chunked = policy(pack(pairs))
    torch.testing.assert_close(chunked, whole)
    assert_same_gradients(gradients(model, chunked), whole_gradients)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.numel())
        return out


def test_memory_follows_tokens_not_vocabulary(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logprobs, "LOGITS_AT_A_TIME", 2**16)
    vocabulary = 8192
    model = tiny_model("llama", vocab_size=vocabulary, tie_word_embeddings=True)
    pairs = make_pairs(40)
    policy = PolicyLogprobs.open(model)
    batch = pack(pairs)
    with LargestTensor() as seen:
        policy(batch).sum().backward()
    weights = vocabulary * SIZES["hidden_size"]
    assert len(batch.targets_M) * vocabulary > 8 * weights
    assert seen.elements <= weights


def test_layout_of_two_rows_that_share_a_prompt():
    pairs = make_pairs(6, longest=60)
    batch = pack(pairs)
    layout = row_layout(batch.rows_S, batch.shared, device=torch.device("cpu"), dtype=torch.float32)
    source = layout.source_X
    assert torch.equal(source[layout.home_N], torch.arange(len(batch.ids_N)))
    assert torch.equal(source[layout.twin_P], torch.arange(batch.shared))
    assert len(layout.home_N) + len(layout.idle_X) == len(source)
    real = sum(len(row) for row in batch.rows_S)
    assert real >= attention.BUCKET_FILL * len(source)
    for bucket in layout.buckets:
        assert bucket.length <= max(len(row) for row in batch.rows_S)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("length", [1, 40, QUERY_BLOCK, 2 * QUERY_BLOCK + 40])
def test_blocked_attention_is_attention(heads: tuple[int, int], length: int):
    torch.manual_seed(0)
    inputs = [torch.randn(3, count, length, 16) for count in (heads[0], heads[1], heads[1])]
    slope = torch.randn(3, heads[0], length, 16)

    def result(function: Any, dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        out = function(*leaves)
        return [out, *torch.autograd.grad(out, leaves, slope.to(dtype))]

    def exact(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=0.3, enable_gqa=True
        )

    def blocked(*leaves: torch.Tensor) -> torch.Tensor:
        return BlockedCausal.apply(*leaves, 0.3)  # pyright: ignore[reportReturnType]

    expected = result(exact, torch.float64)
    for found, right in zip(result(blocked, torch.float32), expected, strict=True):
        torch.testing.assert_close(found.double(), right, atol=1e-4, rtol=1e-4)
    for found, right in zip(result(blocked, torch.bfloat16), expected, strict=True):
        assert (found.double() - right).norm() <= 0.02 * right.norm() + 1e-3


def test_bfloat16_packed_is_near_float32():
    model = tiny_model("llama", initializer_range=0.05)
    pairs = make_pairs(6)
    policy = PolicyLogprobs.open(model)
    exact = policy(pack(pairs)).detach()
    cast_parameters(policy, torch.bfloat16)
    assert (policy(pack(pairs)) - exact).abs().mean() < 0.02


def test_forced_tokens_count_nowhere():
    model = tiny_model("llama")
    policy = PolicyLogprobs.open(model)
    pairs = make_pairs(3)
    forced = [
        replace(pair, chosen_forced=(0, 2), rejected_forced=() if i else (1,))
        for i, pair in enumerate(pairs)
    ]
    batch = pack(forced)
    with torch.no_grad():
        logps_M = policy(batch)
    sums_S = sequence_sums(logps_M, batch)
    sides = [p.chosen for p in pairs] + [p.rejected for p in pairs]
    places = [p.chosen_forced for p in forced] + [p.rejected_forced for p in forced]
    at = 0
    for side, left_out, total in zip(sides, places, sums_S.tolist(), strict=True):
        own = logps_M[at : at + len(side.token_ids)]
        kept = [own[i] for i in range(len(own)) if i not in left_out]
        assert total == pytest.approx(float(sum(kept)), abs=1e-4)
        at += len(own)
    assert batch.counted.tolist() == [
        len(side.token_ids) - len(left_out) for side, left_out in zip(sides, places, strict=True)
    ]
    assert pack(pairs).forced_M is None
