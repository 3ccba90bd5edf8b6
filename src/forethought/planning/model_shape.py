"""A model's size from its `config.json`: parameters and what a token costs.

Decoders with grouped heads and a gated MLP (Llama, Mistral, Qwen, Gemma and their kin). Mixtures of
experts are refused: what a token of theirs costs depends on routing that a config does not tell.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forethought.models.hub import config_file
from forethought.models.loading import Named, resolve, source_of

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
NEEDED = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a decoder.

    Example: Llama 3 8B is `ModelShape(name="llama", hidden=4096, layers=32, heads=32, key_heads=8,
    head_size=128, inner=14336, vocabulary=128256, tied=False, context=8192)`, 8.03e9 parameters.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    inner: int
    """Width of the MLP."""
    vocabulary: int
    tied: bool
    """The head is the embedding."""
    context: int | None
    """Longest sequence, if the config says."""

    @property
    def layer_matrices(self) -> int:
        """Weights of a layer's matrices: each does two operations for each token."""
        width, keys = self.heads * self.head_size, self.key_heads * self.head_size
        return self.hidden * (2 * width + 2 * keys) + 3 * self.hidden * self.inner

    @property
    def head_matrix(self) -> int:
        """Weights of the head, and of the embedding."""
        return self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        """All weights."""
        embeddings = self.head_matrix * (1 if self.tied else 2)
        norms = self.hidden * (2 * self.layers + 1)
        return self.layers * self.layer_matrices + embeddings + norms

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values that a token leaves behind, in bfloat16."""
        return 2 * 2 * self.layers * self.key_heads * self.head_size

    def adapter_parameters(self, rank: int) -> int:
        """Weights of rank-`rank` adapters on every linear layer of the blocks."""
        width, keys = self.heads * self.head_size, self.key_heads * self.head_size
        sides = 2 * (self.hidden + width) + 2 * (self.hidden + keys)
        sides += 3 * (self.hidden + self.inner)
        return self.layers * rank * sides


def _llama(name: str, hidden: int, layers: int, heads: int, inner: int) -> ModelShape:
    return ModelShape(
        name=name,
        hidden=hidden,
        layers=layers,
        heads=heads,
        key_heads=8,
        head_size=128,
        inner=inner,
        vocabulary=128256,
        tied=False,
        context=8192,
    )


def _qwen3(name: str, hidden: int, layers: int, heads: int, inner: int, tied: bool) -> ModelShape:
    return ModelShape(
        name=name,
        hidden=hidden,
        layers=layers,
        heads=heads,
        key_heads=8,
        head_size=128,
        inner=inner,
        vocabulary=151936,
        tied=tied,
        context=40960,
    )


KNOWN = {
    shape.name: shape
    for shape in (
        _llama("meta-llama/Meta-Llama-3-8B-Instruct", 4096, 32, 32, 14336),
        _llama("meta-llama/Meta-Llama-3-70B-Instruct", 8192, 80, 64, 28672),
        _llama("RLHFlow/ArmoRM-Llama3-8B-v0.1", 4096, 32, 32, 14336),
        _llama("Skywork/Skywork-Reward-V2-Llama-3.1-8B", 4096, 32, 32, 14336),
        ModelShape(
            name="HuggingFaceTB/SmolLM2-135M-Instruct",
            hidden=576,
            layers=30,
            heads=9,
            key_heads=3,
            head_size=64,
            inner=1536,
            vocabulary=49152,
            tied=True,
            context=8192,
        ),
        _qwen3("Qwen/Qwen3-0.6B", 1024, 28, 16, 3072, True),
        _qwen3("Qwen/Qwen3-1.7B", 2048, 28, 16, 6144, True),
        _qwen3("Qwen/Qwen3-4B", 2560, 36, 32, 9728, True),
        _qwen3("Qwen/Qwen3-8B", 4096, 36, 32, 12288, False),
        _qwen3("Skywork/Skywork-Reward-V2-Qwen3-0.6B", 1024, 28, 16, 3072, True),
        _qwen3("Skywork/Skywork-Reward-V2-Qwen3-8B", 4096, 36, 32, 12288, False),
    )
}
"""Published sizes of models that the recipes and documents name, so that they can be planned
without a network."""


def model_shape(model: Named) -> ModelShape:
    """The shape of a folder, of a known model, or of a hub model's `config.json`.

    Raises: ValueError if there is no config, or it is not of a dense decoder.
    """
    source = source_of(model)
    name = source.path
    folder = Path(resolve(source))
    if not folder.is_dir() and name in KNOWN:
        return KNOWN[name]
    try:
        path = config_file(source)
    except ValueError as error:
        raise ValueError(
            f"{error}, so the size of {name} is not known; give a folder with its config.json, or "
            f"plan with one that is known: {', '.join(KNOWN)}"
        ) from None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"model: {path} is not JSON: {error}") from None
    # A model that also sees or hears has its decoder's fields in a part of their own.
    return shape_of(name, fields.get("text_config") or fields)


def shape_of(name: str, fields: dict[str, Any]) -> ModelShape:
    """The shape that a config's fields describe.

    Raises: ValueError if it is not a dense decoder's config.
    """
    if any(fields.get(expert) for expert in EXPERTS):
        raise ValueError(
            f"model: {name} is a mixture of experts, whose cost a config does not tell; plan with "
            "a dense model of the same number of active parameters"
        )
    missing = [field for field in NEEDED if not isinstance(fields.get(field), int)]
    if missing:
        raise ValueError(
            f"model: the config of {name} has no {', '.join(missing)}, which a plan needs; plan "
            "with another model of about its size"
        )
    heads = fields["num_attention_heads"]
    return ModelShape(
        name=name,
        hidden=fields["hidden_size"],
        layers=fields["num_hidden_layers"],
        heads=heads,
        key_heads=fields.get("num_key_value_heads") or heads,
        head_size=fields.get("head_dim") or fields["hidden_size"] // heads,
        inner=fields["intermediate_size"],
        vocabulary=fields["vocab_size"],
        tied=bool(fields.get("tie_word_embeddings", False)),
        context=fields.get("max_position_embeddings"),
    )
