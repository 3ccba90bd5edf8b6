"""Rounding is no other model, and another model is no rounding, whatever outputs' lengths."""

import math

import pytest
import torch

from forethought.config import TrainingConfig
from forethought.training.train import PairStatistics, check_start

BFLOAT16 = TrainingConfig(dtype="bfloat16")
ROUNDING = 0.062
"""Nats per root of a token between two packings of SmolLM2-135M's outputs in bfloat16."""


def first_step(apart: float, tokens: int, pairs: int, seed: int) -> PairStatistics:
    """A first step's pairs, so many nats from their reference per root of a token on average."""
    draw = torch.Generator().manual_seed(seed)
    deviation = apart * math.sqrt(math.pi / 2 * tokens)
    chosen_B, rejected_B = (deviation * torch.randn(2, pairs, generator=draw)).unbind()
    count_B = torch.full((pairs,), tokens)
    losses_B = -torch.nn.functional.logsigmoid(BFLOAT16.beta * (chosen_B - rejected_B))
    return PairStatistics(
        loss_B=losses_B,
        preference_B=losses_B,
        chosen_B=chosen_B,
        rejected_B=rejected_B,
        chosen_response_B=chosen_B,
        rejected_response_B=rejected_B,
        chosen_logps_B=-count_B.float(),
        chosen_tokens_B=count_B,
        rejected_tokens_B=count_B,
    )


@pytest.mark.parametrize("tokens", [2, 6, 30, 300])
@pytest.mark.parametrize("pairs", [1, 8, 128])
def test_what_bfloat16_rounds_is_the_same_model(tokens, pairs):
    for seed in range(20):
        check_start(first_step(ROUNDING, tokens, pairs, seed), BFLOAT16)


@pytest.mark.parametrize("tokens", [2, 6, 30, 300])
@pytest.mark.parametrize("pairs", [8, 128])
def test_another_model_is_not(tokens, pairs):
    for seed in range(20):
        with pytest.raises(ValueError, match="the policy is not its reference"):
            check_start(first_step(1.0, tokens, pairs, seed), BFLOAT16)


def test_a_shift_of_all_pairs_is_not():
    statistics = first_step(ROUNDING, 30, 128, 0)
    shifted = -torch.nn.functional.logsigmoid(torch.full((128,), BFLOAT16.beta))
    statistics.chosen_B.add_(1.0)
    statistics.preference_B.copy_(shifted)
    with pytest.raises(ValueError, match="instead of ln 2"):
        check_start(statistics, BFLOAT16)


def test_float32_allows_hardly_any():
    with pytest.raises(ValueError, match="the policy is not its reference"):
        check_start(first_step(0.01, 6, 8, 0), TrainingConfig(dtype="float32"))
