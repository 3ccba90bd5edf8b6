"""Decoders for an open batch: prompts come and rows leave at any time, long prompts in chunks.

`JoiningDecoder` merges the cohorts of rows that came at different times, so that a step costs what
one cohort costs. Rows of very different lengths stay apart: in a cohort each is padded to the
longest. `SeparateDecoder` serves the architectures that share nothing (`expanded.py`): one small
batch per admission, stepped in turn; it is slow, and right.

Shapes: R live rows, P prompts, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from forethought.sampling.cohort import Cohort
from forethought.sampling.expanded import ExpandedDecoder
from forethought.sampling.merging import merged
from forethought.sampling.shared_prefix import SharedPrefixDecoder

CHUNK_TOKENS = {"cpu": 256, "cuda": 2048}
"""Prompt tokens between two steps of the rows that are live."""
SMALL_COLUMNS = 512
"""Rows up to this length share a cohort; beyond, those within a factor of two of each other do."""


class OpenDecoder(Protocol):
    """A model with a cache over the live rows; see `sampling.engine.Decoder` for `step`, `keep`."""

    equal_lengths: bool
    """Whether prompts taken in together must have the same length."""
    chunk_tokens: int
    """Padded prompt tokens to take in together; a longer prompt comes alone."""

    def take_in(
        self, prompts: Sequence[tuple[int, ...]], copies: Sequence[int]
    ) -> Iterator[Tensor | None]:
        """Append rows, a prompt's copies side by side.

        Yields `None` where steps may be taken before going on, and at last, rows appended, the
        logits after each prompt, [P, V]. Dropping the iterator before that leaves no trace.
        """
        ...

    def settle(self) -> list[int]:
        """Arrange the rows after some came; their old indices in their new order."""
        ...

    def step(self, tokens_R: Tensor) -> Tensor: ...

    def keep(self, live: list[bool]) -> list[int]: ...


def open_decoder(model: PreTrainedModel, *, separate: bool) -> OpenDecoder:
    """A decoder without rows; `separate` for models that `shared_prefix.unsupported` names."""
    return SeparateDecoder(model) if separate else JoiningDecoder(model)


class JoiningDecoder(SharedPrefixDecoder):
    """For models that decode through `shared_prefix`; use it inside its `attached(model)`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self.chunk_tokens = CHUNK_TOKENS["cpu" if self.device.type == "cpu" else "cuda"]

    def take_in(
        self, prompts: Sequence[tuple[int, ...]], copies: Sequence[int]
    ) -> Iterator[Tensor | None]:
        if len(prompts) == 1 and len(prompts[0]) > self.chunk_tokens:
            return self.admit_in_chunks(prompts[0], copies[0], self.chunk_tokens)
        return self._at_once(prompts, copies)

    def _at_once(
        self, prompts: Sequence[tuple[int, ...]], copies: Sequence[int]
    ) -> Iterator[Tensor | None]:
        yield self.admit(prompts, copies)

    def settle(self) -> list[int]:
        starts = [0]
        for cohort in self.cohorts:
            starts.append(starts[-1] + len(cohort))
        groups: dict[int, list[int]] = {}
        for index, cohort in enumerate(self.cohorts):
            groups.setdefault(_size_class(cohort), []).append(index)
        order = [
            row
            for members in groups.values()
            for index in members
            for row in range(starts[index], starts[index + 1])
        ]
        if len(groups) < len(self.cohorts):
            # One group at a time, so that the old keys and values of one are gone before the next.
            self.cohorts = [self._merge(members) for members in groups.values()]
        else:
            self.cohorts = [self.cohorts[index] for members in groups.values() for index in members]
        self.positions_R = self.positions_R[torch.tensor(order, device=self.device).long()]
        return order

    def _merge(self, members: list[int]) -> Cohort:
        if len(members) == 1:
            return self.cohorts[members[0]]
        return merged([self.cohorts[index] for index in members])


def _size_class(cohort: Cohort) -> int:
    longest = max(cohort.lengths) + cohort.drawn
    return (max(longest, SMALL_COLUMNS) - 1).bit_length()


class SeparateDecoder:
    """For any causal model: every admission is a batch of its own."""

    equal_lengths = True

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.chunk_tokens = CHUNK_TOKENS["cpu" if model.device.type == "cpu" else "cuda"]
        self.batches: list[ExpandedDecoder] = []
        self.sizes: list[int] = []

    def take_in(
        self, prompts: Sequence[tuple[int, ...]], copies: Sequence[int]
    ) -> Iterator[Tensor | None]:
        decoder = ExpandedDecoder(self.model)
        logits_PV = decoder.admit(prompts, copies)
        self.batches.append(decoder)
        self.sizes.append(sum(copies))
        yield logits_PV

    def settle(self) -> list[int]:
        return list(range(sum(self.sizes)))

    def step(self, tokens_R: Tensor) -> Tensor:
        pairs = zip(self.batches, tokens_R.split(self.sizes), strict=True)
        return torch.cat([decoder.step(tokens) for decoder, tokens in pairs])

    def keep(self, live: list[bool]) -> list[int]:
        order: list[int] = []
        start = 0
        kept: list[tuple[ExpandedDecoder, int]] = []
        for decoder, size in zip(self.batches, self.sizes, strict=True):
            mine = live[start : start + size]
            if any(mine):
                rows = decoder.keep(mine) if not all(mine) else list(range(size))
                order += [start + row for row in rows]
                kept.append((decoder, len(rows)))
            start += size
        self.batches = [decoder for decoder, _ in kept]
        self.sizes = [size for _, size in kept]
        return order
