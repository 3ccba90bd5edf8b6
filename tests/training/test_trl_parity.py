"""Loss and gradients are those of TRL's DPOTrainer on the same model and batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_training import make_pairs, settings, tiny_model
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from forethought.training.distributed.ranks import ALONE
from forethought.training.optimizer import MasterWeights
from forethought.training.policy_module import open_policy
from forethought.training.reference import reference_logprobs
from forethought.training.train import _TrainingRun
from forethought.types import PreferencePair


class TokenisedDPOTrainer(DPOTrainer):
    """TRL's trainer on token ids."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def write_models(folder: Path) -> tuple[str, str]:
    """A policy and a different reference, so that margins are not zero."""
    tiny_model("llama").save_pretrained(folder / "policy")
    tiny_model("llama", initializer_range=0.19).save_pretrained(folder / "reference")
    return str(folder / "policy"), str(folder / "reference")


def trl_gradients(
    policy: str, reference: str, pairs: list[PreferencePair], folder: Path, **options: Any
) -> tuple[float, dict[str, torch.Tensor]]:
    from transformers import AutoModelForCausalLM

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 2, "</s>": 1}, unk_token="</s>")),
        eos_token="</s>",
        pad_token="<pad>",
    )
    rows = [
        {
            "prompt_ids": list(pair.prompt_token_ids),
            "chosen_ids": list(pair.chosen.token_ids),
            "rejected_ids": list(pair.rejected.token_ids),
        }
        for pair in pairs
    ]
    trainer = TokenisedDPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(policy),
        ref_model=AutoModelForCausalLM.from_pretrained(reference),
        args=DPOConfig(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            max_length=None,
            gradient_checkpointing=False,
            report_to=[],
            **options,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    model: Any = trainer.model
    loss: Any = trainer.compute_loss(model, trainer.data_collator(rows))
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def our_gradients(
    policy_path: str, reference_path: str, pairs: list[PreferencePair], **options: Any
) -> tuple[float, dict[str, torch.Tensor], MasterWeights]:
    config = settings(batch_size=len(pairs), **options)
    reference = reference_logprobs(reference_path, pairs, config, device="cpu")
    with open_policy(policy_path, config, "cpu") as trainee:
        masters = trainee.masters
        run = _TrainingRun(trainee.policy, masters, pairs, reference, config, seed=0, ranks=ALONE)
        statistics = run._backward(pairs, pairs)
    gradients = {
        name: p.grad
        for name, p in zip(masters.names, masters.masters, strict=True)
        if p.grad is not None
    }
    return float(statistics.loss_B.mean()), gradients, masters


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"loss": "sigmoid"}, {"loss_type": ["sigmoid"]}),
        ({"loss": "ipo"}, {"loss_type": ["ipo"]}),
        ({"loss": "sigmoid_norm", "beta": 2.0}, {"loss_type": ["sigmoid_norm"], "beta": 2.0}),
        (
            {"loss": "sigmoid", "nll_weight": 0.7, "nll_mean": "token"},
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]},
        ),
    ],
)
def test_loss_and_gradients(tmp_path: Path, ours: dict[str, Any], theirs: dict[str, Any]):
    policy, reference = write_models(tmp_path)
    pairs = make_pairs(6)
    expected_loss, expected = trl_gradients(policy, reference, pairs, tmp_path / "trl", **theirs)
    loss, found, _ = our_gradients(policy, reference, pairs, **ours)
    assert loss == pytest.approx(expected_loss, abs=2e-6 * max(1.0, abs(expected_loss)))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-8, name
