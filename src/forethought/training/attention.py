"""Causal attention over the rows of a packed microbatch, registered with transformers.

The model runs on one packed row; only attention needs to know which positions belong together.
`packed_attention` gathers queries, keys and values into right-padded rows of near-equal length,
attends, and puts each position's result back. Rows are padded in attention alone.

Which kernel attends a bucket of rows:
- CUDA in half precision: variable-length flash attention over the unpadded rows;
- CPU in bfloat16: `blocked.BlockedCausal`. PyTorch's fused CPU kernel is several times slower than
  plain batched matrix products in bfloat16, most of all for rows of a few hundred tokens;
- otherwise PyTorch's fused kernel with `is_causal`;
- a window shorter than the rows, or softcapped scores: a masked kernel.

Shapes: N packed positions, R rows of a bucket, T their padded length, H query heads, K key heads,
G = H / K query heads per key head, D head size, X row slots of all buckets (sum of R x T).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from inspect import signature
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from forethought.training.blocked import BlockedCausal

PACKED = "forethought_packed"
VECTOR_WIDTH = 32
"""Rows are padded to full vectors of bfloat16: softmax over a ragged tail costs twice the time."""
BUCKET_FILL = 0.95
"""Least share of real positions in a bucket, apart from padding to full vectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Rows padded to one length; `start` is its first slot."""

    start: int
    rows: int
    length: int


@dataclass(slots=True, kw_only=True)
class RowLayout:
    """Which packed position stands in which slot of the attention rows, and the way back.

    Example: rows `[0, 1, 2]` and `[0, 1, 3]` that share their prompt `[0, 1]`, in one bucket of
    length 4: `source_X = [0, 1, 2, 0, 0, 1, 3, 0]`, `home_N = [0, 1, 2, 6]`, `twin_P = [4, 5]`,
    `idle_X = [3, 4, 5, 7]`.
    """

    buckets: tuple[Bucket, ...]
    source_X: torch.Tensor
    """Packed position in each slot; padding repeats position 0, whose result there is unused."""
    home_N: torch.Tensor
    """The slot whose result a packed position takes."""
    twin_P: torch.Tensor
    """The other slot of each shared prompt position, for its gradient."""
    idle_X: torch.Tensor
    """Slots that are nobody's home: padding and second copies of prompts."""
    cumulative_lengths: torch.Tensor | None
    """Row boundaries for variable-length kernels; `None` where rows are padded."""
    windows_seen: set[int] = field(default_factory=set)
    """Sliding windows that the model's layers asked for."""
    _indices: dict[int, HeadIndices] = field(default_factory=dict)

    def for_heads(self, heads: int) -> HeadIndices:
        """The layout's indices into a table with a row for each position and head."""
        if heads not in self._indices:
            self._indices[heads] = _head_indices(self, heads)
        return self._indices[heads]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadIndices:
    """`RowLayout` spelled out per head: slots are ordered (bucket, row, head, place).

    Variable-length rows are ordered (slot, head).
    """

    gather: torch.Tensor
    home: torch.Tensor
    twin: torch.Tensor
    idle: torch.Tensor


def row_layout(
    rows: Sequence[np.ndarray], shared: int, *, device: torch.device, dtype: torch.dtype
) -> RowLayout:
    """Sort rows into buckets for the kernel that this device and number type will use.

    A row names its packed positions; those below `shared` stand in two rows, all others in one.
    """
    varlen = device.type == "cuda" and dtype != torch.float32
    width = VECTOR_WIDTH if device.type == "cpu" and dtype == torch.bfloat16 else 1
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    # The variable-length kernel takes rows as they are: each is a bucket of its own, unpadded.
    groups = [[i] for i in order] if varlen else _bucket(order, rows, width)

    buckets, sources, start = [], [], 0
    for group in groups:
        length = len(rows[group[0]])
        length = -(-length // width) * width
        source = np.full((len(group), length), -1)
        for slot, i in enumerate(group):
            source[slot, : len(rows[i])] = rows[i]
        buckets.append(Bucket(start=start, rows=len(group), length=length))
        sources.append(source.ravel())
        start += source.size
    source_X = np.concatenate(sources)

    positions = int(source_X.max()) + 1
    slots = np.flatnonzero(source_X >= 0)
    # Assigned backwards: of a position's two slots the first is written last, and stays.
    home_N = np.empty(positions, dtype=np.int64)
    home_N[source_X[slots[::-1]]] = slots[::-1]
    first = home_N[np.maximum(source_X, 0)] == np.arange(len(source_X))
    twins = slots[~first[slots]]
    twin_P = np.empty(shared, dtype=np.int64)
    twin_P[source_X[twins]] = twins
    boundaries = np.array([0] + [bucket.start + bucket.length for bucket in buckets])

    def tensor(values: np.ndarray, kind: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.from_numpy(values).to(device=device, dtype=kind)

    return RowLayout(
        buckets=tuple(buckets),
        source_X=tensor(np.maximum(source_X, 0)),
        home_N=tensor(home_N),
        twin_P=tensor(twin_P),
        idle_X=tensor(np.flatnonzero(~first | (source_X < 0))),
        cumulative_lengths=tensor(boundaries, torch.int32) if varlen else None,
    )


def _bucket(order: list[int], rows: Sequence[np.ndarray], width: int) -> list[list[int]]:
    """Greedy from the longest row; a row joins while its share of padding is small."""
    groups: list[list[int]] = []
    length = 0
    for i in order:
        padded = -(-len(rows[i]) // width) * width
        if not groups or (padded < length and len(rows[i]) < BUCKET_FILL * length):
            groups.append([])
            length = padded
        groups[-1].append(i)
    return groups


def _head_indices(layout: RowLayout, heads: int) -> HeadIndices:
    device = layout.source_X.device
    head_H = torch.arange(heads, device=device)
    if layout.cumulative_lengths is not None:
        slots_X = torch.arange(len(layout.source_X), device=device)
        place_XH = slots_X[:, None] * heads + head_H
    else:
        places = []
        for bucket in layout.buckets:
            row_R = bucket.start + torch.arange(bucket.rows, device=device) * bucket.length
            place_T = torch.arange(bucket.length, device=device)
            place_RTH = (
                row_R[:, None, None] * heads + head_H * bucket.length + place_T[None, :, None]
            )
            places.append(place_RTH.reshape(-1, heads))
        place_XH = torch.cat(places)
    gather = torch.empty(place_XH.numel(), dtype=torch.int64, device=device)
    gather[place_XH.reshape(-1)] = (layout.source_X[:, None] * heads + head_H).reshape(-1)
    return HeadIndices(
        gather=gather,
        home=place_XH[layout.home_N].reshape(-1),
        twin=place_XH[layout.twin_P].reshape(-1),
        idle=place_XH[layout.idle_X].reshape(-1),
    )


class ToRows(torch.autograd.Function):
    """Packed positions to row slots. Its gradient is two gathers, not a scatter: deterministic
    and, on CPU, an order of magnitude faster than `index_add`."""

    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, index: HeadIndices) -> torch.Tensor:
        ctx.index = index
        return table.index_select(0, index.gather)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        index: HeadIndices = ctx.index
        grad = grads[0].index_select(0, index.home)
        # Shared positions are packed first. Padding needs no part: no real query sees its keys,
        # and `FromRows` gives its own queries no gradient.
        shared = len(index.twin)
        grad[:shared] += grads[0].index_select(0, index.twin)
        return grad, None


class FromRows(torch.autograd.Function):
    """Row slots back to packed positions; slots that are nobody's home get no gradient."""

    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, index: HeadIndices) -> torch.Tensor:
        ctx.index = index
        return table.index_select(0, index.home)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        index: HeadIndices = ctx.index
        grad = grads[0].index_select(0, index.gather)
        # `gather` gave these a gradient that belongs to another slot.
        grad[index.idle] = 0
        return grad, None


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    row_layout: RowLayout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function of transformers' interface, for a packed row `[1, heads, N, D]`.

    Dropout is ignored: a preference trainer compares log-probs of the same deterministic model.
    Returns `[1, N, H, D]`.

    Raises: NotImplementedError if the model asks for a mask, sinks or position biases.
    """
    if row_layout is None or attention_mask is not None:
        raise NotImplementedError("packed attention needs a row layout and takes no mask")
    if kwargs.get("s_aux") is not None or kwargs.get("position_bias") is not None:
        raise NotImplementedError("packed attention knows neither sinks nor position biases")
    if sliding_window is not None:
        row_layout.windows_seen.add(sliding_window)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    heads = (query.shape[1], key.shape[1])
    query_index, key_index = (row_layout.for_heads(count) for count in heads)
    query_rows = ToRows.apply(_table(query), query_index)
    key_rows = ToRows.apply(_table(key), key_index)
    value_rows = ToRows.apply(_table(value), key_index)
    varlen = row_layout.cumulative_lengths is not None and not softcap
    # The kernel takes heads of one width; latent attention has wider queries than values.
    if varlen and query.shape[-1] == value.shape[-1] and takes_all(varlen_kernel()):
        rows = _varlen(query_rows, key_rows, value_rows, row_layout, heads, scale, sliding_window)
    else:
        rows = _bucketed(
            query_rows, key_rows, value_rows, row_layout, heads, scale, sliding_window, softcap
        )
    out = FromRows.apply(rows, query_index)
    return out.view(1, -1, heads[0], value.shape[-1]), None


def _table(heads: torch.Tensor) -> torch.Tensor:
    """`[1, H, N, D]` to `[N * H, D]`."""
    return heads[0].transpose(0, 1).reshape(-1, heads.shape[-1])


@cache
def varlen_kernel() -> Callable[..., Any] | None:
    """PyTorch's attention over rows of unequal lengths; `None` where this PyTorch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def takes_all(kernel: Callable[..., Any] | None) -> bool:
    """Whether a kernel knows every argument that `_varlen` gives it, as PyTorch's does from 2.12.

    Without it each row goes through `scaled_dot_product_attention`: slower, and the same.
    """
    if kernel is None:
        return False
    return {"scale", "window_size", "enable_gqa"} <= signature(kernel).parameters.keys()


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: RowLayout,
    heads: tuple[int, int],
    scaling: float,
    window: int | None,
) -> torch.Tensor:
    kernel = varlen_kernel()
    assert kernel is not None
    longest = max(bucket.length for bucket in layout.buckets)
    assert layout.cumulative_lengths is not None
    out: Any = kernel(
        query.view(-1, heads[0], query.shape[-1]),
        key.view(-1, heads[1], key.shape[-1]),
        value.view(-1, heads[1], value.shape[-1]),
        layout.cumulative_lengths,
        layout.cumulative_lengths,
        longest,
        longest,
        scale=scaling,
        # A window of w tokens counts the query itself.
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=heads[0] != heads[1],
    )
    return out.reshape(-1, value.shape[-1])


def _bucketed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: RowLayout,
    heads: tuple[int, int],
    scaling: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    slots = [bucket.rows * bucket.length for bucket in layout.buckets]
    outs = []
    for bucket, q, k, v in zip(
        layout.buckets,
        query.split([count * heads[0] for count in slots]),
        key.split([count * heads[1] for count in slots]),
        value.split([count * heads[1] for count in slots]),
        strict=True,
    ):
        if layout.cumulative_lengths is None:
            shape = (bucket.rows, -1, bucket.length)
            q, k, v = (part.view(*shape, part.shape[-1]) for part in (q, k, v))
            out = _attend(q, k, v, scaling, window, softcap)
        else:
            shape = (bucket.rows, bucket.length, -1)
            q, k, v = (part.view(*shape, part.shape[-1]).transpose(1, 2) for part in (q, k, v))
            out = _attend(q, k, v, scaling, window, softcap).transpose(1, 2)
        outs.append(out.reshape(-1, v.shape[-1]))
    return torch.cat(outs)


def _attend(
    query_RHTD: torch.Tensor,
    key_RKTD: torch.Tensor,
    value_RKTD: torch.Tensor,
    scaling: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Causal attention of padded rows by the fastest kernel that is right.

    Padding stands behind a row's tokens, where causality hides it; no mask has to.
    """
    length = query_RHTD.shape[2]
    windowed = window is not None and window < length
    if softcap:
        mask_TT = _window_mask(length, window, query_RHTD.device)
        return _softcapped(query_RHTD, key_RKTD, value_RKTD, scaling, softcap, mask_TT)
    if windowed:
        return F.scaled_dot_product_attention(
            query_RHTD,
            key_RKTD,
            value_RKTD,
            attn_mask=_window_mask(length, window, query_RHTD.device),
            scale=scaling,
            enable_gqa=query_RHTD.shape[1] != key_RKTD.shape[1],
        )
    if query_RHTD.device.type == "cpu" and query_RHTD.dtype == torch.bfloat16:
        return BlockedCausal.apply(query_RHTD, key_RKTD, value_RKTD, scaling)
    return F.scaled_dot_product_attention(
        query_RHTD,
        key_RKTD,
        value_RKTD,
        is_causal=True,
        scale=scaling,
        enable_gqa=query_RHTD.shape[1] != key_RKTD.shape[1],
    )


def _window_mask(length: int, window: int | None, device: torch.device) -> torch.Tensor:
    place_T = torch.arange(length, device=device)
    distance_TT = place_T[:, None] - place_T
    mask_TT = distance_TT >= 0
    return mask_TT if window is None else mask_TT & (distance_TT < window)


def _softcapped(
    query_RHTD: torch.Tensor,
    key_RKTD: torch.Tensor,
    value_RKTD: torch.Tensor,
    scaling: float,
    softcap: float,
    mask_TT: torch.Tensor,
) -> torch.Tensor:
    """Gemma 2's attention: scores squashed by `softcap * tanh(scores / softcap)`."""
    groups = query_RHTD.shape[1] // key_RKTD.shape[1]
    key_RHTD = key_RKTD.repeat_interleave(groups, dim=1)
    value_RHTD = value_RKTD.repeat_interleave(groups, dim=1)
    scores = query_RHTD @ key_RHTD.transpose(2, 3) * scaling
    scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask_TT, -math.inf)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query_RHTD.dtype)
    return weights @ value_RHTD


AttentionInterface.register(PACKED, packed_attention)
