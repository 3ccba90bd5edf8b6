"""Log-probs of outputs under a causal model, through one module's forward.

`PolicyLogprobs` holds the model and runs backbone and head inside its own `forward`, which is what
sharded training wraps. The head is applied only where an output token is predicted, and in chunks:
full logits of a microbatch never exist, forward or backward. The softmax is float32.

Which mode a model takes is measured, not listed: `PolicyLogprobs.open` compares each with the
model's plain forward on a few tokens and takes the first that agrees.

Shapes: N packed positions, M predicted tokens, S sequences, V vocabulary, D hidden size.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from forethought.training.attention import PACKED, RowLayout, row_layout
from forethought.training.packing import PackedRows, pack
from forethought.types import PairSide, PreferencePair

ForwardMode = Literal["packed", "padded", "plain"]
LOGITS_AT_A_TIME = 2**22
"""Elements of a chunk of logits."""
PROBE_TOLERANCE = 1e-3
"""Nats by which a way may differ from the plain forward in float32."""


class HeadLogprobs(torch.autograd.Function):
    """`log softmax(softcap(hidden W^T + b))[target]` by chunks of positions, `[M]` float32.

    The backward pass computes each chunk's logits again, so that memory holds one chunk.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_M: torch.Tensor,
        softcap: float | None,
    ) -> torch.Tensor:
        logps_M = torch.empty(len(targets_M), dtype=torch.float32, device=hidden_MD.device)
        normalisers_M = torch.empty_like(logps_M)
        for part in _chunks(len(targets_M), weight_VD.shape[0]):
            logits = _logits(hidden_MD[part], weight_VD, bias_V, softcap)
            normalisers_M[part] = torch.logsumexp(logits, dim=-1)
            logps_M[part] = logits.gather(1, targets_M[part, None])[:, 0] - normalisers_M[part]
        ctx.softcap = softcap
        ctx.save_for_backward(hidden_MD, weight_VD, bias_V, targets_M, normalisers_M)
        return logps_M

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_MD, weight_VD, bias_V, targets_M, normalisers_M = ctx.saved_tensors
        need_hidden, need_weight, need_bias, *_ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden_MD) if need_hidden else None
        # Sums over chunks, of which bfloat16 would lose the later ones.
        grad_weight = _float32_zeros(weight_VD) if need_weight else None
        grad_bias = _float32_zeros(bias_V) if need_bias and bias_V is not None else None
        for part in _chunks(len(targets_M), weight_VD.shape[0]):
            logits = _logits(hidden_MD[part], weight_VD, bias_V, ctx.softcap)
            # tanh' = 1 - tanh², from the capped logits before they are overwritten.
            slope = 1 - (logits / ctx.softcap) ** 2 if ctx.softcap else None
            # By the logits the gradient is one-hot(target) - softmax; all of it in one buffer.
            weights = logits.sub_(normalisers_M[part, None]).exp_()
            grad = weights.mul_(-grads[0][part, None])
            grad.scatter_add_(1, targets_M[part, None], grads[0][part, None])
            if slope is not None:
                grad *= slope
            grad = grad.to(hidden_MD.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = grad @ weight_VD
            if grad_weight is not None:
                grad_weight += grad.t() @ hidden_MD[part]
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight_VD.dtype),
            None if grad_bias is None else grad_bias.to(weight_VD.dtype),
            None,
            None,
        )


def _chunks(count: int, vocabulary: int) -> list[slice]:
    size = max(1, LOGITS_AT_A_TIME // vocabulary)
    return [slice(start, start + size) for start in range(0, count, size)]


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, softcap: float | None
) -> torch.Tensor:
    logits = nn.functional.linear(hidden, weight, bias).float()
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def _float32_zeros(like: torch.Tensor) -> torch.Tensor:
    return torch.zeros(like.shape, dtype=torch.float32, device=like.device)


class PolicyLogprobs(nn.Module):
    """A causal model as a function from a packed microbatch to the log-prob of each token."""

    def __init__(self, model: PreTrainedModel, mode: ForwardMode) -> None:
        super().__init__()
        self.model = model
        self.forward_mode: ForwardMode = mode
        self.plain_attention: str = model.config._attn_implementation or "eager"

    @classmethod
    def open(cls, model: PreTrainedModel) -> PolicyLogprobs:
        """Wrap a float32 model in the fastest way that gives its own log-probs."""
        policy = cls.in_mode(model, "plain")
        with torch.no_grad():
            probe = pack(probe_pairs(model)).to(model.device)
            expected_M = policy(probe)
            # A class that is its own backbone (Llama 4's text model) has no hidden states to take.
            modes: tuple[ForwardMode, ...] = (
                () if model.base_model is model else ("packed", "padded")
            )
            for mode in modes:
                if policy._agrees(mode, probe, expected_M):
                    return policy
        policy.forward_mode = "plain"
        return policy

    @classmethod
    def in_mode(cls, model: PreTrainedModel, mode: ForwardMode) -> PolicyLogprobs:
        """Wrap a model of an architecture whose way is known."""
        if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
            # The fused kernel that transformers picks by default leaves softcapping out.
            model.set_attn_implementation("eager")
        policy = cls(model, mode)
        if mode == "packed":
            model.set_attn_implementation(PACKED)
        return policy

    def _agrees(self, mode: ForwardMode, probe: PackedRows, expected_M: torch.Tensor) -> bool:
        if mode == "packed" and not _attention_can_be_packed(self.model):
            return False
        self.forward_mode = mode
        self.model.set_attn_implementation(PACKED if mode == "packed" else self.plain_attention)
        layout = self._layout(probe)
        try:
            logps_M = self._packed(probe, layout) if mode == "packed" else self(probe)
        except (NotImplementedError, TypeError, AttributeError):
            agrees = False
        else:
            agrees = bool((logps_M - expected_M).abs().max() < PROBE_TOLERANCE)
        if mode == "packed":
            agrees = agrees and layout.windows_seen == _declared_windows(self.model)
            if not agrees:
                self.model.set_attn_implementation(self.plain_attention)
        return agrees

    def forward(self, batch: PackedRows) -> torch.Tensor:
        """Log-prob of each target, `[M]` float32."""
        if self.forward_mode == "packed":
            return self._packed(batch, self._layout(batch))
        return self._padded(batch)

    def _layout(self, batch: PackedRows) -> RowLayout:
        return row_layout(
            batch.rows_S, batch.shared, device=batch.ids_N.device, dtype=self.model.dtype
        )

    def _packed(self, batch: PackedRows, layout: RowLayout) -> torch.Tensor:
        hidden = self.model.base_model(
            input_ids=batch.ids_N[None],
            position_ids=batch.positions_N[None],
            use_cache=False,
            row_layout=layout,
        ).last_hidden_state
        return self._head(hidden[0].index_select(0, batch.predictors_M), batch.targets_M)

    def _padded(self, batch: PackedRows) -> torch.Tensor:
        """Right-padded rows with an attention mask, for models that cannot be packed."""
        ids, mask, predictors = _padded_rows(batch)
        if self.forward_mode == "plain":
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            logits = logits.flatten(0, 1)[predictors].float()
            picked = logits.gather(1, batch.targets_M[:, None])[:, 0]
            return picked - torch.logsumexp(logits, dim=-1)
        hidden = self.model.base_model(
            input_ids=ids, attention_mask=mask, use_cache=False
        ).last_hidden_state
        return self._head(hidden.flatten(0, 1).index_select(0, predictors), batch.targets_M)

    def _head(self, hidden_MD: torch.Tensor, targets_M: torch.Tensor) -> torch.Tensor:
        head: Any = self.model.get_output_embeddings()
        config = self.model.config.get_text_config()
        softcap = getattr(config, "final_logit_softcapping", None)
        return HeadLogprobs.apply(hidden_MD, head.weight, head.bias, targets_M, softcap)


def _padded_rows(batch: PackedRows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids and mask `[S, T]`, and where in the flattened rows the predictors stand."""
    lengths = [len(row) for row in batch.rows_S]
    longest = max(lengths)
    places = np.zeros((len(lengths), longest), dtype=np.int64)
    mask = np.zeros_like(places)
    predictors = []
    for i, (row, tokens) in enumerate(zip(batch.rows_S, batch.tokens_S.tolist(), strict=True)):
        places[i, : len(row)] = row
        mask[i, : len(row)] = 1
        predictors.append(i * longest + np.arange(len(row) - tokens, len(row)))
    device = batch.ids_N.device
    return (
        batch.ids_N[torch.from_numpy(places).to(device)],
        torch.from_numpy(mask).to(device),
        torch.from_numpy(np.concatenate(predictors)).to(device),
    )


def _attention_can_be_packed(model: PreTrainedModel) -> bool:
    config = model.config.get_text_config()
    layer_types = set(getattr(config, "layer_types", None) or ())
    return (
        model._supports_attention_backend
        and type(model)._can_set_attn_implementation()
        and not model._is_stateful
        and layer_types <= {"full_attention", "sliding_attention"}
    )


def _declared_windows(model: PreTrainedModel) -> set[int]:
    """Windows that the config promises: a layer that hides its window must not be packed."""
    config = model.config.get_text_config()
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None and "sliding_attention" not in layer_types:
        return set()
    window = getattr(config, "sliding_window", None)
    return set() if window is None else {window}


def probe_pairs(model: PreTrainedModel) -> list[PreferencePair]:
    """Two small pairs of unequal lengths: padding and shared prompts both take part."""
    vocabulary = model.config.get_text_config().vocab_size
    ids = [int(i) for i in np.random.Generator(np.random.PCG64(7)).integers(vocabulary, size=40)]

    def side(tokens: list[int]) -> PairSide:
        return PairSide(
            sample_index=0,
            token_ids=tuple(tokens),
            response_start=0,
            response_tokens=len(tokens),
            score=None,
            shaped_score=None,
        )

    return [
        PreferencePair(
            prompt_id=f"probe {i}",
            prompt_token_ids=tuple(ids[a:b]),
            chosen=side(ids[b:c]),
            rejected=side(ids[c:d]),
            kind="judged",
            margin=None,
        )
        for i, (a, b, c, d) in enumerate([(0, 7, 12, 21), (21, 25, 33, 35)])
    ]
