"""A beginning that prompts have in common: which one it is, and that it is computed once, right."""

from random import Random
from typing import Any

import pytest
import random_models
import torch
from transformers import PreTrainedModel

from forethought.decoding import common_prefix, prefill, self_check, shared_prefix, static_batch
from forethought.decoding.common_prefix import LEAST_SAVED, LEAST_TOKENS
from forethought.decoding.request import SamplingParams, TokenizedRequest
from forethought.decoding.shared_prefix import SharedPrefixDecoder

VARIANTS: dict[str, dict[str, Any]] = {
    **{variant: {} for variant in random_models.VARIANTS},
    # Learned positions, with and without an offset, and rotary ones on a part of each head.
    "gpt2": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": {},
}
BEGINNING = tuple(5 + (7 * i) % 50 for i in range(LEAST_TOKENS + 6))
RESTS = (9, 1, 14, 40, 4, 9, 6, 2)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def made(variant: str = "llama", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model: Any = random_models.model(
        variant, max_position_embeddings=1024, **VARIANTS.get(variant, {})
    )
    return model.to(dtype)


def rest(length: int, shift: int = 0) -> tuple[int, ...]:
    # The first tokens differ, so that no two prompts have more than the beginning in common.
    return tuple(5 + (11 * i + 3 * length + shift) % 50 for i in range(length))


def prompts() -> list[tuple[int, ...]]:
    """Some behind the beginning, and three that begin otherwise."""
    behind = [(*BEGINNING, *rest(length, i)) for i, length in enumerate(RESTS)]
    others = [rest(30, 1), BEGINNING[:20], (*BEGINNING[:40], *rest(60, 2))]
    return [*behind[:3], *others, *behind[3:]]


# Which beginning


def saved(beginning: tuple[int, ...], given: list[tuple[int, ...]]) -> int:
    """Tokens of prefill that need not be computed."""
    length = len(beginning)
    behind = [one for one in given if len(one) > length and one[:length] == beginning]
    return (len(behind) - 1) * length


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_one_that_saves_most(seed):
    random = Random(seed)
    given: list[tuple[int, ...]] = [()]
    for _ in range(random.randint(1, 25)):
        # Behind some of another one, so that beginnings branch.
        stem = random.choice(given)[: random.randint(0, 200)]
        given.append((*stem, *(random.randint(0, 1) for _ in range(random.randint(1, 90)))))
    found = common_prefix.of(given)
    candidates = [one[:length] for one in given for length in range(LEAST_TOKENS, len(one))]
    best = max((saved(one, given) for one in candidates), default=0)
    assert (saved(found, given) if found else 0) == (best if best >= LEAST_SAVED else 0)
    random.shuffle(given)
    assert common_prefix.of(given) == found


def test_a_token_of_every_prompt_stands_behind_it():
    same = tuple(range(LEAST_SAVED + 1))
    assert common_prefix.of([same, same]) == same[:-1]
    assert common_prefix.of([same, (*same, 7)]) == same[:-1]


@pytest.mark.parametrize(
    ("length", "count", "left_alone"),
    [
        (LEAST_TOKENS - 1, 100, True),
        (LEAST_TOKENS, 100, False),
        (LEAST_SAVED - 1, 2, True),
        (LEAST_SAVED, 2, False),
    ],
)
def test_one_that_saves_little_is_left_alone(length, count, left_alone):
    found = common_prefix.of([(*range(length), 500 + i) for i in range(count)])
    assert found == (() if left_alone else tuple(range(length)))


@pytest.mark.parametrize("given", [[], [tuple(range(300))], [(1, 2), (3,)]])
def test_there_may_be_none(given):
    assert common_prefix.of(given) == ()


# What is computed


def plain(model: PreTrainedModel, ids: tuple[int, ...], last: int, kind: str) -> torch.Tensor:
    """Log-probabilities after the last tokens, by a plain forward pass, [last, V]."""
    with shared_prefix.attached(model, kind):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
    return logits[0, -last:].log_softmax(-1)


def decoded(
    model: PreTrainedModel, given: list[tuple[int, ...]], copies: int, steps: int
) -> list[tuple[tuple[int, ...], torch.Tensor]]:
    """Every row's tokens, drawn at random, and its log-probabilities: as a batch has them.

    Prompts are admitted in two goes with a step between, and rows leave.
    """
    random = torch.Generator().manual_seed(0)
    found: list[tuple[tuple[int, ...], torch.Tensor]] = []
    with shared_prefix.attached(model):
        decoder = SharedPrefixDecoder(model)
        decoder.expect(given)
        rows: list[int] = []
        for start in range(0, len(given), 6):
            some = given[start : start + 6]
            logits_PV = decoder.admit(some, [copies] * len(some))
            for prompt, logits_V in zip(some, logits_PV, strict=True):
                for _ in range(copies):
                    rows.append(len(found))
                    found.append((prompt, logits_V[None]))
            for _ in range(steps):
                tokens_R = torch.randint(5, 60, (len(rows),), generator=random)
                logits_RV = decoder.step(tokens_R)
                for row, token, logits_V in zip(rows, tokens_R.tolist(), logits_RV, strict=True):
                    ids, logits = found[row]
                    found[row] = (*ids, token), torch.cat([logits, logits_V[None]])
            live = [row % 3 > 0 for row in range(len(rows))]
            rows = [rows[index] for index in decoder.select(live)]
    return [(ids, logits.log_softmax(-1)) for ids, logits in found]


@pytest.mark.parametrize("variant", VARIANTS)
def test_log_probabilities_are_those_of_a_plain_forward_pass_in_float64(variant):
    model = made(variant, torch.float64)
    assert self_check.unsupported(model) is None
    given = prompts()
    assert common_prefix.of(given) == BEGINNING
    # transformers' eager attention has its softmax in float32, and sdpa has no soft cap.
    capped = variant == "gemma2"
    kind, tolerance = ("eager", 2e-5) if capped else ("sdpa", 1e-11)
    for ids, logps in decoded(model, given, copies=2, steps=3):
        expected = plain(model, ids, len(logps), kind)
        torch.testing.assert_close(logps, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("tokens", [1, 30, 10_000])
def test_how_many_rests_are_one_product_changes_nothing(tokens, monkeypatch):
    model = made("gemma3", torch.float64)
    expected = decoded(model, prompts(), copies=1, steps=2)
    monkeypatch.setattr(prefill, "PACKED_TOKENS", tokens)
    for (ids, logps), (same, other) in zip(
        decoded(model, prompts(), copies=1, steps=2), expected, strict=True
    ):
        assert ids == same
        torch.testing.assert_close(logps, other, rtol=0, atol=1e-12)


# What is drawn


def drawn(
    model: PreTrainedModel, given: list[tuple[int, ...]], rows: int = 12
) -> list[list[list[int]]]:
    params = SamplingParams(temperature=0.9, top_p=0.8, max_new_tokens=24)
    requests = [
        TokenizedRequest(token_ids=ids, seeds=tuple(10 * sum(ids) + k for k in range(3)), limit=24)
        for ids in given
    ]
    with shared_prefix.attached(model):
        return static_batch.run(
            SharedPrefixDecoder(model),
            requests,
            params=params,
            end_ids=(random_models.END,),
            rows=rows,
            device=model.device,
        )


@pytest.mark.parametrize("variant", ["llama", "gemma2"])
def test_outputs_do_not_depend_on_what_others_begin_with(variant):
    model = made(variant)
    given = prompts()
    alone = [drawn(model, [one])[0] for one in given]
    assert drawn(model, given) == alone
    assert drawn(model, given[::-1], rows=1000) == alone[::-1]
    assert drawn(model, given[:5]) + drawn(model, given[5:]) == alone
    assert len({len(ids) for outputs in alone for ids in outputs}) > 3


def test_a_part_is_repeated_bit_for_bit():
    model = made(dtype=torch.bfloat16)
    assert drawn(model, prompts()) == drawn(model, prompts())


def test_the_beginning_is_computed_once_and_kept_once(monkeypatch):
    model = made()
    computed: list[int] = []
    forward = SharedPrefixDecoder._forward

    def counting(self, ids, positions, phase):
        if not isinstance(phase, shared_prefix._Step):
            computed.append(ids.numel())
        return forward(self, ids, positions, phase)

    monkeypatch.setattr(SharedPrefixDecoder, "_forward", counting)
    with shared_prefix.attached(model):
        decoder = SharedPrefixDecoder(model)
        given = [(*BEGINNING, *rest(8, i)) for i in range(6)]
        assert decoder.expect(given) == [True] * 6
        decoder.admit(given[:4], [2] * 4)
        decoder.admit(given[4:], [2] * 2)
    assert computed == [len(BEGINNING), 4 * 8, 2 * 8]
    first, second = decoder.caches
    assert first.common is second.common is decoder.common
    assert first.layers[0].prefix_keys.shape[2] == 8


def test_prompts_below_the_limit_are_computed_as_if_there_were_none():
    model = made(dtype=torch.bfloat16)
    given = [(*BEGINNING[: LEAST_TOKENS - 1], *rest(8, 7 * i)) for i in range(4)]
    with shared_prefix.attached(model):
        expecting, plain_one = SharedPrefixDecoder(model), SharedPrefixDecoder(model)
        assert expecting.expect(given) == [False] * 4
        assert torch.equal(expecting.admit(given, [1] * 4), plain_one.admit(given, [1] * 4))
        tokens = torch.tensor([7, 8, 9, 10])
        assert torch.equal(expecting.step(tokens), plain_one.step(tokens))
