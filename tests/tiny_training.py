"""Tiny random models and pairs for the training tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from forethought.config import TrainingConfig
from forethought.training.reference import reference_logprobs
from forethought.training.results import ReferenceLogprobs, StepLog, TrainingResult
from forethought.training.train import train
from forethought.types import PairSide, PreferencePair

VOCABULARY = 97
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


def tiny_model(kind: str = "llama", **options: Any) -> PreTrainedModel:
    """A random float32 causal model of an architecture."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(SIZES | options))
    return AutoModelForCausalLM.from_config(config).eval()


def make_side(tokens: tuple[int, ...], response_start: int = 0) -> PairSide:
    return PairSide(
        sample_index=0,
        token_ids=tokens,
        response_start=response_start,
        response_tokens=len(tokens) - response_start,
        score=None,
        shaped_score=None,
    )


def make_pairs(count: int, *, seed: int = 3, longest: int = 20) -> list[PreferencePair]:
    """Pairs of random tokens and unequal lengths, one-token outputs among them."""
    random = np.random.Generator(np.random.PCG64(seed))

    def tokens(least: int) -> tuple[int, ...]:
        return tuple(
            random.integers(3, VOCABULARY, size=int(random.integers(least, longest))).tolist()
        )

    pairs = []
    for i in range(count):
        chosen, rejected = tokens(1), tokens(1)
        pairs.append(
            PreferencePair(
                prompt_id=f"prompt-{i}",
                prompt_token_ids=tokens(2),
                chosen=make_side(chosen, len(chosen) // 2),
                rejected=make_side(rejected, len(rejected)),
                kind="judged",
                margin=1.0,
            )
        )
    return pairs


def settings(**options: Any) -> TrainingConfig:
    defaults: dict[str, Any] = {
        "dtype": "float32",
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "tokens_per_microbatch": 128,
        "save_every": 2,
    }
    return TrainingConfig(**(defaults | options))


def run(
    model_path: str,
    pairs: list[PreferencePair],
    config: TrainingConfig,
    directory: Path,
    reference: list[ReferenceLogprobs] | None = None,
) -> tuple[TrainingResult, list[StepLog]]:
    """Reference log-probs and a whole training."""
    if reference is None:
        reference = reference_logprobs(model_path, pairs, config, device="cpu")
    logs: list[StepLog] = []
    result = train(
        model=model_path,
        pairs=pairs,
        reference=reference,
        config=config,
        seed=0,
        directory=directory,
        device="cpu",
        on_step=logs.append,
    )
    return result, logs


def plain_token_logps(model: PreTrainedModel, prompt: tuple[int, ...], output: tuple[int, ...]):
    """The output's token log-probs by a plain forward of one sequence."""
    ids = torch.tensor([prompt + output])
    logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(output)[:, None])[:, 0]
