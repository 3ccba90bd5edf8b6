"""One function per category of instruction: random numbers in, a problem with its solution out.

The first eight categories need several steps, each of them small; the other eight need none. A
problem carries its worked steps and one plausible mistake, from which demonstrations are written.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from forethought.microworld.vocabulary import (
    CAPITALS,
    COLOURS,
    KINDS,
    NAMES,
    OPPOSITES,
    SUBJECTS,
    SYNONYMS,
    VERBS,
    WARES,
    WORDS,
    YOUNG,
)

LARGEST_RESULT: Final = 30
"""No intermediate result of a chain is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What a category draws before the query gets its polite words around it."""

    body: str
    """The question, e.g. `What is 3 + 5 + 9?`."""
    identity: str
    """What two phrasings of one problem share, e.g. `3 5 9`. It decides the split."""
    reference: str
    """The right answer, e.g. `17`."""
    steps: tuple[str, ...]
    """The way to the answer, e.g. `("3 + 5 = 8", "8 + 9 = 17")`."""
    mistake: str
    """An answer someone might give in haste, e.g. `16`."""


def _joined(items: Sequence[object]) -> str:
    return ", ".join(str(item) for item in items)


def _enumerated(items: Sequence[object]) -> str:
    return f"{_joined(items[:-1])} and {items[-1]}"


def _near_miss(rng: Random, value: int) -> str:
    """A wrong number close to the right one; never negative."""
    offsets = [offset for offset in (-3, -2, -1, 1, 2, 3) if value + offset >= 0]
    return str(value + rng.choice(offsets))


def _other(rng: Random, options: Sequence[str], right: str) -> str:
    return rng.choice([option for option in options if option != right])


def _running_sum(numbers: Sequence[int]) -> tuple[str, ...]:
    total, steps = numbers[0], []
    for number in numbers[1:]:
        steps.append(f"{total} + {number} = {total + number}")
        total += number
    return tuple(steps)


def add_up(rng: Random) -> Problem:
    numbers = rng.sample(range(1, 10), rng.randint(4, 5))
    body = rng.choice(
        (
            f"What is {' + '.join(map(str, numbers))}?",
            f"Add up these numbers: {_joined(numbers)}.",
            f"Find the sum of {_enumerated(numbers)}.",
            f"How much do {_enumerated(numbers)} make together?",
        )
    )
    total = sum(numbers)
    return Problem(
        body=body,
        identity=_joined(numbers),
        reference=str(total),
        steps=_running_sum(numbers),
        mistake=_near_miss(rng, total),
    )


def last_digit(rng: Random) -> Problem:
    numbers = rng.sample(range(1, 10), rng.randint(5, 6))
    body = rng.choice(
        (
            f"What is the last digit of {' + '.join(map(str, numbers))}?",
            f"Which digit does the sum of {_enumerated(numbers)} end in?",
            f"Give the last digit of the sum of these numbers: {_joined(numbers)}.",
        )
    )
    digit, steps = numbers[0], []
    for number in numbers[1:]:
        steps.append(f"{digit} + {number} ends in {(digit + number) % 10}")
        digit = (digit + number) % 10
    return Problem(
        body=body,
        identity=_joined(numbers),
        reference=str(digit),
        steps=tuple(steps),
        mistake=str((digit + rng.randint(1, 9)) % 10),
    )


def chain(rng: Random) -> Problem:
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
        identity=f"{start}, {_joined(orders)}",
        reference=str(value),
        steps=tuple(steps),
        mistake=_near_miss(rng, value),
    )


def parity(rng: Random) -> Problem:
    numbers = rng.sample(range(1, 10), rng.randint(5, 7))
    body = rng.choice(
        (
            f"Is {' + '.join(map(str, numbers))} even or odd?",
            f"Is the sum of {_enumerated(numbers)} odd or even?",
            f"Add up {_enumerated(numbers)}. Is that even or odd?",
        )
    )
    names = ("even", "odd")
    total, steps = numbers[0], [f"{numbers[0]} is {names[numbers[0] % 2]}"]
    for number in numbers[1:]:
        steps.append(f"{names[total % 2]} and {number} is {names[(total + number) % 2]}")
        total += number
    return Problem(
        body=body,
        identity=_joined(numbers),
        reference=names[total % 2],
        steps=tuple(steps),
        mistake=names[(total + 1) % 2],
    )


def spread(rng: Random) -> Problem:
    numbers = rng.sample(range(1, 21), rng.randint(4, 5))
    body = rng.choice(
        (
            f"What is the largest minus the smallest of {_enumerated(numbers)}?",
            f"How far apart are the smallest and the largest of {_enumerated(numbers)}?",
            f"Take these numbers: {_joined(numbers)}. Subtract the smallest from the largest.",
        )
    )
    high, low = max(numbers), min(numbers)
    return Problem(
        body=body,
        identity=_joined(numbers),
        reference=str(high - low),
        steps=(f"largest {high}", f"smallest {low}", f"{high} - {low} = {high - low}"),
        mistake=_near_miss(rng, high - low),
    )


def shopping(rng: Random) -> Problem:
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
        mistake=_near_miss(rng, total),
    )


def letters(rng: Random) -> Problem:
    words = rng.sample(WORDS, 3)
    body = rng.choice(
        (
            f"How many letters do {_enumerated(words)} have together?",
            f"Count the letters in these words: {_joined(words)}.",
            f"What is the number of letters in {_enumerated(words)}?",
        )
    )
    counts = [len(word) for word in words]
    named = tuple(f"{word} {count}" for word, count in zip(words, counts, strict=True))
    return Problem(
        body=body,
        identity=_joined(words),
        reference=str(sum(counts)),
        steps=(*named, *_running_sum(counts)),
        mistake=_near_miss(rng, sum(counts)),
    )


def sort(rng: Random) -> Problem:
    numbers = rng.sample(range(1, 10), rng.randint(4, 6))
    descending = rng.random() < 0.5
    if descending:
        orders = ("from largest to smallest", "in falling order")
    else:
        orders = ("from smallest to largest", "in rising order")
    order = rng.choice(orders)
    body = rng.choice(
        (
            f"Sort these numbers {order}: {_joined(numbers)}.",
            f"Put {_enumerated(numbers)} {order}.",
            f"Write {_joined(numbers)} {order}.",
        )
    )
    ordered = sorted(numbers, reverse=descending)
    slip = list(ordered)
    place = rng.randrange(len(slip) - 1)
    slip[place], slip[place + 1] = slip[place + 1], slip[place]
    leader = "largest" if descending else "smallest"
    return Problem(
        body=body,
        identity=f"{leader} {_joined(numbers)}",
        reference=_joined(ordered),
        steps=(f"{leader} {ordered[0]}", *(f"then {number}" for number in ordered[1:])),
        mistake=_joined(slip),
    )


def fact(rng: Random) -> Problem:
    match rng.choice(("capital", "colour", "young")):
        case "capital":
            thing, answer = rng.choice(list(CAPITALS.items()))
            table, topic = CAPITALS, f"the capital of {thing}"
            questions = (
                f"What is the capital of {thing}?",
                f"Which city is the capital of {thing}?",
                f"Name the capital of {thing}.",
            )
        case "colour":
            thing, answer = rng.choice(list(COLOURS.items()))
            table, topic = COLOURS, f"the colour of {thing}"
            questions = (
                f"What colour is {thing}?",
                f"Which colour has {thing}?",
                f"Name the colour of {thing}.",
            )
        case _:
            thing, answer = rng.choice(list(YOUNG.items()))
            table, topic = YOUNG, f"a young {thing}"
            questions = (
                f"What is a young {thing} called?",
                f"What do you call a baby {thing}?",
                f"Give me the word for a young {thing}.",
            )
    body = rng.choice(questions)
    return Problem(
        body=body,
        identity="",
        reference=answer,
        steps=(f"{topic} is {answer}",),
        mistake=_other(rng, sorted(set(table.values())), answer),
    )


def opposite(rng: Random) -> Problem:
    pair = rng.choice(OPPOSITES)
    word, answer = pair if rng.random() < 0.5 else pair[::-1]
    body = rng.choice(
        (
            f"What is the opposite of {word}?",
            f"Which word means the opposite of {word}?",
            f"Give me the opposite of {word}.",
            f"Not {word}, but the other way round: which word is it?",
        )
    )
    others = [member for other in OPPOSITES if other != pair for member in other]
    return Problem(
        body=body,
        identity="",
        reference=answer,
        steps=(f"{word} against {answer}",),
        mistake=rng.choice(others),
    )


def rewrite(rng: Random) -> Problem:
    word = rng.choice(list(SYNONYMS))
    subject, verb = rng.choice(SUBJECTS), rng.choice(VERBS)
    sentence = f"The {word} {subject} {verb}."
    body = rng.choice(
        (
            f'Say this with another word for {word}: "{sentence}"',
            f'Rewrite this and replace {word} by a word of the same meaning: "{sentence}"',
            f'Use a different word for {word} in "{sentence}"',
        )
    )
    opposites = dict(OPPOSITES) | {right: left for left, right in OPPOSITES}
    return Problem(
        body=body,
        identity="",
        reference=f"The {SYNONYMS[word][0]} {subject} {verb}.",
        steps=(f"{word} means {SYNONYMS[word][0]}",),
        mistake=f"The {opposites.get(word, word)} {subject} {verb}.",
    )


def greeting(rng: Random) -> Problem:
    name = rng.choice(NAMES)
    body = rng.choice(
        (
            f"Hello, my name is {name}.",
            f"Hi there, I am {name}.",
            f"Good morning! I am {name}.",
            f"Greet my friend {name}.",
            f"Please say hello to {name}.",
            f"Write a greeting for {name}.",
            f"{name} is here. Say hello.",
        )
    )
    return Problem(
        body=body,
        identity="",
        reference=name,
        steps=(f"the name is {name}", "a greeting with the name"),
        mistake=_other(rng, NAMES, name),
    )


def uppercase(rng: Random) -> Problem:
    words = rng.sample(WORDS, rng.randint(2, 3))
    text = " ".join(words)
    body = rng.choice(
        (
            f'Write "{text}" in capital letters.',
            f'Turn "{text}" into upper case.',
            f'Shout "{text}" in big letters.',
        )
    )
    return Problem(
        body=body,
        identity=text,
        reference=text.upper(),
        steps=tuple(f"{word} is {word.upper()}" for word in words),
        mistake=text,
    )


def brackets(rng: Random) -> Problem:
    text = " ".join(rng.sample(WORDS, rng.randint(2, 3)))
    (name, left, right), (_, other_left, other_right) = rng.sample(
        (("square brackets", "[", "]"), ("round brackets", "(", ")"), ("stars", "*", "*")), 2
    )
    body = rng.choice(
        (
            f'Put "{text}" in {name}.',
            f'Wrap the words "{text}" in {name}.',
            f'Write "{text}" with {name} around it.',
        )
    )
    return Problem(
        body=body,
        identity=f"{name} {text}",
        reference=f"{left}{text}{right}",
        steps=(f"{name} are {left} and {right}", f"between them {text}"),
        mistake=f"{other_left}{text}{other_right}",
    )


def repeat(rng: Random) -> Problem:
    words = rng.sample(WORDS, rng.randint(3, 4))
    text = " ".join(words)
    body = rng.choice(
        (
            f'Say exactly "{text}".',
            f'Repeat after me: "{text}".',
            f'Write "{text}" once more.',
        )
    )
    return Problem(
        body=body,
        identity=text,
        reference=text,
        steps=(f"the words are {_joined(words)}",),
        mistake=" ".join(words[:-1]),
    )


def members(rng: Random) -> Problem:
    kind = rng.choice(list(KINDS))
    count = rng.choice(("two", "three"))
    body = rng.choice(
        (
            f"Name {count} {kind}.",
            f"List {count} {kind}.",
            f"Give me {count} examples of {kind}.",
            f"Can you tell me {count} {kind}?",
        )
    )
    number = 2 if count == "two" else 3
    chosen = rng.sample(KINDS[kind], number)
    other = rng.choice(KINDS[_other(rng, list(KINDS), kind)])
    return Problem(
        body=body,
        identity="",
        reference=_enumerated(chosen),
        steps=(f"some {kind} are {_joined(chosen)}",),
        mistake=_enumerated([*chosen[:-1], other]),
    )


CATEGORIES: Final[dict[str, Callable[[Random], Problem]]] = {
    "add_up": add_up,
    "last_digit": last_digit,
    "chain": chain,
    "parity": parity,
    "spread": spread,
    "shopping": shopping,
    "letters": letters,
    "sort": sort,
    "fact": fact,
    "opposite": opposite,
    "rewrite": rewrite,
    "greeting": greeting,
    "uppercase": uppercase,
    "brackets": brackets,
    "repeat": repeat,
    "members": members,
}

SEVERAL_STEPS: Final[frozenset[str]] = frozenset(list(CATEGORIES)[:8])
"""The categories whose answer needs intermediate results."""
