"""What a decoder is asked for: how outputs are drawn, and of which token ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from forethought.config import SamplingFacts
from forethought.models import rendering
from forethought.types import SampleRequest, Unsampled

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How outputs are drawn.

    Example: `SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=2048)`
    """

    temperature: float
    """0 is greedy."""
    top_p: float
    """A token may be drawn if all strictly likelier tokens together have less than this mass."""
    max_new_tokens: int
    """Limit of an output, the end token included."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature: {self.temperature} is negative; 0 is greedy")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: {self.top_p} is not in (0, 1]; 1 keeps every token")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: {self.max_new_tokens}; an output has at least 1")

    @classmethod
    def of(cls, sampling: SamplingFacts) -> Self:
        """What a recipe's `sampling` section says."""
        return cls(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_new_tokens=sampling.max_new_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedRequest:
    """One rendered prompt with the seeds of its outputs.

    Example: `TokenizedRequest(token_ids=(0, 4, 77), seeds=(17, 4711), limit=128)`
    """

    token_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    limit: int
    """New tokens allowed, at least 1."""
    never_opens_with: tuple[tuple[int, ...], ...] = ()
    """What the new tokens may not begin with."""


def tokenize(
    request: SampleRequest,
    tokenizer: PreTrainedTokenizerBase,
    params: SamplingParams,
    *,
    name: str,
    context: int | None,
    template: Mapping[str, Any],
) -> TokenizedRequest | Unsampled:
    """Render a request for an engine that takes token ids.

    It is `Unsampled` where the chat template refuses the conversation or `context` tokens leave no
    room for an output; `name` is the model's, for the reason.
    """
    try:
        ids = (*rendering.render(tokenizer, request.messages, template), *request.opening_ids)
    except ValueError as error:
        return Unsampled(prompt_id=request.prompt_id, reason=str(error))
    limit = params.max_new_tokens - len(request.opening_ids)
    if context is not None:
        limit = min(limit, context - len(ids))
    if ids and limit > 0:
        return TokenizedRequest(
            token_ids=ids,
            seeds=request.seeds,
            limit=limit,
            never_opens_with=request.never_opens_with,
        )
    reason = "it is empty once rendered; leave it out"
    if ids and len(request.opening_ids) >= params.max_new_tokens:
        reason = (
            f"the output begins with {len(request.opening_ids)} tokens that are given, and the "
            f"limit is {params.max_new_tokens}; raise max_new_tokens"
        )
    elif ids:
        reason = (
            f"it has {len(ids)} tokens; {name} takes {context} tokens here, so at most {context} "
            "- 1 with room for an output; leave the prompt out, shorten it, or use a longer context"
        )
    return Unsampled(prompt_id=request.prompt_id, reason=reason)
