"""Order, budgets and limits."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
from tiny_training import make_pairs, make_side, settings

from forethought.training.batches import (
    epoch_batches,
    longest_side,
    microbatches,
    packed_tokens,
    usable_pairs,
)
from forethought.training.optimizer import learning_rate
from forethought.training.packing import pack


def test_an_epoch_is_a_seeded_permutation():
    first = epoch_batches(10, 4, seed=1, epoch=1)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(i for batch in first for i in batch) == list(range(10))
    assert first == epoch_batches(10, 4, seed=1, epoch=1)
    assert first != epoch_batches(10, 4, seed=1, epoch=2)
    assert first != epoch_batches(10, 4, seed=2, epoch=1)


def test_microbatches_keep_the_budget_and_every_pair():
    pairs = make_pairs(30)
    groups = microbatches(pairs, 100)
    assert sorted(p.prompt_id for g in groups for p in g) == sorted(p.prompt_id for p in pairs)
    assert all(sum(map(packed_tokens, group)) <= 100 for group in groups)
    assert microbatches(pairs[::-1], 100) == groups
    assert len(microbatches(pairs, 1)) == 30


def test_packed_tokens_is_what_packing_takes():
    for pair in make_pairs(10):
        assert len(pack([pair]).ids_N) == packed_tokens(pair)


def test_long_pairs_are_left_out_and_counted():
    pairs = make_pairs(20)
    limit = sorted(map(longest_side, pairs))[14]
    kept, left_out = usable_pairs(pairs, limit)
    assert kept == [pair for pair in pairs if longest_side(pair) <= limit]
    assert len(kept) + left_out == 20
    assert left_out > 0


def test_a_prompt_twice_or_an_empty_output_is_refused():
    pairs = make_pairs(2)
    with pytest.raises(ValueError, match="comes twice"):
        usable_pairs([*pairs, pairs[0]], None)
    with pytest.raises(ValueError, match="empty prompt or output"):
        usable_pairs([dataclasses.replace(pairs[0], rejected=make_side(()))], None)


def test_the_layout_of_a_pair():
    pair = dataclasses.replace(
        make_pairs(1)[0],
        prompt_token_ids=(5, 6),
        chosen=make_side((7, 8), 1),
        rejected=make_side((9,), 1),
    )
    batch = pack([pair])
    assert batch.ids_N.tolist() == [5, 6, 7]
    assert batch.positions_N.tolist() == [0, 1, 2]
    assert [row.tolist() for row in batch.rows_S] == [[0, 1, 2], [0, 1]]
    assert batch.predictors_M.tolist() == [1, 2, 1]
    assert batch.targets_M.tolist() == [7, 8, 9]
    assert batch.tokens_S.tolist() == [2, 1]
    assert batch.response_M.tolist() == [0, 1, 0]


def test_schedules():
    cosine = settings(schedule="cosine", learning_rate=1.0, warmup_ratio=0.2)
    rates = [learning_rate(step, 10, cosine) for step in range(10)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rates[6] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(rates[2:]))
    linear = settings(schedule="linear", learning_rate=1.0, warmup_ratio=0)
    assert [learning_rate(s, 4, linear) for s in range(4)] == pytest.approx([1, 0.75, 0.5, 0.25])
    constant = settings(schedule="constant", learning_rate=1.0, warmup_ratio=0)
    assert {learning_rate(s, 4, constant) for s in range(4)} == {1.0}
