"""Keys and values of prompts admitted together: one copy per prompt, one suffix per sample.

All rows of a cohort have drawn equally many tokens, so a suffix has no holes and a step writes one
column. In joint columns a prompt ends at column `width` (prompts are padded on the left), suffix
token t stands at `width + t`, and attention, causal or within a window, is the same range of
columns for every row.

The scores over the prompt come from one product per prompt and head, with the queries of all its
samples side by side; the prompt's keys are neither copied nor read once per sample. The scores over
a row's own suffix come from a second one. They share one softmax.

Shapes: N rows, P prompts, C copies per prompt (the largest), T padded prompt tokens, S suffix
columns, H key-value heads, G query heads per key-value head, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

BLOCK = 16
"""Suffix columns allocated at a time: growing copies the suffix, spare columns are computed."""
LAZY_SHARE = 12
"""Finished rows leave when they are one in so many of a cohort: leaving costs a fixed effort."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a layer attends."""

    scaling: float
    window: int | None
    """A query sees this many columns, itself included; `None` sees all."""
    softcap: float | None


@dataclass(slots=True)
class Layer:
    """`prefix_*` are [P, H, T, D], `suffix_*` [N, H, S, D]; all contiguous, as bmm wants them."""

    prefix_keys: Tensor
    prefix_values: Tensor
    suffix_keys: Tensor
    suffix_values: Tensor


@dataclass(slots=True)
class _Seats:
    """Where the rows sit beside their prompts, head by head, as indices for `index_select`."""

    rows_PHC: Tensor
    """Index into [N * H] of every seat; any row at an empty seat."""
    seats_NH: Tensor
    """Index into [P * H * C] of every row and head."""


@dataclass(slots=True)
class Cohort:
    """Built by `plan`, filled by the prefill, grown by every step."""

    width: int
    """T"""
    lengths: list[int]
    """Prompt tokens per prompt, without padding."""
    prompt_of_row: list[int]
    device: torch.device
    drawn: int = 0
    """Suffix columns in use."""
    layers: dict[int, Layer] = field(default_factory=dict)
    seats: _Seats | None = None
    """Made when the first step tells how many heads there are."""
    mask: Tensor = field(default_factory=lambda: torch.empty(0))
    """Added to the scores, [1 or N, 1, 1, T + S]; empty until the first step."""
    windowed: dict[int, Tensor] = field(default_factory=dict)
    """The mask of this step per sliding window."""
    columns: int = BLOCK
    """S"""

    @classmethod
    def plan(cls, lengths: Sequence[int], copies: Sequence[int], device: torch.device) -> Cohort:
        rows = [prompt for prompt, count in enumerate(copies) for _ in range(count)]
        return cls(max(lengths), list(lengths), rows, device)

    def __len__(self) -> int:
        return len(self.prompt_of_row)

    # Prefill

    def store_prefix(
        self, layer: int, start: int, column: int, key_PHTD: Tensor, value_PHTD: Tensor
    ) -> None:
        """Keep keys and values of prompts `start`… from `column` on; the padding stays zero."""
        count, heads, tokens, _ = key_PHTD.shape
        if layer not in self.layers:
            shape = (len(self.lengths), heads, self.width)
            rows = (len(self), heads, self.columns)
            key_size, value_size = key_PHTD.shape[-1], value_PHTD.shape[-1]
            self.layers[layer] = Layer(
                key_PHTD.new_zeros(*shape, key_size),
                value_PHTD.new_zeros(*shape, value_size),
                key_PHTD.new_zeros(*rows, key_size),
                value_PHTD.new_zeros(*rows, value_size),
            )
        kept = self.layers[layer]
        prompts, columns = slice(start, start + count), slice(column, column + tokens)
        kept.prefix_keys[prompts, :, columns] = key_PHTD
        kept.prefix_values[prompts, :, columns] = value_PHTD

    # Decoding

    def begin_step(self) -> None:
        """Room for one more column."""
        self.windowed.clear()
        self.drawn += 1
        if self.drawn > self.columns:
            self.columns += BLOCK
            for kept in self.layers.values():
                kept.suffix_keys = _widened(kept.suffix_keys, self.columns)
                kept.suffix_values = _widened(kept.suffix_values, self.columns)
            self._rebuild_mask()
        elif not len(self.mask):
            self._rebuild_mask()
        else:
            self.mask[..., self.width + self.drawn - 1] = 0

    def attend(
        self, layer: int, form: Form, query_NHGD: Tensor, key_NHD: Tensor, value_NHD: Tensor
    ) -> Tensor:
        """Store the step's keys and values; attention over prompt and suffix, [N, H, G, D]."""
        kept = self.layers[layer]
        kept.suffix_keys[:, :, self.drawn - 1] = key_NHD
        kept.suffix_values[:, :, self.drawn - 1] = value_NHD
        rows, heads, groups, size = query_NHGD.shape
        flat = (rows * heads, groups)

        if self.seats is None:
            self.seats = self._seat(heads)
        seats = self.seats
        seated = self._to_seats(query_NHGD, seats)
        prefix = torch.matmul(seated, kept.prefix_keys.transpose(2, 3))
        suffix = torch.bmm(
            query_NHGD.reshape(*flat, size), kept.suffix_keys.flatten(0, 1).transpose(1, 2)
        )
        scores = torch.cat(
            [self._to_rows(prefix, seats, groups), suffix.view(rows, heads, groups, -1)], 3
        )
        weights = self._softmax(scores, form)

        prefix_weights, suffix_weights = weights.split([self.width, self.columns], 3)
        output = torch.matmul(self._to_seats(prefix_weights, seats), kept.prefix_values)
        own = torch.bmm(
            suffix_weights.reshape(*flat, self.columns), kept.suffix_values.flatten(0, 1)
        )
        return self._to_rows(output, seats, groups) + own.view(rows, heads, groups, -1)

    def _softmax(self, scores: Tensor, form: Form) -> Tensor:
        if form.softcap is None:
            return torch.add(self._mask(form.window), scores, alpha=form.scaling).softmax(-1)
        capped = (scores * (form.scaling / form.softcap)).tanh_().mul_(form.softcap)
        return capped.add_(self._mask(form.window)).softmax(-1)

    def _mask(self, window: int | None) -> Tensor:
        """0 where a column is seen, -infinity on padding, spare columns and beyond the window."""
        if window is None or self.width + self.drawn <= window:
            return self.mask
        if window not in self.windowed:
            gone = torch.arange(self.width + self.columns, device=self.device)
            gone = gone < self.width + self.drawn - window
            self.windowed[window] = self.mask.masked_fill(gone, -torch.inf)
        return self.windowed[window]

    def _rebuild_mask(self) -> None:
        kept = next(iter(self.layers.values()))
        padding = torch.tensor([self.width - self.lengths[p] for p in self.prompt_of_row])
        # Prompts of one length share a row.
        rows = padding if padding.any() else padding[:1]
        columns = torch.arange(self.width + self.columns)
        hidden = (columns < rows[:, None]) | (columns >= self.width + self.drawn)
        mask = torch.zeros(hidden.shape, dtype=kept.prefix_keys.dtype)
        self.mask = mask.masked_fill_(hidden, -torch.inf)[:, None, None].to(self.device)

    def _to_seats(self, rows_NHGX: Tensor, seats: _Seats) -> Tensor:
        """[N, H, G, X] to [P, H, C * G, X]: a prompt's samples side by side."""
        _, heads, _, size = rows_NHGX.shape
        seated = rows_NHGX.flatten(0, 1).index_select(0, seats.rows_PHC)
        return seated.view(len(self.lengths), heads, -1, size)

    def _to_rows(self, seated: Tensor, seats: _Seats, groups: int) -> Tensor:
        """The inverse of `_to_seats`."""
        heads, size = seated.shape[1], seated.shape[3]
        rows = seated.view(-1, groups, size).index_select(0, seats.seats_NH)
        return rows.view(len(self), heads, groups, size)

    # Leaving

    def keep(self, live: list[bool]) -> list[int]:
        """Drop finished rows once there are enough; old indices of the rows in their new order.

        The last live rows move to the places of the finished ones, so little is copied.
        """
        count = sum(live)
        if (len(live) - count) * LAZY_SHARE < len(live):
            return list(range(len(live)))
        order = _fill_holes(live)
        for kept in self.layers.values():
            kept.suffix_keys = _moved(kept.suffix_keys, order)
            kept.suffix_values = _moved(kept.suffix_values, order)
        self.prompt_of_row = [self.prompt_of_row[row] for row in order]
        if count:
            self._drop_prompts()
            self.seats = None
            self._rebuild_mask()
        return order

    def _drop_prompts(self) -> None:
        wanted = set(self.prompt_of_row)
        if len(wanted) == len(self.lengths):
            return
        order = _fill_holes([prompt in wanted for prompt in range(len(self.lengths))])
        for kept in self.layers.values():
            kept.prefix_keys = _moved(kept.prefix_keys, order)
            kept.prefix_values = _moved(kept.prefix_values, order)
        self.lengths = [self.lengths[prompt] for prompt in order]
        place = {prompt: index for index, prompt in enumerate(order)}
        self.prompt_of_row = [place[prompt] for prompt in self.prompt_of_row]

    def _seat(self, heads: int) -> _Seats:
        taken = [0] * len(self.lengths)
        ranks = []
        for prompt in self.prompt_of_row:
            ranks.append(taken[prompt])
            taken[prompt] += 1
        prompts_N, ranks_N = torch.tensor(self.prompt_of_row), torch.tensor(ranks)
        head_H = torch.arange(heads)
        seats_NH = (prompts_N[:, None] * heads + head_H) * max(taken) + ranks_N[:, None]
        rows_PHC = torch.zeros(len(taken) * heads * max(taken), dtype=torch.int64)
        rows_PHC[seats_NH] = torch.arange(len(ranks))[:, None] * heads + head_H
        return _Seats(rows_PHC.to(self.device), seats_NH.flatten().to(self.device))


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


def _moved(kept: Tensor, order: list[int]) -> Tensor:
    """`kept[order]` in place, as a view of the first places; see `_fill_holes`."""
    holes = [place for place, source in enumerate(order) if place != source]
    if holes:
        places = torch.tensor(holes, device=kept.device)
        sources = torch.tensor([order[place] for place in holes], device=kept.device)
        kept[places] = kept[sources]
    return kept[: len(order)]
