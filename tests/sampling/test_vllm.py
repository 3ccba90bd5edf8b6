"""One engine on CPU, opened once: what is drawn, and in which order it comes back."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import save_policy
from transformers import AutoModelForCausalLM

from forethought.config import ModelConfig, VllmEngine
from forethought.decoding.request import SamplingParams
from forethought.models import loading, rendering
from forethought.sampling.vllm import VllmSampler
from forethought.types import Completion, Message, SampledPrompt, SampleRequest, Unsampled

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` runs these tests")

TEMPERATURE, TOP_P, LIMIT = 0.9, 0.8, 16
PARAMS = SamplingParams(temperature=TEMPERATURE, top_p=TOP_P, max_new_tokens=LIMIT)
WORDS = (9, 3, 40, 4, 9, 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The CPU kernels of vLLM take heads of 32 and more.
    return save_policy(tmp_path_factory.mktemp("policy"), head_dim=32)


@pytest.fixture(scope="module")
def sampler(folder: Path) -> Iterator[VllmSampler]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        with VllmSampler(VllmEngine(enforce_eager=True), policy(folder), params=PARAMS) as opened:
            yield opened


def policy(folder: Path) -> ModelConfig:
    return ModelConfig(path=str(folder), dtype="float32")


def request(words: int, seeds: tuple[int, ...], shift: int = 0) -> SampleRequest:
    content = " ".join(f"{(7 * i + 3 * words + shift) % 50}" for i in range(words))
    return SampleRequest(
        prompt_id=f"p{words}-{shift}",
        messages=(Message(role="user", content=content),),
        seeds=seeds,
    )


def requests(samples: int = 4) -> list[SampleRequest]:
    return [
        request(words, tuple(2**62 + 100 * i + k for k in range(samples)), shift=i)
        for i, words in enumerate(WORDS)
    ]


def sampled(sampler: VllmSampler, given: list[SampleRequest]) -> list[SampledPrompt]:
    results = list(sampler.sample(given))
    assert all(isinstance(result, SampledPrompt) for result in results)
    return [result for result in results if isinstance(result, SampledPrompt)]


def outputs(sampler: VllmSampler, given: list[SampleRequest]) -> dict[str, list[tuple[int, ...]]]:
    return {
        one.prompt_id: [completion.token_ids for completion in one.completions]
        for one in sampled(sampler, given)
    }


def completions(sampler: VllmSampler, samples: int) -> list[Completion]:
    return [
        completion
        for each in sampled(sampler, requests(samples))
        for completion in each.completions
    ]


def processed(folder: Path, ids: tuple[int, ...]) -> torch.Tensor:
    """Probabilities after the temperature at every position, by a plain forward pass."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].div(TEMPERATURE).softmax(-1)


def test_results_come_in_the_order_of_requests_and_seeds(sampler):
    given = [*requests(), request(8, ())]
    found = sampled(sampler, given)
    assert list(sampler.sample([])) == []
    assert [one.prompt_id for one in found] == [one.prompt_id for one in given]
    assert [len(one.completions) for one in found] == [len(one.seeds) for one in given]


def test_prompt_ids_are_those_that_we_render(sampler, folder):
    tokenizer = loading.load_tokenizer(str(folder))
    for one, asked in zip(sampled(sampler, requests()), requests(), strict=True):
        assert one.prompt_token_ids == rendering.render(tokenizer, asked.messages)


def test_outputs_do_not_depend_on_company_or_order(sampler):
    expected = outputs(sampler, requests())
    for part_size in (1, 4):
        parts = [requests()[i : i + part_size] for i in range(0, len(WORDS), part_size)]
        found = [outputs(sampler, part) for part in parts]
        assert {key: ids for part in found for key, ids in part.items()} == expected
    assert outputs(sampler, requests()[::-1]) == expected


def test_a_part_is_repeated(sampler):
    assert list(sampler.sample(requests())) == list(sampler.sample(requests()))


def test_samples_differ_by_seed_and_by_nothing_else(sampler):
    # The generator of torch on CPU reads the lower 32 bits of a seed.
    seeds = (1, 2, 3, 5 + 2**32, 7 + 2**62, 2**63 - 1, 0, 1)
    (drawn,) = outputs(sampler, [request(5, seeds)]).values()
    assert drawn[0] == drawn[-1]
    assert len(set(drawn)) >= 6
    (again,) = outputs(sampler, [request(5, seeds[::-1])]).values()
    assert again == drawn[::-1]


def test_an_output_ends_with_an_end_token_or_at_the_limit(sampler, folder):
    tokenizer = loading.load_tokenizer(str(folder))
    model = AutoModelForCausalLM.from_pretrained(folder)
    ends = loading.end_token_ids(tokenizer, model.generation_config)
    assert len(ends) > 2
    last_ids = set()
    reasons = set()
    for completion in completions(sampler, samples=60):
        *body, last = completion.token_ids
        reasons.add(completion.finish_reason)
        assert not set(body) & set(ends)
        assert completion.text == rendering.decode(tokenizer, completion.token_ids)
        if completion.finish_reason == "stop":
            last_ids.add(last)
        else:
            assert last not in ends
            assert len(completion.token_ids) == LIMIT
    assert reasons == {"stop", "length"}
    assert last_ids <= set(ends)
    assert len(last_ids) > 10


def test_every_token_lies_in_the_nucleus_of_a_plain_forward_pass(sampler, folder):
    for one in sampled(sampler, requests(samples=2)):
        for completion in one.completions:
            ids = (*one.prompt_token_ids, *completion.token_ids)
            probs = processed(folder, ids)[len(one.prompt_token_ids) - 1 : -1]
            drawn = probs.gather(-1, torch.tensor(completion.token_ids)[:, None])
            likelier = probs.where(probs > drawn + 1e-4, 0).sum(-1)
            assert (likelier < TOP_P + 1e-3).all()


def test_first_tokens_are_as_frequent_as_the_truncated_softmax_says(sampler, folder):
    count = 3000
    (one,) = sampled(sampler, [request(6, tuple(range(count)))])
    found = Counter(completion.token_ids[0] for completion in one.completions)
    probs = processed(folder, one.prompt_token_ids)[-1]
    ordered = probs.sort(descending=True)
    kept = ordered.values.cumsum(0) - ordered.values < TOP_P
    expected = torch.zeros_like(probs)
    expected[ordered.indices[kept]] = ordered.values[kept] / ordered.values[kept].sum()
    assert 5 < kept.sum() < 200
    assert set(found) <= set(ordered.indices[kept].tolist())
    for token, share in enumerate(expected.tolist()):
        spread = (share * (1 - share) / count) ** 0.5
        assert abs(found[token] / count - share) <= 4.5 * spread


def test_long_prompts_are_drawn_with_their_seeds(sampler):
    """Together they exceed what one step of the engine takes."""
    given = [request(1000, (i, i + 1), shift=i) for i in range(5)]
    expected = outputs(sampler, given)
    assert sum(len(one.prompt_token_ids) for one in sampled(sampler, given)) > 8192
    for one in given:
        assert outputs(sampler, [one])[one.prompt_id] == expected[one.prompt_id]


def test_a_prompt_without_room_is_left_out_alone(sampler):
    given = [request(3, (1,)), request(5000, (1,)), request(4, (1,))]
    first, second, third = sampler.sample(given)
    assert isinstance(first, SampledPrompt)
    assert isinstance(third, SampledPrompt)
    assert isinstance(second, Unsampled)
    assert second.prompt_id == "p5000-0"
    assert "takes 4096 tokens" in second.reason


def test_a_second_engine_in_this_process_is_refused(sampler, folder):
    with pytest.raises(ValueError, match="one engine at a time"):
        VllmSampler(VllmEngine(), policy(folder), params=PARAMS)
    assert len(sampled(sampler, requests())) == len(WORDS)
