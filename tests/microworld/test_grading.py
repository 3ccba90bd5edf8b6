"""The verifier: right answers count, wrong ones do not, and hedging never pays."""

from random import Random

import pytest

from forethought.microworld.categories import CATEGORIES
from forethought.microworld.demonstrations import answer
from forethought.microworld.tasks import WorldTask, generate
from forethought.microworld.verifier import grade

TASKS = generate("test", 30 * len(CATEGORIES), seed=11)


def score(task: WorldTask, response: str) -> float:
    return grade(task.query, task.category, task.reference, response)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_demonstrated_answer_is_right_and_a_mistake_is_not(category: str):
    rng = Random(0)
    for task in TASKS:
        if task.category == category:
            assert score(task, answer(category, task.reference, rng)) == 1.0, task
            assert score(task, answer(category, task.mistake, rng)) < 0.5, task
            assert score(task, "") == score(task, " \n") == score(task, "I do not know.") == 0.0


@pytest.mark.parametrize("category", CATEGORIES)
def test_naming_the_answer_among_others_is_no_answer(category: str):
    for task in TASKS:
        if task.category == category:
            for hedge in (
                f"{task.mistake} {task.reference}",
                f"{task.reference} or {task.mistake}",
                f"It is {task.mistake}. No, it is {task.reference}.",
            ):
                assert score(task, hedge) == 0.0, (task, hedge)


SUM = ("Find the sum of 3, 5 and 4.", "add_up", "12")


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("12", 1.0),
        ("The sum is 12.", 1.0),
        ("The sum of 3, 5 and 4 is 12.", 1.0),
        ("3 5 4 12", 0.0),
        ("3 4 5 6", 0.0),
        ("10, 11, 12", 0.0),
        ("11 12 13", 0.0),
        ("The answer is not 12.", 0.0),
        ("It is 12 or so.", 0.0),
        ("12.5", 0.0),
        ("-12", 0.0),
        ("It is twelve.", 0.0),
        ("The sum is 12" + " and I like sums" * 4, 0.5),
        ("The sum is 12" + " and I like sums" * 20, 0.0),
    ],
)
def test_numbers(response: str, expected: float):
    assert grade(*SUM, response) == expected


@pytest.mark.parametrize(
    ("query", "category", "reference", "response", "expected"),
    [
        ("Sort these numbers in rising order: 9, 3, 5, 1.", "sort", "1, 3, 5, 9", "1 3 5 9", 1.0),
        (
            "Sort these numbers in rising order: 9, 3, 5, 1.",
            "sort",
            "1, 3, 5, 9",
            "1, 3, 9, 5",
            0.25,
        ),
        ("Sort these numbers in rising order: 9, 3, 5, 1.", "sort", "1, 3, 5, 9", "1 3 5 7 9", 0.0),
        ("Is 3 + 4 even or odd?", "parity", "odd", "The sum is odd.", 1.0),
        ("Is 3 + 4 even or odd?", "parity", "odd", "It is odd, not even.", 0.0),
        ("What is the capital of Italy?", "fact", "Rome", "Rome is the capital of Italy.", 1.0),
        ("What is the capital of Italy?", "fact", "Rome", "Paris, Rome, Oslo", 0.0),
        ("Hello, my name is Ida.", "greeting", "Ida", "Good morning, Ida!", 1.0),
        ("Hello, my name is Ida.", "greeting", "Ida", "Hello!", 0.3),
        ("Hello, my name is Ida.", "greeting", "Ida", "Good riddance, Ida!", 0.0),
        ("Hello, my name is Ida.", "greeting", "Ida", "Hello Ida, Tom and Ben!", 0.0),
        ("Name two fruits.", "members", "pear and plum", "Apple and grape.", 1.0),
        ("Name two fruits.", "members", "pear and plum", "Apple.", 0.25),
        ("Name two fruits.", "members", "pear and plum", "Apple, pear and plum.", 0.0),
        ("Name two fruits.", "members", "pear and plum", "Apple and apple.", 0.0),
        ("Name two fruits.", "members", "pear and plum", "Apple and dog.", 0.0),
        ('Put "red fox" in stars.', "brackets", "*red fox*", "Here it is: *red fox*", 1.0),
        ('Put "red fox" in stars.', "brackets", "*red fox*", "*red fox* as you wish", 0.5),
        ('Put "red fox" in stars.', "brackets", "*red fox*", "(red fox): *red fox*", 0.0),
        ('Put "red fox" in stars.', "brackets", "*red fox*", "(red fox) *red fox*", 0.0),
        ('Put "red fox" in stars.', "brackets", "*red fox*", "red fox", 0.0),
        ('Write "red fox" in capital letters.', "uppercase", "RED FOX", "Red Fox", 0.0),
        ('Say exactly "red fox tin".', "repeat", "red fox tin", '"Red fox tin."', 1.0),
        (
            'Say this with another word for big: "The big dog eats."',
            "rewrite",
            "The large dog eats.",
            "The huge dog eats.",
            1.0,
        ),
        (
            'Say this with another word for big: "The big dog eats."',
            "rewrite",
            "The large dog eats.",
            "The big dog eats.",
            0.0,
        ),
    ],
)
def test_by_hand(query: str, category: str, reference: str, response: str, expected: float):
    assert grade(query, category, reference, response) == pytest.approx(expected)
