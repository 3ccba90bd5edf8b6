"""What it saves to compute once what prompts begin with: the warm start's prompts on a real model.

The demonstrations of a warm start stand before every prompt, some 730 of its 745 tokens. They
are prefilled once (decoding/common_prefix.py); the peers prefill every prompt whole: our decoder
with no beginning long enough for it, and transformers' `generate` at its best batch. Runs take
turns, and every ratio is the median over the turns. Needs the real model: `make real-model`.

    OMP_NUM_THREADS=1 python benchmarks/common_prefix.py --clock cpu
    OMP_NUM_THREADS=1 python benchmarks/common_prefix.py --clock cpu --limit

`--limit` measures prompts with beginnings of other lengths instead, few and many of them, from
which `common_prefix.LEAST_TOKENS` was chosen.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import sampling
import torch
import warm_start
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from forethought.config.warm_start import DEFAULT
from forethought.decoding import common_prefix, shared_prefix, static_batch
from forethought.decoding.request import SamplingParams, TokenizedRequest
from forethought.models import loading, rendering
from forethought.prompts import read_demonstrations
from forethought.thoughts import GENERIC
from forethought.types import Message

ROOT = Path(__file__).parent.parent
SAMPLES = sampling.SAMPLES
REST_TOKENS = 20
"""Tokens behind the beginning in `--limit`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One run of a job: seconds to prefill it, tokens and seconds in all, bytes of prompts' cache.

    Example: `Turn(prefill=1.2, tokens=20480, seconds=60.0, cache=21_000_000)`
    """

    prefill: float
    tokens: int
    seconds: float
    cache: int

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(ROOT / ".real-model"))
    parser.add_argument("--prompts", type=int, default=32, help="prompts, 8 samples each")
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=list(sampling.CLOCKS), default="wall")
    parser.add_argument("--generate", action="store_true", help="also against `generate`")
    parser.add_argument("--limit", action="store_true", help="beginnings of several lengths")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    sampling.NEW_TOKENS = options.new_tokens
    model = loading.load_runnable(options.model, dtype=options.dtype, device="cpu").eval()
    tokenizer = loading.load_tokenizer(options.model)
    with torch.no_grad():
        if options.limit:
            measure_limit(model, options)
        else:
            measure_warm_start(model, tokenizer, options)


def measure_warm_start(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace
) -> None:
    prompts = warm_start_prompts(tokenizer, options.prompts)
    lengths = sorted(map(len, prompts))
    print(f"{len(prompts)} prompts of {lengths[0]} to {lengths[-1]} tokens, {SAMPLES} samples each")
    pairs = []
    for _ in range(options.turns):
        once = run(model, tokenizer, prompts, options)
        with every_prompt_whole():
            whole = run(model, tokenizer, prompts, options)
        pairs.append((once, whole))
        for name, turn in (("once ", once), ("whole", whole)):
            print(
                f"{name}  prefill {turn.prefill:6.2f} s   {turn.rate:6.0f} tokens/s in "
                f"{turn.seconds:6.1f} s   prompts' cache {turn.cache / 2**20:6.1f} MiB",
                flush=True,
            )

    def ratio(values: Iterator[float]) -> str:
        return f"{statistics.median(values):.2f}"

    print("ratio of prefill:", ratio(whole.prefill / once.prefill for once, whole in pairs))
    print("ratio of tokens/s:", ratio(once.rate / whole.rate for once, whole in pairs))
    print("ratio of cache:", ratio(whole.cache / once.cache for once, whole in pairs))
    if options.generate:
        against_generate(model, tokenizer, prompts, options)


def against_generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[tuple[int, ...]],
    options: argparse.Namespace,
) -> None:
    """Whole batches of 64 outputs, the best size for this model in `sampling.py`."""
    setting = sampling.Setting(batch=64, dtype=options.dtype, cache="dynamic")
    clock = sampling.CLOCKS[options.clock]
    ids = [list(prompt) for prompt in prompts]
    peer = sampling.run_generate(options.model, tokenizer, ids, setting, clock)

    def ours() -> sampling.Timing:
        turn = run(model, tokenizer, prompts, options)
        return sampling.Timing(tokens=turn.tokens, seconds=turn.seconds)

    _, ratios = sampling.interleave(ours, peer, options.turns, "generate")
    print(f"ratio to generate: {statistics.median(ratios):.2f}")


def measure_limit(model: PreTrainedModel, options: argparse.Namespace) -> None:
    """Prefill and a few steps of prompts with beginnings of several lengths."""
    drawn = random.Random(0)
    size = model.config.get_text_config().vocab_size
    for common in (16, 32, 64, 128, 256):
        for count in (2, 8, 32):
            begin = tuple(drawn.randrange(100, size) for _ in range(common))
            prompts = [
                begin + tuple(drawn.randrange(100, size) for _ in range(REST_TOKENS))
                for _ in range(count)
            ]
            ratios = []
            for _ in range(options.turns):
                with least_tokens(1):
                    once = prefill_and_step(model, prompts, options)
                with every_prompt_whole():
                    whole = prefill_and_step(model, prompts, options)
                ratios.append([b / a for a, b in zip(once, whole, strict=True)])
            prefill, step = (statistics.median(column) for column in zip(*ratios, strict=True))
            print(
                f"{common:4d} tokens before {count:3d} prompts: prefill {prefill:5.2f} x, "
                f"a step {step:5.2f} x",
                flush=True,
            )


# The job


def warm_start_prompts(tokenizer: PreTrainedTokenizerBase, count: int) -> list[tuple[int, ...]]:
    """Prompts of `warm_start.py` behind the package's demonstrations, in the `generic` format."""
    turns: list[Message] = []
    for each in read_demonstrations(DEFAULT, GENERIC.strip_thought):
        text = GENERIC.write(each.thought, each.response)
        turns += [*GENERIC.apply(each.prompt.messages), Message(role="assistant", content=text)]
    every = [
        template.format(thing=thing) for template in warm_start.TRAIN for thing in warm_start.THINGS
    ]
    return [
        rendering.render(
            tokenizer, (*turns, *GENERIC.apply((Message(role="user", content=query),)))
        )
        for query in random.Random(0).sample(every, count)
    ]


@contextmanager
def least_tokens(count: int) -> Iterator[None]:
    """Beginnings of so many tokens and more are computed once."""
    before = common_prefix.LEAST_TOKENS
    common_prefix.LEAST_TOKENS = count
    try:
        yield
    finally:
        common_prefix.LEAST_TOKENS = before


def every_prompt_whole() -> AbstractContextManager[None]:
    """No beginning is long enough."""
    return least_tokens(1 << 30)


def run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[int, ...]],
    options: argparse.Namespace,
) -> Turn:
    clock = sampling.CLOCKS[options.clock]
    requests = [
        TokenizedRequest(
            token_ids=prompt,
            seeds=tuple(SAMPLES * index + k for k in range(SAMPLES)),
            limit=options.new_tokens,
        )
        for index, prompt in enumerate(prompts)
    ]
    decoder = _Timed(model, clock)
    begin = clock()
    with shared_prefix.attached(model):
        outputs = static_batch.run(
            decoder,
            requests,
            params=SamplingParams(
                temperature=sampling.TEMPERATURE,
                top_p=sampling.TOP_P,
                max_new_tokens=options.new_tokens,
            ),
            end_ids=loading.end_token_ids(tokenizer, model.generation_config),
            rows=options.rows,
            device=model.device,
        )
    return Turn(
        prefill=decoder.seconds,
        tokens=sum(len(ids) for samples in outputs for ids in samples),
        seconds=clock() - begin,
        cache=decoder.prompt_bytes,
    )


class _Timed(shared_prefix.SharedPrefixDecoder):
    """Counts what prefill takes, and what the prompts of the run have in the cache, all together.

    The common beginning counts once.
    """

    def __init__(self, model: PreTrainedModel, clock: sampling.Clock) -> None:
        super().__init__(model)
        self.clock, self.seconds, self.prompt_bytes = clock, 0.0, 0

    def expect(self, prompts: Sequence[tuple[int, ...]]) -> list[bool]:
        start = self.clock()
        begin_so = super().expect(prompts)
        self.seconds += self.clock() - start
        return begin_so

    def admit(self, prompts: Sequence[tuple[int, ...]], copies: Sequence[int]) -> Tensor:
        before = [self.common, *self.caches]
        start = self.clock()
        logits_PV = super().admit(prompts, copies)
        self.seconds += self.clock() - start
        for cache in [self.common, *self.caches]:
            if cache is not None and not any(cache is other for other in before):
                self.prompt_bytes += sum(
                    layer.prefix_keys.nbytes + layer.prefix_values.nbytes
                    for layer in cache.layers.values()
                )
        return logits_PV


def prefill_and_step(
    model: PreTrainedModel, prompts: Sequence[tuple[int, ...]], options: argparse.Namespace
) -> tuple[float, float]:
    """Seconds of the prefill, and of a step of all samples."""
    steps = 8
    clock = sampling.CLOCKS[options.clock]
    with shared_prefix.attached(model):
        decoder = _Timed(model, clock)
        decoder.expect(prompts)
        decoder.admit(prompts, [SAMPLES] * len(prompts))
        tokens_R = torch.full((len(prompts) * SAMPLES,), 100)
        decoder.step(tokens_R)
        start = clock()
        for _ in range(steps):
            decoder.step(tokens_R)
        return decoder.seconds, (clock() - start) / steps


if __name__ == "__main__":
    main()
