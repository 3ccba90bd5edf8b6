"""The two ways a microworld query is put to the seed model.

`direct` is the query as it is. `generic` puts the thought instruction of the TPO paper (arXiv
2410.10630) in front of it; the model then writes a thought, a marker and the response.
"""

GENERIC_THOUGHT_INSTRUCTION = 'Respond to the following user query in a comprehensive and detailed way. You can write down your thought process before responding. Write your thoughts after "Here is my thought process:" and write your response after "Here is my response:".'  # noqa: E501

THOUGHT_MARKER = "Here is my thought process:"
RESPONSE_MARKER = "Here is my response:"


PHRASES = (
    *(f"{sentence}." for sentence in GENERIC_THOUGHT_INSTRUCTION.removesuffix(".").split(". ")),
    THOUGHT_MARKER,
    RESPONSE_MARKER,
)
"""The fixed sentences of the thought format. The seed model's tokenizer has a token for each: they
are two thirds of a short conversation, and a world that trains on two CPU cores cannot pay that."""


def thought_prompt(query: str) -> str:
    """The user message that asks for a thought before the response."""
    return f"{GENERIC_THOUGHT_INSTRUCTION}\n\nUser query: {query}"
