"""A judge that is a reward model: one logit of a sequence-classification model per response.

The paper's scoring judge, ArmoRM, has a head of its own; this is the common kind, any checkpoint
that `AutoModelForSequenceClassification` loads with one label and whose tokenizer has a chat
template. The conversation, the response as the assistant's turn, is rendered by that template and
tokenised without adding special tokens, so a BOS that the template writes stands there once.

A conversation's score is what the model gives to it alone, whatever else is in the batch.
transformers scores the last token that is not the pad token. A pad token that the checkpoint
declares is therefore kept, since its makers scored with it; where it declares none, each batch is
padded with a token that does not occur in it. A conversation beyond the model's limit is never
cut: its group is `Unjudged`. Logits have the steps of `dtype`: close scores tie in bfloat16.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from jinja2 import TemplateError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from forethought.config import RewardModelJudge
from forethought.models import context_length, pick_device, quiet_loading
from forethought.types import Judgement, ResponseGroup, Unjudged

TokenIds = tuple[int, ...]


class RewardModel:
    """Scores each response alone.

    Example: `RewardModel(RewardModelJudge(path="Skywork/Skywork-Reward-V2-Qwen3-0.6B"))`
    """

    floor: float | None = None

    def __init__(self, config: RewardModelJudge) -> None:
        self.name = f"reward_model:{config.path}"
        self._tokens_per_batch = config.tokens_per_batch
        self._tokenizer = _load_tokenizer(config)
        self._model: PreTrainedModel | None = _load_model(config)
        self._limit = _length_limit(config, self._model.config)
        self._declared_pad = self._model.config.get_text_config().pad_token_id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self._model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def judge(self, groups: Sequence[ResponseGroup]) -> Iterator[Judgement | Unjudged]:
        """All conversations are scored in batches of similar length, equal ones once."""
        encoded = [self._encode(group) for group in groups]
        accepted = chain.from_iterable(ids for ids in encoded if not isinstance(ids, Unjudged))
        scores = self._score(list(dict.fromkeys(accepted)))
        for group, ids in zip(groups, encoded, strict=True):
            if isinstance(ids, Unjudged):
                yield ids
            else:
                yield Judgement(
                    prompt_id=group.prompt.prompt_id,
                    judge=self.name,
                    scores=tuple(scores[conversation] for conversation in ids),
                    evidence="",
                )

    def _encode(self, group: ResponseGroup) -> list[TokenIds] | Unjudged:
        """Token ids of the conversation with each response, or why there can be no score."""
        try:
            encoded = [self._conversation(group, response) for response in group.responses]
        except TemplateError as error:
            return self._unjudged(group, f"the chat template refuses the conversation: {error}")
        lengths = [len(ids) for ids in encoded]
        if self._limit is not None and max(lengths, default=0) > self._limit:
            longest = lengths.index(max(lengths))
            return self._unjudged(
                group,
                f"response {longest} makes {lengths[longest]:,} tokens of conversation, "
                f"limit {self._limit:,} (lengths {lengths})",
            )
        return encoded

    def _conversation(self, group: ResponseGroup, response: str) -> TokenIds:
        turns = [{"role": m.role, "content": m.content} for m in group.prompt.messages]
        turns.append({"role": "assistant", "content": response})
        text = self._tokenizer.apply_chat_template(turns, tokenize=False)
        assert isinstance(text, str), type(text)
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _unjudged(self, group: ResponseGroup, reason: str) -> Unjudged:
        return Unjudged(prompt_id=group.prompt.prompt_id, judge=self.name, reason=reason)

    def _score(self, conversations: Sequence[TokenIds]) -> dict[TokenIds, float]:
        scores: dict[TokenIds, float] = {}
        for batch in batches(conversations, self._tokens_per_batch):
            scores |= zip(batch, self._forward(batch), strict=True)
        return scores

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


def _load_tokenizer(config: RewardModelJudge) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            _source(config.path), trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise _not_loaded(config, "tokenizer", error) from error
    if not tokenizer.chat_template:
        raise ValueError(
            f"judge.path: the tokenizer of {config.path} has no chat template, so conversations "
            "cannot be written as the model was trained on them; use a reward model that has one"
        )
    return tokenizer


def _load_model(config: RewardModelJudge) -> PreTrainedModel:
    source, trust = _source(config.path), config.trust_remote_code
    quiet_loading()
    try:
        labels = AutoConfig.from_pretrained(source, trust_remote_code=trust).num_labels
        if labels != 1:
            raise ValueError(
                f"it has {labels} labels where a reward model has one logit (num_labels 1); "
                "is it a plain language model or a classifier?"
            )
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            source,
            dtype=getattr(torch, config.dtype),
            trust_remote_code=trust,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise _not_loaded(config, "reward model", error) from error
    # transformers fills missing weights with random ones, which would score without meaning.
    missing = sorted(set(loading["missing_keys"]) & {name for name, _ in model.named_parameters()})
    if missing:
        raise ValueError(
            f"judge.path: {config.path} has no weights for {', '.join(missing[:5])}, so it was "
            "not trained as a reward model; give one that was"
        )
    model.config.get_text_config().use_cache = False
    return model.to(pick_device(config.device)).eval()


def _source(path: str) -> str:
    folder = Path(path).expanduser()
    return str(folder) if folder.exists() else path


def _not_loaded(config: RewardModelJudge, what: str, error: Exception) -> ValueError:
    return ValueError(
        f"judge.path: no {what} could be loaded from {config.path}: {error}; give the folder or "
        "hub name of a sequence-classification model with one logit"
    )


def _length_limit(config: RewardModelJudge, model_config: Any) -> int | None:
    limit = context_length(model_config)
    if config.max_length is None or limit is None:
        return config.max_length or limit
    if config.max_length > limit:
        raise ValueError(
            f"judge.max_length: {config.max_length} is beyond the {limit} positions of "
            f"{config.path}; lower it or leave it out"
        )
    return config.max_length
