"""Stage `rollouts`: sample K outputs per prompt from the current policy and split them.

The warm start samples in the same way, with demonstrations before each prompt.

A part is a fixed slice of the prompts. With `sampling.workers` parts are done many at a time and
written as they arrive; what is written is the same. A prompt that cannot be sampled is
left out alone (left_out.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any

from forethought.decoding.request import SamplingParams
from forethought.models import loading
from forethought.progress.reporter import Reporter
from forethought.runs.layout import WARM_START, StageRef
from forethought.stages.policies.demonstrated import arm_demonstrations, shown_demonstrations
from forethought.stages.policies.modes import Modes, modes_of
from forethought.stages.policies.sampled_policy import Drawn, Policy, policy_executor, server_counts
from forethought.storage import left_out
from forethought.storage.files import content_hash
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import Count
from forethought.types import Prompt, Rollout, SampleRequest, Unsampled


def configure(ref: StageRef) -> dict[str, Any]:
    """What decides this stage's content besides its inputs."""
    recipe = ref.recipe
    config: dict[str, Any] = {
        "seed": recipe.seed,
        "prompts_per_iteration": recipe.prompts_per_iteration,
        "sampling": recipe.sampling.identity(),
        "dtype": recipe.model.dtype,
        "template": ref.policy.template,
        "thought_format": ref.thought_format.model_dump(mode="json"),
    }
    if ref.policy_stage is None:
        config["model"] = loading.identity(recipe.model.source)
    if ref.arm == "hybrid" and ref.index != WARM_START:
        config["forced"] = recipe.hybrid.forced(ref.index, recipe.sampling.samples)
    if ref.index == WARM_START:
        del config["prompts_per_iteration"], config["sampling"]["samples"]
        config |= _demonstrated(ref)
    return config


def _demonstrated(ref: StageRef) -> dict[str, Any]:
    """What decides the warm start's outputs besides what decides others."""
    warm = ref.recipe.warm_start
    assert warm is not None
    shown = [asdict(each) | {"where": ""} for each in arm_demonstrations(ref)]
    return {
        "prompts": warm.prompts,
        "samples": warm.samples,
        "demonstrations": content_hash(shown),
    }


def work(stage: Stage, ref: StageRef, reporter: Reporter) -> dict[str, Count]:
    """Sample what parts are owed; counts parse statuses and tokens.

    Raises: StageError if no prompt can be sampled.
    """
    sampling = ref.recipe.sampling
    policy, request, modes = _asked(ref)

    def requests(prompt: Prompt) -> list[SampleRequest]:
        return [request(prompt)] if modes is None else modes.requests(request(prompt))

    prompts = ref.prompts("train")
    parts = [
        prompts[start : start + sampling.part_size]
        for start in range(0, len(prompts), sampling.part_size)
    ]
    owed = [index for index in range(len(parts)) if not _has(stage, index)]
    params = SamplingParams.of(sampling)
    counts = _Counts()
    for index in range(len(parts)):
        if index not in owed:
            counts.add(stage.read_records(f"part_{index:05d}", Rollout))
    with reporter.task(ref.label, sum(len(parts[i]) for i in owed), "prompts") as task:
        if owed:
            with policy_executor(stage, policy, params) as executor:
                for index, drawn in executor.each(
                    owed,
                    lambda index: [each for prompt in parts[index] for each in requests(prompt)],
                ):
                    drawn = drawn if modes is None else modes.joined(drawn)
                    rollouts = _kept(stage, ref, index, parts[index], drawn)
                    stage.write_records(f"part_{index:05d}", rollouts, Rollout)
                    task.advance(len(drawn), tokens=counts.add(rollouts))
        task.note = f"{counts.parse_failures:.1%} without a response"
    gone = left_out.noted(stage.folder)
    if len(gone) == len(prompts):
        # Owed again, in case that the server or the template is mended.
        stage.remove(*(f"part_{index:05d}.parquet" for index in range(len(parts))))
        raise left_out.none_sampled(ref.label, gone)
    left_out.say(stage, reporter)
    return counts.summary() | left_out.counts(stage.folder) | server_counts(stage, policy)


def _has(stage: Stage, index: int) -> bool:
    return stage.has(f"part_{index:05d}", left_out.file_of(f"{index:05d}"))


def _kept(
    stage: Stage, ref: StageRef, index: int, prompts: Sequence[Prompt], drawn: Drawn
) -> list[Rollout]:
    """A part's rollouts; what could not be sampled is noted."""
    unsampled = [result for result in drawn if isinstance(result, Unsampled)]
    left_out.note(stage, f"{index:05d}", left_out.placed(unsampled, prompts, ref.prompt_places))
    return list(
        chain.from_iterable(result for result in drawn if not isinstance(result, Unsampled))
    )


def _asked(ref: StageRef) -> tuple[Policy, Callable[[Prompt], SampleRequest], Modes | None]:
    """The policy, how it is asked a prompt, and in which modes it answers."""
    policy, warm = Policy.of(ref), ref.recipe.warm_start
    samples, ask = policy.sampling.samples, policy.thought_format.apply
    if ref.index == WARM_START:
        assert warm is not None
        shown = shown_demonstrations(ref)
        policy = replace(policy, thought_format=shown.thought_format)
        samples, ask = warm.samples, shown.ask

    def request(prompt: Prompt) -> SampleRequest:
        return SampleRequest(
            prompt_id=prompt.prompt_id,
            messages=ask(prompt.messages),
            seeds=tuple(policy.draw_seed(prompt.prompt_id, index) for index in range(samples)),
        )

    modes = modes_of(ref, policy.thought_format)
    if modes is not None:
        policy = replace(policy, opening=modes.openings[0])
    return policy, request, modes


@dataclass(slots=True)
class _Counts:
    """What parts hold, added up part by part: all of them at once may be more than fits."""

    statuses: Counter[str] = field(default_factory=Counter)
    new_tokens: int = 0
    thought_tokens: int = 0
    response_tokens: int = 0
    with_thought: int = 0

    def add(self, rollouts: Sequence[Rollout]) -> int:
        """Count a part; returns its new tokens."""
        tokens = sum(len(rollout.completion.token_ids) for rollout in rollouts)
        self.new_tokens += tokens
        self.statuses.update(str(rollout.parsed.status) for rollout in rollouts)
        self.thought_tokens += sum(rollout.response_start for rollout in rollouts)
        self.response_tokens += sum(rollout.response_tokens for rollout in rollouts)
        self.with_thought += sum(bool(rollout.parsed.thought) for rollout in rollouts)
        return tokens

    @property
    def parse_failures(self) -> float:
        """Share of outputs without a response."""
        return 1 - self.statuses["complete"] / max(self.statuses.total(), 1)

    def summary(self) -> dict[str, Count]:
        """Statuses, tokens and their means."""
        outputs = max(self.statuses.total(), 1)
        return {
            "outputs": self.statuses.total(),
            "statuses": {name: count for name, count in sorted(self.statuses.items()) if count},
            "parse_failures": self.parse_failures,
            "with_thought": self.with_thought,
            "new_tokens": self.new_tokens,
            "mean_thought_tokens": self.thought_tokens / outputs,
            "mean_response_tokens": self.response_tokens / outputs,
        }
