"""The categories of instruction that need intermediate results, each of them small.

Random numbers in, a problem out: with its worked steps and one plausible mistake, from which
demonstrations are written.
"""

from collections.abc import Sequence
from random import Random
from typing import Final

from forethought.microworld.problem import Problem, comma_separated, enumerated, near_miss
from forethought.microworld.vocabulary import WARES, WORDS

LARGEST_RESULT: Final = 30
"""No intermediate result of a chain is larger."""


def _running_sum(numbers: Sequence[int]) -> tuple[str, ...]:
    total, steps = numbers[0], []
    for number in numbers[1:]:
        steps.append(f"{total} + {number} = {total + number}")
        total += number
    return tuple(steps)


def add_up(rng: Random) -> Problem:
    """Four or five different digits are to be added up."""
    numbers = rng.sample(range(1, 10), rng.randint(4, 5))
    body = rng.choice(
        (
            f"What is {' + '.join(map(str, numbers))}?",
            f"Add up these numbers: {comma_separated(numbers)}.",
            f"Find the sum of {enumerated(numbers)}.",
            f"How much do {enumerated(numbers)} make together?",
        )
    )
    total = sum(numbers)
    return Problem(
        body=body,
        identity=comma_separated(numbers),
        reference=str(total),
        steps=_running_sum(numbers),
        mistake=near_miss(rng, total),
    )


def last_digit(rng: Random) -> Problem:
    """The last digit of a sum is asked for; the steps drop the tens at once."""
    numbers = rng.sample(range(1, 10), rng.randint(4, 5))
    body = rng.choice(
        (
            f"What is the last digit of {' + '.join(map(str, numbers))}?",
            f"Which digit does the sum of {enumerated(numbers)} end in?",
            f"Give the last digit of the sum of these numbers: {comma_separated(numbers)}.",
        )
    )
    digit, steps = numbers[0], []
    for number in numbers[1:]:
        steps.append(f"{digit} + {number} = {digit + number}")
        digit = (digit + number) % 10
    return Problem(
        body=body,
        identity=comma_separated(numbers),
        reference=str(digit),
        steps=tuple(steps),
        mistake=str((digit + rng.randint(1, 9)) % 10),
    )


def chain(rng: Random) -> Problem:
    """A number is changed four times, by one order after the other."""
    value = start = rng.randint(2, 9)
    orders: list[str] = []
    steps: list[str] = []
    # Different amounts in every list of numbers: which one comes next can then be read off the last
    # one used, where equal ones would have to be counted.
    for amount in rng.sample(range(2, 10), 4):
        # Small intermediate results: the seed model has to know every step by heart.
        kinds = [
            *["add"] * 2 * (value + amount <= LARGEST_RESULT),
            *["double"] * (2 * value <= LARGEST_RESULT),
            *["subtract"] * 2 * (value > amount),
        ]
        match rng.choice(kinds):
            case "add":
                order, sign, result = f"add {amount}", f"+ {amount}", value + amount
            case "subtract":
                order, sign, result = f"take away {amount}", f"- {amount}", value - amount
            case _:
                order, sign, result = "double it", f"+ {value}", value + value
        orders.append(order)
        steps.append(f"{value} {sign} = {result}")
        value = result
    body = rng.choice(
        (
            f"Start with {start}, then {', then '.join(orders)}. What do you get?",
            f"Take the number {start}. Now {', '.join(orders)}. What is the result?",
            f"I have {start}. I {', '.join(orders)}. Which number is it?",
        )
    )
    return Problem(
        body=body,
        identity=f"{start}, {comma_separated(orders)}",
        reference=str(value),
        steps=tuple(steps),
        mistake=near_miss(rng, value),
    )


def parity(rng: Random) -> Problem:
    """Even or odd is asked of a sum; the steps never say the sum itself."""
    numbers = rng.sample(range(1, 10), rng.randint(5, 7))
    body = rng.choice(
        (
            f"Is {' + '.join(map(str, numbers))} even or odd?",
            f"Is the sum of {enumerated(numbers)} odd or even?",
            f"Add up {enumerated(numbers)}. Is that even or odd?",
        )
    )
    names = ("even", "odd")
    total, steps = numbers[0], [f"{numbers[0]} is {names[numbers[0] % 2]}"]
    for number in numbers[1:]:
        steps.append(f"{names[total % 2]} and {number} is {names[(total + number) % 2]}")
        total += number
    return Problem(
        body=body,
        identity=comma_separated(numbers),
        reference=names[total % 2],
        steps=tuple(steps),
        mistake=names[(total + 1) % 2],
    )


def spread(rng: Random) -> Problem:
    """The smallest of some numbers is to be taken from the largest."""
    numbers = rng.sample(range(1, 21), rng.randint(4, 5))
    listed = comma_separated(numbers)
    body = rng.choice(
        (
            f"What is the largest minus the smallest of {enumerated(numbers)}?",
            f"How far apart are the smallest and the largest of {enumerated(numbers)}?",
            f"Take these numbers: {listed}. Subtract the smallest from the largest.",
        )
    )
    high, low = max(numbers), min(numbers)
    return Problem(
        body=body,
        identity=comma_separated(numbers),
        reference=str(high - low),
        steps=(f"largest {high}", f"smallest {low}", f"{high} - {low} = {high - low}"),
        mistake=near_miss(rng, high - low),
    )


def shopping(rng: Random) -> Problem:
    """Two wares are bought, each in some number at some price."""
    first, second = rng.sample(WARES, 2)
    a, p, b, q = (rng.randint(2, 5) for _ in range(4))
    body = rng.choice(
        (
            f"I buy {a} {first} for {p} coins each and {b} {second} for {q} coins each. "
            "How many coins do I pay?",
            f"What do {a} {first} at {p} coins each and {b} {second} at {q} coins each cost?",
            f"{a} {first} cost {p} coins each, {b} {second} cost {q} coins each. "
            "What is the price of all?",
        )
    )
    total = a * p + b * q
    return Problem(
        body=body,
        identity=f"{a} {p} {b} {q}",
        reference=str(total),
        steps=(f"{a} x {p} = {a * p}", f"{b} x {q} = {b * q}", f"{a * p} + {b * q} = {total}"),
        mistake=near_miss(rng, total),
    )


def letters(rng: Random) -> Problem:
    """The letters of three words are to be counted."""
    words = rng.sample(WORDS, 3)
    body = rng.choice(
        (
            f"How many letters do {enumerated(words)} have together?",
            f"Count the letters in these words: {comma_separated(words)}.",
            f"What is the number of letters in {enumerated(words)}?",
        )
    )
    counts = [len(word) for word in words]
    named = tuple(f"{word} {count}" for word, count in zip(words, counts, strict=True))
    return Problem(
        body=body,
        identity=comma_separated(words),
        reference=str(sum(counts)),
        steps=(*named, *_running_sum(counts)),
        mistake=near_miss(rng, sum(counts)),
    )


def sort(rng: Random) -> Problem:
    """Digits are to be put in order; the mistake has two neighbours exchanged."""
    numbers = rng.sample(range(1, 10), rng.randint(4, 6))
    descending = rng.random() < 0.5
    if descending:
        orders = ("from largest to smallest", "in falling order")
    else:
        orders = ("from smallest to largest", "in rising order")
    order = rng.choice(orders)
    body = rng.choice(
        (
            f"Sort these numbers {order}: {comma_separated(numbers)}.",
            f"Put {enumerated(numbers)} {order}.",
            f"Write {comma_separated(numbers)} {order}.",
        )
    )
    ordered = sorted(numbers, reverse=descending)
    slip = list(ordered)
    place = rng.randrange(len(slip) - 1)
    slip[place], slip[place + 1] = slip[place + 1], slip[place]
    leader = "largest" if descending else "smallest"
    return Problem(
        body=body,
        identity=f"{leader} {comma_separated(numbers)}",
        reference=comma_separated(ordered),
        steps=(f"{leader} {ordered[0]}", *(f"then {number}" for number in ordered[1:])),
        mistake=comma_separated(slip),
    )
