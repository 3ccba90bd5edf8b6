"""Stage `rollouts`: sample K outputs per prompt from the current policy and split them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from forethought.models import decode, load_tokenizer
from forethought.progress import Reporter
from forethought.sampling.base import SamplingParams, open_sampler
from forethought.stages.place import Place, model_identity
from forethought.store import Count, Stage
from forethought.thoughts import ThoughtFormat, first_response_token
from forethought.types import (
    Completion,
    ParsedOutput,
    Prompt,
    Rollout,
    SampledPrompt,
    SampleRequest,
)


def configure(place: Place) -> dict[str, Any]:
    """What decides this stage's content besides its inputs."""
    recipe = place.recipe
    config: dict[str, Any] = {
        "seed": recipe.seed,
        "prompts_per_iteration": recipe.prompts_per_iteration,
        "sampling": recipe.sampling.model_dump(mode="json"),
        "dtype": recipe.model.dtype,
        "thought_format": place.thought_format.model_dump(mode="json"),
    }
    if place.policy_stage is None:
        config["model"] = model_identity(recipe.model.path)
    return config


def work(stage: Stage, place: Place, reporter: Reporter) -> dict[str, Count]:
    """Sample what parts are owed; counts parse statuses and tokens."""
    sampling = place.recipe.sampling
    prompts = place.prompts("train")
    parts = [
        prompts[start : start + sampling.part_size]
        for start in range(0, len(prompts), sampling.part_size)
    ]
    owed = [index for index in range(len(parts)) if not stage.has(f"part_{index:05d}")]
    params = SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_new_tokens=sampling.max_new_tokens,
    )
    with reporter.task(place.label, sum(len(parts[i]) for i in owed), "prompts") as task:
        if owed:
            splitter = OutputSplitter(place)
            with open_sampler(sampling, model=policy_model(place), params=params) as sampler:
                for index in owed:
                    requests = [_request(place, prompt) for prompt in parts[index]]
                    rollouts = [
                        rollout
                        for sampled in sampler.sample(requests)
                        for rollout in splitter.rollouts(sampled)
                    ]
                    stage.write_records(f"part_{index:05d}", rollouts, Rollout)
                    tokens = sum(len(one.completion.token_ids) for one in rollouts)
                    task.advance(len(requests), tokens=tokens)
        counts = _counts(stage, len(parts))
        task.note = f"{counts['parse_failures']:.1%} without a response"
    return counts


def policy_model(place: Place) -> Any:
    """The recipe's model section pointing at this place's policy."""
    return place.recipe.model.model_copy(update={"path": place.policy})


class OutputSplitter:
    """Splits sampled outputs with a place's format and finds the split among the tokens."""

    def __init__(self, place: Place) -> None:
        model = place.recipe.model
        self._format: ThoughtFormat = place.thought_format
        tokenizer = load_tokenizer(place.policy, trust_remote_code=model.trust_remote_code)
        self._decode = partial(decode, tokenizer)

    def rollouts(self, sampled: SampledPrompt) -> list[Rollout]:
        """One rollout per completion."""
        return [
            self._rollout(sampled, index, completion)
            for index, completion in enumerate(sampled.completions)
        ]

    def _rollout(self, sampled: SampledPrompt, index: int, completion: Completion) -> Rollout:
        parsed, start, tokens = self.split(completion)
        return Rollout(
            prompt_id=sampled.prompt_id,
            sample_index=index,
            prompt_token_ids=sampled.prompt_token_ids,
            completion=completion,
            parsed=parsed,
            response_start=start,
            response_tokens=tokens,
        )

    def split(self, completion: Completion) -> tuple[ParsedOutput, int, int]:
        """The parse, the first response token's index, and the tokens of the response alone."""
        parsed = self._format.parse(completion.text, completion.finish_reason)
        ids = completion.token_ids
        ended = completion.finish_reason == "stop"
        start = 0
        if self._format.thinks:
            start = first_response_token(ids, parsed.response_offset, self._decode)
        return parsed, start, max(len(ids) - start - ended, 0)


def _request(place: Place, prompt: Prompt) -> SampleRequest:
    samples = place.recipe.sampling.samples
    return SampleRequest(
        prompt_id=prompt.prompt_id,
        messages=place.thought_format.apply(prompt.messages),
        seeds=tuple(place.sample_seed(prompt.prompt_id, index) for index in range(samples)),
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
