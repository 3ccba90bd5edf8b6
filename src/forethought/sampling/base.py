"""What a sampler is, and the one place that opens one.

METHOD.md §3: K outputs per prompt at a temperature with nucleus sampling. A sampler knows neither
thoughts nor iterations: messages and seeds go in, the sampler's own token ids come out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Protocol, Self

from forethought import models, rendering
from forethought.cache import Cache
from forethought.config import (
    EngineConfig,
    ModelConfig,
    OpenAIEngine,
    OpenAISampling,
    SamplingConfig,
    ScriptedEngine,
    TransformersEngine,
    VllmEngine,
)
from forethought.decoding.request import SamplingParams
from forethought.types import SampledPrompt, SampleRequest, Unsampled


def stable_seed(*words: str | int) -> int:
    """63 bits from these words, the same everywhere and always."""
    digest = hashlib.sha256(repr(words).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Sampler(Protocol):
    """Leaving its `with` block frees the accelerator."""

    def sample(self, requests: Sequence[SampleRequest]) -> Iterator[SampledPrompt | Unsampled]:
        """One result per request, in the order of requests.

        The results are a function of `requests`. One output is a function of its seed and its
        conversation; only float rounding depends on what else is in `requests`. A conversation
        that the engine cannot take is `Unsampled`.

        Raises: ValueError where the engine itself fails.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...


def open_sampler(
    config: SamplingConfig | EngineConfig,
    *,
    model: ModelConfig | None,
    params: SamplingParams,
    cache: Cache | None = None,
    token_ids: bool = True,
    policy: bool = False,
    markers: Sequence[str] = (),
) -> Sampler:
    """The engine of a recipe, with a model. `params` are given apart because uses draw otherwise.

    `model` is the policy or a judge's model; a judge at a server or from a file has none. With a
    `cache` an output that is there is not drawn again, and each new one is kept as it arrives.
    With `token_ids`, completions carry the model's own ids; without, a text is enough. `policy`
    says that the model is one of a run's, which take turns in one engine where engines are kept.
    `markers` are the format's: texts keep them where they are special tokens.

    Raises: ValueError if the model cannot be loaded or the engine cannot be used so.
    """
    here = isinstance(config, TransformersEngine | VllmEngine)
    served = isinstance(config, OpenAIEngine) and token_ids
    if markers and model is not None and (here or served):
        from forethought.sampling.marked import MarkedSampler

        tokenizer = models.load_tokenizer(model.source)
        plain = rendering.marker_tokens(tokenizer, ()).keys()
        if rendering.marker_tokens(tokenizer, markers).keys() - plain:
            options = {"params": params, "cache": cache, "token_ids": token_ids, "policy": policy}
            return MarkedSampler(open_sampler(config, model=model, **options), model, markers)
    match config:
        case TransformersEngine():
            from forethought.sampling.transformers import TransformersSampler

            assert model is not None
            rows = config.rows
            sampler = TransformersSampler.load(model, params=params, rows=rows, policy=policy)
            return _cached(sampler, config, model, params, cache)
        case VllmEngine():
            from forethought.sampling.vllm import VllmSampler

            assert model is not None
            sampler = VllmSampler(config, model, params=params, policy=policy)
            return _cached(sampler, config, model, params, cache)
        case OpenAISampling(command=str()):
            from forethought.sampling.launched import LaunchedSampler

            return LaunchedSampler(config, model, params=params, cache=cache, token_ids=token_ids)
        case OpenAIEngine():
            from forethought.sampling.openai import OpenAISampler

            return OpenAISampler(config, model, params=params, cache=cache, token_ids=token_ids)
        case ScriptedEngine():
            from forethought.sampling.scripted import ScriptedSampler

            return ScriptedSampler.load(config.path, model=model, params=params)


def refuse_openings(requests: Sequence[SampleRequest], engine: str) -> None:
    """For engines that cannot go on from tokens that are given.

    Raises: ValueError if a request has some.
    """
    if any(request.opening_ids for request in requests):
        raise ValueError(
            f"sampling.type {engine} cannot go on from a beginning that is given; use "
            "transformers or vllm"
        )


def one_prompt(result: SampledPrompt | Unsampled) -> SampledPrompt:
    """For those who cannot go on without an output.

    Raises: ValueError if the engine could not give one.
    """
    if isinstance(result, Unsampled):
        raise ValueError(f"prompt {result.prompt_id}: {result.reason}")
    return result


def _cached(
    sampler: Sampler,
    config: EngineConfig,
    model: ModelConfig,
    params: SamplingParams,
    cache: Cache | None,
) -> Sampler:
    if cache is None:
        return sampler
    from forethought.sampling.cached import CachedSampler

    identity = {
        "engine": config.identity(),
        "model": models.identity(model.source),
        "dtype": model.dtype,
        "params": asdict(params),
    }
    return CachedSampler(sampler, cache, identity)
