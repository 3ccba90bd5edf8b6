"""ArmoRM's network: 19 rewards of a response, mixed by a gate that reads the prompt.

Wang et al. 2024 (arXiv 2406.12845). A Llama reads the conversation. Its hidden state at the last
token gives the rewards, the one where the response's turn begins gives the gate:

    rewards = W h_last
    gate    = softmax(mlp(h_prompt) / temperature) * logit_scale
    score   = sum_j gate_j (T^T rewards)_j

T is the stored transform that takes the verbosity out of the other objectives. Seen from the
rewards, `score = sum_j rewards_j weight_j` with `weights = T gate`.

The published checkpoint brings modelling code of its own; none of it is run. This is the same head
on transformers' `LlamaModel`, with the checkpoint's tensor names, and departs in two ways: the
responses of a prompt are read after one reading of it (shared_prompts.py, llama.py), and the head
is float32 whatever the backbone is, so close scores do not tie in bfloat16.

Shapes: C conversations, J objectives, E hidden size, W tokens whose hidden state is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from forethought.config import ModelSource
from forethought.judging.armorm.llama import encode
from forethought.judging.armorm.shared_prompts import PackedConversations, Span
from forethought.judging.scoring.kinds import refuse_no_armorm
from forethought.models.loading import Named, pretrained, resolve, source_of
from forethought.models.number_types import product_type
from forethought.models.positions import fix_positions

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
BACKBONE = "model."
"""How names of the backbone's tensors begin; all others are the head's."""
SHOWN = 8
"""Tensor names in an error, of each kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratings:
    """What the network says of conversations, in float32."""

    score_C: Tensor
    rewards_CJ: Tensor
    gate_CJ: Tensor
    weights_CJ: Tensor
    """Weights of the rewards in the score: the gate, through the transform."""


class Gating(nn.Module):
    """The MLP that weighs the objectives by the prompt."""

    def __init__(
        self, hidden: int, objectives: int, *, inner: int, depth: int, temperature: float
    ) -> None:
        super().__init__()
        sizes = [hidden, *[inner] * depth, objectives]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.logit_scale = nn.Parameter(torch.ones(1))
        self.temperature = temperature

    def forward(self, prompt_CE: Tensor) -> Tensor:
        """Weights `[C, J]` from hidden states `[C, E]`; each row sums to `logit_scale`."""
        logits = prompt_CE
        for layer in self.layers[:-1]:
            logits = torch.relu(layer(logits))
        logits_CJ = self.layers[-1](logits)
        return torch.softmax(logits_CJ / self.temperature, dim=-1) * self.logit_scale


class ArmoRMModel(nn.Module):
    """Backbone and head, its tensors named as in the published checkpoint."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        # Fields of the original's own, with the values that its code takes where one is absent.
        fields = config.to_dict()
        objectives = fields.get("num_objectives", 19)
        self.model = LlamaModel(config)
        self.regression_layer = nn.Linear(config.hidden_size, objectives, bias=False)
        self.reward_transform_matrix = nn.Parameter(torch.eye(objectives))
        self.gating = Gating(
            config.hidden_size,
            objectives,
            inner=fields.get("gating_hidden_dim", 1024),
            depth=fields.get("gating_n_hidden", 3),
            temperature=fields.get("gating_temperature", 10),
        )

    @torch.inference_mode()
    def forward(self, packed: PackedConversations, gates: Sequence[int]) -> Ratings:
        """Rate packed conversations; `gates` are the positions that the gate reads in each."""
        rows: dict[Span, int] = {}

        def row(conversation: int, position: int) -> int:
            """Where a token's hidden state stands; responses of a prompt share the gate's."""
            return rows.setdefault(packed.at(conversation, position), len(rows))

        ends_C = [row(index, length - 1) for index, length in enumerate(packed.lengths)]
        prompts_C = [row(index, position) for index, position in enumerate(gates)]
        hidden_WE = encode(self.model, packed, list(rows)).float()
        rewards_CJ = self.regression_layer(hidden_WE[ends_C])
        gate_CJ = self.gating(hidden_WE[prompts_C])
        weights_CJ = gate_CJ @ self.reward_transform_matrix.T
        return Ratings(
            score_C=(rewards_CJ * weights_CJ).sum(-1),
            rewards_CJ=rewards_CJ,
            gate_CJ=gate_CJ,
            weights_CJ=weights_CJ,
        )


def load(source: Named, *, dtype: torch.dtype, device: torch.device) -> ArmoRMModel:
    """The network of a checkpoint in the published layout; `dtype` is the backbone's.

    `source` names a folder or hub model with config.json and safetensors, in one file or in shards.

    Raises: ValueError if it is something else, or its tensors are not the published ones.
    """
    path = source_of(source).path
    folder = _folder(source_of(source))
    config = _config(path, folder)
    with torch.device("meta"):
        model = ArmoRMModel(config)
    # Its tables are computed, not stored.
    model.model.rotary_emb = LlamaRotaryEmbedding(config)
    fix_positions(model.model, long_context=False)
    files = _files(path, folder)
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    _refuse_other_tensors(path, expected, _shapes(path, files))
    tensors = {}
    for file in files:
        with safe_open(file, "pt", device=str(device)) as shard:
            for name in shard.keys():  # noqa: SIM118  a file has no other way to name its tensors
                kind = dtype if name.startswith(BACKBONE) else torch.float32
                held = product_type(kind, device)
                tensors[name] = shard.get_tensor(name).to(kind).to(held)
    model.load_state_dict(tensors, assign=True)
    return model.to(device).eval().requires_grad_(False)


def _folder(source: ModelSource) -> Path:
    path = source.path
    folder = Path(resolve(source, field="judge.path"))
    if folder.is_dir():
        return folder
    try:
        wanted = ["*.json", "*.safetensors"]
        return Path(snapshot_download(path, revision=source.revision, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"judge.path: {path} is no folder and could not be had from the hub: {error}; give "
            "the folder or hub name of an ArmoRM checkpoint"
        ) from error


def _config(path: str, folder: Path) -> LlamaConfig:
    try:
        refuse_no_armorm(json.loads((folder / "config.json").read_bytes()).get("architectures"))
        return pretrained(LlamaConfig, str(folder))
    except (OSError, ValueError, AttributeError, StrictDataclassError) as error:
        raise ValueError(f"judge.path: no ArmoRM could be loaded from {path}: {error}") from error


def _files(path: str, folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise ValueError(
            f"judge.path: {path} has neither {WEIGHTS} nor {INDEX}; download the checkpoint again "
            "or save it as safetensors"
        )
    try:
        names = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"judge.path: {INDEX} of {path} is damaged: {error!r}; download it again"
        ) from error
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise ValueError(
            f"judge.path: {path} lacks {', '.join(absent)}, which its {INDEX} names; download the "
            "checkpoint again"
        )
    return [folder / name for name in names]


def _shapes(path: str, files: Sequence[Path]) -> dict[str, list[int]]:
    shapes = {}
    for file in files:
        try:
            with safe_open(file, "pt") as shard:
                shapes |= {name: shard.get_slice(name).get_shape() for name in shard.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(
                f"judge.path: {file.name} of {path} is damaged: {error}; download it again"
            ) from error
    return shapes


def _refuse_other_tensors(
    path: str, expected: Mapping[str, list[int]], given: Mapping[str, list[int]]
) -> None:
    mistakes = {
        "lacks": sorted(expected.keys() - given.keys()),
        "has, beyond an ArmoRM's tensors,": sorted(given.keys() - expected.keys()),
        "has in another shape than its config.json says": [
            f"{name} {given[name]} instead of {expected[name]}"
            for name in sorted(expected.keys() & given.keys())
            if given[name] != expected[name]
        ],
    }
    found = [f"{what} {_listed(names)}" for what, names in mistakes.items() if names]
    if found:
        raise ValueError(
            f"judge.path: {path} {'; it '.join(found)}. Its scores would mean nothing: give a "
            "checkpoint with the published tensors"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
