"""Attention while prompts are prefilled: of whole prompts, and of what follows a common beginning.

Shapes: see prefix_cache.py; B whatever the model calls its batch, Q query tokens, K keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from forethought.decoding.prefix_cache import AttentionSettings, PrefixCache

PACKED_TOKENS = 256
"""Rests of so many tokens together are one product with the common keys.

A rest of 20 tokens alone leaves a core waiting; of more than this, most of a product are scores
between rests that must not see each other.
"""


class PromptAttention:
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
        """[B, heads, Q, D] of each to [B, Q, heads, D]."""
        self.cache.store_prefix(layer, self.start, self.column, key, value)
        if self.earlier:
            stored, columns = self.cache.layers[layer], self.column + key.shape[2]
            key, value = stored.prefix_keys[:, :, :columns], stored.prefix_values[:, :, :columns]
        return _attended(query, key, value, settings, self._mask(settings.window))

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


class RestAttention:
    """Attention of what padded prompts have behind the beginning that is common to them.

    Their keys and values are stored, those of the beginning are there. Several rests are one row of
    queries, which sees the beginning's keys and, each its own, those of the rests.
    """

    def __init__(self, cache: PrefixCache, start: int, lengths: Sequence[int], column: int) -> None:
        self.cache, self.start, self.lengths, self.column = cache, start, lengths, column
        self.width = max(lengths)
        self.at_once = max(1, PACKED_TOKENS // self.width)
        """Rests per product."""
        self.masks: dict[tuple[int, int | None], Tensor] = {}

    def attend(
        self, layer: int, settings: AttentionSettings, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        """[P, heads, T, D] of each to [P, T, heads, D]."""
        assert self.cache.common is not None
        self.cache.store_prefix(layer, self.start, self.column, key, value)
        common = self.cache.common.layers[layer]
        outputs: list[Tensor] = []
        for start in range(0, len(query), self.at_once):
            rests = slice(start, start + self.at_once)
            output = _attended(
                _row_of(query[rests]),
                torch.cat([common.prefix_keys, _row_of(key[rests])], 2),
                torch.cat([common.prefix_values, _row_of(value[rests])], 2),
                settings,
                self._mask(start, settings.window),
            )
            outputs.append(output.unflatten(1, (-1, self.width)).squeeze(0))
        return torch.cat(outputs)

    def _mask(self, start: int, window: int | None) -> Tensor:
        if (start, window) not in self.masks:
            self.masks[start, window] = self._visible(start, window)
        return self.masks[start, window]

    def _visible(self, start: int, window: int | None) -> Tensor:
        """[1, 1, Q, common + Q] of the rests from `start` on; padding sees itself."""
        device = self.cache.device
        lengths = self.lengths[start : start + self.at_once]
        before = self.cache.before
        # Places in the prompt, from 0; the padding's are of the beginning, and are not real.
        first = torch.tensor([before + n - self.width for n in lengths], device=device)
        places_Q = (first[:, None] + torch.arange(self.width, device=device)).flatten()
        places_K = torch.cat([torch.arange(before, device=device), places_Q])
        prompts_Q = torch.arange(len(lengths), device=device).repeat_interleave(self.width)
        distance = places_Q[:, None] - places_K
        seen = distance >= 0
        if window is not None:
            seen &= distance < window
        own = (prompts_Q[:, None] == prompts_Q) & (places_Q >= before)
        seen[:, before:] &= own
        seen[:, before:].fill_diagonal_(fill_value=True)
        return seen[None, None]


def _row_of(rests: Tensor) -> Tensor:
    """[P, heads, T, D] to [1, heads, P * T, D]."""
    return rests.transpose(0, 1).flatten(1, 2)[None]


def _attended(
    query: Tensor, key: Tensor, value: Tensor, settings: AttentionSettings, seen: Tensor | None
) -> Tensor:
    """Of [B, heads, Q, D] and [B, H, K, D], [B, Q, heads, D]; `seen` is `None` where causal."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, 1)
        value = value.repeat_interleave(groups, 1)
    if settings.softcap is None:
        output = scaled_dot_product_attention(
            query, key, value, attn_mask=seen, is_causal=seen is None, scale=settings.scaling
        )
    else:
        # torch's own attention has no soft cap.
        if seen is None:
            seen = query.new_ones(query.shape[2], key.shape[2], dtype=torch.bool).tril_()
        scores = torch.matmul(query, key.transpose(2, 3)) * settings.scaling
        scores = torch.tanh(scores / settings.softcap) * settings.softcap
        scores = scores.masked_fill(~seen, -torch.inf)
        output = torch.matmul(scores.softmax(-1, torch.float32).to(value.dtype), value)
    return output.transpose(1, 2).contiguous()
