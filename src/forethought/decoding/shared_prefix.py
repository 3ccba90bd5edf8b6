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
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer

from forethought.decoding import common_prefix
from forethought.decoding.prefill import PromptAttention, RestAttention
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
        self.common_ids: tuple[int, ...] = ()
        self.common: PrefixCache | None = None
        """What is kept of `common_ids`, once a prompt that begins so has been admitted."""

    def expect(self, prompts: Sequence[tuple[int, ...]]) -> list[bool]:
        self.common_ids, self.common = common_prefix.of(prompts), None
        return [self._begins_so(prompt) for prompt in prompts]

    def admit(self, prompts: Sequence[tuple[int, ...]], copies: Sequence[int]) -> Tensor:
        logits: list[Tensor] = []
        alike = groupby(zip(prompts, copies, strict=True), lambda each: self._begins_so(each[0]))
        for begin_so, members in alike:
            some, counts = zip(*members, strict=True)
            logits += self._admit_alike(some, counts, self._common() if begin_so else None)
        return torch.cat(logits)

    def _admit_alike(
        self,
        prompts: Sequence[tuple[int, ...]],
        copies: Sequence[int],
        common: PrefixCache | None,
    ) -> list[Tensor]:
        before = 0 if common is None else common.width
        rests = [prompt[before:] for prompt in prompts]
        lengths = [len(rest) for rest in rests]
        cache = PrefixCache.plan(lengths, copies, self.device, common)
        logits = [self._prefill(cache, rests, start, end) for start, end in _batches(lengths)]
        self._append(cache)
        return logits

    def _begins_so(self, prompt: tuple[int, ...]) -> bool:
        """Whether it begins with what many have in common, and does not end there."""
        length = len(self.common_ids)
        return 0 < length < len(prompt) and prompt[:length] == self.common_ids

    def _common(self) -> PrefixCache:
        if self.common is None:
            # A prompt without rows: its samples are those of the prompts that begin so.
            cache = PrefixCache.plan([len(self.common_ids)], [0], self.device)
            self._prefill(cache, [self.common_ids], 0, 1)
            self.common = cache
        return self.common

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
            phase = PromptAttention(cache, 0, [count], column=begin, earlier=begin)
            logits_1V = self._forward(ids_1T, positions_1T, phase)
            if begin == begins[-1]:
                self._append(cache)
                yield logits_1V
            else:
                yield None

    def _append(self, cache: PrefixCache) -> None:
        self.caches.append(cache)
        positions = [cache.before + cache.lengths[prompt] for prompt in cache.prompt_of_row]
        new_R = torch.tensor(positions, dtype=torch.int64, device=self.device)
        self.positions_R = torch.cat([self.positions_R, new_R])

    def _prefill(
        self, cache: PrefixCache, prompts: Sequence[tuple[int, ...]], start: int, end: int
    ) -> Tensor:
        """Of `start` to `end`, what stands behind the cache's common beginning."""
        lengths = [len(prompt) for prompt in prompts[start:end]]
        width = max(lengths)
        # Padded on the left: all prompts end in the same column, where suffixes begin.
        ids_BT = torch.zeros(end - start, width, dtype=torch.int64)
        for row, prompt in enumerate(prompts[start:end]):
            ids_BT[row, width - len(prompt) :] = torch.tensor(prompt)
        padding_B1 = width - torch.tensor(lengths)[:, None]
        positions_BT = (torch.arange(width) - padding_B1).clamp_(min=0) + cache.before
        attention_of = PromptAttention if cache.common is None else RestAttention
        phase = attention_of(cache, start, lengths, column=cache.width - width)
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
