"""Requests to a server of `openai_server`, which answers a text with itself and the seed."""

from __future__ import annotations

from typing import Any

from forethought.config import OpenAIEngine
from forethought.decoding.request import SamplingParams
from forethought.sampling.open import open_sampler
from forethought.storage.reply_cache import Cache
from forethought.types import Message, SampledPrompt, SampleRequest, Unsampled

PARAMS = SamplingParams(temperature=0.7, top_p=0.9, max_new_tokens=50)


def engine(url: str, **settings) -> OpenAIEngine:
    quick: dict[str, Any] = {"model": "m", "backoff": 0.02, "timeout": 20}
    return OpenAIEngine(base_url=url, **(quick | settings))


def asking(text: str, *seeds: int) -> SampleRequest:
    return SampleRequest(
        prompt_id=text[:40], messages=(Message(role="user", content=text),), seeds=seeds or (1,)
    )


def asked(
    config: OpenAIEngine, requests: list[SampleRequest], cache: Cache | None = None
) -> list[SampledPrompt | Unsampled]:
    with open_sampler(config, model=None, params=PARAMS, cache=cache, token_ids=False) as sampler:
        return list(sampler.sample(requests))


def texts(results: list[SampledPrompt | Unsampled]) -> list[list[str]]:
    assert all(isinstance(result, SampledPrompt) for result in results), results
    return [
        [c.text for c in result.completions]
        for result in results
        if isinstance(result, SampledPrompt)
    ]


def questions(count: int) -> list[SampleRequest]:
    return [asking(f"q{i}", i) for i in range(count)]


def answers(count: int) -> list[list[str]]:
    return [[f"q{i} / {i}"] for i in range(count)]
