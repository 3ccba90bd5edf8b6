from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

import pytest
import random_models

from forethought.config import ModelConfig, TransformersEngine
from forethought.decoding.request import SamplingParams
from forethought.sampling import cached
from forethought.sampling.cached import CachedSampler
from forethought.sampling.open import open_sampler
from forethought.sampling.transformers import TransformersSampler
from forethought.storage.reply_cache import Cache
from forethought.types import SampledPrompt, SampleRequest, Unsampled

PARAMS = SamplingParams(temperature=0.9, top_p=0.8, max_new_tokens=12)
IDENTITY = {"model": "a", "params": {"temperature": 0.9}}


class Watched:
    """The embedded engine, which says what it was asked for and may stop after some slices."""

    def __init__(self, slices: int | None = None) -> None:
        model = random_models.model(max_position_embeddings=32)
        tokenizer = random_models.tokenizer()
        self.engine = TransformersSampler(model, tokenizer, params=PARAMS, rows=64)
        self.slices = slices
        self.asked: list[list[SampleRequest]] = []
        self.left = False

    def sample(self, requests: Sequence[SampleRequest]) -> Iterator[SampledPrompt | Unsampled]:
        if len(self.asked) == self.slices:
            raise KeyboardInterrupt
        self.asked.append(list(requests))
        return self.engine.sample(requests)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.left = True


def requests(count: int = 6) -> list[SampleRequest]:
    return [random_models.request(3 + i % 4, (i, 50 + i), shift=i) for i in range(count)]


def plain(given: list[SampleRequest]) -> list[SampledPrompt | Unsampled]:
    return list(Watched().engine.sample(given))


def test_outputs_are_those_of_the_engine_and_are_drawn_once(tmp_path):
    engine = Watched()
    with Cache(tmp_path / "cache.sqlite") as cache:
        first = list(CachedSampler(engine, cache, IDENTITY).sample(requests()))
    with Cache(tmp_path / "cache.sqlite") as cache:
        second = list(CachedSampler(engine, cache, IDENTITY).sample(requests()))
        assert cache.hits == 12
    assert first == second == plain(requests())
    assert engine.asked == [requests()]


def test_only_missing_seeds_are_asked_for_and_the_order_is_kept():
    engine = Watched()
    with Cache() as cache:
        sampler = CachedSampler(engine, cache, IDENTITY)
        list(sampler.sample(requests(3)))
        more = [replace(request, seeds=(7, *request.seeds, 9)) for request in requests(4)][::-1]
        assert list(sampler.sample(more)) == plain(more)
    assert [one.seeds for one in engine.asked[1]] == [(7, 3, 53, 9), (7, 9), (7, 9), (7, 9)]
    assert [one.prompt_id for one in engine.asked[1]] == [one.prompt_id for one in more]


def test_after_a_kill_the_engine_is_given_the_slices_it_would_have_been_given(monkeypatch):
    monkeypatch.setattr(cached, "SLICE", 4)
    whole = Watched()
    with Cache() as cache:
        expected = list(CachedSampler(whole, cache, IDENTITY).sample(requests(14)))
    stopped, resumed = Watched(slices=2), Watched()
    with Cache() as cache:
        results = CachedSampler(stopped, cache, IDENTITY).sample(requests(14))
        come = [next(results) for _ in range(8)]
        with pytest.raises(KeyboardInterrupt):
            next(results)
        assert cache.counts()["calls"] == 16
        assert list(CachedSampler(resumed, cache, IDENTITY).sample(requests(14))) == expected
    assert come == expected[:8]
    assert stopped.asked + resumed.asked == whole.asked
    assert [len(each) for each in whole.asked] == [4, 4, 4, 2]


def test_what_the_engine_cannot_take_passes_through_and_is_tried_again():
    engine = Watched()
    given = [requests()[0], random_models.request(40, (1, 2)), requests()[1]]
    with Cache() as cache:
        sampler = CachedSampler(engine, cache, IDENTITY)
        first = list(sampler.sample(given))
        assert isinstance(first[1], Unsampled)
        assert first[1].prompt_id == "p40-0"
        assert cache.counts()["calls"] == 4
        assert list(sampler.sample(given)) == first
        assert engine.asked[1] == [given[1]]


def test_another_engine_shares_nothing():
    engine = Watched()
    with Cache() as cache:
        list(CachedSampler(engine, cache, IDENTITY).sample(requests(1)))
        list(CachedSampler(engine, cache, IDENTITY | {"model": "b"}).sample(requests(1)))
        assert (cache.hits, len(engine.asked)) == (0, 2)


def test_the_same_question_twice_and_no_question():
    engine = Watched()
    given = [
        requests()[0],
        replace(requests()[0], prompt_id="again"),
        replace(requests()[1], seeds=()),
    ]
    with Cache() as cache:
        sampler = CachedSampler(engine, cache, IDENTITY)
        for _ in range(2):
            first, again, none = sampler.sample(given)
            assert isinstance(first, SampledPrompt)
            assert again == replace(first, prompt_id="again")
            assert none == plain([given[2]])[0]
        assert list(sampler.sample([])) == []
        assert cache.counts()["calls"] == 2
    assert engine.asked[1] == [given[2]]


def test_tokens_are_counted_once():
    with Cache(account="judge") as cache:
        results = list(CachedSampler(Watched(), cache, IDENTITY).sample(requests()))
        list(CachedSampler(Watched(), cache, IDENTITY).sample(requests()))
        sampled = [result for result in results if isinstance(result, SampledPrompt)]
        assert cache.counts() == {
            "calls": 12,
            "hits": 12,
            "prompt_tokens": sum(2 * len(one.prompt_token_ids) for one in sampled),
            "completion_tokens": sum(len(c.token_ids) for one in sampled for c in one.completions),
            "cost": 0.0,
        }


def test_leaving_leaves_the_engine_and_not_the_cache():
    engine = Watched()
    with Cache() as cache:
        with CachedSampler(engine, cache, IDENTITY):
            assert not engine.left
        assert engine.left
        cache.keep("open", 1)


def test_a_recipes_engine_is_cached(tmp_path):
    random_models.model().save_pretrained(tmp_path / "model")
    random_models.tokenizer().save_pretrained(tmp_path / "model")
    model = ModelConfig(path=str(tmp_path / "model"), dtype="float32", device="cpu")
    found = []
    with Cache(tmp_path / "cache.sqlite") as cache:
        for _ in range(2):
            engine = TransformersEngine()
            with open_sampler(
                engine, model=model, params=PARAMS, cache=cache, token_ids=False
            ) as sampler:
                found.append(list(sampler.sample(requests(2))))
        assert cache.hits == 4
    assert found[0] == found[1]
