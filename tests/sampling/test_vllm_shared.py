"""A real vLLM that is shared: the weights of the next policy are in it, or it is started anew."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import save_policy
from transformers import AutoModelForCausalLM

from forethought.config import ModelConfig, VllmEngine
from forethought.decoding.request import SamplingParams
from forethought.models.model_cache import model_cache
from forethought.models.shared_policy import shared_policy
from forethought.sampling.vllm import VllmSampler
from forethought.sampling.vllm_engine import find_weights
from forethought.sampling.vllm_shared import SharedVllm, expected_logprobs, probe_ids
from forethought.types import Message, SampledPrompt, SampleRequest

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` runs these tests")

PARAMS = SamplingParams(temperature=0.9, top_p=0.9, max_new_tokens=12)
ENGINE = VllmEngine(enforce_eager=True, gpu_memory=0.3)


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three policies of one architecture."""
    folder = tmp_path_factory.mktemp("policies")
    first = save_policy(folder / "0", head_dim=32)
    found = [first]
    for number in (1, 2):
        model = AutoModelForCausalLM.from_pretrained(first, dtype=torch.float32)
        torch.manual_seed(number)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        found.append(save_policy(folder / str(number), head_dim=32))
        model.save_pretrained(found[-1])
    return found


@pytest.fixture(autouse=True)
def small_cache(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")


def drawn(folder: Path) -> list[tuple[int, ...]]:
    model = ModelConfig(path=str(folder), dtype="float32")
    requests = [
        SampleRequest(
            prompt_id=str(i),
            messages=(Message(role="user", content=f"{i} {i + 3}"),),
            seeds=(i, i + 100),
        )
        for i in range(4)
    ]
    with VllmSampler(ENGINE, model, params=PARAMS, policy=True) as sampler:
        results = list(sampler.sample(requests))
    return [
        c.token_ids
        for result in results
        if isinstance(result, SampledPrompt)
        for c in result.completions
    ]


def test_a_shared_engine_draws_what_a_new_one_draws(
    policies: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    anew = [drawn(folder) for folder in policies]
    starts = 0
    from forethought.sampling import vllm_shared

    running = vllm_shared.running

    def counted(*arguments):
        nonlocal starts
        starts += 1
        return running(*arguments)

    monkeypatch.setattr(vllm_shared, "running", counted)
    with model_cache():
        # In training, the new policy is in the run's module before it is sampled.
        shared_policy("float32", "cpu").load(str(policies[1]))
        kept = [drawn(folder) for folder in [*policies, policies[0]]]
    assert kept == [*anew, anew[0]]
    assert anew[0] != anew[1] != anew[2]
    assert starts == 1
    assert "started anew" not in caplog.text
    assert drawn(policies[0]) == anew[0], "after the block a sampler opens its own"
    assert starts == 2


def test_an_engine_that_does_not_take_the_weights_is_started_anew(
    policies: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Here it is told to read others than those asked for."""
    from vllm import LLM  # pyright: ignore[reportMissingImports]

    told = LLM.collective_rpc
    monkeypatch.setattr(LLM, "collective_rpc", lambda self, *_, **__: told(self, "check_health"))
    with model_cache():
        first, second = drawn(policies[0]), drawn(policies[1])
    monkeypatch.undo()
    assert "started anew" in caplog.text or "could not take" in caplog.text
    assert [first, second] == [drawn(policies[0]), drawn(policies[1])]


def test_the_probe_tells_the_checkpoints_apart(policies: list[Path]):
    models = [ModelConfig(path=str(folder), dtype="float32") for folder in policies]
    ids = probe_ids(models[0].source)
    own = [expected_logprobs(model.source, model, ids) for model in models]
    engine = SharedVllm(ENGINE)
    try:
        engine.load(models[0], find_weights(models[0], adapters=False))
        found = engine._logprobs(ids)
    finally:
        engine.close()
    assert float(np.abs(found - own[0]).mean()) < 1e-4
    assert float(np.abs(found - own[1]).mean()) > 0.05
