"""Preference losses as pure functions of log-probs.

`sigmoid` is DPO (Rafailov et al. 2023, eq. 7), the loss of the thought-optimisation paper; with
label smoothing it is conservative DPO (Mitchell 2023). `ipo_sum` is IPO as published (Azar et al.
2023, eq. 17); `ipo` divides each log-ratio by its output's tokens first, as the authors confirmed
to TRL; `sigmoid_norm` does the same to DPO. The NLL term is that of Iterative RPO (Pang et al.
2024, eq. 1). All losses are of float32 sums over whole outputs, thought, response and end token;
with `loss_on: thought` over the tokens before the response.

Shapes: B pairs.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

LossName = Literal["sigmoid", "ipo", "ipo_sum", "sigmoid_norm"]
"""Those on preferences; a recipe may have `nll` in their place (fine_tune.py)."""


def preference_losses(
    chosen_logratios_B: torch.Tensor,
    rejected_logratios_B: torch.Tensor,
    chosen_tokens_B: torch.Tensor,
    rejected_tokens_B: torch.Tensor,
    *,
    loss: LossName,
    beta: float,
    label_smoothing: float,
) -> torch.Tensor:
    """One loss per pair, `[B]`, from `log pi(y|x) - log ref(y|x)` of both sides."""
    if loss in ("ipo", "sigmoid_norm"):
        chosen_logratios_B = chosen_logratios_B / chosen_tokens_B
        rejected_logratios_B = rejected_logratios_B / rejected_tokens_B
    delta_B = chosen_logratios_B - rejected_logratios_B
    if loss in ("ipo", "ipo_sum"):
        return (delta_B - 1 / (2 * beta)) ** 2
    losses_B = -F.logsigmoid(beta * delta_B)
    if loss == "sigmoid" and label_smoothing > 0:
        flipped_B = -F.logsigmoid(-beta * delta_B)
        losses_B = (1 - label_smoothing) * losses_B + label_smoothing * flipped_B
    return losses_B


def nll_losses(
    logps_B: torch.Tensor,
    tokens_B: torch.Tensor,
    *,
    mean: Literal["sequence", "token"],
    batch_outputs: int,
    batch_tokens: int,
) -> torch.Tensor:
    """Each output's part of the optimizer batch's NLL, scaled so that their *mean over the batch*
    is the wanted mean: over outputs of per-token means (`sequence`) or over tokens (`token`).

    `logps_B` are sums over each output's `tokens_B` tokens. With `token` this is the loss of
    supervised fine-tuning as transformers and TRL take it: the cross-entropy of all output tokens.
    """
    if mean == "sequence":
        return -logps_B / tokens_B
    return -logps_B * (batch_outputs / batch_tokens)


def implicit_rewards(logratios_B: torch.Tensor, beta: float) -> torch.Tensor:
    """`beta (log pi - log ref)`, `[B]`: the reward that a DPO policy implies.

    Rafailov et al. 2023, eq. 5, without the term of the prompt alone.
    """
    return beta * logratios_B
