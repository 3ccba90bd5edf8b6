"""Text that others wrote, made harmless: it cannot end a turn, open a frame or give a verdict.

A chat template joins contents and control tokens into one text, and a tokenizer reads a control
token wherever it is spelled out, also in a prompt or a response. So before a content goes into a
template, every control token in it is broken by a word joiner (U+2060) after its first character:
a reader sees the same text, the tokenizer sees no control token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

from forethought.thoughts import COMMON_TAGS
from forethought.thoughts.by_token import WORD_JOINER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WELL_KNOWN = re.compile(
    r"""
      <[|｜][^<>|｜\n]{1,64}[|｜]>                      # <|eot_id|>, <|im_end|>, <｜User｜>
    | </?(?:s|bos|eos|pad|think|thinking|start_of_turn|end_of_turn|start_of_image)>
    | </?(?:tool_call|tool_response|tools|unk|mask|cls|sep)>
    | \[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|gMASK|THINK)\]
    | \[(?:BOS|EOS|PAD|UNK|CLS|SEP|MASK)\]
    | \[\|[^\[\]|\n]{1,64}\|\]                          # [|endofturn|], [|assistant|]
    | <</?SYS>>
    """,
    re.VERBOSE,
)
"""Control tokens of common chat models, for servers whose tokenizer is not at hand."""


def broken(text: str, tokens: Iterable[str]) -> str:
    """The text with every one of these strings broken."""
    pattern = _pattern(tuple(tokens))
    return text if pattern is None else _broken(text, pattern)


def without_well_known(text: str, tokens: Iterable[str] = ()) -> str:
    """The text with the control tokens of common chat models broken, and these strings too."""
    return broken(_broken(text, WELL_KNOWN), tokens)


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Every string that this tokenizer reads as a control token, tags of thoughts among them."""
    added = tokenizer.added_tokens_decoder.values()
    # Qwen3's `<think>` is a token and not called special.
    tags = set(chain.from_iterable(COMMON_TAGS))
    special = [token.content for token in added if token.special or token.content in tags]
    return tuple(dict.fromkeys([*special, *tokenizer.all_special_tokens]))


def _broken(text: str, pattern: re.Pattern[str]) -> str:
    # Again until none is left: tokens may overlap.
    while pattern.search(text):
        text = pattern.sub(_break, text)
    return text


def _break(found: re.Match[str]) -> str:
    token = found.group()
    return token[0] + WORD_JOINER + token[1:]


@lru_cache(maxsize=64)
def _pattern(tokens: tuple[str, ...]) -> re.Pattern[str] | None:
    longest_first = sorted((token for token in tokens if len(token) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
