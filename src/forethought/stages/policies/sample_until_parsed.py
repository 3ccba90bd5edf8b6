"""A policy answers prompts: an output without a response is sampled again, up to a limit.

Prompts are answered in parts of a fixed size, each attempt's anew, so that workers share them and
the batches are the same without any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

from forethought.config import DrawConfig
from forethought.decoding.request import SamplingParams
from forethought.progress.reporter import Task
from forethought.stages.policies.sampled_policy import Policy, PolicyExecutor, policy_executor
from forethought.storage import left_out
from forethought.storage.left_out import Places
from forethought.storage.open_stage import Stage
from forethought.types import Answer, Prompt, Rollout, SampleRequest, Unsampled

PART = 512
"""Most prompts of a part: what one worker answers at a time."""


def answers_part(part_size: int) -> int:
    """Prompts of a part, by `sampling.part_size`: a recipe that cuts rollouts finely for many
    workers has few held-out prompts for each of them, too."""
    return min(PART, 2 * part_size)


def answer_prompts(
    stage: Stage,
    policy: Policy,
    draw: DrawConfig,
    prompts: Sequence[Prompt],
    *,
    part: str,
    samples: int = 1,
    task: Task | None = None,
    places: Places = dict,
) -> list[Answer]:
    """Sample until every prompt has its responses or the attempts are used up.

    A prompt that cannot be sampled has no answer; the stage notes it under the name of `part`, with
    where it came from by `places`.

    Returns them in the order of (prompt_id, sample_index), without scores. An output that never
    had a response is there with `parsed.response=None`. The tokens of all attempts are counted.

    Raises: ValueError if the engine fails, or can take none of the prompts.
    """
    params = SamplingParams(
        temperature=draw.temperature,
        top_p=draw.top_p,
        max_new_tokens=policy.sampling.max_new_tokens,
    )
    latest: dict[tuple[str, int], tuple[int, Rollout]] = {}
    spent: Counter[tuple[str, int]] = Counter()
    refused: dict[str, Unsampled] = {}
    owed = {prompt.prompt_id: tuple(range(samples)) for prompt in prompts}
    with policy_executor(stage, policy, params) as executor:
        # Greedy, another attempt would be the same output.
        for attempt in range(draw.tries):
            new, unsampled = _sample(policy, executor, prompts, owed, attempt)
            refused |= {refusal.prompt_id: refusal for refusal in unsampled}
            latest |= {
                (rollout.prompt_id, rollout.sample_index): (attempt + 1, rollout) for rollout in new
            }
            for rollout in new:
                spent[rollout.prompt_id, rollout.sample_index] += len(rollout.completion.token_ids)
            if task is not None:
                tokens = sum(len(rollout.completion.token_ids) for rollout in new)
                task.advance(0 if attempt else len(prompts), tokens=tokens)
            owed = {k: v for k, v in _without_response(latest).items() if k not in refused}
            if not owed:
                break
    answered = {prompt_id for prompt_id, _ in latest}
    # What is refused at a later attempt only keeps its earlier output.
    gone = [refusal for refusal in refused.values() if refusal.prompt_id not in answered]
    without = left_out.placed(gone, prompts, places)
    if without and not latest:
        raise left_out.none_sampled(f"{policy.name} {stage.name}", without)
    left_out.note(stage, part, without)
    return [_record(*latest[key], spent[key]) for key in sorted(latest)]


def _sample(
    policy: Policy,
    executor: PolicyExecutor,
    prompts: Sequence[Prompt],
    owed: Mapping[str, tuple[int, ...]],
    attempt: int,
) -> tuple[list[Rollout], list[Unsampled]]:
    """The outputs that are owed, and the prompts that cannot be sampled."""
    requests = [
        SampleRequest(
            prompt_id=prompt.prompt_id,
            messages=policy.thought_format.apply(prompt.messages),
            seeds=tuple(
                policy.draw_seed(prompt.prompt_id, index, attempt)
                for index in owed[prompt.prompt_id]
            ),
        )
        for prompt in prompts
        if prompt.prompt_id in owed
    ]
    rollouts: list[Rollout] = []
    part = answers_part(policy.sampling.part_size)
    starts = range(0, len(requests), part)
    drawn = dict(executor.each(starts, lambda start: requests[start : start + part]))
    unsampled: list[Unsampled] = []
    for request, each in zip(
        requests, chain.from_iterable(drawn[start] for start in starts), strict=True
    ):
        if isinstance(each, Unsampled):
            unsampled.append(each)
            continue
        # Within a request outputs count from 0; what is owed may be any of the samples.
        for index, rollout in zip(owed[request.prompt_id], each, strict=True):
            rollouts.append(replace(rollout, sample_index=index))
    return rollouts, unsampled


def _without_response(
    latest: Mapping[tuple[str, int], tuple[int, Rollout]],
) -> dict[str, tuple[int, ...]]:
    owed: dict[str, tuple[int, ...]] = {}
    for (prompt_id, index), (_, rollout) in latest.items():
        if rollout.parsed.response is None:
            owed[prompt_id] = (*owed.get(prompt_id, ()), index)
    return owed


def _record(attempts: int, rollout: Rollout, spent: int) -> Answer:
    return Answer(
        prompt_id=rollout.prompt_id,
        sample_index=rollout.sample_index,
        attempts=attempts,
        completion=rollout.completion,
        parsed=rollout.parsed,
        thought_tokens=rollout.response_start,
        response_tokens=rollout.response_tokens,
        score=None,
        earlier_tokens=spent - len(rollout.completion.token_ids),
    )
