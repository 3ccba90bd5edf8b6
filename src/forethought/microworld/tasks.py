"""The tasks of the microworld: plain English instructions with a known answer, in three splits.

The world is finite and fixed: every category draws its problems once, from a constant seed, and a
hash of the problem puts each of them into train, validation or test. No seed of the caller can move
a prompt from one split to another. For problems made of numbers or of several words the hash covers
the problem and not its phrasing, so one sum never stands in two splits in different words.
"""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from random import Random
from typing import Final, Literal, get_args

from forethought.microworld.categories import CATEGORIES

Split = Literal["train", "validation", "test"]

DRAWS_PER_CATEGORY: Final = 6000
PREFIXES: Final = ("", "", "Quick question: ", "Please help me. ", "I wonder: ", "Next one: ")
SUFFIXES: Final = ("", "", " Thank you.", " Please be brief.", " Thanks a lot!")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldTask:
    """One instruction and what a good answer to it holds."""

    query: str
    """What the user says, e.g. `Find the sum of 3, 5 and 9. Thank you.`."""
    category: str
    """A key of `CATEGORIES`, e.g. `add_up`."""
    reference: str
    """The right answer, e.g. `17`; for open questions one of the right answers."""
    steps: tuple[str, ...]
    """True intermediate results, e.g. `("3 + 5 = 8", "8 + 9 = 17")`."""
    mistake: str
    """A plausible wrong answer, e.g. `16`."""


def split_of(identity: str) -> Split:
    """A tenth of the problems is for validation, a tenth for test, the rest for training."""
    match sha256(identity.encode()).digest()[0] % 10:
        case 0:
            return "test"
        case 1:
            return "validation"
        case _:
            return "train"


def draw(category: str, rng: Random) -> tuple[Split, WorldTask]:
    """One random task of a category and the split it belongs to."""
    problem = CATEGORIES[category](rng)
    query = f"{rng.choice(PREFIXES)}{problem.body}{rng.choice(SUFFIXES)}"
    task = WorldTask(
        query=query,
        category=category,
        reference=problem.reference,
        steps=problem.steps,
        mistake=problem.mistake,
    )
    return split_of(f"{category}: {problem.identity or query}"), task


@cache
def _pools() -> dict[Split, dict[str, tuple[WorldTask, ...]]]:
    """All tasks, by split and category; two draws that ask the same thing count once."""
    pools: dict[Split, dict[str, tuple[WorldTask, ...]]] = {split: {} for split in get_args(Split)}
    for category in CATEGORIES:
        rng = Random(f"microworld/{category}")
        by_query: dict[Split, dict[str, WorldTask]] = {split: {} for split in pools}
        for _ in range(DRAWS_PER_CATEGORY):
            split, task = draw(category, rng)
            by_query[split][task.query] = task
        for split, tasks in by_query.items():
            pools[split][category] = tuple(tasks.values())
    return pools


def available(split: Split) -> int:
    """How many different tasks a split has."""
    return sum(len(pool) for pool in _pools()[split].values())


def generate(split: Split, count: int, seed: int) -> list[WorldTask]:
    """`count` different tasks, as even over the categories as they last.

    A larger count with the same seed begins with the same tasks.

    Raises: ValueError if the split has fewer tasks.
    """
    if count > available(split):
        raise ValueError(
            f"{count} {split} tasks were asked for, but the microworld has only "
            f"{available(split)}; ask for that many or fewer"
        )
    rng = Random(f"{split}/{seed}")
    left = {category: rng.sample(pool, len(pool)) for category, pool in _pools()[split].items()}
    tasks: list[WorldTask] = []
    while len(tasks) < count:
        turn = [category for category in CATEGORIES if left[category]]
        rng.shuffle(turn)
        tasks.extend(left[category].pop() for category in turn)
    return tasks[:count]
