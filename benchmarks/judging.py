"""Scores per second of the ArmoRM judge against one conversation at a time.

The peer does what the annotation scripts of SimPO and RLHFlow do: each conversation goes through
the chat template and the model by itself, without gradients. Both sides start from the same
messages, have the same random weights in the same number type, and end with scores on the host.
The peer gets the fastest of its number types and attention kernels, and keeps no cache of keys.
Runs take turns; the last line is the smaller of the workloads' median ratios.

Lengths are lognormal with the given mean and deviation, eight responses per prompt.

Shapes: T tokens of a conversation, E hidden size, J objectives.

    OMP_NUM_THREADS=2 python benchmarks/judging.py [--rounds 3] [--clock cpu]
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from forethought.config import ArmoRMJudge
from forethought.judging.armorm.armorm_judge import ArmoRM, gate_pattern, gate_position
from forethought.judging.armorm.armorm_model import ArmoRMModel, load
from forethought.judging.armorm.shared_prompts import share
from forethought.judging.scoring.conversation_tokens import load_tokenizer
from forethought.judging.scoring.kinds import ARMORM
from forethought.types import Judgement, Message, Prompt, ResponseGroup

PROMPT = (250, 200)
RESPONSE = (400, 250)
RESPONSES = 8
LEAST = 8
"""Tokens of the shortest text."""
VOCABULARY = 8192
CONTROL = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
)
Clock = Callable[[], float]
Kernel = Literal["sdpa", "eager"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Size of the model, in Llama 3's proportions, and number of prompts."""

    name: str
    hidden: int
    layers: int
    prompts: int

    @property
    def inner(self) -> int:
        """Width of the MLP."""
        return self.hidden * 7 // 2

    @property
    def key_width(self) -> int:
        """Width of keys, and of values: a quarter of the query heads."""
        return self.hidden // 4


SMALL = Workload(name="hidden 256, 4 layers", hidden=256, layers=4, prompts=16)
MEDIUM = Workload(name="hidden 512, 8 layers", hidden=512, layers=8, prompts=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """How the peer runs its model."""

    dtype: Literal["bfloat16", "float32"]
    kernel: Kernel


PEERS = [
    Peer(dtype=dtype, kernel=kernel)
    for dtype in ("bfloat16", "float32")
    for kernel in ("sdpa", "eager")
]


def make_checkpoint(workload: Workload, folder: Path) -> str:
    """A random ArmoRM in the published layout, with a tokenizer of one token per word."""
    torch.manual_seed(0)
    fields = {
        "model_type": "llama",
        "architectures": [ARMORM],
        "vocab_size": VOCABULARY,
        "hidden_size": workload.hidden,
        "intermediate_size": workload.inner,
        "num_hidden_layers": workload.layers,
        "num_attention_heads": workload.hidden // 64,
        "num_key_value_heads": workload.key_width // 64,
        "max_position_embeddings": 8192,
        "rope_theta": 500_000.0,
        "num_objectives": 19,
        "gating_temperature": 10,
        "gating_hidden_dim": 1024,
        "gating_n_hidden": 3,
    }
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    tensors = ArmoRMModel(LlamaConfig.from_pretrained(folder)).state_dict()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    words = [*CONTROL, "\n\n", "user", "assistant"]
    words += [f"w{i}" for i in range(VOCABULARY - len(words))]
    tokenizer = Tokenizer(models.WordLevel(dict(zip(words, range(len(words)), strict=True)), "w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    tokenizer.add_special_tokens(CONTROL)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=CONTROL[0],
        eos_token=CONTROL[1],
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return str(folder)


def make_groups(count: int) -> list[ResponseGroup]:
    """Prompts and responses of random words."""
    random = np.random.Generator(np.random.PCG64(11))

    def text(length: tuple[int, int]) -> str:
        mean, deviation = length
        variance = math.log(1 + (deviation / mean) ** 2)
        size = random.lognormal(math.log(mean) - variance / 2, math.sqrt(variance))
        return " ".join(
            f"w{i}" for i in random.integers(VOCABULARY - 7, size=max(LEAST, int(size)))
        )

    return [
        ResponseGroup(
            prompt=Prompt(
                prompt_id=f"prompt {i}",
                messages=(Message(role="user", content=text(PROMPT)),),
                category=None,
                source="random",
                reference=None,
            ),
            responses=tuple(text(RESPONSE) for _ in range(RESPONSES)),
        )
        for i in range(count)
    ]


class OneByOne:
    """The peer: transformers' Llama on one conversation at a time, then the published head."""

    def __init__(self, path: str, peer: Peer) -> None:
        dtype = getattr(torch, peer.dtype)
        self.network = load(path, dtype=dtype, device=torch.device("cpu")).to(dtype)
        self.network.model.config._attn_implementation = peer.kernel
        self.tokenizer = load_tokenizer(path)
        self.pattern = gate_pattern(self.tokenizer)

    def scores(self, groups: list[ResponseGroup]) -> list[float]:
        """All scores in order, group by group."""
        return [
            self._score([*group.prompt.messages, Message(role="assistant", content=response)])
            for group in groups
            for response in group.responses
        ]

    @torch.no_grad()
    def _score(self, messages: list[Message]) -> float:
        ids = encode(self.tokenizer, messages)
        network = self.network
        assert isinstance(network.model, LlamaModel)
        hidden_TE = network.model(torch.tensor([ids]), use_cache=False).last_hidden_state[0]
        rewards_J = network.regression_layer(hidden_TE[-1]) @ network.reward_transform_matrix
        place = gate_position(ids, self.pattern)
        assert place is not None
        gate_J = network.gating(hidden_TE[place])
        return (gate_J * rewards_J).sum().float().item()


def encode(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> tuple[int, ...]:
    """Token ids of a conversation."""
    turns = [{"role": message.role, "content": message.content} for message in messages]
    encoded: Any = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)
    return tuple(encoded["input_ids"])


def ours(path: str, dtype: Literal["bfloat16", "float32"]) -> ArmoRM:
    """The judge as a recipe opens it."""
    return ArmoRM(ArmoRMJudge(path=path, dtype=dtype, device="cpu"))


def our_scores(judge: ArmoRM, groups: list[ResponseGroup]) -> list[float]:
    """All scores in order, group by group."""
    scores: list[float] = []
    for answer in judge.judge(groups):
        assert isinstance(answer, Judgement), answer
        scores += answer.all_scores
    return scores


def choose_peer(path: str, groups: list[ResponseGroup], clock: Clock) -> Peer:
    """The peer's fastest settings on one prompt, in two rounds after one to warm up."""
    models = [OneByOne(path, peer) for peer in PEERS]
    seconds: list[list[float]] = [[] for _ in PEERS]
    for _ in range(3):
        for model, found in zip(models, seconds, strict=True):
            start = clock()
            model.scores(groups[:1])
            found.append(clock() - start)
    fastest = [min(found[1:]) for found in seconds]
    for peer, best in zip(PEERS, fastest, strict=True):
        print(f"  one by one, {peer.dtype} {peer.kernel:5s} {RESPONSES / best:7.2f} scores/s")
    return PEERS[fastest.index(min(fastest))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Tokens and floating-point operations."""

    read: int
    """Tokens that the peer reads."""
    packed: int
    """Tokens with each prompt once."""
    flops: float
    """What no implementation avoids that reads each prompt once."""


def work(workload: Workload, path: str, groups: list[ResponseGroup]) -> Work:
    """Count the work: two operations per weight and token, and causal attention.

    The last layer makes keys and values of every token, and its rest for the tokens that the head
    reads: one of the prompt, one of each response. A query attends to its own keys only.
    """
    tokenizer = load_tokenizer(path)
    read, packed, flops = 0, 0, 0.0
    keys = 2 * workload.hidden * workload.key_width
    layer = keys + 2 * workload.hidden**2 + 3 * workload.hidden * workload.inner
    for group in groups:
        shared = share(
            [
                encode(
                    tokenizer,
                    [*group.prompt.messages, Message(role="assistant", content=response)],
                )
                for response in group.responses
            ]
        )
        begin, tails = len(shared.beginning), [len(tail) for tail in shared.tails]
        read += sum(begin + tail for tail in tails)
        packed += shared.tokens
        scores = begin**2 / 2 + sum(begin * tail + tail**2 / 2 for tail in tails)
        flops += (workload.layers - 1) * (2 * layer * shared.tokens + 4 * workload.hidden * scores)
        flops += 2 * keys * shared.tokens + 2 * (layer - keys) * (len(tails) + 1)
    return Work(read=read, packed=packed, flops=flops)


def matrix_rate(workload: Workload, dtype: str, clock: Clock) -> float:
    """Operations per second of this CPU on the workload's MLP product."""
    kind = getattr(torch, dtype)
    left = torch.randn(1024, workload.hidden, dtype=kind)
    right = torch.randn(workload.hidden, workload.inner, dtype=kind)
    rates = []
    for _ in range(20):
        start = clock()
        for _ in range(8):
            torch.mm(left, right)
        rates.append(8 * 2 * 1024 * workload.hidden * workload.inner / (clock() - start))
    # The first four warm up.
    return statistics.median(rates[4:])


def high_water() -> int:
    """Peak resident kB of this process; getrusage would count what its parent had before exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def _peak_child(queue: Any, path: str, peer: Peer, is_ours: bool, count: int) -> None:
    groups = make_groups(count)
    judge = ours(path, peer.dtype) if is_ours else OneByOne(path, peer)
    before = high_water()
    judge.scores(groups) if isinstance(judge, OneByOne) else our_scores(judge, groups)
    queue.put((high_water() - before) / 1024)


def peak_memory(path: str, peer: Peer, is_ours: bool, count: int) -> float:
    """MiB that scoring adds to a fresh process with the model in memory."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_peak_child, args=(queue, path, peer, is_ours, count))
    child.start()
    peak = queue.get(timeout=600)
    child.join()
    return peak


def compare(workload: Workload, rounds: int, clock: Clock, memory: bool) -> float:
    """Print one workload's numbers; the median ratio."""
    groups = make_groups(workload.prompts)
    count = workload.prompts * RESPONSES
    with tempfile.TemporaryDirectory() as folder:
        path = make_checkpoint(workload, Path(folder))
        size = work(workload, path, groups)
        print(
            f"\n{workload.name}: {count} responses to {workload.prompts} prompts, "
            f"{size.read / count:.0f} tokens each, {size.read / size.packed:.2f} times the packed"
        )
        peer = choose_peer(path, groups, clock)
        theirs, judge = OneByOne(path, peer), ours(path, peer.dtype)
        our_scores(judge, groups[:1])
        our_seconds, their_seconds = [], []
        found, expected = [], []
        for _ in range(rounds):
            start = clock()
            found = our_scores(judge, groups)
            middle = clock()
            expected = theirs.scores(groups)
            our_seconds.append(middle - start)
            their_seconds.append(clock() - middle)
        _print_speed("ours", our_seconds, count)
        _print_speed("one by one", their_seconds, count)
        rate = matrix_rate(workload, peer.dtype, clock)
        floor, spent = size.flops / rate, statistics.median(our_seconds)
        print(
            f"  floor: {size.flops / 1e9:.0f} GFLOP at {rate / 1e9:.0f} GFLOP/s ({peer.dtype} "
            f"products) = {floor:.2f} s; ours {spent:.2f} s, {floor / spent:.0%} utilisation"
        )
        exact = OneByOne(path, Peer(dtype="float32", kernel="sdpa")).scores(groups)
        _print_agreement(found, expected, exact, our_scores(ours(path, "float32"), groups))
        if memory:
            for name, is_ours in (("ours", True), ("one by one", False)):
                peak = peak_memory(path, peer, is_ours, workload.prompts)
                print(f"  peak memory beside the model, {name:10s} {peak:6.0f} MiB")
    return statistics.median(b / a for a, b in zip(our_seconds, their_seconds, strict=True))


def _print_speed(name: str, seconds: list[float], count: int) -> None:
    runs = ", ".join(f"{second:.2f}" for second in seconds)
    print(f"  {name:10s} {count / statistics.median(seconds):7.2f} scores/s; runs {runs} s")


def _print_agreement(
    found: list[float], expected: list[float], exact: list[float], ours_exact: list[float]
) -> None:
    """Largest differences beside the scores' spread."""

    def apart(left: list[float], right: list[float]) -> float:
        return max(abs(a - b) for a, b in zip(left, right, strict=True))

    print(
        f"  scores' deviation {statistics.stdev(exact):.4f}; in float32 apart by at most "
        f"{apart(ours_exact, exact):.1e}; from float32 ours {apart(found, exact):.1e}, one by one "
        f"{apart(expected, exact):.1e}"
    )


def main() -> None:
    """Run both workloads."""
    parser = argparse.ArgumentParser(description="ArmoRM against one conversation at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--workload", choices=("small", "medium"))
    parser.add_argument("--no-memory", action="store_true")
    arguments = parser.parse_args()
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    print(f"{torch.get_num_threads()} threads, {arguments.clock} time, torch {torch.__version__}")
    chosen = {"small": [SMALL], "medium": [MEDIUM]}.get(arguments.workload, [SMALL, MEDIUM])
    ratios = [
        compare(workload, arguments.rounds, clock, not arguments.no_memory) for workload in chosen
    ]
    print(f"\nratio: {min(ratios):.2f}")


if __name__ == "__main__":
    main()
