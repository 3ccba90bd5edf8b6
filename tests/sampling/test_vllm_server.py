"""The policy at a real vLLM server, against the same policy in the engine of this process."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import save_policy

from forethought.config import ModelConfig, OpenAIEngine, VllmEngine
from forethought.decoding.request import SamplingParams
from forethought.models import loading, rendering
from forethought.sampling.launched import LaunchedServer
from forethought.sampling.openai import OpenAISampler
from forethought.sampling.vllm import VllmSampler
from forethought.types import Message, SampledPrompt, SampleRequest, Unsampled

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` runs these tests")

PARAMS = SamplingParams(temperature=0.9, top_p=0.8, max_new_tokens=12)
GREEDY = SamplingParams(temperature=0.0, top_p=1.0, max_new_tokens=12)
COMMAND = (
    f"{sys.executable} -m vllm.entrypoints.openai.api_server --model {{model}} --port {{port}} "
    "--dtype float32 --enforce-eager --max-model-len 512"
)
QUESTIONS = ("What is 17 + 25?", "Tea?", "Write <|eot_id|> for me.", "Explain a list, please.")


@pytest.fixture(scope="module", autouse=True)
def one_gib_of_cache() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy whose own defaults would change every draw."""
    made = save_policy(tmp_path_factory.mktemp("served"), head_dim=32)
    file = made / "generation_config.json"
    defaults = {"top_k": 1, "temperature": 0.1, "repetition_penalty": 9.0, "top_p": 0.1}
    file.write_text(json.dumps(json.loads(file.read_text()) | defaults))
    return made


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[OpenAIEngine]:
    address = "http://127.0.0.1:{port}/v1"
    with LaunchedServer(COMMAND, address, str(folder), seconds=300) as server:
        yield OpenAIEngine(base_url=server.base_url, attempts=1)


def policy(folder: Path) -> ModelConfig:
    return ModelConfig(path=str(folder), dtype="float32")


def served(
    engine: OpenAIEngine, folder: Path, params: SamplingParams = PARAMS, token_ids: bool = True
) -> OpenAISampler:
    return OpenAISampler(engine, policy(folder), params=params, cache=None, token_ids=token_ids)


def requests(seeds: tuple[int, ...] = (1, 2, 3, 4)) -> list[SampleRequest]:
    return [
        SampleRequest(
            prompt_id=f"p{i}", messages=(Message(role="user", content=question),), seeds=seeds
        )
        for i, question in enumerate(QUESTIONS)
    ]


@pytest.mark.parametrize("params", [PARAMS, GREEDY], ids=["drawn", "greedy"])
def test_a_server_gives_what_the_engine_gives(engine, folder, params):
    config = VllmEngine(enforce_eager=True, max_model_len=512)
    with VllmSampler(config, policy(folder), params=params) as sampler:
        expected = list(sampler.sample(requests()))
    with served(engine, folder, params) as sampler:
        assert list(sampler.sample(requests())) == expected
        assert list(sampler.sample(requests())) == expected
    reasons = {
        completion.finish_reason for each in expected for completion in sampled(each).completions
    }
    assert reasons == {"stop", "length"}
    texts = {completion.text for each in expected for completion in sampled(each).completions}
    assert len(texts) > (len(QUESTIONS) if params is PARAMS else 2)


def test_ids_are_those_that_we_render_and_end_with_the_end_token(engine, folder):
    tokenizer = loading.load_tokenizer(str(folder))
    with served(engine, folder) as sampler:
        results = [sampled(one) for one in sampler.sample(requests(tuple(range(20))))]
    for one, asked in zip(results, requests(), strict=True):
        assert one.prompt_token_ids == rendering.render(tokenizer, asked.messages)
        for completion in one.completions:
            assert completion.text == rendering.decode(tokenizer, completion.token_ids)
            limit = PARAMS.max_new_tokens
            assert (completion.finish_reason == "stop") or len(completion.token_ids) == limit
    lasts = {c.token_ids[-1] for result in results for c in result.completions}
    assert len(lasts & set(range(220, 260))) > 3


def test_a_prompt_without_room_is_left_out_alone(engine, folder):
    too_long = SampleRequest(
        prompt_id="long", messages=(Message(role="user", content="word " * 600),), seeds=(1, 2)
    )
    with served(engine, folder) as sampler:
        first, second, third = sampler.sample([*requests()[:1], too_long, *requests()[1:2]])
    assert isinstance(first, SampledPrompt)
    assert isinstance(second, Unsampled)
    assert "512 tokens" in second.reason
    assert isinstance(third, SampledPrompt)


def test_a_server_of_another_policy_is_refused(engine, folder, tmp_path):
    other = save_policy(tmp_path / "other", head_dim=32)
    with pytest.raises(ValueError, match=f"serves {folder}, and the policy .* is {other}"):
        served(engine, other)


def test_a_judge_gets_text_without_ids(engine, folder):
    with served(engine, folder, token_ids=False) as sampler:
        results = [sampled(one) for one in sampler.sample(requests())]
    assert all(not completion.token_ids for result in results for completion in result.completions)
    assert any(completion.text for result in results for completion in result.completions)


def sampled(result: SampledPrompt | Unsampled) -> SampledPrompt:
    assert isinstance(result, SampledPrompt), result
    return result
