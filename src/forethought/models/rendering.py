"""Conversations as a model's tokens, and tokens as text: chat templates, their variables, markers.

The one way from messages to a prompt and back, for sampling, serving and export alike. Contents
cannot spell a control token (control_tokens.py); what a format's markers are made of stays in the
text of an output, whichever tokens those are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from forethought.config import ModelConfig
from forethought.models.control_tokens import broken, control_tokens
from forethought.models.loading import resolve, single_id
from forethought.models.marker_tokens import marker_tokens, special_ids, whole_marker_tokens
from forethought.models.template_limits import RENDER_SECONDS, TemplateTimeError, within_time
from forethought.thoughts import ThoughtFormat
from forethought.thoughts.by_token import set_apart
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
    try:
        variables = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"model: {file} is not JSON ({error}); mend it or move it away") from error
    if not isinstance(variables, dict):
        raise ValueError(f"model: {file} must be an object of variables, found {variables!r:.60}")
    return variables


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
        with within_time():
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
    if isinstance(error, TemplateTimeError):
        return f"it did not end within {RENDER_SECONDS:g} s"
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
    of common chat models always count. Where each of `markers` is a token, what else spells one is
    set apart (marker_tokens.py).
    """
    whole = whole_marker_tokens(tokenizer, markers)
    if not whole:
        return decode_between(tokenizer, list(token_ids), markers)
    names = {id_: marker for marker, id_ in whole.items()}
    text, between = "", list[int]()
    for id_ in token_ids:
        if id_ not in names:
            between.append(id_)
            continue
        text += set_apart(decode_between(tokenizer, between, markers), markers) + names[id_]
        between = []
    return text + set_apart(decode_between(tokenizer, between, markers), markers)


def decode_between(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], markers: Sequence[str]
) -> str:
    """The text of tokens none of which is a whole marker; markers made of several stay."""
    kept = marker_tokens(tokenizer, markers).values()
    shown = bool(kept) and not set(kept).isdisjoint(ids)
    if shown:
        special = special_ids(tokenizer)
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


def written_output(
    tokenizer: PreTrainedTokenizerBase,
    thought_format: ThoughtFormat,
    thought: str | None,
    response: str,
    *,
    prompt_ids: Sequence[int],
    end: int,
) -> tuple[int, ...]:
    """The tokens of an output that nobody sampled, `end` being the token that ends it.

    A prompt that ends with the thought marker has opened the thought already.
    """
    asked = tokenizer.decode(list(prompt_ids[-32:]), skip_special_tokens=False)
    assert isinstance(asked, str)
    opening = thought_format.thought_starts_after
    opened = bool(opening) and asked.rstrip().endswith(opening)
    text = thought_format.write(thought, response, opened=opened)
    return (*encode_output(tokenizer, text, thought_format.markers), end)


def turn_end(
    tokenizer: PreTrainedTokenizerBase,
    ends: Collection[int],
    template: Mapping[str, Any] | None = None,
) -> int:
    """Of the tokens that end an output, the one that the chat template puts behind an answer."""
    turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello."}]
    ids: Any = tokenizer.apply_chat_template(
        turns, add_generation_prompt=False, tokenize=True, return_dict=True, **(template or {})
    )
    behind = (int(id_) for id_ in reversed(ids["input_ids"]) if id_ in ends)
    return next(behind, single_id(tokenizer.eos_token_id))
