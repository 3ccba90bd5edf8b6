"""Packed conversations say the same as the conversations, and the model reads them the same."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaModel

from forethought.judging.armorm.llama import blocked, encode, fused
from forethought.judging.armorm.shared_prompts import Shared, batches, pack, share

CPU = torch.device("cpu")
CONVERSATION = st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple)
GROUP = st.lists(CONVERSATION, min_size=1, max_size=5, unique=True)


def test_a_group_is_its_longest_common_beginning_and_its_tails() -> None:
    assert share([(5, 6, 7), (5, 6, 8, 9)]) == Shared(beginning=(5, 6), tails=((7,), (8, 9)))
    assert share([(5, 6), (5, 6, 7)]) == Shared(beginning=(5,), tails=((6,), (6, 7)))
    assert share([(5, 6, 7)]) == Shared(beginning=(5, 6), tails=((7,),))
    assert share([(5,), (6,)]) == Shared(beginning=(), tails=((5,), (6,)))


@given(GROUP)
def test_sharing_loses_nothing(group: list[tuple[int, ...]]) -> None:
    shared = share(group)
    assert shared.conversations == group
    assert all(shared.tails)
    assert shared.tokens <= sum(map(len, group))


@given(st.lists(GROUP, max_size=6), st.integers(1, 40))
def test_batches_hold_everything_once_within_the_budget(
    groups: list[list[tuple[int, ...]]], budget: int
) -> None:
    made = list(batches([share(group) for group in groups], budget))
    held = [ids for batch in made for piece in batch for ids in piece.conversations]
    assert sorted(held) == sorted(ids for group in groups for ids in group)
    for batch in made:
        conversations = sum(len(piece.tails) for piece in batch)
        assert conversations == 1 or sum(piece.tokens for piece in batch) <= budget


@given(st.lists(GROUP, min_size=1, max_size=4))
def test_every_token_of_every_conversation_has_its_place(
    groups: list[list[tuple[int, ...]]],
) -> None:
    packed = pack([share(group) for group in groups], CPU)
    conversations = [ids for group in groups for ids in group]
    assert packed.lengths == [len(ids) for ids in conversations]
    for index, ids in enumerate(conversations):
        spans = [packed.at(index, position) for position in range(len(ids))]
        assert [int(packed.ids_N[span.first]) for span in spans] == list(ids)
        assert [int(packed.positions_N[span.first]) for span in spans] == list(range(len(ids)))
    covered = [place for span in packed.spans for place in range(span.first, span.stop)]
    assert covered == list(range(len(packed.ids_N)))


def tiny_llama(layers: int) -> LlamaModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        attention_bias=True,
    )
    return LlamaModel(config).eval()


def random_groups() -> list[list[tuple[int, ...]]]:
    torch.manual_seed(1)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(40, (count,)).tolist())

    first, second = tokens(70), tokens(3)
    return [
        [first + tokens(1), first + tokens(64), first + tokens(130)],
        [second + tokens(5), second + tokens(200)],
        [tokens(1)],
        [tokens(9)],
    ]


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hidden_states_are_the_models_own_for_each_conversation_alone(
    layers: int, dtype: torch.dtype
) -> None:
    groups = random_groups()
    model: Any = tiny_llama(layers)
    model = model.to(dtype)
    exact = tiny_llama(layers)
    packed = pack([share(group) for group in groups], CPU)
    places = [(i, p) for i, n in enumerate(packed.lengths) for p in {0, n // 2, n - 1}]
    found = encode(model, packed, [packed.at(*place) for place in places]).float()
    conversations = [ids for group in groups for ids in group]
    with torch.inference_mode():
        alone, expected = (
            [one(torch.tensor([ids])).last_hidden_state[0].float() for ids in conversations]
            for one in (model, exact)
        )
    wanted = torch.stack([expected[i][p] for i, p in places])
    error = (found - wanted).abs().max()
    if dtype == torch.float32:
        assert error < 2e-5
    else:
        # No further from float32 than transformers' own bfloat16 is, give or take.
        assert error < 2 * (torch.stack([alone[i][p] for i, p in places]) - wanted).abs().max()


@pytest.mark.parametrize(
    ("queries", "keys"), [(1, 1), (1, 90), (5, 5), (63, 64), (64, 64), (65, 200), (200, 200)]
)
def test_both_kernels_are_causal_attention_aligned_at_the_end(queries: int, keys: int) -> None:
    torch.manual_seed(3)
    query, key, value = torch.randn(4, queries, 8), torch.randn(2, keys, 8), torch.randn(2, keys, 8)
    scores = query @ key.repeat_interleave(2, 0).transpose(1, 2) * 0.3
    later = torch.arange(keys) > torch.arange(keys - queries, keys)[:, None]
    weights = scores.masked_fill(later, -torch.inf).softmax(-1)
    expected = weights @ value.repeat_interleave(2, 0)
    for kernel in (blocked, fused):
        assert torch.allclose(kernel(query, key, value, 0.3), expected, atol=1e-6)
