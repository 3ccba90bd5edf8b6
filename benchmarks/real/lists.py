"""Short lists to sort, filter or rewrite."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from tasks import Task, Template, Templates
from word_lists import ADJECTIVES, KINDS, NAMES, PLURALS, WORDS


def list_task(
    text: str, items: Sequence[str], others: Sequence[str], given: object, thought: str = ""
) -> Task:
    """A list that is to be written; what was given is what tells it from others."""
    wish = "" if "Write only" in text else " Write only the list."
    wanted = {"type": "items", "items": list(items)}
    if others:
        wanted["others"] = list(others)
    return Task(
        prompt=text + wish,
        constraints=[wanted],
        fillers=given,
        thought=thought,
        response=", ".join(items),
    )


def marked(items: Sequence[str], marks: Sequence[object]) -> str:
    """Each item with what is to be known of it, as a thought notes it."""
    return ", ".join(f"{item} {mark}" for item, mark in zip(items, marks, strict=True)) + "."


def shuffled(rng: Random, items: Sequence[str]) -> list[str]:
    """The items so that none stands where it stood."""
    order = list(items)
    while any(here == there for here, there in zip(order, items, strict=True)):
        rng.shuffle(order)
    return order


def a_kind(rng: Random, number: int) -> tuple[str, list[str]]:
    """The name of a kind of things, and so many of them."""
    kind = rng.choice(list(KINDS))
    return kind, rng.sample(KINDS[kind], number)


def sort_by_letter(rng: Random) -> Task:
    kind, items = a_kind(rng, 3)
    given = shuffled(rng, sorted(items))
    text = f"Put these {kind} in alphabetical order: {', '.join(given)}."
    thought = marked(given, [item[0] for item in given])
    return list_task(text, sorted(items), (), frozenset(items), thought)


def sort_backwards(rng: Random) -> Task:
    kind, items = a_kind(rng, 3)
    wanted = sorted(items, reverse=True)
    given = shuffled(rng, wanted)
    text = f"Sort these {kind} from Z to A: {', '.join(given)}."
    thought = marked(given, [item[0] for item in given])
    return list_task(text, wanted, (), frozenset(items), thought)


def sort_by_length(rng: Random) -> Task:
    by_length = {len(word): word for word in rng.sample(WORDS, 30)}
    wanted = [by_length[length] for length in sorted(rng.sample(sorted(by_length), 3))]
    given = shuffled(rng, wanted)
    text = f"Sort these words from the shortest to the longest: {', '.join(given)}."
    thought = marked(given, [len(word) for word in given])
    return list_task(text, wanted, (), frozenset(wanted), thought)


def ranked(sentence: str, question: str, values: range, *, most_first: bool) -> Template:
    """Names with numbers, which are to be listed by their number."""

    def template(rng: Random) -> Task:
        wanted = rng.sample(NAMES, 3)
        numbers = sorted(rng.sample(values, 3), reverse=most_first)
        number_of = dict(zip(wanted, numbers, strict=True))
        names = shuffled(rng, wanted)
        given = [sentence.format(name, number_of[name]) for name in names]
        text = f"{', '.join(given[:-1])} and {given[-1]}. {question} Write only the names."
        thought = marked(names, [number_of[name] for name in names])
        return list_task(text, wanted, (), frozenset(wanted), thought)

    return template


def stays(given: Sequence[str], kept: Sequence[str]) -> str:
    """A thought about which items are kept."""
    return marked(given, ["yes" if item in kept else "no" for item in given])


def mixed(rng: Random) -> tuple[str, list[str], list[str], list[str]]:
    """Two things of a kind and one of another: the kind, all, the kept and the dropped."""
    kind, other = rng.sample(sorted(KINDS), 2)
    stay, go = rng.sample(KINDS[kind], 2), rng.sample(KINDS[other], 1)
    given = [*stay, *go]
    rng.shuffle(given)
    return kind, given, [item for item in given if item in stay], go


def keep_a_kind(rng: Random) -> Task:
    kind, given, stay, go = mixed(rng)
    text = f"Keep only the {kind} of this list: {', '.join(given)}."
    return list_task(text, stay, go, frozenset(given), stays(given, stay))


def keep_a_letter(rng: Random) -> Task:
    letter = rng.choice("bcdflmst")
    stay = rng.sample([word for word in WORDS if word[0] == letter], 2)
    go = rng.sample([word for word in WORDS if word[0] != letter], 1)
    given = [*stay, *go]
    rng.shuffle(given)
    text = f'Keep only the words that begin with "{letter}": {", ".join(given)}.'
    kept = [word for word in given if word in stay]
    return list_task(text, kept, go, frozenset(given), stays(given, kept))


def leave_one_out(rng: Random) -> Task:
    _, given = a_kind(rng, 3)
    out = rng.choice(given)
    text = f"Take the {out} out of this list: {', '.join(given)}."
    kept = [item for item in given if item != out]
    return list_task(text, kept, [out], frozenset(given), stays(given, kept))


def turn_round(rng: Random) -> Task:
    given = rng.sample(WORDS, rng.choice((2, 4)))
    text = f"Write this list in reverse order: {', '.join(given)}."
    thought = marked(given, range(1, len(given) + 1))
    return list_task(text, given[::-1], (), frozenset(given), thought)


def first_to_the_end(rng: Random) -> Task:
    given = rng.sample(WORDS, 3)
    text = f"Move the first word of this list to the end: {', '.join(given)}."
    thought = f"{given[0]} goes behind {given[-1]}."
    return list_task(text, [*given[1:], given[0]], (), frozenset(given), thought)


def plurals(rng: Random) -> Task:
    given = rng.sample(sorted(PLURALS), rng.choice((2, 3)))
    text = f"Write the plural of each of these words: {', '.join(given)}."
    wanted = [PLURALS[word] for word in given]
    thought = f"one {given[0]}, two {wanted[0]}."
    return list_task(text, wanted, (), frozenset(given), thought)


def replace_one(rng: Random) -> Task:
    _, words = a_kind(rng, 4)
    new, *given = words
    old = rng.choice(given)
    text = f'Replace "{old}" with "{new}" in this list: {", ".join(given)}.'
    wanted = [new if item == old else item for item in given]
    return list_task(text, wanted, [old], frozenset(given), f"{new} in the place of {old}.")


def put_before_each(rng: Random) -> Task:
    _, given = a_kind(rng, rng.choice((2, 3)))
    word = rng.choice(ADJECTIVES)
    text = f'Write the word "{word}" before each word of this list: {", ".join(given)}.'
    thought = f"{len(given)} words, {word} before each."
    return list_task(text, [f"{word} {item}" for item in given], (), frozenset(given), thought)


def every_second(rng: Random) -> Task:
    given = rng.sample(WORDS, 4)
    text = f"Take the second and the fourth word of this list: {', '.join(given)}."
    return list_task(text, given[1::2], given[::2], frozenset(given))


def last_to_the_front(rng: Random) -> Task:
    given = rng.sample(WORDS, 3)
    text = f"Move the last word of this list to the front: {', '.join(given)}."
    return list_task(text, [given[-1], *given[:-1]], (), frozenset(given))


def drop_a_kind(rng: Random) -> Task:
    _, given, stay, go = mixed(rng)
    kind = next(kind for kind, words in KINDS.items() if go[0] in words)
    text = f"One word of this list is among the {kind}; leave it out: {', '.join(given)}."
    return list_task(text, stay, go, frozenset(given))


LISTS: Templates = {
    "sort_by_letter": sort_by_letter,
    "sort_backwards": sort_backwards,
    "sort_by_length": sort_by_length,
    "sort_by_age": ranked(
        "{} is {} years old",
        "List them from the youngest to the oldest.",
        range(8, 80),
        most_first=False,
    ),
    "sort_by_price": ranked(
        "{} paid {} dollars",
        "Who paid the most? List them, the highest price first.",
        range(3, 60),
        most_first=True,
    ),
    "keep_a_kind": keep_a_kind,
    "keep_a_letter": keep_a_letter,
    "leave_one_out": leave_one_out,
    "turn_round": turn_round,
    "first_to_the_end": first_to_the_end,
    "plurals": plurals,
    "replace_one": replace_one,
    "put_before_each": put_before_each,
}
NEW_LISTS: Templates = {
    "sort_by_points": ranked(
        "{} has {} points",
        "List them from the best to the worst.",
        range(5, 99),
        most_first=True,
    ),
    "every_second": every_second,
    "last_to_the_front": last_to_the_front,
    "drop_a_kind": drop_a_kind,
}
