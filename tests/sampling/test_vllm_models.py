"""An engine of its own per test: families, fresh weights, adapters, and engines that fail."""

import json
import os
import shutil
from pathlib import Path

import psutil
import pytest
import torch
from tiny import save_policy
from transformers import AutoModelForCausalLM

from forethought.config import LoraSettings, ModelConfig, TrainingConfig, VllmEngine
from forethought.decoding.request import SamplingParams
from forethought.sampling.base import Sampler
from forethought.sampling.transformers import TransformersSampler
from forethought.sampling.vllm import VllmSampler
from forethought.training.reference import reference_logprobs
from forethought.training.train import train
from forethought.types import (
    Message,
    PairSide,
    PreferencePair,
    SampledPrompt,
    SampleRequest,
    Unsampled,
)

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` runs these tests")

GREEDY = SamplingParams(temperature=0.0, top_p=1.0, max_new_tokens=12)
DRAWN = SamplingParams(temperature=0.9, top_p=0.8, max_new_tokens=12)
QUESTIONS = (
    "What is 17 + 25?",
    "Tea?",
    "Explain a list and a tuple.",
    "print(add(2, 3))",
    "Hm",
    "",
)
GIB = 2**30


@pytest.fixture(autouse=True)
def one_gib_of_cache(monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")


def policy(folder: Path, **changes) -> ModelConfig:
    return ModelConfig.model_validate({"path": str(folder), "dtype": "float32"} | changes)


def open_vllm(folder: Path, params: SamplingParams = GREEDY, **fields) -> VllmSampler:
    engine = VllmEngine.model_validate({"enforce_eager": True} | fields)
    return VllmSampler(engine, policy(folder), params=params)


def requests(seeds: tuple[int, ...] = (1,)) -> list[SampleRequest]:
    return [
        SampleRequest(
            prompt_id=f"p{i}", messages=(Message(role="user", content=question),), seeds=seeds
        )
        for i, question in enumerate(QUESTIONS)
    ]


def outputs(opened: Sampler, seeds: tuple[int, ...] = (1,)) -> list[tuple[int, ...]]:
    with opened as sampler:
        results = list(sampler.sample(requests(seeds)))
    found = [result for result in results if isinstance(result, SampledPrompt)]
    assert len(found) == len(results)
    return [completion.token_ids for one in found for completion in one.completions]


def other_engine(folder: Path) -> list[tuple[int, ...]]:
    return outputs(TransformersSampler.load(policy(folder), params=GREEDY, rows=16))


def change_defaults(folder: Path, **fields) -> None:
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def trained(source: Path, folder: Path, lora: LoraSettings | None = None) -> Path:
    """The checkpoint of one DPO step that is large enough to change every output."""

    def side(*tokens: int) -> PairSide:
        return PairSide(
            sample_index=0,
            token_ids=tokens,
            response_start=0,
            response_tokens=len(tokens),
            score=None,
            shaped_score=None,
        )

    pairs = [
        PreferencePair(
            prompt_id=f"pair-{i}",
            prompt_token_ids=(1, 3, 40 + i, 4),
            chosen=side(50 + i, 60, 70),
            rejected=side(80 + i, 90),
            kind="judged",
            margin=1.0,
        )
        for i in range(4)
    ]
    config = TrainingConfig(
        dtype="float32", epochs=1, batch_size=4, learning_rate=3e-2, warmup_ratio=0, lora=lora
    )
    train(
        model=str(source),
        pairs=pairs,
        reference=reference_logprobs(str(source), pairs, config, device="cpu"),
        config=config,
        seed=0,
        directory=folder,
        device="cpu",
        on_step=lambda _: None,
    )
    return folder / "epoch_1"


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma"])
def test_greedy_equals_the_transformers_engine(family, tmp_path):
    folder = save_policy(tmp_path, family, head_dim=32)
    change_defaults(folder, eos_token_id=2)
    expected = other_engine(folder)
    assert len(set(expected)) == len(QUESTIONS)
    assert sum(map(len, expected)) > 8 * len(QUESTIONS)
    assert outputs(open_vllm(folder)) == expected


def test_greedy_equals_the_transformers_engine_on_a_trained_model():
    expected = other_engine(Path("microworld"))
    assert {ids[-1] for ids in expected} >= {2}
    assert outputs(open_vllm(Path("microworld"))) == expected


def test_the_checkpoints_sampling_defaults_are_not_used(tmp_path):
    plain = save_policy(tmp_path / "plain", head_dim=32)
    opinionated = tmp_path / "opinionated"
    shutil.copytree(plain, opinionated)
    change_defaults(opinionated, do_sample=True, top_k=1, temperature=0.1, repetition_penalty=9.0)
    seeds = (1, 2, 3, 4)
    drawn = outputs(open_vllm(plain, DRAWN), seeds)
    assert len(set(drawn)) > 2 * len(QUESTIONS)
    assert outputs(open_vllm(opinionated, DRAWN), seeds) == drawn


def test_weights_are_those_of_the_folder_after_training(tmp_path):
    before = save_policy(tmp_path / "before", head_dim=32)
    after = trained(before, tmp_path / "training")
    first, second = outputs(open_vllm(before)), outputs(open_vllm(after))
    assert all(one != other for one, other in zip(first, second, strict=True))
    assert first == other_engine(before)
    assert second == other_engine(after)


def test_a_folder_that_was_overwritten_is_read_again(tmp_path):
    folder = save_policy(tmp_path, head_dim=32)
    first = outputs(open_vllm(folder, DRAWN), (1, 2))
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.neg_()
    model.save_pretrained(folder)
    assert not set(outputs(open_vllm(folder, DRAWN), (1, 2))) & set(first)


def test_an_adapter_is_applied_to_its_base(tmp_path):
    base = save_policy(tmp_path / "base", head_dim=32)
    checkpoint = trained(base, tmp_path / "training", LoraSettings(rank=4, alpha=32))
    adapted = other_engine(checkpoint)
    assert adapted != other_engine(base)
    assert outputs(open_vllm(checkpoint, adapters=True)) == adapted
    # A policy without adapter is sampled as it is.
    assert outputs(open_vllm(base, adapters=True)) == other_engine(base)


def test_the_limit_is_cut_to_the_length_that_the_engine_takes(tmp_path):
    folder = save_policy(tmp_path, head_dim=32)
    change_defaults(folder, eos_token_id=2)
    longest = 36
    with open_vllm(folder, max_model_len=longest) as sampler:
        results = list(sampler.sample(requests()))
    rooms = []
    for result in results:
        if isinstance(result, Unsampled):
            assert f"takes {longest} tokens" in result.reason
            continue
        (completion,) = result.completions
        rooms.append(longest - len(result.prompt_token_ids))
        assert len(completion.token_ids) == min(rooms[-1], GREEDY.max_new_tokens)
        assert completion.finish_reason == "length"
    assert 0 < min(rooms) < GREEDY.max_new_tokens
    assert len(rooms) < len(results)


def test_leaving_frees_memory_and_leaves_the_process_as_it_was(tmp_path):
    folder = save_policy(tmp_path, head_dim=32)
    environment, set_num_threads = dict(os.environ), torch.set_num_threads
    process = psutil.Process()
    with open_vllm(folder) as sampler:
        list(sampler.sample(requests()))
        held = process.memory_info().rss
        assert torch.distributed.is_initialized()
    assert held - process.memory_info().rss > 0.8 * GIB
    assert not torch.distributed.is_initialized()
    assert torch.set_num_threads is set_num_threads
    assert dict(os.environ) == environment
    with pytest.raises(AssertionError, match="closed"):
        sampler.sample(requests())


def test_broken_weights_are_named_and_the_next_engine_starts(tmp_path):
    folder = save_policy(tmp_path / "good", head_dim=32)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    model.save_pretrained(broken)
    with open_vllm(broken) as sampler, pytest.raises(ValueError, match=r"broken: NaNs.*float32"):
        sampler.sample(requests())
    with pytest.raises(ValueError, match=r"could not start .*max_model_len \(9999\)"):
        open_vllm(folder, max_model_len=9999)
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"could not start .*broken: .*transformers"):
        open_vllm(broken)
    assert outputs(open_vllm(folder)) == other_engine(folder)


def test_memory_that_is_not_there_names_the_field(tmp_path, monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
    folder = save_policy(tmp_path, head_dim=32)
    with pytest.raises(ValueError, match=r"vllm could not start .*memory.*depends on gpu_memory"):
        open_vllm(folder, gpu_memory=1.0)


@pytest.mark.parametrize(
    ("engine", "model", "message"),
    [
        ({"tensor_parallel": 2}, {}, "tensor_parallel: 2 is for GPUs"),
        ({}, {"device": "cuda"}, "model.device: cuda .* runs on cpu"),
    ],
)
def test_what_a_cpu_cannot_do_is_refused(engine, model, message, tmp_path):
    folder = save_policy(tmp_path)
    config = VllmEngine.model_validate(engine)
    with pytest.raises(ValueError, match=message):
        VllmSampler(config, policy(folder, **model), params=GREEDY)
