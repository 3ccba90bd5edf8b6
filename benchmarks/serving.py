"""What serving costs, one subcommand per claim.

`embedded`: tokens per second of the embedded backend, whose clients each send a conversation when
their last one is answered, against the closed-batch sampler, which knows all conversations from the
start, with as many rows as there are clients. Same prompts, same seeds, hence the same outputs up
to rounding; the two take turns, and the ratio is the median over the rounds. Time to the first
piece and between pieces are the clients'. On a shared machine take `--clock cpu`: tokens per second
of this process's CPU time, clients included.

    OMP_NUM_THREADS=1 python benchmarks/serving.py embedded [--clients 1 8 32] [--clock cpu]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from forethought.config import ModelConfig
from forethought.decoding.request import SamplingParams
from forethought.microworld.tasks import generate
from forethought.sampling.base import one_prompt
from forethought.sampling.transformers import TransformersSampler
from forethought.serving.backends.base import Draw
from forethought.serving.backends.embedded import EmbeddedBackend
from forethought.thoughts import GENERIC
from forethought.types import Message, SampleRequest

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Clock = Callable[[], float]
Jobs = Sequence[tuple[int, tuple[Message, ...]]]
PARAMS = SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=128)
CONVERSATIONS_PER_CLIENT = {1: 24, 8: 12}
"""Fewer where there are many clients: 8."""


@dataclass(slots=True)
class Tally:
    """What the clients saw, in seconds."""

    tokens: int = 0
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)


def conversations(count: int) -> list[tuple[Message, ...]]:
    """So many microworld prompts in the `generic` thought format."""
    tasks = generate("train", count, 0)
    return [GENERIC.apply((Message(role="user", content=task.query),)) for task in tasks]


async def client(backend: EmbeddedBackend, jobs: Jobs, tally: Tally) -> None:
    """Send one conversation after another, each when the last is answered."""
    for seed, messages in jobs:
        draw = Draw(
            messages=messages,
            begun="",
            temperature=PARAMS.temperature,
            top_p=PARAMS.top_p,
            seed=seed,
            max_tokens=PARAMS.max_new_tokens,
            top_logprobs=None,
        )
        last, begun = time.perf_counter(), False
        async for piece in backend.draw(draw):
            now = time.perf_counter()
            (tally.between if begun else tally.first).append(now - last)
            last, begun = now, True
            tally.tokens += piece.tokens


async def serve(
    backend: EmbeddedBackend, jobs: Jobs, clients: int, clock: Clock, tally: Tally
) -> float:
    """Tokens per second of the backend with so many clients at once."""
    before, start = tally.tokens, clock()
    await asyncio.gather(*(client(backend, jobs[i::clients], tally) for i in range(clients)))
    return (tally.tokens - before) / (clock() - start)


def sample(model: ModelConfig, jobs: Jobs, rows: int, clock: Clock) -> float:
    """Tokens per second of the sampler that knows all conversations from the start."""
    requests = [
        SampleRequest(prompt_id=str(seed), messages=messages, seeds=(seed,))
        for seed, messages in jobs
    ]
    with TransformersSampler.load(model, params=PARAMS, rows=rows) as sampler:
        start = clock()
        results = [one_prompt(result) for result in sampler.sample(requests)]
        seconds = clock() - start
    return sum(len(result.completions[0].token_ids) for result in results) / seconds


async def embedded(options: argparse.Namespace) -> None:
    """Run both in turns for each number of clients, and print rates, ratio and waits."""
    model = ModelConfig(path=options.model, dtype=options.dtype)
    backend = EmbeddedBackend(model, slots=max(options.clients), name=options.model)
    clock = CLOCKS[options.clock]
    for clients in options.clients:
        count = clients * CONVERSATIONS_PER_CLIENT.get(clients, 8)
        jobs = list(enumerate(conversations(count)))
        await serve(backend, jobs[:clients], clients, clock, Tally())
        tally = Tally()
        pairs = []
        for _ in range(options.rounds):
            rate = await serve(backend, jobs, clients, clock, tally)
            pairs.append((rate, sample(model, jobs, clients, clock)))
        ratio = statistics.median(ours / closed for ours, closed in pairs)
        print(
            f"{clients} clients, {count} conversations: tokens/s ({options.clock}) "
            f"{' / '.join(f'{ours:.0f}' for ours, _ in pairs)}, closed batch "
            f"{' / '.join(f'{closed:.0f}' for _, closed in pairs)}, ratio {ratio:.2f}; "
            f"first piece {1000 * statistics.median(tally.first):.1f} ms, "
            f"between pieces {1000 * statistics.median(tally.between):.2f} ms",
            flush=True,
        )
    await backend.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    batching = commands.add_parser("embedded", help="continuous against closed batches")
    batching.add_argument("--model", default="microworld")
    batching.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    batching.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    batching.add_argument("--rounds", type=int, default=3)
    batching.add_argument("--clock", default="wall", choices=list(CLOCKS))
    options = parser.parse_args()
    asyncio.run(embedded(options))


if __name__ == "__main__":
    main()
