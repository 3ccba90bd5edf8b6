"""Sampling at 8B on one GPU: the embedded engine against `generate`, eight outputs per prompt.

    python benchmarks/gpu/sampler.py --output sampler.json
    python benchmarks/gpu/sampler.py --tiny

One model serves both. `generate` has the fastest of a grid over batch size and cache, found on
shorter outputs. Useful new tokens are counted, up to and including each output's end token.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import workload
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from workload import SAMPLES, Bench

from forethought.decoding.request import SamplingParams
from forethought.models import loading, rendering
from forethought.sampling.base import one_prompt
from forethought.sampling.transformers import TransformersSampler
from forethought.types import Message, SampleRequest

TEMPERATURE, TOP_P = 0.8, 0.95
Setting = tuple[int, str]
"""Outputs in a batch, and the cache."""


def make_requests(bench: Bench) -> list[SampleRequest]:
    """Prompts of the workload's lengths, each sample with its seed."""
    count = bench.arguments.prompts
    return [
        SampleRequest(
            prompt_id=str(index),
            messages=(Message(role="user", content=text),),
            seeds=tuple(SAMPLES * index + k for k in range(SAMPLES)),
        )
        for index, text in enumerate(workload.texts(bench.size.prompt, count, 3))
    ]


def run_ours(
    bench: Bench,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: list[SampleRequest],
) -> float:
    """Useful tokens per second of the embedded engine."""
    params = SamplingParams(temperature=TEMPERATURE, top_p=TOP_P, max_new_tokens=bench.size.limit)
    sampler = TransformersSampler(model, tokenizer, params=params, rows=bench.arguments.rows)
    start = workload.now()
    sampled = list(map(one_prompt, sampler.sample(requests)))
    seconds = workload.now() - start
    return (
        sum(len(completion.token_ids) for prompt in sampled for completion in prompt.completions)
        / seconds
    )


def run_generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[tuple[int, ...]],
    limit: int,
    setting: Setting,
) -> float:
    """Useful tokens per second of `generate`."""
    rows, cache = setting
    ends = loading.end_token_ids(tokenizer, model.generation_config)
    ordered = sorted(prompts, key=len)
    size = max(1, rows // SAMPLES)
    options = {"cache_implementation": "static"} if cache == "static" else {}
    pad = loading.single_id(tokenizer.pad_token_id)
    start, tokens = workload.now(), 0
    for first in range(0, len(ordered), size):
        batch = ordered[first : first + size]
        width = max(map(len, batch))
        ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        output = model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            do_sample=True,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            top_k=0,
            max_new_tokens=limit,
            num_return_sequences=SAMPLES,
            eos_token_id=list(ends),
            pad_token_id=pad,
            disable_compile=True,
            **options,
        )
        for row in output[:, width:].tolist():
            tokens += next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
    return tokens / (workload.now() - start)


def choose(bench: Bench, generate: Callable[[Setting, int], float]) -> Setting:
    """The fastest setting of `generate` on outputs of an eighth of the length.

    Raises: SystemExit if every setting runs out of memory.
    """
    grid = [(rows, cache) for rows in bench.arguments.batches for cache in ("dynamic", "static")]
    found: list[tuple[float, Setting]] = []
    for setting in grid:

        def trial(which: Setting = setting) -> float:
            return generate(which, max(8, bench.size.limit // 8))

        rate = workload.fits(trial)
        if rate is not None:
            found.append((rate, setting))
    if not found:
        raise SystemExit("error: generate runs out of memory at every size; give --batches")
    return max(found)[1]


def main() -> None:
    """Runs in turns, then the report."""
    parser = argparse.ArgumentParser(description="The embedded engine against generate")
    parser.add_argument("--prompts", type=int, default=32, help="prompts, 8 outputs each")
    parser.add_argument("--rows", type=int, default=256, help="our outputs decoded at a time")
    parser.add_argument("--batches", type=int, nargs="*", default=[64, 256])
    with workload.opened(parser, rounds=2) as bench:
        path = workload.make_policy(bench)
        tokenizer = loading.load_tokenizer(path)
        model = loading.load_model(path, dtype="bfloat16", device=bench.device)
        requests = make_requests(bench)
        prompts = [rendering.render(tokenizer, request.messages) for request in requests]

        def generate(setting: Setting, limit: int) -> float:
            return run_generate(model, tokenizer, prompts, limit, setting)

        run_ours(bench, model, tokenizer, requests[:1])
        setting = choose(bench, generate)
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(bench.rounds):
            ours.append(run_ours(bench, model, tokenizer, requests))
            theirs.append(generate(setting, bench.size.limit))
        workload.report(
            bench,
            what="sampling, useful new tokens per second",
            prompts=len(prompts),
            samples=SAMPLES,
            rows=bench.arguments.rows,
            generate={"rows": setting[0], "cache": setting[1]},
            ours=ours,
            generate_tokens_per_second=theirs,
            ratio=workload.median([a / b for a, b in zip(ours, theirs, strict=True)]),
            peak_gigabytes=workload.peak_gigabytes(),
        )


if __name__ == "__main__":
    main()
