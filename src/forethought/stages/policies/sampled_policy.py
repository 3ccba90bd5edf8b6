"""A policy that is sampled: opened with an engine, its outputs split with its own format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from forethought.config import (
    LaunchConfig,
    ModelConfig,
    Recipe,
    SamplingConfig,
)
from forethought.decoding.request import SamplingParams
from forethought.models import loading
from forethought.models.loading import load_tokenizer
from forethought.models.marker_tokens import split_by_token
from forethought.models.rendering import decode
from forethought.runs.layout import WARM_START, StageRef
from forethought.sampling.base import stable_seed
from forethought.sampling.executor import SamplingExecutor, sampling_executor
from forethought.storage.open_stage import Stage
from forethought.storage.reply_cache import Cache
from forethought.storage.sealed_stage import SCRATCH, Count
from forethought.thoughts import ThoughtFormat, first_response_token
from forethought.types import (
    Completion,
    FinishReason,
    ParsedOutput,
    Rollout,
    SampledPrompt,
    Unsampled,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Drawn = list[list[Rollout] | Unsampled]
"""The rollouts of each request, or why there are none, in the order of requests."""
PolicyExecutor = SamplingExecutor[list[Rollout]]


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
    """What its samples' seeds derive from; equal words give equal seeds."""
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    """Where the workers of `sampling` are."""
    opening: tuple[int, ...] = ()
    """Tokens that are the output's where a prompt was given them as its last."""

    @classmethod
    def of(cls, ref: StageRef) -> Self:
        """The policy that a stage samples. Both arms' samples have the same seeds."""
        recipe = ref.recipe
        number = "seed" if ref.index == WARM_START else f"policy {ref.index}"
        return cls(
            name=f"{ref.arm} {number}",
            model=ref.policy,
            thought_format=ref.thought_format,
            sampling=recipe.sampling,
            seed_words=(recipe.seed, ref.stage, ref.index),
            launch=recipe.launch,
        )

    def at(self, checkpoint: Path) -> Self:
        """The same policy with other weights."""
        return replace(self, model=self.model.at(str(checkpoint)))

    @property
    def splitter(self) -> OutputSplitter:
        """Splits its outputs."""
        return OutputSplitter(self.thought_format, self.model, self.opening)

    def draw_seed(self, prompt_id: str, sample_index: int, attempt: int = 0) -> int:
        """63 bits from (seed words, prompt, sample, attempt)."""
        return stable_seed(*self.seed_words, prompt_id, sample_index, attempt)

    def executor(
        self, params: SamplingParams, replies: Cache | None = None
    ) -> AbstractContextManager[PolicyExecutor]:
        """Draws its outputs part by part and splits them; `replies` has those of a server."""
        return sampling_executor(
            self.sampling,
            self.launch,
            self.splitter,
            name=self.name,
            model=self.model,
            params=params,
            markers=self.thought_format.markers,
            cache=replies,
        )


def longest_sequence(recipe: Recipe) -> int | None:
    """Most tokens of a prompt and its output together; `None` where only the engine knows."""
    given = recipe.sampling.context
    if given is not None or not recipe.sampling.loads_model:
        return given
    return loading.context_length(
        loading.load_config(recipe.model.source), long_context=recipe.model.long_context
    )


@contextmanager
def policy_executor(
    stage: Stage, policy: Policy, params: SamplingParams
) -> Iterator[PolicyExecutor]:
    """The executor of a stage that samples a policy. What a server sent is kept with the stage as
    it arrives.

    Kept there and nowhere else: under the same path another run may have other weights.

    Raises: ValueError if the engine cannot be opened, or its workers cannot be had.
    """
    with ExitStack() as opened:
        replies = None
        if policy.sampling.is_server:
            replies = opened.enter_context(Cache(_replies(stage), account=policy.name))
        yield opened.enter_context(policy.executor(params, replies))


def server_counts(stage: Stage, policy: Policy) -> dict[str, Count]:
    """What sampling at a server cost over all attempts; nothing for other engines."""
    if not _replies(stage).is_file():
        return {}
    with Cache(_replies(stage), account=policy.name) as replies:
        return {"sampling_calls": replies.counts()}


def _replies(stage: Stage) -> Path:
    return stage.folder / SCRATCH / "replies.sqlite"


@dataclass(frozen=True)
class OutputSplitter:
    """Splits sampled outputs with a policy's format and finds the split among the tokens.

    It loads its tokenizer when it splits the first one: what is sent to a worker has none.

    Example: `OutputSplitter(GENERIC, ModelConfig(path="microworld"))(sampled)`
    """

    thought_format: ThoughtFormat
    model: ModelConfig
    opening: tuple[int, ...] = ()
    """As in `Policy`."""

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.model.source)

    @cached_property
    def _format(self) -> ThoughtFormat:
        if not self.thought_format.thinks:
            return self.thought_format
        return split_by_token(self.thought_format, self._tokenizer)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of an output's tokens, or of its first ones."""
        return decode(self._tokenizer, token_ids, self.thought_format.markers)

    def parse(self, text: str, finish_reason: FinishReason) -> ParsedOutput:
        """The two sides of an output's text."""
        return self._format.parse(text, finish_reason)

    def __call__(self, sampled: SampledPrompt) -> list[Rollout]:
        """One rollout per completion."""
        given = len(self.opening)
        if given and sampled.prompt_token_ids[-given:] == self.opening:
            sampled = replace(
                sampled,
                prompt_token_ids=sampled.prompt_token_ids[:-given],
                completions=tuple(map(self._opened, sampled.completions)),
            )
        return [
            self._rollout(sampled, index, completion)
            for index, completion in enumerate(sampled.completions)
        ]

    def _opened(self, completion: Completion) -> Completion:
        """The whole output where its first tokens were given."""
        ids = (*self.opening, *completion.token_ids)
        return replace(completion, text=self.decode(ids), token_ids=ids)

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
        thought_format = self.thought_format
        parsed = self.parse(completion.text, completion.finish_reason)
        ids = completion.token_ids
        ended = completion.finish_reason == "stop"
        start = 0
        # A template may have the model think in the direct arm, too.
        if thought_format.must_think or parsed.thought is not None:
            start = first_response_token(ids, parsed.response_offset, self.decode)
        # Where no token is the response's, `start` is the length, the end token included.
        return parsed, start, max(len(ids) - start - ended, 0)
