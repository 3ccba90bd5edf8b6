"""A judge that is a reward model: one logit of a sequence-classification model per response.

The paper's scoring judge, ArmoRM, has a head of its own; this is the common kind, any checkpoint
that `AutoModelForSequenceClassification` loads with one label and whose tokenizer has a chat
template, Skywork-Reward's Llama, Gemma 2 and Qwen3 models among them. conversation_tokens.py says
how a conversation is written.

A conversation's score is what the model gives to it alone, whatever else is in the batch.
transformers scores the last token that is not the pad token. A pad token that the checkpoint
declares is therefore kept, since its makers scored with it; where it declares none, each batch is
padded with a token that does not occur in it. Two things that transformers would leave out in
silence are kept: a bias of the head, and the soft-capping of attention scores. Logits have the
steps of `dtype`: close scores tie in bfloat16.

    judge: {type: reward_model, path: Skywork/Skywork-Reward-V2-Qwen3-8B}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Self

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from forethought.config import RewardModelJudge
from forethought.judging.scoring.conversation_tokens import (
    Conversations,
    TokenIds,
    length_limit,
    load_tokenizer,
)
from forethought.judging.scoring.kinds import refuse_no_single_logit
from forethought.judging.scoring.score_cache import Scored, judge_groups, scoring_identity
from forethought.models import loading
from forethought.models.model_cache import cached
from forethought.models.number_types import widened
from forethought.storage.reply_cache import Cache
from forethought.types import Judgement, ResponseGroup, Unjudged

BIAS = "score.bias"


class RewardModel:
    """Scores each response alone.

    Example: `RewardModel(RewardModelJudge(path="Skywork/Skywork-Reward-V2-Qwen3-0.6B"))`
    """

    floor: float | None = None

    def __init__(self, config: RewardModelJudge, cache: Cache | None = None) -> None:
        """What the `cache` holds is not computed again.

        Raises: ValueError if there is no reward model or no tokenizer with a chat template.
        """
        self.name = f"reward_model:{config.path}"
        self._cache = cache
        self._tokens_per_batch = config.tokens_per_batch
        tokenizer = load_tokenizer(config.source)
        self._model: PreTrainedModel | None
        self._model, self._declared_pad = cached(("judge", config), lambda: _model_and_pad(config))
        limit = length_limit(config.source, config.max_length, self._model.config)
        self._conversations = Conversations(tokenizer, limit=limit)
        self._identity = scoring_identity(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._model = None
        loading.free_memory()

    def judge(self, groups: Sequence[ResponseGroup]) -> Iterator[Judgement | Unjudged]:
        """All conversations are scored in batches of similar length, equal ones once."""
        return judge_groups(
            groups,
            name=self.name,
            identity=self._identity,
            encode=self._conversations.encode,
            compute=self._score,
            evidence=lambda _: "",
            cache=self._cache,
        )

    def _score(self, groups: list[list[TokenIds]]) -> dict[TokenIds, Scored]:
        scored: dict[TokenIds, Scored] = {}
        conversations = list(chain.from_iterable(groups))
        for batch in batches(conversations, self._tokens_per_batch):
            scores = self._forward(batch)
            scored |= {
                ids: Scored(score=score, details={})
                for ids, score in zip(batch, scores, strict=True)
            }
        return scored

    @torch.inference_mode()
    def _forward(self, batch: Sequence[TokenIds]) -> list[float]:
        if self._model is None:
            raise ValueError("this judge was left and its model freed; open it again")
        pad = self._pad_token(batch)
        width = max(map(len, batch))
        ids_BT = torch.tensor([[*ids, *[pad] * (width - len(ids))] for ids in batch])
        lengths_B = torch.tensor([len(ids) for ids in batch])
        mask_BT = (torch.arange(width) < lengths_B[:, None]).long()
        device = self._model.device
        logits_B1 = self._model(
            input_ids=ids_BT.to(device), attention_mask=mask_BT.to(device)
        ).logits
        return logits_B1[:, 0].float().tolist()

    def _pad_token(self, batch: Sequence[TokenIds]) -> int:
        """The checkpoint's pad token, else one that this batch does not hold, told to the model."""
        if self._declared_pad is not None:
            return self._declared_pad
        assert self._model is not None
        used = set(chain.from_iterable(batch))
        text_config = self._model.config.get_text_config()
        pad = next(token for token in range(text_config.vocab_size) if token not in used)
        self._model.config.pad_token_id = text_config.pad_token_id = pad
        return pad


def batches(conversations: Sequence[TokenIds], budget: int) -> Iterator[list[TokenIds]]:
    """Conversations of similar length, at most `budget` tokens with padding, or a single one.

    The longest come first, so that running out of memory shows at once.
    """
    batch: list[TokenIds] = []
    for ids in sorted(conversations, key=len, reverse=True):
        if batch and len(batch[0]) * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(ids)
    if batch:
        yield batch


def _model_and_pad(config: RewardModelJudge) -> tuple[PreTrainedModel, int | None]:
    """The model, and the pad token that its checkpoint declares, before batches choose theirs."""
    model = load_network(config)
    return model, model.config.get_text_config().pad_token_id


def load_network(config: RewardModelJudge) -> PreTrainedModel:
    """The reward model in eval mode on its device.

    Raises: ValueError if there is none, or it is no sequence classifier with one logit.
    """
    loading.quiet_loading()
    try:
        model_config = loading.load_config(config.source)
        refuse_no_single_logit(model_config.architectures, model_config.num_labels)
        model, report = _from_pretrained(AutoModelForSequenceClassification, config, model_config)
        if set(report["unexpected_keys"]) == {BIAS}:
            model, report = _from_pretrained(_with_bias(type(model)), config, model_config)
    except (OSError, ValueError, KeyError, SafetensorError, StrictDataclassError) as error:
        raise ValueError(
            f"judge.path: no reward model could be loaded from {config.path}: {error}; give the "
            "folder or hub name of a sequence-classification model with one logit"
        ) from error
    _refuse_other_weights(config.path, model, report)
    model.config.get_text_config().use_cache = False
    device: Any = loading.pick_device(config.device)
    return widened(model.to(device), getattr(torch, config.dtype), device).eval()


def _from_pretrained(
    kind: Any, config: RewardModelJudge, model_config: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    # The fused kernels leave soft-capping out without a word, so Gemma 2 needs the plain one.
    capped = model_config.get_text_config().to_dict().get("attn_logit_softcapping")
    return loading.pretrained(
        kind,
        config.source,
        dtype=getattr(torch, config.dtype),
        attn_implementation=None if capped is None else "eager",
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )


def _with_bias(kind: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The same class with a bias in its head; transformers' own heads have none."""

    class WithBias(kind):
        def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            width = config.get_text_config().hidden_size
            self.score = torch.nn.Linear(width, config.num_labels, bias=True)

    return WithBias


def _refuse_other_weights(path: str, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """transformers fills what is missing with random numbers and drops what it does not know."""
    missing = sorted(set(report["missing_keys"]) & {name for name, _ in model.named_parameters()})
    if missing:
        raise ValueError(
            f"judge.path: {path} has no weights for {', '.join(missing[:5])}, so it was "
            "not trained as a reward model; give one that was"
        )
    reshaped = sorted(name for name, *_ in report["mismatched_keys"])
    if reshaped:
        raise ValueError(
            f"judge.path: {path} has weights of other shapes than its config.json says: "
            f"{', '.join(reshaped[:5])}; give a checkpoint whose config belongs to it"
        )
    unexpected = sorted(report["unexpected_keys"])
    if unexpected:
        raise ValueError(
            f"judge.path: {path} has weights that {type(model).__name__} does not use: "
            f"{', '.join(unexpected[:5])}; its scores would not be its makers', so give a "
            "sequence-classification model, or a judge of type custom for one with another head"
        )
