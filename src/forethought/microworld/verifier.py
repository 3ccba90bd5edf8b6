"""Grades a response of the microworld between 0 and 1 from its text alone.

Strict but humane: a right answer in a well-formed short sentence is 1, a right answer lost in
clutter is less, and naming several candidates is 0, for a verifier that can be talked round by
listing answers would teach a model to list answers.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

from forethought.microworld.vocabulary import (
    CAPITALS,
    COLOURS,
    KINDS,
    NAMES,
    OPPOSITES,
    SYNONYMS,
    YOUNG,
)

FULL_MARKS_WORDS: Final = 14
SOME_MARKS_WORDS: Final = 30
CLUTTERED: Final = 0.5

HEDGES: Final = frozenset({"or", "not", "maybe", "perhaps", "either", "probably", "isn't", "about"})
GREETINGS: Final = (
    *("hello", "hi ", "hi,", "hi!", "hey ", "dear ", "greetings", "welcome", "nice to meet you"),
    *("good morning", "good day", "good afternoon", "good evening"),
)
ANSWER_WORDS: Final = frozenset(
    word.lower()
    for word in (
        *CAPITALS.values(),
        *COLOURS.values(),
        *YOUNG.values(),
        *(word for pair in OPPOSITES for word in pair),
    )
)


def grade(query: str, category: str, reference: str, response: str) -> float:
    """How good `response` is as an answer to `query`, in [0, 1]."""
    if not response.strip():
        return 0.0
    return _GRADERS[category](query, reference, response.strip())


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text.lower())


def _numbers(text: str) -> list[int]:
    """Whole numbers as written; the sign in `5-3` belongs to no number."""
    return [int(number) for number in re.findall(r"(?<!\d)-?\d+", text)]


def _for_length(response: str) -> float:
    """What a right answer is worth in a response of this many words."""
    count = len(response.split())
    if count <= FULL_MARKS_WORDS:
        return 1.0
    return CLUTTERED if count <= SOME_MARKS_WORDS else 0.0


def _hedged(response: str) -> bool:
    return not HEDGES.isdisjoint(_words(response))


def _number(query: str, reference: str, response: str) -> float:
    """One number, or the numbers of the query said again in a sentence and then the answer."""
    numbers = _numbers(response)
    if not numbers or numbers[-1] != int(reference) or _hedged(response):
        return 0.0
    restated = numbers[:-1]
    if restated and (restated != _numbers(query) or len(_words(response)) < 2):
        return 0.0
    if re.search(r"\d\.\d", response):
        return 0.0
    return _for_length(response)


def _parity(query: str, reference: str, response: str) -> float:
    named = [word for word in _words(response) if word in ("even", "odd")]
    return _for_length(response) if named == [reference] and not _hedged(response) else 0.0


def _word(query: str, reference: str, response: str) -> float:
    """The right word and no other word that could answer some question of this world."""
    candidates = ANSWER_WORDS - set(_words(query)) | {reference.lower()}
    named = {word for word in _words(response) if word in candidates}
    return _for_length(response) if named == {reference.lower()} and not _hedged(response) else 0.0


def _sequence(query: str, reference: str, response: str) -> float:
    """Half marks are shared out by the places that are right when only numbers asked for appear."""
    wanted, given = _numbers(reference), _numbers(response)
    if given == wanted:
        return _for_length(response)
    if len(given) > len(wanted) or len(set(given)) < len(given) or not set(given) <= set(wanted):
        return 0.0
    right = sum(a == b for a, b in zip(wanted, given, strict=False))
    return 0.5 * right / len(wanted)


def _bare(text: str) -> str:
    """Without quotation marks and without a full stop."""
    return re.sub(r"\s+", " ", text).strip().strip('"“”').removesuffix(".").strip('"“”')


def _text(query: str, reference: str, response: str) -> float:
    """Exactly the text asked for, upper and lower case included.

    A lead-in up to a colon may come before it. Words of the text that come a second time make the
    response a choice between candidates.
    """
    before, _, last = response.rpartition(": ")
    if _bare(last) == reference.removesuffix("."):
        return 0.0 if _repeats(before, reference) else _for_length(response)
    around = f" {response} ".replace(f" {reference} ", " ", 1)
    clutter = around.split()
    if around == f" {response} " or len(clutter) > 6 or _hedged(around):
        return 0.0
    return 0.0 if _repeats(around, reference) else CLUTTERED


def _repeats(text: str, reference: str) -> bool:
    return not set(_words(text)).isdisjoint(_words(reference))


def _repeat(query: str, reference: str, response: str) -> float:
    return _text(query.lower(), reference.lower(), response.lower())


def _rewrite(query: str, reference: str, response: str) -> float:
    """The reference, with any synonym that the world knows in the place of the first one."""
    accepted = [reference]
    for word, synonyms in SYNONYMS.items():
        if f" {word} " in f" {query} " and f" {synonyms[0]} " in reference:
            accepted = [reference.replace(synonyms[0], synonym) for synonym in synonyms]
    return max(_repeat(query, sentence, response) for sentence in accepted)


def _greeting(query: str, reference: str, response: str) -> float:
    """A greeting with the right name; without any name it is worth little."""
    words = _words(response)
    names = {name for name in NAMES if name.lower() in words}
    if not response.lower().startswith(GREETINGS) or not names <= {reference}:
        return 0.0
    return _for_length(response) * (1.0 if names else 0.3)


def _members(query: str, reference: str, response: str) -> float:
    """As many different members as were asked for; one of another kind spoils the list."""
    first = _words(reference)[0]
    kind = next(kind for kind, things in KINDS.items() if first in things)
    wanted = 2 if " two " in f" {query} " else 3
    known = {thing for things in KINDS.values() for thing in things}
    named: Sequence[str] = [word for word in _words(response) if word in known]
    if not named or len(named) > wanted or len(set(named)) < len(named):
        return 0.0
    if not set(named) <= set(KINDS[kind]) or _hedged(response):
        return 0.0
    return _for_length(response) * (1.0 if len(named) == wanted else 0.5 * len(named) / wanted)


_GRADERS: Final[dict[str, Callable[[str, str, str], float]]] = {
    "add_up": _number,
    "last_digit": _number,
    "chain": _number,
    "parity": _parity,
    "spread": _number,
    "shopping": _number,
    "letters": _number,
    "sort": _sequence,
    "fact": _word,
    "opposite": _word,
    "rewrite": _rewrite,
    "greeting": _greeting,
    "uppercase": _text,
    "brackets": _text,
    "repeat": _repeat,
    "members": _members,
}
