"""Causal attention in bfloat16 on CPU, as plain batched matrix products over blocks of queries.

A block of queries looks only at the keys up to its end, so about half of the square is never
computed; blocks and groups of rows are small enough for their scores to stay in cache. Scores and
weights are bfloat16, as in transformers' eager attention, with a float32 softmax in between;
nothing quadratic in the row length is kept for the backward pass unless the row is one block.

Shapes: R rows, T padded row length, H query heads, K key heads, G = H / K, D head size,
n rows x key heads of a group, b queries of a block, e keys up to the block's end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

QUERY_BLOCK = 256
GROUP_BYTES = 2**23
"""Scores computed at a time, in bytes."""


class BlockedCausal(torch.autograd.Function):
    """`softmax(scaling * q k^T + causal mask) v` for rows of one padded length, `[R, H, T, D]`."""

    @staticmethod
    def forward(
        ctx: Any,
        query_RHTD: torch.Tensor,
        key_RKTD: torch.Tensor,
        value_RKTD: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        query, key, value = _by_key_head(query_RHTD, key_RKTD, value_RKTD)
        out = value.new_empty(*query.shape[:3], value.shape[-1])
        bias = _causal_bias(query.shape[2], query)
        kept = []
        for group, start, end in _blocks(query):
            weights = _weights(query[group], key[group], start, end, bias, scaling)
            block = torch.bmm(weights, value[group, :end])
            out[group, :, start:end] = block.view(*out[group, :, start:end].shape)
            if query.shape[2] <= QUERY_BLOCK:
                kept.append(weights)
        ctx.scaling = scaling
        ctx.shapes = (query_RHTD.shape, key_RKTD.shape, value_RKTD.shape)
        ctx.save_for_backward(query, key, value, *kept)
        return out.view(*query_RHTD.shape[:3], value.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        grad_out = grads[0].reshape(*query.shape[:3], value.shape[-1])
        bias = _causal_bias(query.shape[2], query)
        one_block = query.shape[2] <= QUERY_BLOCK
        grad_query = torch.empty_like(query)
        # Sums over query blocks are taken in float32; with one block there is no sum.
        accumulator = torch.empty_like if one_block else _float32_zeros
        grad_key, grad_value = accumulator(key), accumulator(value)
        for step, (group, start, end) in enumerate(_blocks(query)):
            weights = (
                kept[step]
                if one_block
                else _weights(query[group], key[group], start, end, bias, ctx.scaling)
            )
            grad_block = grad_out[group, :, start:end].reshape(*weights.shape[:2], -1)
            grad_weights = torch.bmm(grad_block, value[group, :end].transpose(1, 2))
            grad_scores = torch.ops.aten._softmax_backward_data(
                grad_weights, weights, -1, weights.dtype
            )
            query_block = query[group, :, start:end].reshape(*weights.shape[:2], -1)
            block = torch.bmm(grad_scores, key[group, :end])
            grad_query[group, :, start:end] = block.view(*grad_query[group, :, start:end].shape)
            key_block = torch.bmm(grad_scores.transpose(1, 2), query_block)
            value_block = torch.bmm(weights.transpose(1, 2), grad_block)
            if one_block:
                grad_key[group], grad_value[group] = key_block, value_block
            else:
                grad_key[group, :end] += key_block
                grad_value[group, :end] += value_block
        query_shape, key_shape, value_shape = ctx.shapes
        # The scaling enters both gradients as a factor: of the finished sums, not of every block.
        return (
            grad_query.mul_(ctx.scaling).view(query_shape),
            grad_key.mul_(ctx.scaling).to(key.dtype).view(key_shape),
            grad_value.to(value.dtype).view(value_shape),
            None,
        )


def _by_key_head(
    query_RHTD: torch.Tensor, key_RKTD: torch.Tensor, value_RKTD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Fold rows and key heads into one batch dimension; query heads of a key head stay apart."""
    rows, heads, length, size = query_RHTD.shape
    key_heads = key_RKTD.shape[1]
    return (
        query_RHTD.reshape(rows * key_heads, heads // key_heads, length, size),
        key_RKTD.reshape(rows * key_heads, length, size),
        value_RKTD.reshape(rows * key_heads, length, value_RKTD.shape[-1]),
    )


def _blocks(query: torch.Tensor) -> Iterator[tuple[slice, int, int]]:
    """Groups of rows, and within a group blocks of queries."""
    count, group_heads, length, _ = query.shape
    row_bytes = query.element_size() * group_heads * min(QUERY_BLOCK, length) * length
    size = max(1, GROUP_BYTES // row_bytes)
    for first in range(0, count, size):
        for start in range(0, length, QUERY_BLOCK):
            yield slice(first, first + size), start, min(length, start + QUERY_BLOCK)


def _causal_bias(length: int, like: torch.Tensor) -> torch.Tensor:
    """`[b, T + b]`: zeros, then a triangle of -inf; a block at `start` reads columns from
    `T - start`."""
    block = min(QUERY_BLOCK, length)
    triangle = torch.full((block, block), -math.inf, dtype=like.dtype).triu(1)
    return torch.cat([torch.zeros(block, length, dtype=like.dtype), triangle], dim=1)


def _weights(
    query: torch.Tensor,
    key: torch.Tensor,
    start: int,
    end: int,
    bias: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Attention weights `[n, G * b, e]` of one block."""
    count, groups, _, size = query.shape
    # The window of `bias` whose triangle begins at column `start`; zeros stand before it.
    left = bias.shape[1] - bias.shape[0] - start
    block_bias = bias[: end - start, left : left + end].repeat(groups, 1)
    query_block = query[:, :, start:end].reshape(count, groups * (end - start), size)
    scores = torch.baddbmm(block_bias, query_block, key[:, :end].transpose(1, 2), alpha=scaling)
    return torch.softmax(scores, dim=-1)


def _float32_zeros(like: torch.Tensor) -> torch.Tensor:
    return torch.zeros(like.shape, dtype=torch.float32)
