"""A judge that is ArmoRM, the paper's scoring judge: 19 objectives mixed by a gate.

Each response is scored alone, after the prompt's messages, by the network of armorm_model.py. The
gate reads the token where the response's turn begins, the first of the last
`<|eot_id|><|start_header_id|>assistant<|end_header_id|>\\n\\n`. Control tokens in prompts and
responses are broken before they are tokenised, so a response that spells this out does not move
the gate. Where it cannot be found, or the conversation is beyond the model's limit, the group is
`Unjudged` with the reason: the published code raises in the first case and reads on in the second.

`evidence` has every response's objectives; `objectives.explanation` shows them:

    forethought judge responses.jsonl scores.jsonl judge.type=armorm --explain
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import torch
from transformers import PreTrainedTokenizerBase

from forethought.config import ArmoRMJudge
from forethought.judging.armorm import shared_prompts
from forethought.judging.armorm.armorm_model import ArmoRMModel, Ratings, load
from forethought.judging.armorm.objectives import PARTS, evidence, rounded
from forethought.judging.scoring.conversation_tokens import (
    Conversations,
    Refused,
    TokenIds,
    length_limit,
    load_tokenizer,
)
from forethought.judging.scoring.score_cache import Scored, judge_groups, scoring_identity
from forethought.models import loading
from forethought.models.control_tokens import control_tokens
from forethought.models.model_cache import cached
from forethought.storage.reply_cache import Cache
from forethought.types import Judgement, ResponseGroup, Unjudged

PUBLISHED_GATE = {
    128009: "<|eot_id|>",
    128006: "<|start_header_id|>",
    78191: "assistant",
    128007: "<|end_header_id|>",
    271: "ĊĊ",
}
"""The pattern in the published model's vocabulary."""
GATE = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
GATE_TOKENS = ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")


class ArmoRM:
    """Scores each response alone and keeps its objectives.

    Example: `ArmoRM(ArmoRMJudge(path="RLHFlow/ArmoRM-Llama3-8B-v0.1"))`
    """

    floor: float | None = None

    def __init__(self, config: ArmoRMJudge, cache: Cache | None = None) -> None:
        """What the `cache` holds is not computed again.

        Raises: ValueError if the checkpoint is not an ArmoRM's, or lacks a usable tokenizer.
        """
        self.name = f"armorm:{config.path}"
        self._cache = cache
        self._tokens_per_batch = config.tokens_per_batch
        loading.quiet_loading()
        self._model: ArmoRMModel | None = cached(
            ("judge", config),
            lambda: load(
                config.source,
                dtype=getattr(torch, config.dtype),
                device=loading.pick_device(config.device),
            ),
        )
        tokenizer = load_tokenizer(config.source)
        self._pattern = gate_pattern(tokenizer)
        limit = length_limit(config.source, config.max_length, self._model.model.config)
        self._conversations = Conversations(tokenizer, limit=limit)
        self._identity = scoring_identity(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._model = None
        loading.free_memory()

    def judge(self, groups: Sequence[ResponseGroup]) -> Iterator[Judgement | Unjudged]:
        """All groups are scored in batches, equal conversations once."""
        return judge_groups(
            groups,
            name=self.name,
            identity=self._identity,
            encode=self._encode,
            compute=self._score,
            evidence=evidence,
            cache=self._cache,
        )

    def _encode(self, group: ResponseGroup) -> list[TokenIds] | Refused:
        encoded = self._conversations.encode(group)
        if isinstance(encoded, Refused):
            return encoded
        for index, ids in enumerate(encoded):
            place = gate_position(ids, self._pattern)
            if place is None:
                return Refused(
                    reason=f"response {index}: the chat template does not write {GATE!r} before "
                    "the response, so there is nothing for the gate to read"
                )
            if place + len(self._pattern) == len(ids):
                return Refused(
                    reason=f"response {index}: the chat template opens another assistant's turn "
                    "after the response, so the gate would read the response"
                )
        return encoded

    def _score(self, groups: list[list[TokenIds]]) -> dict[TokenIds, Scored]:
        if not groups:
            return {}
        if self._model is None:
            raise ValueError("this judge was left and its model freed; open it again")
        shared = [shared_prompts.share(conversations) for conversations in groups]
        device = self._model.regression_layer.weight.device
        scored: dict[TokenIds, Scored] = {}
        for batch in shared_prompts.batches(shared, self._tokens_per_batch):
            conversations = [ids for group in batch for ids in group.conversations]
            gates = [self._gate(ids) for ids in conversations]
            ratings = self._model(shared_prompts.pack(batch, device), gates)
            scored |= zip(conversations, _scored(ratings), strict=True)
        return scored

    def _gate(self, ids: TokenIds) -> int:
        place = gate_position(ids, self._pattern)
        assert place is not None, "refused before"
        return place


def gate_pattern(tokenizer: PreTrainedTokenizerBase) -> TokenIds:
    """Token ids that open the assistant's turn; the gate reads the first of them.

    The published ids where the vocabulary has them, else what the tokenizer makes of the text.

    Raises: ValueError if the control tokens in it are none of this tokenizer's.
    """
    missing = [token for token in GATE_TOKENS if token not in control_tokens(tokenizer)]
    if missing:
        raise ValueError(
            f"judge.path: the tokenizer has no control tokens {', '.join(missing)}, so the gate "
            "cannot tell where a response begins; use the tokenizer that came with the checkpoint"
        )
    published = list(PUBLISHED_GATE)
    if tokenizer.convert_ids_to_tokens(published) == list(PUBLISHED_GATE.values()):
        return tuple(published)
    return tuple(tokenizer.encode(GATE, add_special_tokens=False))


def gate_position(ids: TokenIds, pattern: TokenIds) -> int | None:
    """Where the last occurrence of the pattern begins, `None` if there is none."""
    for start in range(len(ids) - len(pattern), -1, -1):
        if ids[start : start + len(pattern)] == pattern:
            return start
    return None


def _scored(ratings: Ratings) -> Iterator[Scored]:
    columns = (ratings.rewards_CJ, ratings.gate_CJ, ratings.weights_CJ)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for score, numbers in zip(ratings.score_C.tolist(), rows, strict=True):
        details = {part: rounded(row) for part, row in zip(PARTS, numbers, strict=True)}
        yield Scored(score=score, details=details)
