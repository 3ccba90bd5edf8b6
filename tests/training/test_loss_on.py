"""Preferences on thoughts alone: the loss, its gradient and its log are those of their tokens."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import make_pairs, make_side, run, settings, tiny_model
from torch import Tensor
from torch.nn.functional import logsigmoid

from forethought.config import TrainingConfig
from forethought.training.distributed.ranks import ALONE
from forethought.training.policy_module import open_policy
from forethought.training.reference import reference_logprobs
from forethought.training.train import _TrainingRun
from forethought.types import PairSide, PreferencePair

SETTINGS: list[dict[str, Any]] = [
    {"loss": "sigmoid"},
    {"loss": "sigmoid", "label_smoothing": 0.1, "nll_weight": 0.7},
    {"loss": "sigmoid", "nll_weight": 0.7, "nll_mean": "token"},
    {"loss": "sigmoid_norm", "beta": 2.0},
    {"loss": "ipo"},
    {"loss": "ipo_sum"},
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A policy and a different reference, so that margins are not zero."""
    folder = tmp_path_factory.mktemp("models")
    tiny_model().save_pretrained(folder / "policy")
    tiny_model(initializer_range=0.19).save_pretrained(folder / "reference")
    return str(folder / "policy"), str(folder / "reference")


def thought_logps(model: Any, pair: PreferencePair, side: PairSide) -> Tensor:
    """Token by token, by a plain forward pass in the model's own number type."""
    prompt, output = pair.prompt_token_ids, side.token_ids
    logits = model(input_ids=torch.tensor([prompt + output])).logits[0, len(prompt) - 1 : -1]
    logps = logits.log_softmax(-1).gather(1, torch.tensor(output)[:, None])[:, 0]
    return logps[: side.response_start]


def plain_loss(
    policy: Any, reference: Any, pairs: list[PreferencePair], config: TrainingConfig
) -> Tensor:
    """The mean loss over the pairs, from its definition (training/loss.py)."""
    beta, smoothing = config.beta, config.label_smoothing
    losses, chosen_nll, chosen_tokens = [], [], 0
    for pair in pairs:
        ratios = []
        for side in (pair.chosen, pair.rejected):
            with torch.no_grad():
                before = thought_logps(reference, pair, side).sum()
            ratio = thought_logps(policy, pair, side).sum() - before
            normed = config.loss in ("ipo", "sigmoid_norm")
            ratios.append(ratio / max(side.response_start, 1) if normed else ratio)
        delta = ratios[0] - ratios[1]
        if config.loss in ("ipo", "ipo_sum"):
            losses.append((delta - 1 / (2 * beta)) ** 2)
        else:
            losses.append(
                -(1 - smoothing) * logsigmoid(beta * delta) - smoothing * logsigmoid(-beta * delta)
            )
        chosen_nll.append(-thought_logps(policy, pair, pair.chosen))
        chosen_tokens += max(pair.chosen.response_start, 1)
    if config.nll_mean == "token":
        nll = torch.cat(chosen_nll).sum() / chosen_tokens
    else:
        nll = torch.stack([each.sum() / max(len(each), 1) for each in chosen_nll]).mean()
    return torch.stack(losses).mean() + config.nll_weight * nll


@pytest.mark.parametrize("given", SETTINGS, ids=str)
def test_loss_and_gradient_are_those_of_a_plain_computation_in_float64(models, given):
    pairs = make_pairs(7)
    unthinking = make_side(pairs[2].chosen.token_ids, response_start=0)
    pairs[2] = replace(pairs[2], chosen=unthinking)
    config = settings(batch_size=len(pairs), loss_on="thought", **given)
    reference = reference_logprobs(models[1], pairs, config, device="cpu")
    with open_policy(models[0], config, "cpu") as trainee:
        masters = trainee.masters
        trained = _TrainingRun(trainee.policy, masters, pairs, reference, config, 0, ALONE)
        loss = float(trained._backward(pairs, pairs).loss_B.mean())
    policy: Any = tiny_model().double()
    expected = plain_loss(policy, tiny_model(initializer_range=0.19).double(), pairs, config)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    wanted = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    found = dict(zip(masters.names, (p.grad for p in masters.masters), strict=True))
    for name, gradient in wanted.items():
        mine = found[name]
        assert mine is not None
        assert (mine - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, name


def test_the_log_is_of_thoughts_and_what_the_response_did_stands_beside_it(models, tmp_path: Path):
    pairs = make_pairs(8)
    config = settings(loss_on="thought", epochs=4, learning_rate=1e-3)
    _, logs = run(models[0], pairs, config, tmp_path / "thought")
    assert logs[0].margin == pytest.approx(0, abs=1e-4)
    assert logs[-1].margin > 0
    for log in logs:
        assert log.chosen_reward == log.chosen_thought_reward
        assert log.rejected_reward == log.rejected_thought_reward
        assert log.margin == pytest.approx(log.chosen_reward - log.rejected_reward, abs=1e-6)
    assert logs[-1].chosen_response_reward != 0
    assert logs[-1].margin_kept is not None
    _, whole = run(models[0], pairs, settings(epochs=1), tmp_path / "output")
    assert whole[0].chosen_nll != logs[0].chosen_nll


def test_a_training_on_whole_outputs_is_known_as_before_there_was_a_choice():
    whole = settings().identity()
    assert "loss_on" not in whole
    assert settings(loss_on="thought").identity() == whole | {"loss_on": "thought"}


def test_likelihood_alone_has_no_preference_on_thoughts():
    with pytest.raises(ValueError, match=r"loss_on: thought has preferences.*leave training"):
        settings(loss="nll", loss_on="thought")
