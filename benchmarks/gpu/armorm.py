"""Judging at 8B on one GPU: the ArmoRM judge against one conversation at a time.

    python benchmarks/gpu/armorm.py --output armorm.json
    python benchmarks/gpu/armorm.py --tiny

Eight responses to each prompt, random weights in bfloat16. The peer is transformers' Llama with
SDPA on one conversation after another, then the published head, as annotation scripts score.

Shapes: T tokens of a conversation, E hidden size, J objectives.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import workload
from workload import SAMPLES, Bench

from forethought.config import ArmoRMJudge
from forethought.judging.armorm.armorm_judge import ArmoRM, gate_pattern, gate_position
from forethought.judging.armorm.armorm_model import load
from forethought.judging.scoring.conversation_tokens import load_tokenizer
from forethought.planning.work import forward_flops, outputs_after
from forethought.types import Judgement, Message, Prompt, ResponseGroup


def make_groups(bench: Bench) -> list[ResponseGroup]:
    """Prompts and responses of the workload's lengths."""
    count = bench.arguments.prompts
    prompts = workload.texts(bench.size.prompt, count, 5)
    responses = workload.texts(bench.size.output, count * SAMPLES, 6)
    return [
        ResponseGroup(
            prompt=Prompt(
                prompt_id=f"prompt {i}",
                messages=(Message(role="user", content=text),),
                category=None,
                source="random",
                reference=None,
            ),
            responses=tuple(responses[SAMPLES * i : SAMPLES * (i + 1)]),
        )
        for i, text in enumerate(prompts)
    ]


class OneByOne:
    """The peer: transformers' Llama on one conversation at a time, then the published head."""

    def __init__(self, path: str, device: str) -> None:
        place = torch.device(device)
        network = load(path, dtype=torch.bfloat16, device=place)
        self.network = network.to(torch.bfloat16).to(place)
        self.network.model.config._attn_implementation = "sdpa"
        self.tokenizer = load_tokenizer(path)
        self.pattern = gate_pattern(self.tokenizer)

    @torch.no_grad()
    def score(self, prompt: str, response: str) -> float:
        """One conversation's score."""
        turns = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": response},
        ]
        encoded: Any = self.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)
        ids = tuple(encoded["input_ids"])
        network = self.network
        inputs = torch.tensor([list(ids)], device=network.model.device)
        hidden_TE = network.model(inputs, use_cache=False).last_hidden_state[0]
        rewards_J = network.regression_layer(hidden_TE[-1]) @ network.reward_transform_matrix
        place = gate_position(ids, self.pattern)
        assert place is not None
        return float((network.gating(hidden_TE[place]) * rewards_J).sum())


def run_ours(judge: ArmoRM, groups: list[ResponseGroup]) -> tuple[float, list[float]]:
    """Scores per second, and the scores."""
    start = workload.now()
    scores: list[float] = []
    for answer in judge.judge(groups):
        assert isinstance(answer, Judgement), answer
        scores += answer.all_scores
    return len(scores) / (workload.now() - start), scores


def run_peer(peer: OneByOne, groups: list[ResponseGroup]) -> tuple[float, list[float]]:
    """Scores per second, and the scores."""
    start = workload.now()
    scores = [
        peer.score(group.prompt.messages[0].content, response)
        for group in groups
        for response in group.responses
    ]
    return len(scores) / (workload.now() - start), scores


def main() -> None:
    """Runs in turns, then the report."""
    parser = argparse.ArgumentParser(description="ArmoRM against one conversation at a time")
    parser.add_argument("--prompts", type=int, default=64, help="prompts, 8 responses each")
    parser.add_argument("--tokens", type=int, default=16384, help="our tokens_per_batch")
    with workload.opened(parser, rounds=3) as bench:
        path = workload.make_armorm(bench)
        groups = make_groups(bench)
        judge = ArmoRM(
            ArmoRMJudge(
                path=path,
                device="cpu" if bench.device == "cpu" else "cuda",
                tokens_per_batch=bench.arguments.tokens,
            )
        )
        peer = OneByOne(path, bench.device)
        run_ours(judge, groups[:1])
        run_peer(peer, groups[:1])
        ours: list[float] = []
        theirs: list[float] = []
        found: list[float] = []
        expected: list[float] = []
        for _ in range(bench.rounds):
            rate, found = run_ours(judge, groups)
            ours.append(rate)
            rate, expected = run_peer(peer, groups)
            theirs.append(rate)
        prompt, response = bench.size.prompt[0], bench.size.output[0]
        tokens = outputs_after(prompt, response, SAMPLES, predicted=False)
        flops = forward_flops(workload.shape(path), tokens) / SAMPLES
        peak = workload.peak_flops(bench)
        workload.report(
            bench,
            what="ArmoRM, scores per second",
            responses=len(found),
            ours=ours,
            one_by_one=theirs,
            ratio=workload.median([a / b for a, b in zip(ours, theirs, strict=True)]),
            mfu_expected_lengths=None if peak is None else workload.median(ours) * flops / peak,
            largest_difference=max(abs(a - b) for a, b in zip(found, expected, strict=True)),
            peak_gigabytes=workload.peak_gigabytes(),
        )


if __name__ == "__main__":
    main()
