import asyncio
import contextlib
import gc
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_policy
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from forethought.config import ModelConfig
from forethought.decoding.request import SamplingParams
from forethought.models import loading, rendering
from forethought.sampling.base import one_prompt
from forethought.sampling.transformers import TransformersSampler
from forethought.serving.backends.base import Backend, BackendError, Draw, Piece, RefusedDrawError
from forethought.serving.backends.embedded import EmbeddedBackend
from forethought.thoughts import GENERIC
from forethought.types import Message, SampleRequest

MICROWORLD = ModelConfig(path="microworld", dtype="float32", device="cpu")
Run = Callable[[EmbeddedBackend], Awaitable[None]]


def asked(text: str) -> tuple[Message, ...]:
    return GENERIC.apply((Message(role="user", content=text),))


DRAW = Draw(
    messages=asked("What is 17 + 25?"),
    begun="",
    temperature=0.8,
    top_p=0.95,
    seed=17,
    max_tokens=96,
    top_logprobs=None,
)


def mixed(count: int) -> list[Draw]:
    """Draws of which no two are alike."""
    return [
        replace(
            DRAW,
            messages=asked(f"What is {3 + i} + {5 * i}?" + " Think well." * (i % 5)),
            seed=1000 + i,
            temperature=(0.0, 0.6, 0.8, 1.2)[i % 4],
            top_p=(1.0, 0.95, 0.4)[i % 3],
            max_tokens=(12, 40, 96, None)[i % 4],
        )
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> ModelConfig:
    """Random tokens, so half characters; its outputs end at the end token alone, so rarely."""
    folder = save_policy(tmp_path_factory.mktemp("llama"), "llama")
    (folder / "generation_config.json").unlink()
    return ModelConfig(path=str(folder), dtype="float32", device="cpu")


def served(config: ModelConfig, test: Run, slots: int = 8) -> None:
    """Runs the test on a backend, and closes it."""

    async def main() -> None:
        backend = EmbeddedBackend(config, slots=slots, name="tiny")
        try:
            await asyncio.wait_for(test(backend), 120)
        finally:
            await backend.close()

    asyncio.run(main())


async def pieces(backend: Backend, draw: Draw) -> list[Piece]:
    return [piece async for piece in backend.draw(draw)]


def whole(found: list[Piece]) -> tuple[str, int, str | None]:
    assert all(piece.finish_reason is None for piece in found[:-1])
    text = "".join(piece.text for piece in found)
    return text, sum(piece.tokens for piece in found), found[-1].finish_reason


def sampled(config: ModelConfig, draw: Draw, opening: str = "") -> tuple[str, int, str]:
    """What the embedded sampler gives for this seed."""
    tokenizer = loading.load_tokenizer(config.path)
    opening_ids = tuple(tokenizer.encode(opening, add_special_tokens=False)) if opening else ()
    params = SamplingParams(
        temperature=draw.temperature,
        top_p=draw.top_p,
        max_new_tokens=(draw.max_tokens or 100_000) + len(opening_ids),
    )
    assert draw.seed is not None
    request = SampleRequest(
        prompt_id="a", messages=draw.messages, seeds=(draw.seed,), opening_ids=opening_ids
    )
    with TransformersSampler.load(config, params=params, rows=1) as sampler:
        (result,) = sampler.sample([request])
    (completion,) = one_prompt(result).completions
    return completion.text, len(completion.token_ids), completion.finish_reason


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_alone_an_output_is_the_samplers():
    async def test(backend: EmbeddedBackend) -> None:
        for draw in mixed(8):
            assert whole(await pieces(backend, draw)) == sampled(MICROWORLD, draw)

    served(MICROWORLD, test)


def test_random_bytes_are_the_samplers_text(llama):
    draws = [replace(DRAW, seed=seed, temperature=1.5, max_tokens=60) for seed in range(6)]

    async def test(backend: EmbeddedBackend) -> None:
        for draw in draws:
            assert whole(await pieces(backend, draw)) == sampled(llama, draw)

    served(llama, test)


@pytest.mark.parametrize("slots", [3, 64])
def test_an_output_does_not_depend_on_who_shares_the_batch(slots):
    draws = mixed(30)

    async def test(backend: EmbeddedBackend) -> None:
        alone = [whole(await pieces(backend, draw)) for draw in draws]

        async def late(index: int) -> list[Piece]:
            await asyncio.sleep(0.004 * index)
            return await pieces(backend, draws[index])

        together = await asyncio.gather(*map(late, range(len(draws))))
        assert [whole(found) for found in together] == alone
        assert backend.occupied == backend.waiting == 0

    served(MICROWORLD, test, slots)


def test_a_hundred_draws_at_once_finish():
    async def test(backend: EmbeddedBackend) -> None:
        done = await asyncio.gather(*(pieces(backend, draw) for draw in mixed(100)))
        assert len(done) == 100
        assert {whole(found)[2] for found in done} == {"stop", "length"}

    served(MICROWORLD, test, slots=16)


def test_closing_an_iterator_frees_its_slot_also_while_waiting(llama):
    endless = replace(DRAW, temperature=0.0, max_tokens=None)

    async def test(backend: EmbeddedBackend) -> None:
        iterators = [backend.draw(replace(endless, seed=seed)) for seed in range(4)]
        begun = [asyncio.ensure_future(anext(one)) for one in iterators]
        await until(lambda: backend.waiting == 2 and begun[0].done() and begun[1].done())
        assert backend.occupied == 2
        assert not begun[2].done()

        begun[3].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await begun[3]
        assert (backend.occupied, backend.waiting) == (2, 1)

        await iterators[0].aclose()
        assert (await begun[2]).tokens > 0
        assert (backend.occupied, backend.waiting) == (2, 0)

        for iterator in iterators:
            await iterator.aclose()
        assert backend.occupied == 0

    served(llama, test, slots=2)


def test_a_late_joiner_finishes_while_an_early_one_goes_on(llama):
    async def test(backend: EmbeddedBackend) -> None:
        early = backend.draw(replace(DRAW, temperature=0.0, max_tokens=None))
        await anext(early)
        late = replace(DRAW, max_tokens=10, temperature=1.0)
        assert whole(await pieces(backend, late)) == sampled(llama, late)
        assert backend.occupied == 1
        assert (await anext(early)).finish_reason is None
        await early.aclose()

    served(llama, test)


def test_a_seed_may_be_any_number_or_none():
    async def test(backend: EmbeddedBackend) -> None:
        hot = replace(DRAW, temperature=1.5)
        texts = {
            seed: whole(await pieces(backend, replace(hot, seed=seed)))
            for seed in (-5, 2**64 - 5, 2**63 + 1, 10**30)
        }
        # The same 64 bits.
        assert texts[-5] == texts[2**64 - 5]
        assert len(set(texts.values())) == 3
        unseeded = [whole(await pieces(backend, replace(hot, seed=None))) for _ in range(3)]
        assert len(set(unseeded)) > 1

    served(MICROWORLD, test)


def test_an_output_goes_on_from_what_it_has_begun_with():
    async def test(backend: EmbeddedBackend) -> None:
        text, *_ = whole(await pieces(backend, DRAW))
        cut = text.index("Here is my response:")
        begun = replace(DRAW, begun=text[:cut], temperature=0.0)
        found = await pieces(backend, begun)
        assert whole(found) == sampled(MICROWORLD, begun, opening=text[:cut])
        assert "Here is my response:" in whole(found)[0]
        prompt = rendering.render(loading.load_tokenizer("microworld"), DRAW.messages)
        assert [piece.prompt_tokens for piece in found] == [len(prompt)] + [None] * (len(found) - 1)

    served(MICROWORLD, test)


def test_a_control_token_spelled_out_in_a_beginning_is_text(llama):
    tokenizer = loading.load_tokenizer(llama.path)

    async def test(backend: EmbeddedBackend) -> None:
        prepared = backend._prepare(backend._short, replace(DRAW, begun="so <|eot_id|> it is"))
        assert tokenizer.eos_token_id not in prepared.before
        assert tokenizer.decode(prepared.before) == "so <|eot_id|> it is"

    served(llama, test)


def test_log_probabilities_cover_the_text_and_agree_with_a_forward_pass():
    draw = replace(DRAW, top_logprobs=2)

    async def test(backend: EmbeddedBackend) -> None:
        found = await pieces(backend, draw)
        text, tokens, finish_reason = whole(found)
        assert finish_reason == "stop"
        entries = [logprob for piece in found for logprob in piece.logprobs]
        assert "".join(one.token for one in entries) == text
        assert len(entries) == tokens - 1
        tokenizer = loading.load_tokenizer("microworld")
        prompt = rendering.render(tokenizer, draw.messages)
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert len(ids) == tokens - 1
        model = loading.load_model("microworld", dtype="float32", device="cpu")
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0]
        logps = logits[len(prompt) - 1 : -1].log_softmax(-1)
        for entry, token_id, expected_V in zip(entries, ids, logps, strict=True):
            assert entry.logprob == pytest.approx(float(expected_V[token_id]), abs=1e-4)
            assert [p for _, p in entry.top] == pytest.approx(
                expected_V.topk(2).values.tolist(), abs=1e-4
            )
        assert not any(p.logprobs for p in await pieces(backend, DRAW))

    served(MICROWORLD, test)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"messages": asked("why " * 2000)}, r"tokens and tiny takes 1024"),
        ({"begun": "and so on " * 500}, r"tokens and tiny takes 1024"),
        ({"max_tokens": 0}, "max_new_tokens"),
        ({"temperature": -0.5}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_it_takes_a_slot(changes, reason):
    async def test(backend: EmbeddedBackend) -> None:
        endless = backend.draw(replace(DRAW, max_tokens=None))
        await anext(endless)
        # The only slot is taken, so a draw that waited for one would not return.
        with pytest.raises(RefusedDrawError, match=reason):
            await pieces(backend, replace(DRAW, **changes))
        await endless.aclose()
        assert whole(await pieces(backend, DRAW))[2] == "stop"

    served(MICROWORLD, test, slots=1)


def test_a_conversation_that_the_template_refuses_names_its_roles(tmp_path):
    config = ModelConfig(path=str(save_policy(tmp_path, "gemma")), dtype="float32", device="cpu")
    system = (Message(role="system", content="the secret"), *DRAW.messages)

    async def test(backend: EmbeddedBackend) -> None:
        with pytest.raises(RefusedDrawError, match="system, user: System role") as refused:
            await pieces(backend, replace(DRAW, messages=system))
        assert "secret" not in str(refused.value)

    served(config, test)


def test_without_a_limit_an_output_ends_at_the_context(tmp_path):
    folder = save_policy(tmp_path, "llama", max_position_embeddings=200)
    (folder / "generation_config.json").unlink()
    config = ModelConfig(path=str(folder), dtype="float32", device="cpu")
    draw = replace(
        DRAW,
        messages=(Message(role="user", content="Hi"),),
        temperature=0.0,
        max_tokens=None,
    )

    async def test(backend: EmbeddedBackend) -> None:
        found = await pieces(backend, draw)
        _, tokens, finish_reason = whole(found)
        assert finish_reason == "length"
        assert found[0].prompt_tokens is not None
        assert found[0].prompt_tokens + tokens == 200
        short = whole(await pieces(backend, replace(draw, max_tokens=7)))
        assert short[1:] == (7, "length")

    served(config, test)


def test_only_those_whose_logits_are_not_finite_fail(tmp_path):
    folder = save_policy(tmp_path, "llama")
    config = ModelConfig(path=str(folder), dtype="float32", device="cpu")
    bad = loading.load_tokenizer(config.path).encode("@", add_special_tokens=False)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][bad] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    poisoned = replace(DRAW, messages=(Message(role="user", content="a @ b"),))
    good = replace(DRAW, temperature=0.0, max_tokens=30)

    async def test(backend: EmbeddedBackend) -> None:
        alone = whole(await pieces(backend, good))
        results = await asyncio.gather(
            *(pieces(backend, draw) for draw in (good, poisoned, good, poisoned)),
            return_exceptions=True,
        )
        for index, result in enumerate(results):
            if index % 2:
                assert isinstance(result, BackendError)
                assert "NaN" in str(result)
            else:
                assert isinstance(result, list)
                assert whole(result) == alone
        assert await backend.healthy()
        for _ in range(3):
            with pytest.raises(BackendError):
                await pieces(backend, poisoned)
        assert not await backend.healthy()
        assert whole(await pieces(backend, good)) == alone
        assert await backend.healthy()
        assert backend.occupied == 0

    served(config, test)


def test_closing_fails_what_is_being_drawn_and_ends_the_thread(llama):
    async def main() -> None:
        before = set(threading.enumerate())
        backend = EmbeddedBackend(llama, slots=1, name="tiny")
        endless = replace(DRAW, temperature=0.0, max_tokens=None)
        drawing, waiting = (asyncio.ensure_future(pieces(backend, endless)) for _ in range(2))
        await until(lambda: backend.waiting == 1)
        assert await backend.healthy()
        await backend.close()
        for one in (drawing, waiting):
            with pytest.raises(BackendError, match="closing"):
                await one
        assert not await backend.healthy()
        with pytest.raises(BackendError, match="closing"):
            await pieces(backend, endless)
        await backend.close()
        alive = {one.name for one in set(threading.enumerate()) - before if one.is_alive()}
        assert "forethought-model" not in alive

    asyncio.run(main())


def test_a_loop_that_ended_without_closing_its_iterators_holds_no_slot(llama):
    backend = EmbeddedBackend(llama, slots=1, name="tiny")
    endless = replace(DRAW, temperature=0.0, max_tokens=None)
    loop = asyncio.new_event_loop()
    iterator = backend.draw(endless)
    loop.run_until_complete(anext(iterator))
    loop.close()

    async def main() -> None:
        assert whole(await pieces(backend, replace(endless, max_tokens=3)))[1] == 3
        await backend.close()

    asyncio.run(asyncio.wait_for(main(), 120))


def test_a_model_that_shares_no_prompts_is_served_all_the_same(tmp_path):
    folder = save_policy(tmp_path, "llama")
    fields = json.loads((folder / "config.json").read_text())
    keep = ("vocab_size", "hidden_size", "bos_token_id", "eos_token_id", "pad_token_id")
    config = AutoConfig.for_model("bloom", n_layer=2, n_head=4, **{k: fields[k] for k in keep})
    torch.manual_seed(0)
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    model = ModelConfig(path=str(folder), dtype="float32", device="cpu")
    draws = [replace(DRAW, seed=seed, max_tokens=20, temperature=1.0) for seed in range(4)]

    async def test(backend: EmbeddedBackend) -> None:
        assert backend.slow_reason is not None
        found = await asyncio.gather(*(pieces(backend, draw) for draw in draws))
        assert [whole(one) for one in found] == [sampled(model, draw) for draw in draws]

    served(model, test)


def test_closing_frees_the_model(llama):
    def llamas() -> set[int]:
        gc.collect()
        return {id(one) for one in gc.get_objects() if type(one) is LlamaForCausalLM}

    async def test(backend: EmbeddedBackend) -> None:
        await pieces(backend, replace(DRAW, max_tokens=5))
        assert len(llamas() - before) == 1

    before = llamas()
    served(llama, test)
    assert llamas() <= before


def test_slots_must_be_at_least_one():
    with pytest.raises(ValueError, match="slots: 0"):
        EmbeddedBackend(MICROWORLD, slots=0, name="m")


def test_a_conversation_beyond_the_context_is_refused_by_its_bytes(llama):
    long = replace(DRAW, messages=asked("word " * 100_000))

    async def test(backend):
        with pytest.raises(RefusedDrawError, match=r"\d+ tokens or more and tiny takes"):
            await pieces(backend, long)

    served(llama, test)


def test_short_conversations_do_not_wait_for_the_tokens_of_long_ones():
    """The long ones' thread is busy here, as it is with a few megabytes."""
    long = replace(DRAW, messages=asked("word " * 20_000), max_tokens=4)

    async def test(backend):
        done = threading.Event()
        backend._long.thread.submit(done.wait, 60)
        waiting = asyncio.create_task(pieces(backend, long))
        assert await pieces(backend, DRAW)
        assert not waiting.done()
        done.set()
        with contextlib.suppress(RefusedDrawError):
            await waiting

    served(MICROWORLD, test)
