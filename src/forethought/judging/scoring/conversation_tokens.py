"""Conversations as a reward model reads them: token ids of a prompt with each of its responses.

A prompt's messages and the response, as the assistant's turn, go through the checkpoint's own chat
template and are tokenised without adding special tokens. The paper does not say how; four things
here keep a score what the model's makers meant by it:

- a control token that a prompt or a response spells out is broken first, so no response can end
  its turn and write the next; think tags are broken too, because some templates drop what stands
  before them;
- the conversation begins with one BOS, also where a template or tokenizer writes several;
- a conversation beyond the model's limit is refused with the reason, never cut;
- what cannot be scored is `Refused` for its whole group: no number is made up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forethought.config import ModelSource
from forethought.models.loading import Named, context_length, pretrained, source_of
from forethought.models.rendering import as_turns, template_error
from forethought.models.template_limits import refuse_endless, within_time
from forethought.types import Message, ResponseGroup

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenIds = tuple[int, ...]

THINK_TAGS = ("<think>", "</think>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Why a group cannot be scored.

    Example: `Refused(reason="response 1 makes 8,411 tokens of conversation, limit 8,192")`
    """

    reason: str


class Conversations:
    """Renders and tokenises whole groups.

    Example: `Conversations(load_tokenizer("RLHFlow/ArmoRM-Llama3-8B-v0.1"), limit=4096)`
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, limit: int | None) -> None:
        """`limit` is the longest conversation in tokens, `None` where there is none."""
        self.tokenizer = tokenizer
        self._limit = limit

    def encode(self, group: ResponseGroup) -> list[TokenIds] | Refused:
        """The conversation with each response, one or more, or why the group cannot be scored."""
        try:
            texts = self._rendered(group)
        # A template is a program of its maker's; it may raise anything.
        except Exception as error:
            said = template_error(error)
            return Refused(reason=f"the chat template refuses the conversation: {said}")
        try:
            "".join(texts).encode()
        except UnicodeEncodeError as error:
            return Refused(reason=f"the conversation is no valid text: {error}")
        tokens: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        encoded = [self._with_one_bos(ids) for ids in tokens]
        lengths = [len(ids) for ids in encoded]
        if 0 in lengths:
            return Refused(reason="the chat template leaves nothing of the conversation")
        if self._limit is not None and max(lengths) > self._limit:
            longest = lengths.index(max(lengths))
            return Refused(
                reason=f"response {longest} makes {lengths[longest]:,} tokens of conversation, "
                f"limit {self._limit:,} (lengths {lengths})"
            )
        return encoded

    def _rendered(self, group: ResponseGroup) -> list[str]:
        responses = [Message(role="assistant", content=response) for response in group.responses]
        messages = group.prompt.messages
        turns = as_turns(self.tokenizer, [*messages, *responses], also=THINK_TAGS)
        prompt, last_turns = turns[: len(messages)], turns[len(messages) :]
        conversations = [[*prompt, last] for last in last_turns]
        with within_time():
            texts: Any = self.tokenizer.apply_chat_template(conversations, tokenize=False)
        return texts

    def _with_one_bos(self, ids: list[int]) -> TokenIds:
        bos = self.tokenizer.bos_token_id
        extra = 0
        while bos is not None and ids[extra : extra + 2] == [bos, bos]:
            extra += 1
        return tuple(ids[extra:])


def load_tokenizer(model: Named) -> PreTrainedTokenizerBase:
    """The tokenizer beside a reward model.

    Raises: ValueError if there is none or it has no chat template.
    """
    from transformers import AutoTokenizer

    path = source_of(model).path
    try:
        tokenizer = pretrained(AutoTokenizer, model)
    # A damaged tokenizer.json raises a bare Exception of the tokenizers library.
    except Exception as error:
        raise ValueError(
            f"judge.path: no tokenizer could be loaded from {path}: {error}; give the folder or "
            "hub name of a reward model with its tokenizer"
        ) from error
    if not tokenizer.chat_template:
        raise ValueError(
            f"judge.path: the tokenizer of {path} has no chat template, so conversations cannot "
            "be written as the model was trained on them; use a reward model that has one"
        )
    refuse_endless(tokenizer, f"judge.path: {path}")
    return tokenizer


def length_limit(model: ModelSource, max_length: int | None, model_config: Any) -> int | None:
    """Longest conversation in tokens, `None` where neither the user nor the model sets one.

    Raises: ValueError if the user's is beyond the model's.
    """
    limit = context_length(model_config, long_context=model.long_context)
    if max_length is None or limit is None:
        return max_length or limit
    if max_length > limit:
        raise ValueError(
            f"judge.max_length: {max_length} is beyond the {limit} positions of {model.path}; "
            "lower it or leave it out"
        )
    return max_length
