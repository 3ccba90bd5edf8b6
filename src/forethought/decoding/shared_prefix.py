"""The fast decoder: every model that takes its attention from transformers' interface.

The model's own modules run unchanged, with one token per row; only attention is ours. It is
registered under a name of its own, for which transformers builds no masks, and receives the
decoder's state through the model's keyword arguments, the way transformers' continuous batching
does. `self_check.py` says why a model cannot be decoded so; `expanded.py` decodes those.

Shapes: see prefix_cache.py; R live rows, B whatever the model calls its batch, Q its query tokens,
V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer

from forethought.decoding.prefix_cache import AttentionSettings, PrefixCache, merge
from forethought.models import loading

ATTENTION = "forethought_shared_prefix"
PREFILL_TOKENS = 16384
"""Padded prompt tokens per forward pass: bounds the activations."""
SMALL_COLUMNS = 512
"""Rows up to this length share a cache; beyond, those within a factor of two of each other do."""


class _Phase(Protocol):
    def attend(
        self, layer: int, settings: AttentionSettings, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        """[B, heads, Q, D] of each to [B, Q, heads, D]."""
        ...


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    shared_prefix: _Phase,
    windows: Sequence[int | None],
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every attention layer; [B, heads, Q, D] to [B, Q, heads, D]."""
    layer = int(module.layer_idx)  # pyright: ignore[reportArgumentType]
    settings = AttentionSettings(
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=windows[layer],
        softcap=softcap,
    )
    return shared_prefix.attend(layer, settings, query, key, value), None


AttentionInterface.register(ATTENTION, attention)


class _PrefillAttention:
    """Attention of padded prompts on themselves, storing their keys and values.

    One prompt may come in chunks: `earlier` of its tokens are stored already and are seen too.
    """

    def __init__(
        self, cache: PrefixCache, start: int, lengths: Sequence[int], column: int, earlier: int = 0
    ) -> None:
        self.cache, self.start, self.lengths = cache, start, lengths
        self.column, self.earlier = column, earlier
        self.masks: dict[int | None, Tensor | None] = {}

    def attend(
        self, layer: int, settings: AttentionSettings, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        self.cache.store_prefix(layer, self.start, self.column, key, value)
        if self.earlier:
            stored, columns = self.cache.layers[layer], self.column + key.shape[2]
            key, value = stored.prefix_keys[:, :, :columns], stored.prefix_values[:, :, :columns]
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key = key.repeat_interleave(groups, 1)
            value = value.repeat_interleave(groups, 1)
        mask = self._mask(settings.window)
        if settings.softcap is None:
            output = scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=mask is None, scale=settings.scaling
            )
        else:
            # torch's own attention has no soft cap.
            scores = torch.matmul(query, key.transpose(2, 3)) * settings.scaling
            scores = torch.tanh(scores / settings.softcap) * settings.softcap
            scores = scores.masked_fill(~self._visible(settings.window), -torch.inf)
            output = torch.matmul(scores.softmax(-1, torch.float32).to(value.dtype), value)
        return output.transpose(1, 2).contiguous()

    def _mask(self, window: int | None) -> Tensor | None:
        """`None` where plain causal attention is meant, for which torch has faster kernels."""
        if window is not None and window >= self.earlier + max(self.lengths):
            window = None
        if window not in self.masks:
            plain = window is None and len(set(self.lengths)) == 1 and not self.earlier
            self.masks[window] = None if plain else self._visible(window)
        return self.masks[window]

    def _visible(self, window: int | None) -> Tensor:
        """[P, 1, T, earlier + T]; padding sees itself, so that no row of a softmax is empty."""
        width = max(self.lengths)
        columns = torch.arange(self.earlier + width, device=self.cache.device)
        distance = columns[self.earlier :, None] - columns
        seen = distance >= 0
        if window is not None:
            seen &= distance < window
        padding = torch.tensor([width - n for n in self.lengths], device=self.cache.device)
        real = columns >= padding[:, None]
        return ((seen & real[:, None, :]) | (distance == 0))[:, None]


class _Step:
    """Attention of one new token per row, cache after cache."""

    def __init__(self, caches: Sequence[PrefixCache]) -> None:
        self.caches = caches
        self.sizes = [len(cache) for cache in caches]

    def attend(
        self, layer: int, settings: AttentionSettings, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        rows, heads = key.shape[:2]
        # [R, H, G, D]: the query heads of a key-value head are neighbours.
        grouped = query.reshape(rows, heads, -1, query.shape[-1])
        parts = zip(
            self.caches,
            grouped.split(self.sizes),
            key.squeeze(2).split(self.sizes),
            value.squeeze(2).split(self.sizes),
            strict=True,
        )
        outputs = [cache.attend(layer, settings, q, k, v) for cache, q, k, v in parts]
        return torch.cat(outputs).view(rows, 1, query.shape[1], -1)


class SharedPrefixDecoder:
    """Decoder over prefix caches, for both loops; use it inside `attached(model)`.

    A static batch calls `admit`, `step` and `select`. A continuous batch calls `admit_in_chunks`
    and `regroup` as well, so that rows which came one by one cost what one cache costs.
    """

    refills = True
    equal_lengths = False

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.device = model.device
        self.check_every = 1 if self.device.type == "cpu" else 8
        self.windows = _windows(model.config)
        self.context = loading.context_of(model)
        self.caches: list[PrefixCache] = []
        """Their rows, one cache after the other, are the live rows."""
        self.positions_R = torch.empty(0, dtype=torch.int64, device=self.device)

    def admit(self, prompts: Sequence[tuple[int, ...]], copies: Sequence[int]) -> Tensor:
        lengths = [len(prompt) for prompt in prompts]
        cache = PrefixCache.plan(lengths, copies, self.device)
        logits = [self._prefill(cache, prompts, start, end) for start, end in _batches(lengths)]
        self._append(cache)
        return torch.cat(logits)

    def admit_in_chunks(
        self, prompts: Sequence[tuple[int, ...]], copies: Sequence[int], chunk_tokens: int
    ) -> Iterator[Tensor | None]:
        if len(prompts) > 1 or len(prompts[0]) <= chunk_tokens:
            yield self.admit(prompts, copies)
            return
        (prompt,) = prompts
        # Appended with its last chunk only: steps in between do not know its rows.
        cache = PrefixCache.plan([len(prompt)], copies, self.device)
        begins = range(0, len(prompt), chunk_tokens)
        for begin in begins:
            ids_1T = torch.tensor([prompt[begin : begin + chunk_tokens]])
            count = ids_1T.shape[1]
            positions_1T = torch.arange(begin, begin + count)[None]
            phase = _PrefillAttention(cache, 0, [count], column=begin, earlier=begin)
            logits_1V = self._forward(ids_1T, positions_1T, phase)
            if begin == begins[-1]:
                self._append(cache)
                yield logits_1V
            else:
                yield None

    def _append(self, cache: PrefixCache) -> None:
        self.caches.append(cache)
        positions = [cache.lengths[prompt] for prompt in cache.prompt_of_row]
        new_R = torch.tensor(positions, dtype=torch.int64, device=self.device)
        self.positions_R = torch.cat([self.positions_R, new_R])

    def _prefill(
        self, cache: PrefixCache, prompts: Sequence[tuple[int, ...]], start: int, end: int
    ) -> Tensor:
        lengths = [len(prompt) for prompt in prompts[start:end]]
        width = max(lengths)
        # Padded on the left: all prompts end in the same column, where suffixes begin.
        ids_BT = torch.zeros(end - start, width, dtype=torch.int64)
        for row, prompt in enumerate(prompts[start:end]):
            ids_BT[row, width - len(prompt) :] = torch.tensor(prompt)
        padding_B1 = width - torch.tensor(lengths)[:, None]
        positions_BT = (torch.arange(width) - padding_B1).clamp_(min=0)
        phase = _PrefillAttention(cache, start, lengths, column=cache.width - width)
        return self._forward(ids_BT, positions_BT, phase)

    def step(self, tokens_R: Tensor) -> Tensor:
        for cache in self.caches:
            cache.begin_step()
        positions_R = self.positions_R
        if self.context is not None:
            # Finished rows that have not left may stand at the end of the context.
            positions_R = positions_R.clamp(max=self.context - 1)
        logits_RV = self._forward(tokens_R[:, None], positions_R[:, None], _Step(self.caches))
        self.positions_R = self.positions_R + 1
        return logits_RV

    def select(self, live: list[bool]) -> list[int]:
        order: list[int] = []
        start = 0
        for cache in self.caches:
            size = len(cache)
            order += [start + row for row in cache.select(live[start : start + size])]
            start += size
        self.caches = [cache for cache in self.caches if len(cache)]
        if len(order) < len(live):
            self._reorder(order)
        return order

    def regroup(self) -> list[int]:
        starts = [0]
        for cache in self.caches:
            starts.append(starts[-1] + len(cache))
        groups: dict[int, list[int]] = {}
        for index, cache in enumerate(self.caches):
            groups.setdefault(_size_class(cache), []).append(index)
        order = [
            row
            for members in groups.values()
            for index in members
            for row in range(starts[index], starts[index + 1])
        ]
        # One group at a time, so that the old keys and values of one are gone before the next.
        self.caches = [self._merge(members) for members in groups.values()]
        self._reorder(order)
        return order

    def _merge(self, members: list[int]) -> PrefixCache:
        if len(members) == 1:
            return self.caches[members[0]]
        return merge([self.caches[index] for index in members])

    def _reorder(self, order: list[int]) -> None:
        index = torch.tensor(order, device=self.device, dtype=torch.int64)
        self.positions_R = self.positions_R[index]

    def _forward(self, ids: Tensor, positions: Tensor, phase: _Phase) -> Tensor:
        output = self.model(
            input_ids=ids.to(self.device),
            position_ids=positions.to(self.device),
            use_cache=False,
            logits_to_keep=1,
            shared_prefix=phase,
            windows=self.windows,
        )
        return output.logits[:, -1]


@contextmanager
def attached(model: PreTrainedModel, implementation: str = ATTENTION) -> Iterator[None]:
    """The model attends through `attention` inside the block, or through another implementation."""
    before = model.config._attn_implementation or "eager"
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _size_class(cache: PrefixCache) -> int:
    """Caches of one class are merged; in a cache each row is padded to the longest."""
    longest = max(cache.lengths) + cache.drawn
    return (max(longest, SMALL_COLUMNS) - 1).bit_length()


def _batches(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of prompts within the token budget."""
    start = 0
    for end in range(1, len(lengths) + 1):
        full = (
            end == len(lengths)
            or (end + 1 - start) * max(lengths[start : end + 1]) > PREFILL_TOKENS
        )
        if full:
            yield start, end
            start = end


def _windows(config: Any) -> list[int | None]:
    """The sliding window of every layer, as transformers' own cache reads it from the config."""
    layers = DynamicCache(config=config).layers
    return [
        layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None
        for layer in layers
    ]
