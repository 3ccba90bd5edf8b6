"""The microworld's tasks: splits that cannot overlap, the same tasks everywhere, enough of them."""

from hashlib import sha256
from itertools import combinations
from typing import get_args

import pytest

from forethought.microworld.categories import CATEGORIES, SEVERAL_STEPS
from forethought.microworld.tasks import Split, available, generate

SPLITS: tuple[Split, ...] = get_args(Split)


def test_splits_share_no_query():
    queries = {split: {t.query for t in generate(split, available(split), 0)} for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert not queries[one] & queries[other]


def test_a_sum_does_not_cross_splits_in_other_words():
    def numbers(split: Split) -> set[str]:
        tasks = generate(split, available(split), 0)
        return {"".join(c for c in t.query if c.isdigit()) for t in tasks if t.category == "add_up"}

    assert not numbers("train") & numbers("test")


def test_there_are_twenty_thousand_train_tasks_without_a_duplicate():
    tasks = generate("train", 20_000, seed=5)
    assert len({task.query for task in tasks}) == 20_000


def test_the_same_seed_gives_the_same_tasks():
    assert generate("train", 100, seed=1) == generate("train", 100, seed=1)
    assert generate("train", 100, seed=1) != generate("train", 100, seed=2)


def test_tasks_are_the_same_on_every_platform():
    text = "\n".join(f"{t.query}\t{t.reference}" for t in generate("test", 200, seed=0))
    assert sha256(text.encode()).hexdigest()[:16] == "4c27feb065811ce8"


def test_a_larger_count_begins_with_the_same_tasks():
    assert generate("train", 300, seed=1)[:100] == generate("train", 100, seed=1)


def test_categories_are_even():
    tasks = generate("test", 10 * len(CATEGORIES), seed=0)
    assert {c: sum(t.category == c for t in tasks) for c in CATEGORIES} == dict.fromkeys(
        CATEGORIES, 10
    )
    assert len(CATEGORIES) == 2 * len(SEVERAL_STEPS)


def test_asking_for_too_many_says_how_many_there_are():
    with pytest.raises(ValueError, match=str(available("test"))):
        generate("test", available("test") + 1, seed=0)


def test_steps_end_in_the_answer_where_one_needs_them():
    for task in generate("train", 1600, seed=3):
        if task.category in SEVERAL_STEPS - {"sort"}:
            assert task.steps[-1].endswith(task.reference), task
        assert task.mistake != task.reference
