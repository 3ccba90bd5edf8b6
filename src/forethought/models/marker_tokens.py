"""Markers that are tokens of their own: which they are, what else spells them, how to add them.

Where every marker of a format is one token of the tokenizer, an output is split by token. Its text
then holds a marker only where that token stood; any other spelling of it (`<`, `/`, `think`, `>`)
is set apart (thoughts/by_token.py). So the splitter, which reads text, splits by token too, whole
and as a stream.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from forethought.thoughts import COMMON_TAGS, ThoughtFormat

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def marker_tokens(tokenizer: PreTrainedTokenizerBase, markers: Sequence[str]) -> dict[str, int]:
    """The special tokens that these markers, or those of common chat models, are made of."""
    known = _MADE_OF.setdefault(tokenizer, {})
    wanted = tuple(markers)
    if wanted not in known:
        all_markers = (*wanted, *chain.from_iterable(COMMON_TAGS))
        ends = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
        tokens = tokenizer.added_tokens_decoder
        known[wanted] = {
            tokens[id_].content: id_
            for id_ in sorted(special_ids(tokenizer) & tokens.keys())
            if id_ not in ends
            and any(tokens[id_].content.strip() in marker for marker in all_markers)
        }
    return known[wanted]


def whole_marker_tokens(
    tokenizer: PreTrainedTokenizerBase, markers: Sequence[str]
) -> dict[str, int]:
    """The token that each of these markers is; empty unless every one of them is one."""
    known = _WHOLE.setdefault(tokenizer, {})
    wanted = tuple(markers)
    if wanted not in known:
        added = {token.content: id_ for id_, token in tokenizer.added_tokens_decoder.items()}
        ids = {marker: added[marker] for marker in wanted if marker in added and len(marker) > 1}
        known[wanted] = ids if len(ids) == len(set(wanted)) else {}
    return known[wanted]


_MADE_OF: WeakKeyDictionary[Any, dict[tuple[str, ...], dict[str, int]]] = WeakKeyDictionary()
_WHOLE: WeakKeyDictionary[Any, dict[tuple[str, ...], dict[str, int]]] = WeakKeyDictionary()


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """All that this tokenizer calls special."""
    added = tokenizer.added_tokens_decoder.items()
    return {id_ for id_, token in added if token.special} | set(tokenizer.all_special_ids)


def split_by_token(
    thought_format: ThoughtFormat, tokenizer: PreTrainedTokenizerBase
) -> ThoughtFormat:
    """The format as outputs of this tokenizer are split: by token, where its markers are tokens.

    Raises: ValueError if the format cannot do without tokens that this tokenizer lacks.
    """
    if not thought_format.thinks:
        return thought_format
    if whole_marker_tokens(tokenizer, thought_format.markers):
        return thought_format.model_copy(update={"markers_are_tokens": True})
    if thought_format.markers_are_tokens:
        raise ValueError(
            f"thought_format: the markers of {thought_format.name!r} are control tokens, and the "
            f"model's tokenizer lacks {', '.join(lacking(thought_format, tokenizer))}; give the "
            "recipe a warm_start, which adds them and teaches them, or take a format whose markers "
            "are words (generic, specific)"
        )
    return thought_format


def lacking(thought_format: ThoughtFormat, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The markers that are no tokens of this tokenizer."""
    there = {token.content for token in tokenizer.added_tokens_decoder.values()}
    return [marker for marker in thought_format.markers if marker not in there]


def add_marker_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, thought_format: ThoughtFormat
) -> list[int]:
    """Give model and tokenizer the format's markers as control tokens; returns the new ids.

    A new row of the embedding, and of the output layer, starts as the mean of the rows of the
    words that its marker stands for (`<|thought|>`: `Here is my thought:`), shape (hidden,), in the
    weights' own number type. A mean of one word would be that word, and be written in its place.
    A tokenizer that has the tokens is left as it is.
    """
    import torch

    added = lacking(thought_format, tokenizer)
    if not added:
        return []
    words = {marker: _word_ids(tokenizer, marker) for marker in added}
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(added)}, replace_extra_special_tokens=False
    )
    encoder: Any = tokenizer.added_tokens_encoder
    ids: list[int] = [encoder[marker] for marker in added]
    if max(ids) >= len(_weight(model.get_input_embeddings())):
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = [_weight(layer) for layer in layers if layer is not None]
    with torch.no_grad():
        # Tied ones are one tensor, and get the same rows twice.
        for weight in weights:
            for marker, new in zip(added, ids, strict=True):
                weight[new] = weight[words[marker]].float().mean(dim=0).to(weight.dtype)
    return ids


def _weight(layer: torch.nn.Module) -> torch.Tensor:
    import torch

    assert isinstance(layer.weight, torch.Tensor)
    return layer.weight


def _word_ids(tokenizer: PreTrainedTokenizerBase, marker: str) -> list[int]:
    """The tokens of the words that a marker stands for."""
    words = " ".join(re.findall(r"[^\W_]+", marker)) or marker
    encoded: Any = tokenizer(f"Here is my {words}:", add_special_tokens=False)
    return encoded["input_ids"]
