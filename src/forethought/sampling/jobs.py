"""What an engine that takes token ids is given: a rendered prompt, its seeds, its room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forethought import rendering
from forethought.sampling.base import SamplingParams
from forethought.types import SampleRequest, Unsampled

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One prompt with its seeds.

    Example: `Job(token_ids=(0, 4, 77), seeds=(17, 4711), limit=128)`
    """

    token_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    limit: int
    """New tokens allowed, at least 1."""


def job_for(
    request: SampleRequest,
    tokenizer: PreTrainedTokenizerBase,
    params: SamplingParams,
    *,
    name: str,
    context: int | None,
    template: Mapping[str, Any],
) -> Job | Unsampled:
    """What to draw, or why it cannot be: the template refuses, or `context` tokens leave no room.

    `name` is the model's, for the reason.
    """
    try:
        ids = (*rendering.render(tokenizer, request.messages, template), *request.opening_ids)
    except ValueError as error:
        return Unsampled(prompt_id=request.prompt_id, reason=str(error))
    limit = params.max_new_tokens - len(request.opening_ids)
    if context is not None:
        limit = min(limit, context - len(ids))
    if ids and limit > 0:
        return Job(token_ids=ids, seeds=request.seeds, limit=limit)
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
