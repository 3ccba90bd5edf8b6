"""The shared-prefix cache: one copy of every prompt's keys and values, one suffix per sample.

Prompts that are admitted together share a cache. All its rows have drawn equally many tokens, so a
suffix has no holes and a step writes one column. In joint columns a prompt ends at column `width`
(prompts are padded on the left), suffix token t stands at `width + t`, and attention, causal or
within a window, is the same range of columns for every row.

The scores over the prompt come from one product per prompt and head, with the queries of all its
samples side by side; the prompt's keys are neither copied nor read once per sample. The scores over
a row's own suffix come from a second one. They share one softmax.

What all prompts begin with, if that is long, is a cache of its own that any number of these stand
behind (`common`): one product of its keys with the queries of all rows. Its columns come before
all others, so that padding lies between them and a prompt's rest.

Shapes: N rows, P prompts, C copies per prompt (the largest), B tokens of the common beginning (0
without one), T padded prompt tokens behind it, S suffix columns, H key-value heads, G query heads
per key-value head, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

BLOCK = 16
"""Suffix columns allocated at a time: growing copies the suffix, spare columns are computed."""
LAZY_SHARE = 12
"""Finished rows leave when they are one in so many of a cache: leaving costs a fixed effort."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSettings:
    """How a layer attends.

    Example: `AttentionSettings(scaling=0.125, window=None, softcap=None)`
    """

    scaling: float
    window: int | None
    """A query sees this many columns, itself included; `None` sees all."""
    softcap: float | None


@dataclass(slots=True)
class LayerCache:
    """Keys and values of one layer, contiguous, as bmm wants them.

    `prefix_*` are [P, H, T, D] and `suffix_*` are [N, H, S, D].
    """

    prefix_keys: Tensor
    prefix_values: Tensor
    suffix_keys: Tensor
    suffix_values: Tensor


@dataclass(slots=True)
class RowIndex:
    """Which slot beside its prompt a row has, head by head, as indices for `index_select`.

    Every prompt has C slots; those of a prompt with fewer samples are empty at the end.
    """

    row_of_slot_PHC: Tensor
    """Index into [N * H] of every slot; any row for an empty slot, whose result nobody reads."""
    slot_of_row_NH: Tensor
    """Index into [P * H * C] of every row and head."""


@dataclass(slots=True)
class PrefixCache:
    """The cache of the prompts that were admitted together, and of their samples.

    It is made by `plan`, filled by `store_prefix` as the prompts are computed, and grown by every
    step: `begin_step` once, then `attend` in every layer.
    """

    width: int
    """T"""
    lengths: list[int]
    """Prompt tokens per prompt, without padding and without the common beginning."""
    prompt_of_row: list[int]
    device: torch.device
    common: PrefixCache | None = None
    """The beginning of all its prompts: a cache of one prompt and no rows."""
    drawn: int = 0
    """Suffix columns in use."""
    layers: dict[int, LayerCache] = field(default_factory=dict)
    row_index: RowIndex | None = None
    """Made when the first step tells how many heads there are."""
    mask: Tensor = field(default_factory=lambda: torch.empty(0))
    """Added to the scores, [1 or N, 1, 1, B + T + S]; empty until the first step."""
    padding: Tensor = field(default_factory=lambda: torch.empty(0))
    """Columns before a row's own first one and behind the common ones, shaped as the mask is."""
    windowed: dict[int, Tensor] = field(default_factory=dict)
    """The mask of this step per sliding window."""
    columns: int = BLOCK
    """S"""

    @classmethod
    def plan(
        cls,
        lengths: Sequence[int],
        copies: Sequence[int],
        device: torch.device,
        common: PrefixCache | None = None,
    ) -> PrefixCache:
        """An empty cache for prompts of these lengths in tokens, a prompt's rows side by side.

        `copies` says how many rows each prompt has; lengths are of what follows `common`.
        """
        rows = [prompt for prompt, count in enumerate(copies) for _ in range(count)]
        return cls(max(lengths), list(lengths), rows, device, common)

    def __len__(self) -> int:
        """The number of rows, N."""
        return len(self.prompt_of_row)

    @property
    def before(self) -> int:
        """B"""
        return self.common.width if self.common is not None else 0

    # Prefill

    def store_prefix(
        self, layer: int, start: int, column: int, key_PHTD: Tensor, value_PHTD: Tensor
    ) -> None:
        """Store keys and values of prompts `start`… from `column` on; the padding stays zero."""
        count, heads, tokens, _ = key_PHTD.shape
        if layer not in self.layers:
            shape = (len(self.lengths), heads, self.width)
            rows = (len(self), heads, self.columns)
            key_size, value_size = key_PHTD.shape[-1], value_PHTD.shape[-1]
            self.layers[layer] = LayerCache(
                key_PHTD.new_zeros(*shape, key_size),
                value_PHTD.new_zeros(*shape, value_size),
                key_PHTD.new_zeros(*rows, key_size),
                value_PHTD.new_zeros(*rows, value_size),
            )
        stored = self.layers[layer]
        prompts, columns = slice(start, start + count), slice(column, column + tokens)
        stored.prefix_keys[prompts, :, columns] = key_PHTD
        stored.prefix_values[prompts, :, columns] = value_PHTD

    # Decoding

    def begin_step(self) -> None:
        """Make room for one more column and let it be seen."""
        # A window moves on with every step.
        self.windowed.clear()
        self.drawn += 1
        if self.drawn > self.columns:
            self.columns += BLOCK
            for stored in self.layers.values():
                stored.suffix_keys = _widened(stored.suffix_keys, self.columns)
                stored.suffix_values = _widened(stored.suffix_values, self.columns)
            self._rebuild_mask()
        elif not len(self.mask):
            self._rebuild_mask()
        else:
            # Every row's newest column is the same one, so the mask is never built per step.
            self.mask[..., self.before + self.width + self.drawn - 1] = 0

    def attend(
        self,
        layer: int,
        settings: AttentionSettings,
        query_NHGD: Tensor,
        key_NHD: Tensor,
        value_NHD: Tensor,
    ) -> Tensor:
        """Store the step's keys and values, and attend over prompt and suffix.

        Returns the heads' outputs, [N, H, G, D].
        """
        stored = self.layers[layer]
        stored.suffix_keys[:, :, self.drawn - 1] = key_NHD
        stored.suffix_values[:, :, self.drawn - 1] = value_NHD
        rows, heads, groups, size = query_NHGD.shape
        flat = (rows * heads, groups)

        if self.row_index is None:
            self.row_index = self._index_rows(heads)
        index = self.row_index
        # [P, H, C * G, D] by [P, H, D, T]: the prompt's keys are the matrix and the queries of all
        # its samples the other one. One product per row would read the keys C times over.
        query_PHXD = self._by_prompt(query_NHGD, index)
        prefix = torch.matmul(query_PHXD, stored.prefix_keys.transpose(2, 3))
        # A suffix belongs to one row alone, so its batch is rows times heads.
        suffix = torch.bmm(
            query_NHGD.reshape(*flat, size), stored.suffix_keys.flatten(0, 1).transpose(1, 2)
        )
        # Back in the order of rows, all stand side by side for one softmax over their columns.
        scores = [self._by_row(prefix, index, groups), suffix.view(rows, heads, groups, -1)]
        if self.common is not None:
            scores.insert(0, self.common.scores(layer, query_NHGD))
        weights = self._softmax(torch.cat(scores, 3), settings)

        # The weighted sum over all columns is that over the prompt's plus that over the suffix's.
        common_weights, prefix_weights, suffix_weights = weights.split(
            [self.before, self.width, self.columns], 3
        )
        output = torch.matmul(self._by_prompt(prefix_weights, index), stored.prefix_values)
        own = torch.bmm(
            suffix_weights.reshape(*flat, self.columns), stored.suffix_values.flatten(0, 1)
        )
        output = self._by_row(output, index, groups) + own.view(rows, heads, groups, -1)
        if self.common is not None:
            output += self.common.weighted(layer, common_weights)
        return output

    def scores(self, layer: int, query_NHGD: Tensor) -> Tensor:
        """Of any rows over this one prompt, which is their common beginning: [N, H, G, B]."""
        (keys_HBD,) = self.layers[layer].prefix_keys
        return _for_all_rows(query_NHGD, keys_HBD.transpose(1, 2))

    def weighted(self, layer: int, weights_NHGB: Tensor) -> Tensor:
        """The weighted sum of this one prompt's values, [N, H, G, D]."""
        (values_HBD,) = self.layers[layer].prefix_values
        return _for_all_rows(weights_NHGB, values_HBD)

    def _softmax(self, scores: Tensor, settings: AttentionSettings) -> Tensor:
        mask = self._mask(settings.window)
        if settings.softcap is None:
            return torch.add(mask, scores, alpha=settings.scaling).softmax(-1)
        # The cap comes before the mask: tanh would make a finite number of -infinity.
        capped = (scores * (settings.scaling / settings.softcap)).tanh_().mul_(settings.softcap)
        return capped.add_(mask).softmax(-1)

    def _mask(self, window: int | None) -> Tensor:
        """0 where a column is seen, -infinity on padding, spare columns and beyond the window."""
        end = self.before + self.width + self.drawn
        if window is None or end <= window:
            return self.mask
        if window not in self.windowed:
            columns = torch.arange(self.mask.shape[-1], device=self.device)
            # The padding behind the common columns is no distance.
            gone = columns + (columns < self.before) * self.padding < end - window
            self.windowed[window] = self.mask.masked_fill(gone, -torch.inf)
        return self.windowed[window]

    def _rebuild_mask(self) -> None:
        stored = next(iter(self.layers.values()))
        padding = torch.tensor([self.width - self.lengths[p] for p in self.prompt_of_row])
        # Without padding every row's mask is the same.
        rows = padding if padding.any() else padding[:1]
        columns = torch.arange(self.width + self.columns)
        hidden = (columns < rows[:, None]) | (columns >= self.width + self.drawn)
        hidden = torch.cat([hidden.new_zeros(len(rows), self.before), hidden], 1)
        mask = torch.zeros(hidden.shape, dtype=stored.prefix_keys.dtype)
        self.mask = mask.masked_fill_(hidden, -torch.inf)[:, None, None].to(self.device)
        self.padding = rows[:, None, None, None].to(self.device)

    def _by_prompt(self, rows_NHGX: Tensor, index: RowIndex) -> Tensor:
        """[N, H, G, X] to [P, H, C * G, X]: a prompt's samples side by side."""
        _, heads, _, size = rows_NHGX.shape
        slots = rows_NHGX.flatten(0, 1).index_select(0, index.row_of_slot_PHC)
        return slots.view(len(self.lengths), heads, -1, size)

    def _by_row(self, slots: Tensor, index: RowIndex, groups: int) -> Tensor:
        """The inverse of `_by_prompt`."""
        heads, size = slots.shape[1], slots.shape[3]
        rows = slots.view(-1, groups, size).index_select(0, index.slot_of_row_NH)
        return rows.view(len(self), heads, groups, size)

    def _index_rows(self, heads: int) -> RowIndex:
        taken = [0] * len(self.lengths)
        ranks = []
        for prompt in self.prompt_of_row:
            ranks.append(taken[prompt])
            taken[prompt] += 1
        copies = max(taken)
        prompts_N, ranks_N = torch.tensor(self.prompt_of_row), torch.tensor(ranks)
        head_H = torch.arange(heads)
        # Slots lie as [P, H, C] does in memory, rows as [N, H].
        slot_of_row_NH = (prompts_N[:, None] * heads + head_H) * copies + ranks_N[:, None]
        # Empty slots compute with row 0: cheaper than a mask, and `_by_row` never selects them.
        row_of_slot_PHC = torch.zeros(len(taken) * heads * copies, dtype=torch.int64)
        row_of_slot_PHC[slot_of_row_NH] = torch.arange(len(ranks))[:, None] * heads + head_H
        return RowIndex(row_of_slot_PHC.to(self.device), slot_of_row_NH.flatten().to(self.device))

    # Leaving

    def select(self, live: list[bool]) -> list[int]:
        """Drop finished rows once there are enough of them, and prompts without a row.

        Returns the old indices of the rows that stay, in their new order: the last live rows move
        to the places of the finished ones, so little is copied.
        """
        count = sum(live)
        if (len(live) - count) * LAZY_SHARE < len(live):
            return list(range(len(live)))
        order = _fill_holes(live)
        for stored in self.layers.values():
            stored.suffix_keys = _moved(stored.suffix_keys, order)
            stored.suffix_values = _moved(stored.suffix_values, order)
        self.prompt_of_row = [self.prompt_of_row[row] for row in order]
        # A cache without rows is dropped by its decoder, as it is.
        if count:
            self._drop_prompts()
            self.row_index = None
            self._rebuild_mask()
        return order

    def _drop_prompts(self) -> None:
        wanted = set(self.prompt_of_row)
        if len(wanted) == len(self.lengths):
            return
        order = _fill_holes([prompt in wanted for prompt in range(len(self.lengths))])
        for stored in self.layers.values():
            stored.prefix_keys = _moved(stored.prefix_keys, order)
            stored.prefix_values = _moved(stored.prefix_values, order)
        self.lengths = [self.lengths[prompt] for prompt in order]
        place = {prompt: index for index, prompt in enumerate(order)}
        self.prompt_of_row = [place[prompt] for prompt in self.prompt_of_row]


def merge(caches: Sequence[PrefixCache]) -> PrefixCache:
    """Make one cache of all their rows, in order; the old ones are emptied layer by layer.

    A step costs a fixed effort per cache and layer. Where prompts come one at a time, as at a
    server, every one would have a cache of its own. Merged, what a row has drawn so far becomes
    part of its prompt, and all rows go on from an empty suffix. A prompt with several rows is
    copied for each of them.
    """
    lengths = [
        cache.lengths[prompt] + cache.drawn for cache in caches for prompt in cache.prompt_of_row
    ]
    whole = PrefixCache.plan(lengths, [1] * len(lengths), caches[0].device)
    # Layer by layer, so that no more than one layer's keys and values are there twice.
    for index in list(caches[0].layers):
        layers = [cache.layers.pop(index) for cache in caches]
        keys, values = layers[0].prefix_keys, layers[0].prefix_values
        rows, heads = len(lengths), keys.shape[1]
        into = LayerCache(
            keys.new_zeros(rows, heads, whole.width, keys.shape[-1]),
            values.new_zeros(rows, heads, whole.width, values.shape[-1]),
            keys.new_zeros(rows, heads, whole.columns, keys.shape[-1]),
            values.new_zeros(rows, heads, whole.columns, values.shape[-1]),
        )
        start = 0
        for cache, layer in zip(caches, layers, strict=True):
            places = slice(start, start + len(cache))
            _join(into.prefix_keys[places], cache, layer.prefix_keys, layer.suffix_keys)
            _join(into.prefix_values[places], cache, layer.prefix_values, layer.suffix_values)
            start += len(cache)
        whole.layers[index] = into
    return whole


def _join(into_NHTD: Tensor, cache: PrefixCache, prefix_PHTD: Tensor, suffix_NHSD: Tensor) -> None:
    """Prompt and suffix of every row, right-aligned; leading columns that no row needs are cut."""
    width = into_NHTD.shape[2] - cache.drawn
    into_NHTD[:, :, width:] = suffix_NHSD[:, :, : cache.drawn]
    taken = min(cache.width, width)
    prompts = prefix_PHTD[cache.prompt_of_row, :, cache.width - taken :]
    into_NHTD[:, :, width - taken : width] = prompts


def _for_all_rows(rows_NHGX: Tensor, of_head_HXY: Tensor) -> Tensor:
    """One product per head with the rows of all side by side: [N, H, G, Y]."""
    count, heads, groups, _ = rows_NHGX.shape
    product = torch.bmm(rows_NHGX.transpose(0, 1).flatten(1, 2), of_head_HXY)
    return product.view(heads, count, groups, -1).transpose(0, 1)


def _widened(suffix: Tensor, columns: int) -> Tensor:
    rows, heads, filled, size = suffix.shape
    # Zeros, not empty: a masked weight of 0 times garbage may be NaN.
    wider = suffix.new_zeros(rows, heads, columns, size)
    wider[:, :, :filled] = suffix
    return wider


def _fill_holes(live: list[bool]) -> list[int]:
    """Old index for every new place: holes among the first places take the last live ones."""
    count = sum(live)
    order = list(range(count))
    movers = iter(index for index in range(count, len(live)) if live[index])
    for hole in (index for index in range(count) if not live[index]):
        order[hole] = next(movers)
    return order


def _moved(tensor: Tensor, order: list[int]) -> Tensor:
    """`tensor[order]` in place, as a view of the first places; see `_fill_holes`."""
    holes = [place for place, source in enumerate(order) if place != source]
    if holes:
        places = torch.tensor(holes, device=tensor.device)
        sources = torch.tensor([order[place] for place in holes], device=tensor.device)
        tensor[places] = tensor[sources]
    return tensor[: len(order)]
