"""Stage `rollouts`: sample K outputs per prompt from the current policy and split them.

A part is a fixed slice of the prompts. With `sampling.workers` parts are done many at a time and
written as they arrive; what is written is the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from forethought import models
from forethought.progress import Reporter
from forethought.sampling.base import SamplingParams
from forethought.stages.place import Place
from forethought.stages.policy import Policy, drawing_crew, server_counts
from forethought.store import Count, Stage
from forethought.types import Prompt, Rollout, SampleRequest


def configure(place: Place) -> dict[str, Any]:
    """What decides this stage's content besides its inputs."""
    recipe = place.recipe
    config: dict[str, Any] = {
        "seed": recipe.seed,
        "prompts_per_iteration": recipe.prompts_per_iteration,
        "sampling": recipe.sampling.identity(),
        "dtype": recipe.model.dtype,
        "thought_format": place.thought_format.model_dump(mode="json"),
    }
    if place.policy_stage is None:
        config["model"] = models.identity(recipe.model.path)
    return config


def work(stage: Stage, place: Place, reporter: Reporter) -> dict[str, Count]:
    """Sample what parts are owed; counts parse statuses and tokens."""
    sampling = place.recipe.sampling
    policy = Policy.of(place)
    prompts = place.prompts("train")
    parts = [
        prompts[start : start + sampling.part_size]
        for start in range(0, len(prompts), sampling.part_size)
    ]
    owed = [index for index in range(len(parts)) if not stage.has(f"part_{index:05d}")]
    params = SamplingParams.of(sampling)
    with reporter.task(place.label, sum(len(parts[i]) for i in owed), "prompts") as task:
        if owed:
            with drawing_crew(stage, policy, params) as crew:
                for index, drawn in crew.each(
                    owed, lambda index: [_request(policy, prompt) for prompt in parts[index]]
                ):
                    rollouts = list(chain.from_iterable(drawn))
                    stage.write_records(f"part_{index:05d}", rollouts, Rollout)
                    tokens = sum(len(one.completion.token_ids) for one in rollouts)
                    task.advance(len(drawn), tokens=tokens)
        counts = _counts(stage, len(parts))
        task.note = f"{counts['parse_failures']:.1%} without a response"
    return counts | server_counts(stage, policy)


def _request(policy: Policy, prompt: Prompt) -> SampleRequest:
    samples = policy.sampling.samples
    return SampleRequest(
        prompt_id=prompt.prompt_id,
        messages=policy.thought_format.apply(prompt.messages),
        seeds=tuple(policy.draw_seed(prompt.prompt_id, index) for index in range(samples)),
    )


def _counts(stage: Stage, parts: int) -> dict[str, Count]:
    rollouts = list(_read_parts(stage, range(parts)))
    statuses = Counter(str(one.parsed.status) for one in rollouts)
    outputs = max(len(rollouts), 1)
    return {
        "outputs": len(rollouts),
        "statuses": dict(sorted(statuses.items())),
        "parse_failures": 1 - statuses["complete"] / outputs,
        "new_tokens": sum(len(one.completion.token_ids) for one in rollouts),
        "mean_thought_tokens": sum(one.response_start for one in rollouts) / outputs,
        "mean_response_tokens": sum(one.response_tokens for one in rollouts) / outputs,
    }


def _read_parts(stage: Stage, parts: Sequence[int] | range) -> Iterator[Rollout]:
    for index in parts:
        yield from stage.read_records(f"part_{index:05d}", Rollout)
