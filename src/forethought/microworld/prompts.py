"""The two ways a microworld query is put to the seed model.

`direct` is the query as it is. `generic` puts the thought instruction of the TPO paper (arXiv
2410.10630) in front of it; the model then writes a thought, a marker and the response.
"""

from forethought.thoughts import GENERIC
from forethought.types import Message

THOUGHT_MARKER = GENERIC.thought_starts_after[0]
RESPONSE_MARKER = GENERIC.response_starts_after[0]

PHRASES = (
    *(f"{sentence}." for sentence in (GENERIC.instruction or "").removesuffix(".").split(". ")),
    THOUGHT_MARKER,
    RESPONSE_MARKER,
)
"""The fixed sentences of the thought format. The seed model's tokenizer has a token for each: they
are two thirds of a short conversation, and a world that trains on two CPU cores cannot pay that."""


def thought_prompt(query: str) -> str:
    """The user message that asks for a thought before the response."""
    return GENERIC.apply([Message(role="user", content=query)])[-1].content
