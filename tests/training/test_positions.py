"""Outputs, log-probs and scores are functions of their own sequence, whatever shares its batch."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_policy, save_reward_model
from tiny_training import make_pairs, settings
from transformers import AutoModelForCausalLM

from forethought.config import ModelConfig, ModelSource, RewardModelJudge
from forethought.decoding.request import SamplingParams
from forethought.judging.scoring.reward_model import RewardModel
from forethought.models import loading
from forethought.sampling.transformers import TransformersSampler
from forethought.training.reference import reference_logprobs
from forethought.training.train import train
from forethought.types import Message, Prompt, ResponseGroup, SampledPrompt, SampleRequest

ORIGINAL = 64
LONGROPE: dict[str, Any] = {
    "max_position_embeddings": 256,
    "original_max_position_embeddings": ORIGINAL,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [4.0, 6.0, 8.0, 9.0],
        "original_max_position_embeddings": ORIGINAL,
    },
}
EVERYWHERE = [False, True]


@pytest.fixture(scope="module")
def phi3(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_policy(tmp_path_factory.mktemp("phi3"), "phi3", **LONGROPE))


@pytest.mark.parametrize("long_context", EVERYWHERE)
def test_training_starts_at_ln_2(phi3: str, tmp_path: Path, long_context: bool):
    source = ModelSource(path=phi3, long_context=long_context)
    pairs = [*make_pairs(4), *make_pairs(4, seed=4, longest=80)]
    pairs = [replace(pair, prompt_id=str(index)) for index, pair in enumerate(pairs)]
    config = settings(learning_rate=1e-12, epochs=1, batch_size=1, tokens_per_microbatch=4096)
    logs: list[Any] = []
    result = train(
        model=source,
        pairs=pairs,
        reference=reference_logprobs(source, pairs, config, device="cpu"),
        config=config,
        seed=0,
        directory=tmp_path,
        device="cpu",
        on_step=logs.append,
    )
    # Steps are made of other pairs than the reference's passes.
    assert [log.loss for log in logs] == pytest.approx([math.log(2)] * len(logs), abs=1e-5)
    assert (result.left_out == 0) is long_context


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("long_context", EVERYWHERE)
def test_an_output_is_the_same_beside_a_long_prompt(phi3: str, long_context: bool, slow: bool):
    model = ModelConfig(path=phi3, dtype="float32", device="cpu", long_context=long_context)
    params = SamplingParams(temperature=0, top_p=1, max_new_tokens=100)
    sampler = TransformersSampler.load(model, params=params, rows=8)
    assert sampler._reason is None
    sampler._reason = "a test" if slow else None
    hi, long = _request("Hi"), _request("word " * 30)
    (alone,) = sampler.sample([hi])
    beside, other = sampler.sample([hi, long])
    assert isinstance(alone, SampledPrompt)
    assert beside == alone
    assert isinstance(other, SampledPrompt) is long_context
    # What was sampled is what is trained: one forward pass gives the same tokens.
    network = loading.load_model(model.source, dtype="float32", device="cpu")
    for one in (alone, other):
        if isinstance(one, SampledPrompt):
            ids = torch.tensor([one.prompt_token_ids + one.completions[0].token_ids])
            start = len(one.prompt_token_ids)
            with torch.no_grad():
                best = network(ids).logits[0, start - 1 : -1].argmax(-1)
            assert tuple(best.tolist()) == one.completions[0].token_ids


def test_within_the_original_length_positions_are_transformers_own(phi3: str):
    ids = torch.arange(5, 5 + ORIGINAL)[None]
    plain = AutoModelForCausalLM.from_pretrained(phi3, dtype=torch.float32)
    with torch.no_grad():
        ours = loading.load_model(phi3, dtype="float32", device="cpu")(ids).logits
        assert torch.equal(ours, plain(ids).logits)
        # transformers reads these with its long factors, for one more position beside them.
        long = ModelSource(path=phi3, long_context=True)
        ours = loading.load_model(long, dtype="float32", device="cpu")(ids).logits
        beyond = torch.cat([ids, ids[:, :1]], 1)
        torch.testing.assert_close(ours, plain(beyond).logits[:, :-1], atol=1e-5, rtol=1e-5)


def _request(text: str) -> SampleRequest:
    return SampleRequest(
        prompt_id=text[:4], messages=(Message(role="user", content=text),), seeds=(1,)
    )


@pytest.mark.parametrize("long_context", EVERYWHERE)
def test_a_score_is_the_same_beside_a_long_response(tmp_path: Path, long_context: bool):
    folder = str(save_reward_model(tmp_path, "phi3", **LONGROPE))
    config = RewardModelJudge(path=folder, dtype="float32", device="cpu", long_context=long_context)
    with RewardModel(config) as judge:
        (alone,) = judge.judge([_group("Yes.", "No")])
        beside, other = judge.judge([_group("Yes.", "No"), _group("word " * 30, "Maybe")])
    assert beside.scores == pytest.approx(alone.scores, abs=1e-6)  # pyright: ignore
    assert hasattr(other, "scores") is long_context


def _group(*responses: str) -> ResponseGroup:
    prompt = Prompt(
        prompt_id=responses[0],
        messages=(Message(role="user", content="Hi"),),
        category=None,
        source="test",
        reference=None,
    )
    return ResponseGroup(prompt=prompt, responses=responses)


def test_dynamic_ntk_remembers_no_earlier_batch(tmp_path: Path):
    folder = save_policy(
        tmp_path,
        "llama",
        max_position_embeddings=ORIGINAL,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    )
    network = loading.load_model(str(folder), dtype="float32", device="cpu")
    between, long = torch.arange(10, 90)[None], torch.arange(10, 110)[None]
    with torch.no_grad():
        before = network(between).logits
        network(long)
        assert torch.equal(network(between).logits, before)


def test_long_context_is_for_models_that_have_two_sets(tmp_path: Path, phi3: str):
    llama = ModelSource(path=str(save_policy(tmp_path)), long_context=True)
    with pytest.raises(ValueError, match="long_context: the model has no second set"):
        loading.load_model(llama, dtype="float32", device="cpu")
    config = loading.load_config(phi3)
    assert loading.context_length(config) == ORIGINAL
    assert loading.context_length(config, long_context=True) == 256
    assert ModelConfig(path=phi3).identity() == {
        "path": phi3,
        "dtype": "bfloat16",
        "device": "auto",
        "trust_remote_code": False,
    }
