"""The general decoder: transformers' own cache, one row per sample, for any causal model.

Used where `self_check.unsupported` gives a reason, such as recurrent layers. Prompts of one
length are prefilled together, so that no architecture sees padding, and their cache is repeated
for every sample. Models without transformers' cache (RWKV, xLSTM, …) read the whole sequence again
for every token: slow, and right.

Shapes: R live rows, P prompts, T prompt tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache


def has_cache(model: PreTrainedModel) -> bool:
    """Whether it has transformers' cache."""
    return model._supports_default_dynamic_cache()  # pyright: ignore[reportCallIssue]


class ExpandedDecoder:
    """Decoder over one batch of equally long prompts at a time, for a static batch."""

    refills = False
    equal_lengths = True
    # A row beyond the context may fail in models with learned positions: look every step.
    check_every = 1

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.device = model.device
        arguments = inspect.signature(model.forward).parameters
        self.last_only = {"logits_to_keep": 1} if "logits_to_keep" in arguments else {}
        self.cache_name = "cache_params" if "cache_params" in arguments else "past_key_values"
        self.has_cache = has_cache(model)
        self.cache: DynamicCache | None = None
        self.ids_RT = torch.empty(0, 0, dtype=torch.int64)

    def expect(self, prompts: Sequence[tuple[int, ...]]) -> list[bool]:
        # Not every architecture can go on from a beginning that others go on from too.
        return [False] * len(prompts)

    def admit(self, prompts: Sequence[tuple[int, ...]], copies: Sequence[int]) -> Tensor:
        ids_PT = torch.tensor(prompts, dtype=torch.int64, device=self.device)
        self.cache = DynamicCache(config=self.model.config) if self.has_cache else None
        logits_PV = self._forward(ids_PT)
        rows = [prompt for prompt, count in enumerate(copies) for _ in range(count)]
        self._select(rows, ids_PT)
        return logits_PV

    def step(self, tokens_R: Tensor) -> Tensor:
        if self.has_cache:
            return self._forward(tokens_R[:, None])
        self.ids_RT = torch.cat([self.ids_RT, tokens_R[:, None]], 1)
        return self._forward(self.ids_RT)

    def select(self, live: list[bool]) -> list[int]:
        order = [row for row, alive in enumerate(live) if alive]
        self._select(order, self.ids_RT)
        return order

    def _select(self, rows: list[int], ids: Tensor) -> None:
        index = torch.tensor(rows, device=self.device).long()
        if self.cache is not None:
            # Despite its name it takes any rows, any number of times, in every kind of layer.
            self.cache.reorder_cache(index)  # pyright: ignore[reportArgumentType]
        self.ids_RT = ids[index]

    def _forward(self, ids: Tensor) -> Tensor:
        cache = {self.cache_name: self.cache} if self.cache is not None else {}
        output = self.model(input_ids=ids, use_cache=bool(cache), **cache, **self.last_only)
        return output.logits[:, -1]


class ExpandedBatches:
    """Decoder for a continuous batch: every admission is a batch of its own, stepped in turn."""

    equal_lengths = True

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.batches: list[ExpandedDecoder] = []
        self.sizes: list[int] = []
        """Rows per batch."""

    def admit_in_chunks(
        self, prompts: Sequence[tuple[int, ...]], copies: Sequence[int], chunk_tokens: int
    ) -> Iterator[Tensor | None]:
        # All at once: not every architecture can go on from a prompt that is cut.
        decoder = ExpandedDecoder(self.model)
        logits_PV = decoder.admit(prompts, copies)
        self.batches.append(decoder)
        self.sizes.append(sum(copies))
        yield logits_PV

    def regroup(self) -> list[int]:
        return list(range(sum(self.sizes)))

    def step(self, tokens_R: Tensor) -> Tensor:
        parts = zip(self.batches, tokens_R.split(self.sizes), strict=True)
        return torch.cat([decoder.step(tokens) for decoder, tokens in parts])

    def select(self, live: list[bool]) -> list[int]:
        order: list[int] = []
        start = 0
        staying: list[tuple[ExpandedDecoder, int]] = []
        for decoder, size in zip(self.batches, self.sizes, strict=True):
            mine = live[start : start + size]
            if any(mine):
                rows = decoder.select(mine) if not all(mine) else list(range(size))
                order += [start + row for row in rows]
                staying.append((decoder, len(rows)))
            start += size
        self.batches = [decoder for decoder, _ in staying]
        self.sizes = [size for _, size in staying]
        return order
