"""What counts as spent: every output that was drawn, in both arms alike."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from forethought.config import (
    LaunchConfig,
    ModelConfig,
    ScriptedSampling,
    VerifierJudge,
    WinRateMeasure,
)
from forethought.decoding.request import SamplingParams
from forethought.progress.reporter import Reporter
from forethought.sampling.scripted import ScriptedSampler
from forethought.stages.measures.win_rate import Contender, WinRateSetup, compare
from forethought.stages.policies.sampled_policy import Policy
from forethought.storage.open_stage import Stage
from forethought.thoughts import DIRECT, GENERIC, ThoughtFormat
from forethought.types import Answer, Message, Prompt, SampledPrompt, SampleRequest

MODEL = ModelConfig(path="microworld")
UNPARSABLE = "It is five and I forgot the words."
THOUGHT = "Here is my thought process:\na b c\nHere is my response:\n5"
ATTEMPTS = 4


def likes_nothing(prompt, response):
    return 0.0


def policy(folder: Path, thought_format: ThoughtFormat, *replies: str) -> Policy:
    script = folder / f"{thought_format.name}.jsonl"
    script.write_text(json.dumps({"match": "", "replies": replies}))
    return Policy(
        name=thought_format.name,
        model=MODEL,
        thought_format=thought_format,
        sampling=ScriptedSampling(path=script, max_new_tokens=64),
        seed_words=(0, thought_format.name),
    )


def tokens_of_draws(policy: Policy, prompts: tuple[Prompt, ...], samples: int) -> tuple[int, int]:
    """Tokens and outputs until each sample has a response."""
    params = SamplingParams(temperature=1, top_p=1, max_new_tokens=64)
    assert isinstance(policy.sampling, ScriptedSampling)
    sampler = ScriptedSampler.load(policy.sampling.path, model=MODEL, params=params)
    tokens = draws = 0
    for prompt in prompts:
        for index in range(samples):
            for attempt in range(ATTEMPTS):
                request = SampleRequest(
                    prompt_id=prompt.prompt_id,
                    messages=prompt.messages,
                    seeds=(policy.draw_seed(prompt.prompt_id, index, attempt),),
                )
                [drawn] = sampler.sample([request])
                assert isinstance(drawn, SampledPrompt)
                draws += 1
                tokens += len(drawn.completions[0].token_ids)
                parsed = policy.thought_format.parse(drawn.completions[0].text, "stop")
                if parsed.response is not None:
                    break
    return tokens, draws


def test_outputs_that_were_sampled_again_are_spent_too(tmp_path):
    prompts = tuple(
        Prompt(
            prompt_id=f"p{number:02d}",
            messages=(Message(role="user", content=f"{number}?"),),
            category=None,
            source="s",
            reference=None,
        )
        for number in range(24)
    )
    thinks = policy(tmp_path, GENERIC, UNPARSABLE, UNPARSABLE, THOUGHT)
    direct = policy(tmp_path, DIRECT, "5", "")
    match = WinRateSetup(
        first=Contender(name="thinks", policy=thinks, answers=None),
        second=Contender(name="direct", policy=direct, answers=None),
        judge=VerifierJudge(function=f"{__name__}:likes_nothing"),
        cache=None,
        account="test",
        prompts=prompts,
        launch=LaunchConfig(),
    )
    config = WinRateMeasure(attempts=ATTEMPTS, temperature=1)
    folder = tmp_path / "stage"
    stage = Stage(folder, name="win_rate", version=1, config={})
    counts = compare(stage, match, config, Reporter(Console(quiet=True)))
    first, second = tokens_of_draws(thinks, prompts, 1), tokens_of_draws(direct, prompts, 1)
    last = [len(record.completion.token_ids) for record in stage.read_records("first", Answer)]
    assert first[0] > sum(last), "some were drawn again"
    tokens = counts["tokens_per_prompt"]
    assert isinstance(tokens, dict)
    assert tokens["first"] == pytest.approx(first[0] / len(prompts))
    assert tokens["second"] == pytest.approx(second[0] / len(prompts))
    assert counts["draws"] == {"first": first[1], "second": second[1]}
    # The direct side may take as many answers as cost that much, and its own failures count.
    drawn = stage.read_records("drawn", Answer)
    count = len({one.sample_index for one in drawn})
    assert count == min(-(-first[0] // second[0]), 16)
    again = tokens_of_draws(direct, prompts, count)
    assert tokens["best_of_n"] == pytest.approx(again[0] / len(prompts))
