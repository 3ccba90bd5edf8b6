"""A Llama's hidden states at a few tokens of packed conversations (shared_prompts.py).

Modules and weights are transformers' own; only the order of work is ours:

- attention runs span by span, a tail's queries over the beginning's keys and their own;
- the last layer makes keys for all tokens and the rest for the wanted ones alone, since nothing but
  the hidden states at a few tokens leaves the model;
- on CPU, work on single tokens is done some rows at a time, whose temporaries stay in cache.

What comes out is `LlamaModel`'s hidden state of each conversation alone, to float rounding.

Shapes: N packed tokens, W wanted ones, E hidden size, H query heads, K key heads, D head size,
G = H / K, Q queries of a span, T keys of a span.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import LlamaModel
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    rotate_half,
)

from forethought.judging.armorm.shared_prompts import PackedConversations, Span

CPU_ROWS = 1024
"""Tokens at a time on CPU; larger temporaries leave the cache and are given back to the system."""
QUERY_BLOCK = 64
"""Queries at a time on CPU: few scores above the diagonal, and those of a block stay in cache."""


@torch.inference_mode()
def encode(model: LlamaModel, packed: PackedConversations, wanted: Sequence[Span]) -> Tensor:
    """Hidden states `[W, E]` after the final norm at the wanted tokens, spans of one token each."""
    hidden_NE = model.embed_tokens(packed.ids_N)
    cos_sin = model.rotary_emb(hidden_NE[None], position_ids=packed.positions_N[None])
    rotary_2ND = torch.cat(cos_sin)
    for layer in model.layers[:-1]:
        hidden_NE = _layer(layer, hidden_NE, rotary_2ND, packed.spans, None)
    at_W = torch.tensor([span.first for span in wanted], device=hidden_NE.device)
    hidden_WE = _layer(model.layers[-1], hidden_NE, rotary_2ND, wanted, at_W)
    return model.norm(hidden_WE)


def _layer(
    layer: nn.Module,
    hidden_NE: Tensor,
    rotary_2ND: Tensor,
    spans: Sequence[Span],
    at_W: Tensor | None,
) -> Tensor:
    """One decoder layer for all tokens, or for those at `at_W` alone. Their spans, in order."""
    assert isinstance(layer, LlamaDecoderLayer)
    attention = layer.self_attn
    keys, values, queries = [], [], []
    for rows in _rows(hidden_NE):
        normed_NE = layer.input_layernorm(hidden_NE[rows])
        keys.append(_turn(_heads(attention.k_proj, normed_NE, attention), rotary_2ND[:, rows]))
        values.append(_heads(attention.v_proj, normed_NE, attention))
        if at_W is None:
            query = _heads(attention.q_proj, normed_NE, attention)
            queries.append(_turn(query, rotary_2ND[:, rows]))
    if at_W is not None:
        hidden_NE = hidden_NE[at_W]
        query = _heads(attention.q_proj, layer.input_layernorm(hidden_NE), attention)
        queries.append(_turn(query, rotary_2ND[:, at_W]))
    mixed_NE = _attention(
        torch.cat(queries, 1), torch.cat(keys, 1), torch.cat(values, 1), spans, attention.scaling
    )
    for rows in _rows(hidden_NE):
        hidden_NE[rows] += attention.o_proj(mixed_NE[rows])
        hidden_NE[rows] += layer.mlp(layer.post_attention_layernorm(hidden_NE[rows]))
    return hidden_NE


def _rows(hidden_NE: Tensor) -> Iterator[slice]:
    count = len(hidden_NE)
    size = CPU_ROWS if hidden_NE.device.type == "cpu" else count
    return (slice(start, min(count, start + size)) for start in range(0, count, size))


def _heads(linear: nn.Module, normed_NE: Tensor, attention: LlamaAttention) -> Tensor:
    return linear(normed_NE).unflatten(1, (-1, attention.head_dim)).transpose(0, 1)


def _turn(heads_HND: Tensor, rotary_2ND: Tensor) -> Tensor:
    """Rotary position embedding, in the model's own order of operations."""
    cos_ND, sin_ND = rotary_2ND
    return heads_HND * cos_ND + rotate_half(heads_HND) * sin_ND


def _attention(
    query_HND: Tensor,
    key_KND: Tensor,
    value_KND: Tensor,
    spans: Sequence[Span],
    scaling: float,
) -> Tensor:
    """Every span's queries over the keys it may see: `[N, H * D]`."""
    products = query_HND.device.type == "cpu" and query_HND.dtype == torch.bfloat16
    mixed, start = [], 0
    for span in spans:
        stop = start + span.stop - span.first
        kernel = blocked if products and stop - start > 1 else fused
        seen = kernel(
            query_HND[:, start:stop], _seen(key_KND, span), _seen(value_KND, span), scaling
        )
        mixed.append(seen.transpose(0, 1).flatten(1))
        start = stop
    return torch.cat(mixed)


def _seen(heads_KND: Tensor, span: Span) -> Tensor:
    """A span's keys or values `[K, T, D]`."""
    own = heads_KND[:, span.own : span.stop]
    start, stop = span.beginning
    return own if start == stop else torch.cat([heads_KND[:, start:stop], own], 1)


def blocked(query_HQD: Tensor, key_KTD: Tensor, value_KTD: Tensor, scaling: float) -> Tensor:
    """Causal attention as plain matrix products, the last query at the last key: `[H, Q, D]`.

    For bfloat16 on CPU, where PyTorch's fused kernel takes about twice the time. Sizes are rounded
    up by padding in front, because oneDNN compiles a product of a new size first.
    """
    (heads, queries, size), (key_heads, length, _) = query_HQD.shape, key_KTD.shape
    group, block = heads // key_heads, QUERY_BLOCK
    idle, hidden = -queries % block, -length % block
    query_KGQD = pad(query_HQD, (0, 0, idle, 0)).unflatten(0, (key_heads, group))
    key_KTD, value_KTD = (pad(tensor, (0, 0, hidden, 0)) for tensor in (key_KTD, value_KTD))
    # With `beta=0` it is not read: `baddbmm` is there for scaling inside the product.
    unused = query_HQD.new_empty(())
    later = query_HQD.new_full((block, block), -math.inf).triu(1)
    mixed = []
    for stop in range(block, queries + idle + 1, block):
        seen = length + hidden - queries - idle + stop
        scores = torch.baddbmm(
            unused,
            query_KGQD[:, :, stop - block : stop].reshape(key_heads, group * block, size),
            key_KTD[:, :seen].transpose(1, 2),
            beta=0,
            alpha=scaling,
        )
        scores.view(key_heads, group, block, seen)[..., -block:] += later
        # A padding query may see nothing and become NaN, in its own row alone; the end cuts it off.
        scores[..., :hidden] = -math.inf
        block_out = torch.bmm(torch.softmax(scores, dim=-1), value_KTD[:, :seen])
        mixed.append(block_out.view(heads, block, size))
    return torch.cat(mixed, 1)[:, idle:]


def fused(query_HQD: Tensor, key_KTD: Tensor, value_KTD: Tensor, scaling: float) -> Tensor:
    """The same by PyTorch's fused kernel."""
    queries, length = query_HQD.shape[1], key_KTD.shape[1]
    group = query_HQD.shape[0] // key_KTD.shape[0]
    seen_QT = torch.ones(queries, length, dtype=torch.bool, device=query_HQD.device)
    return scaled_dot_product_attention(
        query_HQD[None],
        key_KTD.repeat_interleave(group, 0)[None],
        value_KTD.repeat_interleave(group, 0)[None],
        attn_mask=seen_QT.tril(length - queries),
        scale=scaling,
    )[0]
