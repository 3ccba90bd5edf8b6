"""What a sampler is, and the one place that opens one.

METHOD.md §3: K outputs per prompt at a temperature with nucleus sampling. A sampler knows neither
thoughts nor iterations: messages and seeds go in, the sampler's own token ids come out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from forethought.config import ModelConfig, SamplingConfig, ScriptedSampling, TransformersSampling
from forethought.types import SampledPrompt, SampleRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How outputs are drawn.

    Example: `SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=2048)`
    """

    temperature: float
    """0 is greedy."""
    top_p: float
    """A token may be drawn if all strictly likelier tokens together have less than this mass."""
    max_new_tokens: int
    """Limit of an output, the end token included."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature: {self.temperature} is negative; 0 is greedy")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: {self.top_p} is not in (0, 1]; 1 keeps every token")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: {self.max_new_tokens}; an output has at least 1")


class Sampler(Protocol):
    """Leaving its `with` block frees the accelerator."""

    def sample(self, requests: Sequence[SampleRequest]) -> Iterator[SampledPrompt]:
        """One result per request, in the order of requests.

        The results are a function of `requests`. One output is a function of its seed and its
        conversation; only float rounding depends on what else is in `requests`.

        Raises: ValueError for a conversation the model has no room for.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_sampler(config: SamplingConfig, *, model: ModelConfig, params: SamplingParams) -> Sampler:
    """The sampler of a recipe. `params` are given apart because evaluation draws otherwise."""
    match config:
        case TransformersSampling():
            from forethought.sampling.transformers import TransformersSampler

            return TransformersSampler.load(model, params=params, rows=config.rows)
        case ScriptedSampling():
            from forethought.sampling.scripted import ScriptedSampler

            return ScriptedSampler.load(config.path, model=model, params=params)
