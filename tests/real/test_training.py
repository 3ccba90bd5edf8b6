"""Training a real model starts where DPO starts: the policy is its own reference, ln 2."""

import math
from typing import Any

import pytest

from forethought.config import TrainingConfig
from forethought.models import loading, rendering
from forethought.training.reference import reference_logprobs
from forethought.training.results import StepLog
from forethought.training.train import train
from forethought.types import Message, PairSide, PreferencePair

pytestmark = pytest.mark.real

TEXTS = (
    ("What is the capital of France?", "The capital of France is Paris.", "I do not know."),
    ("Name a prime number.", "7", "A prime number has no divisors but 1 and itself, such as 9."),
)


def side(ids: list[int]) -> PairSide:
    return PairSide(
        sample_index=0,
        token_ids=tuple(ids),
        response_start=0,
        response_tokens=len(ids) - 1,
        score=None,
        shaped_score=None,
    )


@pytest.mark.parametrize(
    ("dtype", "lora"), [("float32", None), ("bfloat16", None), ("bfloat16", {"rank": 4})]
)
def test_training_starts_at_ln_2(dtype, lora, real_model, tmp_path):
    tokenizer: Any = loading.load_tokenizer(str(real_model))
    pairs = []
    for number, (question, *outputs) in enumerate(TEXTS):
        prompt = rendering.render(tokenizer, [Message(role="user", content=question)])
        chosen, rejected = (
            side([*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id])
            for text in outputs
        )
        pairs.append(
            PreferencePair(
                prompt_id=str(number),
                prompt_token_ids=prompt,
                chosen=chosen,
                rejected=rejected,
                kind="judged",
                margin=1.0,
            )
        )
    given: dict[str, Any] = {"dtype": dtype, "epochs": 1, "batch_size": 2, "lora": lora}
    config = TrainingConfig(**given)
    logs: list[StepLog] = []
    train(
        model=str(real_model),
        pairs=pairs,
        reference=reference_logprobs(str(real_model), pairs, config, device="cpu"),
        config=config,
        seed=0,
        directory=tmp_path,
        device="cpu",
        on_step=logs.append,
    )
    assert logs[0].loss == pytest.approx(math.log(2), abs=1e-6 if dtype == "float32" else 1e-4)
