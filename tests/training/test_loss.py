"""Losses by hand-computed numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from forethought.training.loss import nll_losses, preference_losses

CHOSEN = torch.tensor([1.0, 0.0])
REJECTED = torch.tensor([-1.0, 0.0])
TOKENS = torch.tensor([2, 5]), torch.tensor([4, 5])


def losses(loss: Any, beta: float, label_smoothing: float = 0.0) -> list[float]:
    return preference_losses(
        CHOSEN, REJECTED, *TOKENS, loss=loss, beta=beta, label_smoothing=label_smoothing
    ).tolist()


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_sigmoid_is_dpo():
    assert losses("sigmoid", 0.5) == pytest.approx([softplus(-1.0), math.log(2)])


def test_label_smoothing_mixes_the_flipped_preference():
    mixed = 0.9 * softplus(-1.0) + 0.1 * softplus(1.0)
    assert losses("sigmoid", 0.5, 0.1) == pytest.approx([mixed, math.log(2)])


def test_ipo_sum_and_normalised():
    assert losses("ipo_sum", 0.5) == pytest.approx([(2.0 - 1.0) ** 2, 1.0])
    assert losses("ipo", 0.5) == pytest.approx([(0.75 - 1.0) ** 2, 1.0])


def test_sigmoid_norm_divides_by_tokens():
    assert losses("sigmoid_norm", 2.0) == pytest.approx([softplus(-1.5), math.log(2)])


def test_nll_means():
    logps, tokens = torch.tensor([-4.0, -30.0]), torch.tensor([2, 10])
    by_sequence = nll_losses(logps, tokens, mean="sequence", batch_outputs=2, batch_tokens=12)
    by_token = nll_losses(logps, tokens, mean="token", batch_outputs=2, batch_tokens=12)
    assert float(by_sequence.mean()) == pytest.approx((2 + 3) / 2)
    assert float(by_token.mean()) == pytest.approx(34 / 12)
