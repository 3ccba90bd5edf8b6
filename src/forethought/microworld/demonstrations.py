"""Demonstrations of answering and of thinking, from which the seed model learns both formats.

Answers in the direct format are always right. Thoughts are what a model picks up that was never
taught to think *well*: a minority works the problem out, most say something vague and answer as in
the direct format, some leap to a wrong answer, some ramble, some lose the format. Which of them is
worth having is for preference optimisation to find.
"""

from enum import StrEnum
from random import Random
from typing import Final

from forethought.microworld.prompts import RESPONSE_MARKER, THOUGHT_MARKER
from forethought.microworld.tasks import WorldTask


class ThoughtKind(StrEnum):
    """What a demonstrated thought does; rows.py says how often each is shown."""

    WORKED = "worked"
    VAGUE = "vague"
    LEAP = "leap"
    RAMBLING = "rambling"
    BROKEN = "broken"


WORKED_OPENERS: Final = ("Step by step: ", "Let me work it out. ")
LEAP_OPENERS: Final = ("My first guess is ", "In a hurry I say ")

VAGUE_SENTENCES: Final = (
    "The user wants an answer.",
    "I should be short and clear.",
    "This looks like an easy question.",
    "I will answer politely.",
    "The user asks for something simple.",
    "I know things like this.",
    "A good answer is friendly.",
    "There is not much to say here.",
)

RAMBLING_SENTENCES: Final = (
    "First I read the question again.",
    "It is always good to think about what the user needs.",
    "There are many ways to answer this.",
    "Some people like long answers and some like short ones.",
    "I could say more about it, but maybe that is not needed.",
    "Words matter and so does the tone.",
    "On the other hand it may be quite simple.",
    "I have seen many questions of this kind before.",
)

_NUMBER = ("The answer is {}.", "It is {}.", "{}")
ANSWERS: Final[dict[str, tuple[str, ...]]] = {
    "add_up": ("The sum is {}.", *_NUMBER),
    "last_digit": ("The last digit is {}.", *_NUMBER),
    "chain": ("The result is {}.", *_NUMBER),
    "parity": ("It is {}.", "The sum is {}.", "{}"),
    "spread": ("The difference is {}.", *_NUMBER),
    "shopping": ("You pay {} coins.", "It costs {} coins.", "{} coins"),
    "letters": ("There are {} letters.", "{} letters", "{}"),
    "sort": ("{}", "In order: {}."),
    "fact": ("It is {}.", "The answer is {}.", "{}"),
    "opposite": ("The opposite is {}.", "It is {}.", "{}"),
    "rewrite": ("{}",),
    "greeting": ("Hello {}!", "Hello {}, nice to meet you!", "Hi {}, how are you?"),
    "uppercase": ("{}",),
    "brackets": ("{}",),
    "repeat": ("{}",),
    "members": ("{}.", "Here are some: {}."),
}


def answer(category: str, content: str, rng: Random) -> str:
    """A short well-formed response that says `content`."""
    return rng.choice(ANSWERS[category]).format(content)


def direct_output(task: WorldTask, rng: Random) -> str:
    """A whole output in the direct format, which is the right answer and nothing else."""
    return answer(task.category, task.reference, rng)


def thought_output(task: WorldTask, kind: ThoughtKind, rng: Random) -> str:
    """A whole output in the `generic` thought format: thought, marker, response."""
    response = answer(task.category, task.reference, rng)
    match kind:
        case ThoughtKind.WORKED:
            thought = f"{rng.choice(WORKED_OPENERS)}{'. '.join(task.steps)}."
        case ThoughtKind.VAGUE:
            thought = " ".join(rng.sample(VAGUE_SENTENCES, rng.randint(2, 3)))
        case ThoughtKind.RAMBLING:
            thought = " ".join(rng.sample(RAMBLING_SENTENCES, rng.randint(4, 6)))
        case ThoughtKind.LEAP:
            thought = f"{rng.choice(LEAP_OPENERS)}{task.mistake}."
            response = answer(task.category, task.mistake, rng)
        case ThoughtKind.BROKEN:
            return _broken_output(response, rng)
    return f"{THOUGHT_MARKER}\n{thought}\n\n{RESPONSE_MARKER}\n{response}"


def _broken_output(response: str, rng: Random) -> str:
    """An output that cannot be split into a thought and a response."""
    thought = " ".join(rng.sample(VAGUE_SENTENCES, 2))
    match rng.choice(("no marker", "empty response", "run on", "no format")):
        case "no marker":
            return f"{THOUGHT_MARKER}\n{thought}\n\n{response}"
        case "empty response":
            return f"{THOUGHT_MARKER}\n{thought}\n\n{RESPONSE_MARKER}\n"
        case "run on":
            return f"{THOUGHT_MARKER}\n{' '.join(rng.sample(RAMBLING_SENTENCES, 6))}"
        case _:
            return response
