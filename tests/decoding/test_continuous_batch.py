from collections.abc import Iterator
from contextlib import nullcontext
from random import Random
from typing import Any

import pytest
import random_models
import torch
from torch import Tensor
from transformers import PreTrainedModel

from forethought.decoding import shared_prefix, static_batch
from forethought.decoding.continuous_batch import ContinuousBatch, Failure, Generation, NewToken
from forethought.decoding.expanded import ExpandedBatches
from forethought.decoding.request import SamplingParams, TokenizedRequest
from forethought.decoding.shared_prefix import SharedPrefixDecoder

END = random_models.END
VARIANTS = ("llama", "mistral", "gemma2", "gemma3")
DRAWN = SamplingParams(temperature=0.9, top_p=0.8, max_new_tokens=24)
LENGTHS = (9, 3, 40, 4, 9, 6, 33, 17)


def random_model(variant: str = "llama") -> PreTrainedModel:
    return random_models.model(variant, max_position_embeddings=2048)


def prompt(length: int, shift: int = 0) -> tuple[int, ...]:
    return tuple(5 + (7 * i + 3 * length + shift) % 50 for i in range(length))


def generation(
    ids: tuple[int, ...], seed: int, params: SamplingParams = DRAWN, **changes
) -> Generation:
    fields = {
        "limit": params.max_new_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_logprobs": None,
    }
    return Generation(token_ids=ids, seed=seed, **(fields | changes))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


SMALL_CHUNK = 8
"""So few tokens that short prompts have several chunks."""


def batch_of(decoder, model: PreTrainedModel, chunk_tokens: int | None = None) -> ContinuousBatch:
    return ContinuousBatch(
        lambda: decoder(model), end_ids=(END,), device=model.device, chunk_tokens=chunk_tokens
    )


def run(
    batch: ContinuousBatch, arrivals: dict[int, list[Generation]]
) -> dict[Generation, list[int]]:
    """All tokens of all generations; `arrivals` come before the turns of these numbers."""
    ids: dict[Generation, list[int]] = {
        one: [] for generations in arrivals.values() for one in generations
    }
    turn = 0
    while batch.busy or turn <= max(arrivals):
        for one in arrivals.get(turn, ()):
            batch.add(one)
        for event in batch.turn():
            assert isinstance(event, NewToken), event
            ids[event.generation].append(event.token_id)
        turn += 1
    return ids


def alone(model: PreTrainedModel, one: Generation) -> list[int]:
    """The static batch's tokens for this one alone."""
    params = SamplingParams(temperature=one.temperature, top_p=one.top_p, max_new_tokens=one.limit)
    request = TokenizedRequest(token_ids=one.token_ids, seeds=(one.seed,), limit=one.limit)
    with shared_prefix.attached(model):
        decoder = SharedPrefixDecoder(model)
        ((ids,),) = static_batch.run(
            decoder, [request], params=params, end_ids=(END,), rows=1, device=model.device
        )
    return ids


def mixed_generations() -> list[Generation]:
    """Every one with parameters of its own."""
    return [
        generation(
            prompt(length, shift=i),
            100 + i,
            temperature=(0.0, 0.7, 1.3)[i % 3],
            top_p=(1.0, 0.5, 0.9, 0.05)[i % 4],
            limit=5 + 7 * i,
        )
        for i, length in enumerate(LENGTHS)
    ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_that_come_one_after_another_draw_what_each_draws_alone(variant):
    model = random_model(variant)
    generations = mixed_generations()
    with shared_prefix.attached(model):
        batch = batch_of(SharedPrefixDecoder, model, SMALL_CHUNK)
        ids = run(batch, {3 * i: [one] for i, one in enumerate(generations)})
    assert list(ids.values()) == [alone(model, one) for one in generations]
    assert len({len(found) for found in ids.values()}) > 3


def test_architectures_that_share_nothing_take_late_rows_too():
    model = random_model()
    generations = mixed_generations()
    ids = run(batch_of(ExpandedBatches, model), {2 * i: [one] for i, one in enumerate(generations)})
    assert list(ids.values()) == [alone(model, one) for one in generations]


def test_equal_prompts_that_come_together_are_prefilled_once(monkeypatch):
    model = random_model()
    generations = [generation(prompt(9), seed) for seed in range(5)] + [generation(prompt(4), 7)]
    prefills: list[int] = []
    admit = SharedPrefixDecoder.admit

    def counting(self, prompts, copies):
        prefills.append(len(prompts))
        return admit(self, prompts, copies)

    with shared_prefix.attached(model):
        batch = batch_of(SharedPrefixDecoder, model)
        monkeypatch.setattr(SharedPrefixDecoder, "admit", counting)
        ids = run(batch, {0: generations})
    assert prefills == [2]
    assert list(ids.values()) == [alone(model, one) for one in generations]


def test_a_long_prompt_comes_in_chunks_while_the_others_go_on():
    model = random_model()
    first, long = generation(prompt(5), 3, temperature=0.0, limit=40), generation(prompt(300), 4)
    with shared_prefix.attached(model):
        batch = batch_of(SharedPrefixDecoder, model, 16)
        batch.add(first)
        batch.turn()
        batch.add(long)
        turns = []
        while long.drawn == 0:
            turns.append([event.generation for event in batch.turn()])
    assert len(turns) == 300 // 16 + 1
    assert all(generations.count(first) == 1 for generations in turns)


def test_caches_of_rows_that_came_one_by_one_are_merged():
    model = random_model()
    with shared_prefix.attached(model):
        decoder = SharedPrefixDecoder(model)
        batch = ContinuousBatch(lambda: decoder, end_ids=(), device=model.device)
        for i in range(12):
            batch.add(generation(prompt(4 + i), i, limit=100))
            batch.turn()
        assert [len(cache) for cache in decoder.caches] == [12]
        # A row of another size would make all of them as wide as itself.
        batch.chunk_tokens = 2000
        batch.add(generation(prompt(1500), 50, limit=100))
        batch.turn()
        assert sorted(len(cache) for cache in decoder.caches) == [1, 12]


def test_who_leaves_is_gone_before_the_next_step():
    model = random_model()
    generations = [generation(prompt(4 + i), i, limit=60, temperature=0.0) for i in range(3)]
    with shared_prefix.attached(model):
        decoder = SharedPrefixDecoder(model)
        batch = ContinuousBatch(lambda: decoder, end_ids=(), device=model.device)
        for one in generations:
            batch.add(one)
        batch.turn()
        generations[1].cancelled = True
        assert [event.generation for event in batch.turn()] == [generations[0], generations[2]]
        assert len(decoder.positions_R) == 2
        generations[0].cancelled = generations[2].cancelled = True
        assert batch.turn() == []
        assert not batch.busy
        assert decoder.caches == []


def test_leaving_before_or_during_the_prefill_costs_no_row():
    model = random_model()
    waiting, halfway = generation(prompt(100), 1), generation(prompt(101), 2)
    with shared_prefix.attached(model):
        batch = batch_of(SharedPrefixDecoder, model, SMALL_CHUNK)
        waiting.cancelled = True
        batch.add(waiting)
        batch.add(halfway)
        batch.turn()
        assert batch.busy
        halfway.cancelled = True
        assert batch.turn() == []
        assert not batch.busy
        assert waiting.drawn == halfway.drawn == 0


def test_log_probabilities_are_those_of_a_plain_forward_pass():
    model = random_model()
    wanting = generation(prompt(9), 1, top_logprobs=3, temperature=1.5)
    own_only = generation(prompt(6), 2, top_logprobs=0)
    without = generation(prompt(7), 3)
    events: dict[Generation, list[NewToken]] = {wanting: [], own_only: [], without: []}
    with shared_prefix.attached(model):
        batch = batch_of(SharedPrefixDecoder, model)
        for one in events:
            batch.add(one)
        while batch.busy:
            for event in batch.turn():
                assert isinstance(event, NewToken)
                events[event.generation].append(event)
    assert all(event.logprob is None and event.top == () for event in events[without])
    for one in (wanting, own_only):
        ids = [event.token_id for event in events[one]]
        logits = model(input_ids=torch.tensor([[*one.token_ids, *ids]])).logits[0]
        logps = logits[len(one.token_ids) - 1 : -1].log_softmax(-1)
        for event, expected_V in zip(events[one], logps, strict=True):
            assert event.logprob == pytest.approx(float(expected_V[event.token_id]), abs=1e-4)
            best = expected_V.topk(one.top_logprobs or 0)
            assert [token for token, _ in event.top] == best.indices.tolist()
            assert [p for _, p in event.top] == pytest.approx(best.values.tolist(), abs=1e-4)


class Unlucky(SharedPrefixDecoder):
    """Raises in the forward passes of these numbers."""

    def __init__(self, model: PreTrainedModel, failing: Iterator[Exception | None]) -> None:
        super().__init__(model)
        self.failing = failing

    def _forward(self, ids: Tensor, positions: Tensor, phase: Any) -> Tensor:
        error = next(self.failing, None)
        if error is not None:
            raise error
        return super()._forward(ids, positions, phase)


def test_a_step_out_of_memory_loses_those_in_it_and_the_next_go_on(caplog):
    model = random_model()
    errors = iter([None, None, torch.OutOfMemoryError("CUDA out of memory: <the thought>")])
    lost, later = [generation(prompt(5), 1), generation(prompt(7), 5)], generation(prompt(4), 3)
    with shared_prefix.attached(model):
        batch = batch_of(lambda model: Unlucky(model, errors), model)
        for one in lost:
            batch.add(one)
        assert len(batch.turn()) == 4
        events = batch.turn()
        assert {event.generation for event in events} == set(lost)
        assert all(isinstance(e, Failure) and "out of memory" in e.reason for e in events)
        assert batch.failures == 1
        assert run(batch, {0: [later]}) == {later: alone(model, later)}
    assert batch.failures == 0
    assert "OutOfMemoryError" in caplog.text
    assert "<the thought>" not in caplog.text


def test_a_prompt_that_fails_takes_nobody_with_it():
    model = random_model()
    errors = iter([None, None, RuntimeError("no"), None])
    living, failing = generation(prompt(5), 1), generation(prompt(7), 2)
    with shared_prefix.attached(model):
        batch = batch_of(lambda model: Unlucky(model, errors), model)
        batch.add(living)
        ids = [event.token_id for event in batch.turn() if isinstance(event, NewToken)]
        batch.add(failing)
        while batch.busy:
            for event in batch.turn():
                if isinstance(event, Failure):
                    assert event == Failure(generation=failing, reason="the model failed")
                else:
                    ids.append(event.token_id)
    assert failing.drawn == 0
    assert ids == alone(model, living)


@pytest.mark.parametrize("kind", [SharedPrefixDecoder, ExpandedBatches])
@pytest.mark.parametrize("chance", range(3))
def test_whoever_stays_is_not_disturbed_by_comings_and_goings(kind, chance):
    model = random_model("mistral")
    random = Random(chance)
    generations = [
        generation(prompt(random.randint(1, 40), i), i, limit=random.randint(1, 50))
        for i in range(25)
    ]
    ids: dict[Generation, list[int]] = {one: [] for one in generations}
    coming = list(generations)
    with shared_prefix.attached(model) if kind is SharedPrefixDecoder else nullcontext():
        batch = batch_of(kind, model, SMALL_CHUNK if kind is SharedPrefixDecoder else None)
        while coming or batch.busy:
            if coming and random.random() < 0.4:
                batch.add(coming.pop())
            if random.random() < 0.15:
                random.choice(generations).cancelled = True
            for event in batch.turn():
                assert isinstance(event, NewToken), event
                ids[event.generation].append(event.token_id)
    stayed = [one for one in generations if not one.cancelled]
    assert 3 < len(stayed) < 25
    for one in generations:
        expected = alone(model, one)
        assert ids[one] == (expected[: one.drawn] if one.cancelled else expected)
