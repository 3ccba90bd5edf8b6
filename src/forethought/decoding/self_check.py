"""Whether the fast decoder computes what a model does: a few tokens, decoded both ways.

The declarations of architectures do not tell everything (attention sinks, keys shared between
layers, arguments that are not handed on), so a few tokens are decoded: by the model itself, to see
that it runs, and by an excerpt of it in float32, to compare with its own forward pass.

Shapes: T tokens of a sequence, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from forethought.decoding.excerpt import excerpt, ordinary_tokens
from forethought.decoding.shared_prefix import SharedPrefixDecoder, attached

TRIAL = (
    (1, 5, 2, 4, 3, 2, 5),
    (1, 5, 2, 4, 3, 3, 1),
    (9, 6, 8, 8, 7, 0, 6, 4, 4),
    (9, 6, 8, 8, 7, 0, 6, 1, 2),
)
"""Which tokens a model is tried with: two samples of each of two prompts."""
TOLERANCE = 1e-3
"""Greatest distance of logits in float32, relative to their spread."""


def unsupported(model: PreTrainedModel) -> str | None:
    """Say why `SharedPrefixDecoder` cannot decode a model; `None` if it can.

    Call it without gradients and with the model in eval mode.
    """
    if not model._supports_attention_backend:
        return "it does not take its attention from transformers' interface"
    layers = DynamicCache(config=model.config).layers
    text_config = model.config.get_text_config()
    if len(layers) != text_config.num_hidden_layers or any(
        type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers
    ):
        return "not all its layers keep keys and values of their own"
    if getattr(text_config, "attention_chunk_size", None) is not None:
        return "it attends in chunks"
    try:
        _decode_some(model, ordinary_tokens(model))
        difference = _difference(excerpt(model))
    except (TypeError, ValueError, AttributeError, RuntimeError, LookupError) as error:
        return f"a trial failed: {error}"
    if not difference < TOLERANCE:
        return f"its logits would differ by {difference:.1%} from its own forward pass"
    return None


def _decode_some(model: PreTrainedModel, tokens: Sequence[int]) -> tuple[list[list[int]], Tensor]:
    """Sequences of these tokens and the logits at their last three, [4, 3, V].

    Two prompts of two samples, then two more tokens of each.
    """
    trial = [[tokens[place % len(tokens)] for place in places] for places in TRIAL]
    prompts = [tuple(trial[0][:-2]), tuple(trial[2][:-2])]
    continuations = torch.tensor([ids[-2:] for ids in trial], device=model.device)
    with attached(model):
        decoder = SharedPrefixDecoder(model)
        logits = [decoder.admit(prompts, (2, 2)).repeat_interleave(2, 0)]
        logits += [decoder.step(tokens_R) for tokens_R in continuations.unbind(1)]
    return trial, torch.stack(logits, 1)


def _difference(model: PreTrainedModel) -> float:
    """Largest relative distance between these logits and those of the model's own attention."""
    size = model.get_input_embeddings().weight.shape[0]  # pyright: ignore
    trial, ours = _decode_some(model, range(size))
    differences = []
    for ids, ours_3V in zip(trial, ours, strict=True):
        # transformers' sdpa leaves out what eager computes, such as Gemma 2's soft cap.
        with attached(model, "eager"):
            ids_1T = torch.tensor([ids], device=model.device)
            theirs_3V = model(input_ids=ids_1T, use_cache=False).logits[0, -3:]
        spread = theirs_3V - theirs_3V.mean(-1, keepdim=True)
        differences.append(((ours_3V - theirs_3V).norm(dim=-1) / spread.norm(dim=-1)).max())
    return float(torch.stack(differences).max())
