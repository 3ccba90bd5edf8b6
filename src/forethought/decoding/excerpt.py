"""A few layers of a model in float32: small enough to have beside it, exact enough to compare.

In bfloat16 two right ways to compute a model's logits differ by several per cent, and by half on
tokens that no conversation consists of, so a fault of that size would not be seen. In float32 they
differ by 1e-5. An excerpt is the model's own modules with their weights, as far as it goes:

- the first layers, until every kind of layer is among them, two at least;
- of embeddings and head the rows of a few ordinary tokens, which are numbered from 0;
- sliding windows so short that a few tokens outgrow them.

Of Llama-3-8B that is 1.7 GB, of SmolLM2-135M 28 MB; weights in float32 are shared, not copied.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

TOKENS = 32
LAYERS = 2
WINDOW = 4
"""Longest sliding window."""
ROOM = 2
"""A GPU has so many times the room that the excerpt takes; else it is made on the CPU."""


def ordinary_tokens(model: PreTrainedModel) -> list[int]:
    """Choose `TOKENS` ids from all over the middle of the vocabulary, no declared special ones.

    Control tokens stand at the ends of vocabularies, and so do rows that were never trained. A
    vocabulary so small that none is left gives what it has.
    """
    size = len(_weight(model.get_input_embeddings()))
    special: set[Any] = set()
    for config in (model.config.get_text_config(), model.generation_config):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            declared = getattr(config, name, None)
            special.update(declared if isinstance(declared, list) else [declared])
    middle = [token for token in range(size // 4, size * 3 // 4) if token not in special]
    middle = middle or [token for token in range(size) if token not in special]
    middle = middle or list(range(size))
    return middle[:: max(len(middle) // TOKENS, 1)][:TOKENS]


@torch.no_grad()
def excerpt(model: PreTrainedModel) -> PreTrainedModel:
    """Make a small model of a model's own first layers, with the tokens of `ordinary_tokens` only.

    Tokens are numbered in their order. The excerpt stands on the model's device, or on the CPU
    where a GPU has no room for it.

    Raises: ValueError if the weights are quantized.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        raise ValueError("its weights are quantized, so there is nothing exact to compare with")
    layers = _layers(model)
    first = layers[: _needed(model, layers)]
    tensors = _tensors(model, layers, first)
    device = _device(model, tensors.values())
    memo: dict[int, Any] = {}
    for key, tensor in tensors.items():
        number_type = torch.float32 if tensor.is_floating_point() else tensor.dtype
        moved = tensor.detach().to(device, number_type)
        memo[key] = nn.Parameter(moved, False) if isinstance(tensor, nn.Parameter) else moved
    # Filled below: a layer that knows its model must not bring the other layers along.
    memo[id(layers)] = shorter = nn.ModuleList()
    shorter.extend(copy.deepcopy(layer, memo) for layer in first)
    made = copy.deepcopy(model, memo)
    embedding: Any = made.get_input_embeddings()
    embedding.padding_idx = None
    config = made.config.get_text_config()
    config.num_hidden_layers = len(first)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: len(first)]
    if (getattr(config, "sliding_window", None) or 0) > WINDOW:
        config.sliding_window = WINDOW
    return made.eval()


def _layers(model: PreTrainedModel) -> nn.ModuleList:
    """The text model's own list of layers.

    Raises: LookupError if there is none.
    """
    count = model.config.get_text_config().num_hidden_layers
    found = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not found:
        raise LookupError(f"it has no list of {count} layers")
    # Experts and a tower for images may be as many.
    return max(
        found, key=lambda module: sum(parameter.numel() for parameter in module.parameters())
    )


def _needed(model: PreTrainedModel, layers: nn.ModuleList) -> int:
    """So many layers have one of every kind among them."""
    types = getattr(model.config.get_text_config(), "layer_types", None) or [None] * len(layers)
    kinds = [
        (kind, frozenset(type(module) for module in layer.modules()))
        for kind, layer in zip(types, layers, strict=True)
    ]
    return max(LAYERS, *(kinds.index(kind) + 1 for kind in kinds))


def _tensors(
    model: PreTrainedModel, layers: nn.ModuleList, first: nn.ModuleList
) -> dict[int, Tensor]:
    """What the excerpt computes with, by the id of what it is copied from.

    Other layers and towers for images are left out: they keep their weights and are not run.
    """
    decoder = model.get_decoder()
    decoder = decoder if any(module is layers for module in decoder.modules()) else model
    unused = {id(tensor) for layer in layers for tensor in _own(layer)}
    used = [*_own(decoder), *chain.from_iterable(map(_own, first))]
    head = model.get_output_embeddings()
    used += _own(head) if head is not None else []
    of_first = {id(tensor) for layer in first for tensor in _own(layer)}
    found = {
        id(tensor): tensor for tensor in used if id(tensor) not in unused or id(tensor) in of_first
    }
    size = len(_weight(model.get_input_embeddings()))
    rows = torch.tensor(ordinary_tokens(model), device=model.device)
    for module in (model.get_input_embeddings(), head):
        for weight in module.parameters() if module is not None else ():
            if weight.ndim and len(weight) == size:
                found[id(weight)] = nn.Parameter(weight.detach()[rows])
    return found


def _own(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def _device(model: PreTrainedModel, tensors: Iterable[Tensor]) -> torch.device:
    if model.device.type != "cuda":
        return model.device
    wanted = 4 * sum(tensor.numel() for tensor in tensors)
    free, _ = torch.cuda.mem_get_info(model.device)
    return model.device if ROOM * wanted <= free else torch.device("cpu")
