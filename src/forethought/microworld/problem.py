"""What every category of the microworld draws: a problem with its solution, and how to word it."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What a category draws before the query gets its polite words around it."""

    body: str
    """The question, e.g. `What is 3 + 5 + 9?`."""
    identity: str
    """What two phrasings of one problem share, e.g. `3 5 9`. It decides the split; where it is
    empty the whole query does."""
    reference: str
    """The right answer, e.g. `17`."""
    steps: tuple[str, ...]
    """The way to the answer, e.g. `("3 + 5 = 8", "8 + 9 = 17")`."""
    mistake: str
    """An answer someone might give in haste, e.g. `16`."""


def comma_separated(items: Sequence[object]) -> str:
    return ", ".join(str(item) for item in items)


def enumerated(items: Sequence[object]) -> str:
    """The items, two at least, as in `3, 5 and 9`."""
    return f"{comma_separated(items[:-1])} and {items[-1]}"


def near_miss(rng: Random, value: int) -> str:
    """A wrong number close to the right one; never negative."""
    offsets = [offset for offset in (-3, -2, -1, 1, 2, 3) if value + offset >= 0]
    return str(value + rng.choice(offsets))


def another(rng: Random, options: Sequence[str], right: str) -> str:
    """A random option that is not the right one."""
    return rng.choice([option for option in options if option != right])
