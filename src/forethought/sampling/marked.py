"""Outputs whose format has markers that are tokens: their texts keep them, and only them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from forethought.config import ModelConfig
from forethought.models import loading, rendering
from forethought.sampling.base import Sampler
from forethought.types import Completion, SampledPrompt, SampleRequest, Unsampled


class MarkedSampler:
    """A sampler whose texts are read from the token ids again, with these markers in them.

    Example: `MarkedSampler(sampler, model, ("<|think|>", "<|answer|>"))`
    """

    def __init__(self, sampler: Sampler, model: ModelConfig, markers: Sequence[str]) -> None:
        self._sampler = sampler
        self._markers = tuple(markers)
        self._tokenizer = loading.load_tokenizer(model.source)

    def __enter__(self) -> Self:
        self._sampler.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self._sampler.__exit__(kind, error, trace)

    def sample(self, requests: Sequence[SampleRequest]) -> Iterator[SampledPrompt | Unsampled]:
        """As the sampler does."""
        for result in self._sampler.sample(requests):
            if isinstance(result, Unsampled):
                yield result
            else:
                yield replace(result, completions=tuple(map(self._marked, result.completions)))

    def _marked(self, completion: Completion) -> Completion:
        # A server that gives no ids has made the text itself.
        if not completion.token_ids:
            return completion
        text = rendering.decode(self._tokenizer, completion.token_ids, self._markers)
        return replace(completion, text=text)
