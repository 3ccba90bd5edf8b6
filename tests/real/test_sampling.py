"""The fast decoder on a real model: it is the one that runs, and it draws from the right thing."""

import logging

import pytest
import torch

from forethought.config import ModelConfig, TransformersEngine
from forethought.decoding import self_check, shared_prefix
from forethought.decoding.request import SamplingParams
from forethought.models import loading
from forethought.sampling.base import one_prompt
from forethought.sampling.open import open_sampler
from forethought.types import Message, SampleRequest

pytestmark = pytest.mark.real

QUESTIONS = (
    "What is the capital of France?",
    "Write a short poem of four lines about the sea in winter, and do not use the letter z.",
    "Explain to a child why the sky is blue.",
    "A shop sells pens at 3 for $2. How much do 12 pens cost? Think step by step.",
    "List five animals that live in the desert.\n\nAnswer in JSON.",
)
NEW = 24


def kl(p_TV: torch.Tensor, q_TV: torch.Tensor) -> float:
    """Mean over tokens of KL(p || q) in nats."""
    p, q = p_TV.double().log_softmax(-1), q_TV.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_its_distribution_is_as_near_as_eager_is_to_sdpa(dtype, real_model, caplog):
    path = str(real_model)
    requests = [
        SampleRequest(
            prompt_id=str(number),
            messages=(Message(role="user", content=question),),
            seeds=(2 * number, 2 * number + 1),
        )
        for number, question in enumerate(QUESTIONS)
    ]
    params = SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=NEW)
    config = ModelConfig(path=path, dtype=dtype, device="cpu")
    engine = TransformersEngine()
    with (
        caplog.at_level(logging.WARNING),
        open_sampler(engine, model=config, params=params) as sampler,
    ):
        sampled = [one_prompt(one) for one in sampler.sample(requests)]
    assert "slow" not in caplog.text

    model = loading.load_model(path, dtype=dtype, device="cpu")
    with torch.no_grad():
        assert self_check.unsupported(model) is None
        ours, eager, sdpa = [], [], []
        # All prompts in one cache, padded, two samples each, as the sampler has them.
        with shared_prefix.attached(model):
            decoder = shared_prefix.SharedPrefixDecoder(model)
            logits = decoder.admit([one.prompt_token_ids for one in sampled], [2] * len(sampled))
            steps = [logits.repeat_interleave(2, 0)]
            outputs = [completion.token_ids for each in sampled for completion in each.completions]
            padded = torch.tensor([[*ids, *[0] * (NEW - len(ids))] for ids in outputs])
            steps += [decoder.step(tokens) for tokens in padded.unbind(1)[:-1]]
        for row, ids in enumerate(outputs):
            prompt = sampled[row // 2].prompt_token_ids
            whole = torch.tensor([[*prompt, *ids]])
            ours.append(torch.stack([step[row] for step in steps[: len(ids)]]))
            for kind, kept in (("eager", eager), ("sdpa", sdpa)):
                with shared_prefix.attached(model, kind):
                    kept.append(model(whole, use_cache=False).logits[0, len(prompt) - 1 : -1])
    ours, eager, sdpa = (torch.cat(each) for each in (ours, eager, sdpa))
    rounding = kl(eager, sdpa)
    nearest = min(kl(eager, ours), kl(sdpa, ours))
    print(f"{dtype}: ours {nearest:.3g}, eager against sdpa {rounding:.3g} nats a token")
    # Three right ways to compute the same lie equally far from each other; which two are nearest
    # varies by a tenth with the tokens that are drawn.
    assert nearest <= 1.25 * rounding
