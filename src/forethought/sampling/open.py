"""The one place that opens an engine: it knows all of them, and none of them knows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from forethought.config import ModelConfig
from forethought.config.engines import (
    EngineConfig,
    OpenAIEngine,
    OpenAISampling,
    SamplingConfig,
    ScriptedEngine,
    TransformersEngine,
    VllmEngine,
)
from forethought.decoding.request import SamplingParams
from forethought.models import loading
from forethought.models.marker_tokens import marker_tokens, whole_marker_tokens
from forethought.sampling.base import Sampler
from forethought.sampling.cached import CachedSampler
from forethought.sampling.marked import MarkedSampler
from forethought.storage.reply_cache import Cache


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
    `markers` are the format's: texts keep them where they are tokens, and hold no other spelling.

    Raises: ValueError if the model cannot be loaded or the engine cannot be used so.
    """
    has_ids = config.loads_model or (config.is_server and token_ids)
    if markers and model is not None and has_ids:
        tokenizer = loading.load_tokenizer(model.source)
        plain = marker_tokens(tokenizer, ()).keys()
        own = marker_tokens(tokenizer, markers).keys() - plain
        if own or whole_marker_tokens(tokenizer, markers):
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


def _cached(
    sampler: Sampler,
    config: EngineConfig,
    model: ModelConfig,
    params: SamplingParams,
    cache: Cache | None,
) -> Sampler:
    if cache is None:
        return sampler
    identity = {
        "engine": config.identity(),
        "model": loading.identity(model.source),
        "dtype": model.dtype,
        "params": asdict(params),
    }
    return CachedSampler(sampler, cache, identity)
