"""A policy that is sampled: opened with an engine, its outputs split with its own format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Self

from forethought.cache import Cache
from forethought.config import (
    LaunchConfig,
    ModelConfig,
    SamplingConfig,
    Workers,
)
from forethought.decoding.request import SamplingParams
from forethought.models import load_tokenizer
from forethought.rendering import decode
from forethought.runs.layout import StageRef
from forethought.sampling.base import Sampler, stable_seed
from forethought.sampling.open import open_sampler
from forethought.sampling.pooled import PooledSampler, open_sampling
from forethought.store import SCRATCH, Count, Stage
from forethought.thoughts import ThoughtFormat, first_response_token
from forethought.types import (
    Completion,
    ParsedOutput,
    Rollout,
    SampledPrompt,
    SampleRequest,
    Unsampled,
)
from forethought.workers.base import Crew, Here
from forethought.workers.pool import Pool

Drawn = list[list[Rollout] | Unsampled]
"""The rollouts of each request, or why there are none, in the order of requests."""
Draw = Callable[[Sequence[SampleRequest]], Drawn]
DrawingCrew = Crew[Sequence[SampleRequest], Drawn]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A model, the format of its outputs, and the engine that samples it.

    Example: `Policy(name="thought policy 4", model=ModelConfig(path="runs/…/policy"),
    thought_format=GENERIC, sampling=TransformersSampling(), seed_words=(0, "evaluation", 4))`
    """

    name: str
    """For readers: in progress lines, and in the files that benchmarks keep."""
    model: ModelConfig
    thought_format: ThoughtFormat
    sampling: SamplingConfig
    """The engine and the token limit; how outputs are drawn is the use's own."""
    seed_words: tuple[str | int, ...]
    """What its samples' seeds derive from."""
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    """Where the workers of `sampling` are."""

    @classmethod
    def of(cls, ref: StageRef) -> Self:
        """The policy that a stage samples. Both arms' samples have the same seeds."""
        recipe = ref.recipe
        return cls(
            name=f"{ref.arm} policy {ref.index}",
            model=ref.policy,
            thought_format=ref.thought_format,
            sampling=recipe.sampling,
            seed_words=(recipe.seed, ref.stage, ref.index),
            launch=recipe.launch,
        )

    @property
    def workers(self) -> Workers | None:
        """The pool that samples it, if there is one."""
        return self.sampling.pool

    @property
    def gpus(self) -> int | None:
        """What its engine needs wherever it runs; `None` where that depends on the machine."""
        return self.sampling.gpus

    def at(self, checkpoint: Path) -> Self:
        """The same policy with other weights."""
        return replace(self, model=self.model.at(str(checkpoint)))

    def draw_seed(self, prompt_id: str, sample_index: int, attempt: int = 0) -> int:
        """63 bits from (seed words, prompt, sample, attempt)."""
        return stable_seed(*self.seed_words, prompt_id, sample_index, attempt)


@contextmanager
def drawing_crew(stage: Stage, policy: Policy, params: SamplingParams) -> Iterator[DrawingCrew]:
    """Who draws the policy's outputs, part by part, and splits them."""
    workers = policy.workers
    with ExitStack() as opened:
        if workers is None:
            opening = partial(open_drawing, policy, partial(policy_sampler, stage, policy, params))
            yield opened.enter_context(Here(opening))
        else:
            engine = partial(
                open_sampler,
                policy.sampling,
                model=policy.model,
                params=params,
                markers=policy.thought_format.markers,
            )
            opening = partial(open_drawing, policy, engine)
            pool = Pool(opening, workers, policy.launch, name=policy.name, gpus=policy.gpus)
            yield opened.enter_context(pool)


@contextmanager
def open_drawing(
    policy: Policy, engine: Callable[[], AbstractContextManager[Sampler]]
) -> Iterator[Draw]:
    """The policy loaded, with its splitter: outputs are split by who draws them."""
    splitter = OutputSplitter(policy)
    with engine() as sampler:

        def draw(requests: Sequence[SampleRequest]) -> Drawn:
            return [
                one if isinstance(one, Unsampled) else splitter.rollouts(one)
                for one in sampler.sample(requests)
            ]

        yield draw


@contextmanager
def policy_sampler(stage: Stage, policy: Policy, params: SamplingParams) -> Iterator[Sampler]:
    """A sampler of the policy. What a server sent is kept with the stage as it arrives.

    Kept there and nowhere else: under the same path another run may have other weights. With
    workers, one of them does each call.
    """
    with ExitStack() as opened:
        replies = None
        if policy.sampling.is_server:
            replies = opened.enter_context(Cache(_replies(stage), account=policy.name))
        engine = partial(
            open_sampler,
            policy.sampling,
            model=policy.model,
            params=params,
            cache=replies,
            policy=True,
            markers=policy.thought_format.markers,
        )
        if policy.workers is None:
            yield opened.enter_context(engine())
        else:
            opening = partial(open_sampling, engine)
            workers, launch = policy.workers, policy.launch
            pool = Pool(opening, workers, launch, name=policy.name, gpus=policy.gpus)
            yield opened.enter_context(PooledSampler(pool))


def server_counts(stage: Stage, policy: Policy) -> dict[str, Count]:
    """What sampling at a server cost over all attempts; nothing for other engines."""
    if not _replies(stage).is_file():
        return {}
    with Cache(_replies(stage), account=policy.name) as replies:
        return {"sampling_calls": replies.counts()}


def _replies(stage: Stage) -> Path:
    return stage.folder / SCRATCH / "replies.sqlite"


class OutputSplitter:
    """Splits sampled outputs with a policy's format and finds the split among the tokens."""

    def __init__(self, policy: Policy) -> None:
        self._format: ThoughtFormat = policy.thought_format
        tokenizer = load_tokenizer(policy.model.source)
        self._decode = partial(decode, tokenizer, markers=policy.thought_format.markers)

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
        if self._format.thinks or parsed.thought is not None:
            start = first_response_token(ids, parsed.response_offset, self._decode)
        return parsed, start, max(len(ids) - start - ended, 0)
