"""Conversations as a model's tokens, and tokens as text: chat templates, their variables, markers.

The one way from messages to a prompt and back, for sampling, serving and export alike. Contents
cannot spell a control token (control_tokens.py); what a format's markers are made of stays in the
text of an output, whichever tokens those are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from jinja2 import TemplateError

from forethought.config import ModelConfig
from forethought.models.control_tokens import broken, control_tokens
from forethought.models.loading import resolve
from forethought.thoughts import COMMON_TAGS
from forethought.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_FILE = "chat_template_variables.json"
"""Name of the file of template variables beside the weights of a checkpoint we write."""


def template_variables(model: ModelConfig) -> dict[str, Any]:
    """What the model's chat template is given: as the recipe says, or as it was trained."""
    file = Path(resolve(model.source)) / TEMPLATE_FILE
    if model.template or not file.is_file():
        return dict(model.template)
    return json.loads(file.read_text(encoding="utf-8"))


def save_template_variables(template: Mapping[str, Any], folder: Path) -> None:
    """Write the variables beside a checkpoint's weights, so that others render alike."""
    if template:
        text = json.dumps(dict(template), indent=2) + "\n"
        (folder / TEMPLATE_FILE).write_text(text, encoding="utf-8")


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    template: Mapping[str, Any] | None = None,
) -> tuple[int, ...]:
    """Token ids of a conversation, ready for the assistant's turn.

    `template` are variables of the chat template, see `template_variables`.

    Raises: ValueError if the chat template refuses the conversation.
    """
    return tuple(_templated(tokenizer, messages, template, tokenize=True)["input_ids"])


def render_text(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    template: Mapping[str, Any] | None = None,
) -> str:
    """The text whose tokens `render` gives, without the work of making them.

    Raises: ValueError if the chat template refuses the conversation.
    """
    return _templated(tokenizer, messages, template, tokenize=False)


def _templated(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    template: Mapping[str, Any] | None,
    *,
    tokenize: bool,
) -> Any:
    turns = as_turns(tokenizer, messages)
    try:
        return tokenizer.apply_chat_template(
            turns,
            add_generation_prompt=True,
            tokenize=tokenize,
            return_dict=tokenize,
            **(template or {}),
        )
    # A template is a program of its maker's; it may raise anything.
    except Exception as error:
        roles = [message.role for message in messages]
        raise ValueError(
            f"prompts: the model's chat template refuses a conversation of roles {roles}: "
            f"{template_error(error)}; the conversation begins "
            f"{messages[0].content!r:.120}; drop or rewrite such prompts, or use another template"
        ) from error


def template_error(error: Exception) -> str:
    """What a chat template raised, in words: its own are clear, others need their kind."""
    return str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"


def as_turns(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], also: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Messages for a chat template, the tokenizer's control tokens in their contents broken.

    `also` names more strings to break.
    """
    tokens = (*control_tokens(tokenizer), *also)
    return [
        {"role": message.role, "content": broken(message.content, tokens)} for message in messages
    ]


def decode(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], markers: Sequence[str] = ()
) -> str:
    """The text of an output, special tokens left out, nothing tidied.

    Special tokens that a marker is made of stay: `markers` are those of the output's format; those
    of common chat models always count.
    """
    ids = list(token_ids)
    kept = marker_tokens(tokenizer, markers).values()
    shown = bool(kept) and not set(kept).isdisjoint(ids)
    if shown:
        special = _special_ids(tokenizer)
        ids = [id_ for id_ in ids if id_ in kept or id_ not in special]
    text = tokenizer.decode(ids, skip_special_tokens=not shown, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def encode_output(
    tokenizer: PreTrainedTokenizerBase, text: str, markers: Sequence[str] = ()
) -> list[int]:
    """The tokens of an output that is to be gone on from: markers are the tokens that they are.

    Any other control token that is spelled out is text, as it was when drawn.
    """
    kept = marker_tokens(tokenizer, markers)
    parts = re.split(f"({'|'.join(map(re.escape, kept))})", text) if kept else [text]
    ids: list[int] = []
    for part in filter(None, parts):
        if part in kept:
            ids.append(kept[part])
            continue
        encoded: Any = tokenizer(part, add_special_tokens=False, split_special_tokens=True)
        ids += encoded["input_ids"]
    return ids


def marker_tokens(tokenizer: PreTrainedTokenizerBase, markers: Sequence[str]) -> dict[str, int]:
    """The special tokens that these markers, or those of common chat models, are made of."""
    known = _MARKER_TOKENS.setdefault(tokenizer, {})
    wanted = tuple(markers)
    if wanted not in known:
        all_markers = (*wanted, *chain.from_iterable(COMMON_TAGS))
        ends = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
        tokens = tokenizer.added_tokens_decoder
        known[wanted] = {
            tokens[id_].content: id_
            for id_ in sorted(_special_ids(tokenizer) & tokens.keys())
            if id_ not in ends
            and any(tokens[id_].content.strip() in marker for marker in all_markers)
        }
    return known[wanted]


_MARKER_TOKENS: WeakKeyDictionary[Any, dict[tuple[str, ...], dict[str, int]]] = WeakKeyDictionary()


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    added = tokenizer.added_tokens_decoder.items()
    return {id_ for id_, token in added if token.special} | set(tokenizer.all_special_ids)
