"""The policy of a place: opened for sampling, its outputs split with the place's format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from forethought.cache import Cache
from forethought.config import ModelConfig
from forethought.models import decode, load_tokenizer
from forethought.sampling.base import Sampler, SamplingParams, open_sampler
from forethought.stages.place import Place
from forethought.store import SCRATCH, Count, Stage
from forethought.thoughts import ThoughtFormat, first_response_token
from forethought.types import Completion, ParsedOutput, Rollout, SampledPrompt


def policy_model(place: Place) -> ModelConfig:
    """The recipe's model section pointing at this place's policy."""
    return place.recipe.model.model_copy(update={"path": place.policy})


@contextmanager
def policy_sampler(
    stage: Stage, place: Place, model: ModelConfig, params: SamplingParams
) -> Iterator[Sampler]:
    """A sampler of the policy. What a server sent is kept with the stage as it arrives.

    Kept there and nowhere else: under the same path another run may have other weights.
    """
    with ExitStack() as opened:
        replies = None
        if place.recipe.sampling.type == "openai":
            replies = opened.enter_context(Cache(_replies(stage), account=place.label))
        sampling = place.recipe.sampling
        yield opened.enter_context(
            open_sampler(sampling, model=model, params=params, cache=replies)
        )


def server_counts(stage: Stage, place: Place) -> dict[str, Count]:
    """What sampling at a server cost over all attempts; nothing for other engines."""
    if not _replies(stage).is_file():
        return {}
    with Cache(_replies(stage), account=place.label) as replies:
        return {"sampling_calls": replies.counts()}


def _replies(stage: Stage) -> Path:
    return stage.folder / SCRATCH / "replies.sqlite"


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
