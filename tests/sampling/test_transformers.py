import gc
import logging
import re
import weakref
from dataclasses import replace

import pytest
import random_models
import torch

from forethought.config import ModelConfig, TransformersSampling
from forethought.decoding import shared_prefix
from forethought.decoding.request import SamplingParams
from forethought.sampling.base import Sampler, one_prompt
from forethought.sampling.open import open_sampler
from forethought.sampling.transformers import TransformersSampler
from forethought.types import Message, SampledPrompt, SampleRequest, Unsampled

GREEDY = SamplingParams(temperature=0.0, top_p=1.0, max_new_tokens=14)
DRAWN = SamplingParams(temperature=0.9, top_p=0.8, max_new_tokens=24)
LENGTHS = (9, 3, 14, 4, 9, 6)


def sampler(model, params=DRAWN, rows=6) -> TransformersSampler:
    return TransformersSampler(model, random_models.tokenizer(), params=params, rows=rows)


def requests(samples: int = 4) -> list[SampleRequest]:
    return [
        random_models.request(words, tuple(range(100 * i, 100 * i + samples)), shift=i)
        for i, words in enumerate(LENGTHS)
    ]


def all_of(opened: Sampler, given: list[SampleRequest]) -> list[SampledPrompt]:
    return [one_prompt(result) for result in opened.sample(given)]


def ids(sampled: list[SampledPrompt]) -> dict[str, list[tuple[int, ...]]]:
    return {one.prompt_id: [c.token_ids for c in one.completions] for one in sampled}


def generated(model, prompt: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Greedy `generate`, with the attention that computes all an architecture has."""
    inputs = torch.tensor([prompt])
    with shared_prefix.attached(model, "eager"):
        output = model.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )
    tail = output[0, len(prompt) :].tolist()
    return tuple(tail[: tail.index(random_models.END) + 1] if random_models.END in tail else tail)


@pytest.mark.parametrize("variant", [*random_models.VARIANTS][:1] + [*random_models.GENERAL][:1])
def test_an_opening_that_is_barred_is_not_drawn_and_others_stay(variant):
    with sampler(random_models.model(variant), GREEDY) as opened:
        plain = requests(samples=2)
        free = ids(all_of(opened, plain))
        first = {name: outputs[0] for name, outputs in free.items()}
        openings = {
            one.prompt_id: (first[one.prompt_id][:2], first[one.prompt_id][:4]) for one in plain[:3]
        }
        barred = [replace(one, never_opens_with=openings[one.prompt_id]) for one in plain[:3]]
        found = ids(all_of(opened, [*barred, *plain[3:]]))
    for one in plain[3:]:
        assert found[one.prompt_id] == free[one.prompt_id]
    for one in barred:
        shortest = openings[one.prompt_id][0]
        for output in found[one.prompt_id]:
            assert output[: len(shortest) - 1] == shortest[:-1]
            assert output[: len(shortest)] != shortest


@pytest.mark.parametrize("variant", random_models.VARIANTS)
def test_greedy_equals_generate(variant):
    model = random_models.model(variant)
    with sampler(model, GREEDY) as opened:
        for one in all_of(opened, requests(samples=2)[:4]):
            expected = generated(model, one.prompt_token_ids, 14)
            assert [c.token_ids for c in one.completions] == [expected, expected]


@pytest.mark.parametrize("variant", random_models.GENERAL)
def test_other_architectures_are_sampled_all_the_same(variant, caplog):
    model = random_models.model(variant)
    with caplog.at_level(logging.WARNING), sampler(model, GREEDY) as opened:
        assert "the slow way" in caplog.text
        for one in all_of(opened, requests(samples=2)[:3]):
            expected = generated(model, one.prompt_token_ids, 14)
            assert [c.token_ids for c in one.completions] == [expected, expected]


@pytest.mark.parametrize("variant", ["llama", "mistral", "gemma3"])
def test_every_token_lies_in_the_nucleus_of_a_plain_forward_pass(variant):
    model = random_models.model(variant)
    with sampler(model, rows=16) as opened:
        sampled = all_of(opened, requests())
    for one in sampled:
        for completion in one.completions:
            whole = torch.tensor([[*one.prompt_token_ids, *completion.token_ids]])
            with torch.no_grad(), shared_prefix.attached(model, "eager"):
                logits = model(input_ids=whole, use_cache=False).logits[0]
            probs = logits[len(one.prompt_token_ids) - 1 : -1].div(0.9).softmax(-1)
            drawn = probs.gather(-1, torch.tensor(completion.token_ids)[:, None])
            likelier = probs.where(probs > drawn + 1e-4, 0).sum(-1)
            assert (likelier < 0.8 + 1e-3).all()


def test_outputs_do_not_depend_on_company_order_or_rows():
    model = random_models.model()
    with sampler(model) as opened:
        expected = ids(all_of(opened, requests()))
        for part_size in (1, 3, 8):
            parts = [requests()[i : i + part_size] for i in range(0, len(LENGTHS), part_size)]
            assert ids([one for part in parts for one in all_of(opened, part)]) == expected
        assert ids(all_of(opened, requests()[::-1])) == expected
    with sampler(model, rows=1000) as opened:
        assert ids(all_of(opened, requests())) == expected


def test_a_part_is_repeated_bit_for_bit():
    with sampler(random_models.model()) as opened:
        assert all_of(opened, requests()) == all_of(opened, requests())


def test_samples_differ_by_seed_and_by_nothing_else():
    with sampler(random_models.model()) as opened:
        (one,) = all_of(opened, [random_models.request(5, (1, 2, 3, 4, 5, 6, 1))])
    outputs = [completion.token_ids for completion in one.completions]
    assert outputs[0] == outputs[-1]
    assert len(set(outputs)) > 3


def test_results_come_in_the_order_of_requests_and_seeds():
    given = [*requests(), random_models.request(8, ())]
    with sampler(random_models.model()) as opened:
        sampled = all_of(opened, given)
        assert all_of(opened, []) == []
    assert [one.prompt_id for one in sampled] == [one.prompt_id for one in given]
    assert [len(one.completions) for one in sampled] == [len(one.seeds) for one in given]


def test_an_output_ends_with_its_end_token_or_at_the_limit():
    tokenizer = random_models.tokenizer()
    with sampler(random_models.model()) as opened:
        sampled = all_of(opened, requests(samples=16))
    reasons = set()
    for completion in (c for one in sampled for c in one.completions):
        *body, last = completion.token_ids
        reasons.add(completion.finish_reason)
        assert random_models.END not in body
        assert completion.text == tokenizer.decode(
            list(completion.token_ids), skip_special_tokens=True
        )
        if completion.finish_reason == "stop":
            assert last == random_models.END
        else:
            assert last != random_models.END
            assert len(completion.token_ids) == DRAWN.max_new_tokens
    assert reasons == {"stop", "length"}


def test_finished_rows_leave(monkeypatch):
    widths: list[int] = []
    step = shared_prefix.SharedPrefixDecoder.step

    def counting(self, tokens_R):
        widths.append(len(tokens_R))
        return step(self, tokens_R)

    with sampler(random_models.model(), rows=64) as opened:
        monkeypatch.setattr(shared_prefix.SharedPrefixDecoder, "step", counting)
        sampled = all_of(opened, requests(samples=8))
    useful = sum(len(c.token_ids) for one in sampled for c in one.completions)
    assert sum(widths) < 1.1 * useful
    assert widths[-1] < widths[0]


def test_waiting_prompts_enter_while_others_are_decoded(monkeypatch):
    caches: list[int] = []
    step = shared_prefix.SharedPrefixDecoder.step

    def counting(self, tokens_R):
        caches.append(len(self.caches))
        return step(self, tokens_R)

    with sampler(random_models.model(), rows=8) as opened:
        monkeypatch.setattr(shared_prefix.SharedPrefixDecoder, "step", counting)
        all_of(opened, requests())
    assert max(caches) > 1


def test_a_long_output_outgrows_its_blocks_and_its_window():
    model = random_models.model("gemma3")
    params = SamplingParams(temperature=0.0, top_p=1.0, max_new_tokens=60)
    with torch.no_grad():
        model.lm_head.weight[random_models.END] = 0  # pyright: ignore
    with sampler(model, params) as opened:
        (one,) = all_of(opened, [random_models.request(9, (1, 2))])
    expected = generated(model, one.prompt_token_ids, 60)
    assert len(expected) == 60
    assert [completion.token_ids for completion in one.completions] == [expected, expected]


def test_the_limit_is_cut_to_the_context():
    model = random_models.model(max_position_embeddings=16)
    with sampler(model, GREEDY) as opened:
        for words, room in ((10, 4), (13, 1)):
            (one,) = all_of(opened, [random_models.request(words, (1,))])
            assert len(one.prompt_token_ids) == words + 2
            assert len(one.completions[0].token_ids) <= room


@pytest.mark.parametrize("words", [14, 40])
def test_a_prompt_without_room_is_unsampled_and_the_others_are_sampled(words):
    model = random_models.model(max_position_embeddings=16)
    given = [random_models.request(n, (1, 2), shift=n) for n in (3, words, 5)]
    with sampler(model) as opened:
        first, second, third = opened.sample(given)
        assert all_of(opened, [given[0], given[2]]) == [first, third]
    assert isinstance(second, Unsampled)
    assert second.prompt_id == f"p{words}-{words}"
    assert f"it has {words + 2} tokens; in memory takes 16 tokens" in second.reason
    with pytest.raises(ValueError, match=rf"prompt p{words}-{words}: it has {words + 2} tokens"):
        one_prompt(second)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('no such role') }}", "chat template refuses .*no such role"),
        ("{{ 'a' + 1 }}", "chat template refuses .*TypeError: can only concatenate str"),
        ("{{ 1 / 0 }}", "chat template refuses .*ZeroDivisionError: division by zero; the conv"),
        ("{{ [][3].x }}", "chat template refuses .*list object has no element 3"),
        ("{{ messages[0]['content'].encode('no') }}", "chat template refuses .*unknown encoding"),
        ("", "empty once rendered"),
    ],
)
def test_a_prompt_that_cannot_be_rendered_is_unsampled(template, words):
    tokenizer = random_models.tokenizer()
    plain = tokenizer.chat_template
    tokenizer.chat_template = "{% if messages[0]['content'] == 'w1' %}" + template
    tokenizer.chat_template += f"{{% else %}}{plain}{{% endif %}}"
    refused = SampleRequest(
        prompt_id="a", messages=(Message(role="user", content="w1"),), seeds=(1,)
    )
    with TransformersSampler(random_models.model(), tokenizer, params=DRAWN, rows=6) as opened:
        results = list(opened.sample([refused, *requests(), refused]))
        assert results[1:-1] == all_of(opened, requests())
    for result in (results[0], results[-1]):
        assert isinstance(result, Unsampled)
        assert re.search(words, result.reason)


def test_broken_weights_are_named(tmp_path):
    model = random_models.model()
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan  # pyright: ignore
    with sampler(model) as opened, pytest.raises(ValueError, match=r"model: in memory.*float32"):
        opened.sample(requests())


def test_a_model_in_memory_is_left_as_it_was():
    model = random_models.model().train()
    before = model.config._attn_implementation
    with sampler(model) as opened:
        all_of(opened, requests())
        assert model.training
        assert model.config._attn_implementation == before
    model(input_ids=torch.tensor([[1, 5, 6]])).logits.sum().backward()


def test_leaving_frees_the_model():
    model = random_models.model()
    alive = weakref.ref(model)
    opened = sampler(model)
    del model
    with opened:
        all_of(opened, requests())
        assert alive() is not None
    gc.collect()
    assert alive() is None


def test_a_folder_is_sampled_in_bfloat16(tmp_path):
    random_models.model().save_pretrained(tmp_path)
    random_models.tokenizer().save_pretrained(tmp_path)
    given = [
        SampleRequest(prompt_id="a", messages=(Message(role="user", content="w1"),), seeds=(1, 2))
    ]
    config = ModelConfig(path=str(tmp_path), dtype="bfloat16", device="cpu")
    with open_sampler(TransformersSampling(), model=config, params=DRAWN) as opened:
        first = all_of(opened, given)
        assert first == all_of(opened, given)
    assert len(first[0].completions) == 2


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"max_new_tokens": 0}]
)
def test_impossible_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**({"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 5} | wrong))
