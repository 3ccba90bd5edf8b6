"""The sixteen categories of the microworld; half of them need several steps, half need none."""

from collections.abc import Callable
from random import Random
from typing import Final

from forethought.microworld import several_steps, single_step
from forethought.microworld.problem import Problem

CATEGORIES: Final[dict[str, Callable[[Random], Problem]]] = {
    "add_up": several_steps.add_up,
    "last_digit": several_steps.last_digit,
    "chain": several_steps.chain,
    "parity": several_steps.parity,
    "spread": several_steps.spread,
    "shopping": several_steps.shopping,
    "letters": several_steps.letters,
    "sort": several_steps.sort,
    "fact": single_step.fact,
    "opposite": single_step.opposite,
    "rewrite": single_step.rewrite,
    "greeting": single_step.greeting,
    "uppercase": single_step.uppercase,
    "brackets": single_step.brackets,
    "repeat": single_step.repeat,
    "members": single_step.members,
}

SEVERAL_STEPS: Final[frozenset[str]] = frozenset(list(CATEGORIES)[:8])
"""The categories whose answer needs intermediate results."""
