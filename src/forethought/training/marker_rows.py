"""Rows of new tokens in the output layer, fitted before anything else is trained.

A row that begins as the mean of other rows has the mean of their logits, and so never the highest
one: after the twenty steps of a small fine-tuning SmolLM2-135M went on writing those words in its
place (benchmarks/README.md). But with the rest of the model fixed the log-likelihood of the outputs
to train on is a concave function of the new rows alone, through one number for each position, the
normaliser of the old vocabulary:

    log p(y) = z_y - log(exp(normaliser) + sum_t exp(z_t)),   z_t = h · w_t

with `z_y` the old logit where the token is an old one. L-BFGS finds its maximum, with a pull
towards the beginning, from one forward pass over the outputs.

Shapes: M predicted tokens, T new tokens, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from forethought.types import TrainingExample

EXAMPLES = 256
"""Most that are read, so that many cost no more; 74 did for SmolLM2-135M."""
PULL = 1e-2
"""Weight of the squared distance from the beginning, beside the mean of the log-likelihood."""
STEPS = 200
LINEAR = 1e-2
"""Of the largest logit: how far one may be from `h · w` in a head that counts as linear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkerRows:
    """Fitted rows.

    Example: `MarkerRows(rows_TD=torch.zeros(2, 64), before=12.5, after=0.06)`
    """

    rows_TD: torch.Tensor
    """Float32, on the CPU."""
    before: float
    """Mean negative log-likelihood of the new tokens where they stand, in nats."""
    after: float


def fit_marker_rows(
    model: PreTrainedModel, ids: Sequence[int], examples: Sequence[TrainingExample]
) -> MarkerRows | None:
    """The rows that make the examples likeliest, the model being as it is; `ids` are the new
    tokens'. `None` where the output layer is not linear in its rows, or no example has a new token.
    """
    read = [_read(model, list(ids), example) for example in examples[:EXAMPLES]]
    if not read or not all(each.linear for each in read):
        return None
    hidden_MD = torch.cat([each.hidden_MD for each in read])
    normaliser_M = torch.cat([each.normaliser_M for each in read])
    target_M = torch.cat([each.target_M for each in read])
    if not bool((target_M >= 0).any()):
        return None
    head: Any = model.get_output_embeddings()
    start_TD = head.weight.detach()[list(ids)].float()
    rows_TD = start_TD.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([rows_TD], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        losses_M = _losses(hidden_MD, normaliser_M, target_M, rows_TD)
        loss = losses_M.mean() + PULL * (rows_TD - start_TD).square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    new_M = target_M >= 0
    before, after = (
        _losses(hidden_MD, normaliser_M, target_M, rows.detach())[new_M].mean().item()
        for rows in (start_TD, rows_TD)
    )
    return MarkerRows(rows_TD=rows_TD.detach().cpu(), before=before, after=after)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """One example's positions."""

    hidden_MD: torch.Tensor
    normaliser_M: torch.Tensor
    target_M: torch.Tensor
    """Which new token stands there; -1 for an old one."""
    linear: bool


@torch.no_grad()
def _read(model: PreTrainedModel, ids: list[int], example: TrainingExample) -> _Read:
    """One forward pass of prompt and output, behind which each output token is predicted."""
    taken: list[torch.Tensor] = []
    head: Any = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, given: taken.append(given[0]))
    first = len(example.prompt_token_ids) - 1
    tokens = torch.tensor([[*example.prompt_token_ids, *example.token_ids]], device=model.device)
    try:
        logits_MV = model(input_ids=tokens, use_cache=False).logits[0, first:-1].float()
    finally:
        hook.remove()
    hidden_MD = taken[-1][0, first:-1].float()
    plain_MT = hidden_MD @ head.weight[ids].float().t()
    wide = logits_MV.abs().max()
    linear = head.bias is None and bool((logits_MV[:, ids] - plain_MT).abs().max() < LINEAR * wide)
    target_M = torch.full((len(hidden_MD),), -1, device=model.device)
    for number, new in enumerate(ids):
        target_M[tokens[0, first + 1 :] == new] = number
    logits_MV[:, ids] = -torch.inf
    return _Read(
        hidden_MD=hidden_MD,
        normaliser_M=torch.logsumexp(logits_MV, dim=-1),
        target_M=target_M,
        linear=linear,
    )


def _losses(
    hidden_MD: torch.Tensor,
    normaliser_M: torch.Tensor,
    target_M: torch.Tensor,
    rows_TD: torch.Tensor,
) -> torch.Tensor:
    """Negative log-likelihood of each token, less what is constant in the rows, `[M]`."""
    logits_MT = hidden_MD @ rows_TD.t()
    whole_M = torch.logaddexp(normaliser_M, torch.logsumexp(logits_MT, dim=-1))
    own_M = logits_MT.gather(1, target_M.clamp(min=0)[:, None])[:, 0]
    return whole_M - torch.where(target_M >= 0, own_M, normaliser_M)
