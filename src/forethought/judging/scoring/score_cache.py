"""Scores of groups from a model that scores each conversation alone, computed once and kept.

What is in the cache is not computed again, equal conversations are computed once, and new scores
are kept together after the last of them. A call that was killed therefore leaves the cache as it
was, and its repetition computes the same conversations in the same batches: the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from math import isfinite
from typing import Any

from forethought.config import ScoringJudge
from forethought.judging.scoring.conversation_tokens import Refused, TokenIds
from forethought.models import loading
from forethought.storage.files import content_hash
from forethought.storage.reply_cache import Cache
from forethought.types import Judgement, ResponseGroup, Unjudged


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What a model says of one response.

    Example: `Scored(score=0.131, details={"rewards": [0.62, 0.58]})`
    """

    score: float
    details: dict[str, list[float]]
    """What a reader may want to see of how the score came about; may be empty."""


Encode = Callable[[ResponseGroup], list[TokenIds] | Refused]
Compute = Callable[[list[list[TokenIds]]], Mapping[TokenIds, Scored]]
"""Scores of conversations, all different; those of one group stand together."""


def scoring_identity(config: ScoringJudge) -> dict[str, Any]:
    """What names a scoring model, and everything of its settings that decides a score.

    Raises: ValueError if there is no such model.
    """
    model = loading.identity(replace(config.source, path=loading.resolve(config.source)))
    return {"model": model, **config.model_dump(include=set(config.decisive))}


def find_kept(
    cache: Cache, identity: dict[str, Any], groups: Sequence[ResponseGroup]
) -> dict[str, Any]:
    """What the cache holds of these groups' scores, by its keys."""
    keys = dict.fromkeys(chain.from_iterable(_keys(identity, group) for group in groups))
    return {key: answer for key in keys if (answer := cache.find(key)) is not None}


def judge_groups(
    groups: Sequence[ResponseGroup],
    *,
    name: str,
    identity: dict[str, Any],
    encode: Encode,
    compute: Compute,
    evidence: Callable[[Sequence[Scored]], str],
    cache: Cache | None,
) -> Iterator[Judgement | Unjudged]:
    """The judgement of each group in order, by the judge of this name.

    `identity` names its model and everything of its settings that decides a score; `evidence` is
    what is kept of a group's scores for a reader.
    """
    scored = _score_groups(groups, identity, encode, compute, cache)
    for group, answer in zip(groups, scored, strict=True):
        prompt_id = group.prompt.prompt_id
        if isinstance(answer, Refused):
            yield Unjudged(prompt_id=prompt_id, judge=name, reason=answer.reason)
        else:
            scores = tuple(rating.score for rating in answer)
            said = evidence(answer)
            yield Judgement(prompt_id=prompt_id, judge=name, scores=scores, evidence=said)


def _score_groups(
    groups: Sequence[ResponseGroup],
    identity: dict[str, Any],
    encode: Encode,
    compute: Compute,
    cache: Cache | None,
) -> list[list[Scored] | Refused]:
    """For each group the scores of its responses in their order, or why there are none.

    A score that is not finite is given back and not kept.
    """
    keys = [_keys(identity, group) for group in groups]
    known = _kept(cache, dict.fromkeys(chain.from_iterable(keys)))
    refused: dict[int, Refused] = {}
    owed: dict[str, TokenIds] = {}
    wanted: list[list[TokenIds]] = []
    for index, (group, keys_of_group) in enumerate(zip(groups, keys, strict=True)):
        if all(key in known for key in keys_of_group):
            continue
        encoded = encode(group)
        if isinstance(encoded, Refused):
            refused[index] = encoded
            continue
        new = {
            key: ids for key, ids in zip(keys_of_group, encoded, strict=True) if key not in known
        }
        owed |= new
        wanted.append(list(new.values()))
    computed = compute(list(_different(wanted)))
    scored = {key: computed[ids] for key, ids in owed.items()}
    if cache is not None:
        finite = {key: asdict(rating) for key, rating in scored.items() if isfinite(rating.score)}
        cache.keep_all(finite)
    known |= scored
    return [
        refused.get(index) or [known[key] for key in keys_of_group]
        for index, keys_of_group in enumerate(keys)
    ]


def _keys(identity: dict[str, Any], group: ResponseGroup) -> list[str]:
    messages = [[message.role, message.content] for message in group.prompt.messages]
    return [content_hash([identity, messages, response]) for response in group.responses]


def _kept(cache: Cache | None, keys: Mapping[str, None]) -> dict[str, Scored]:
    if cache is None:
        return {}
    found = ((key, cache.find(key)) for key in keys)
    return {key: Scored(**answer) for key, answer in found if answer is not None}


def _different(groups: Sequence[Sequence[TokenIds]]) -> Iterator[list[TokenIds]]:
    """Each conversation in the first group that has it; no empty groups."""
    seen: set[TokenIds] = set()
    for group in groups:
        new = [ids for ids in dict.fromkeys(group) if ids not in seen]
        seen.update(new)
        if new:
            yield new
