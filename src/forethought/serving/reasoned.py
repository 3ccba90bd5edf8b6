"""What a backend gives whose server has taken the reasoning out of an output already."""

from __future__ import annotations

from dataclasses import dataclass

from forethought.serving.base import Piece


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonedPiece(Piece):
    """A piece with a field of its own for what the server says is reasoning.

    The reasoning never is text to be split: what it holds, a marker too, stays thought.

    Example: `ReasonedPiece(text="", tokens=1, logprobs=(), prompt_tokens=None, finish_reason=None,
    reasoning="2 + 3 is", text_is_response=False)`
    """

    reasoning: str
    """Comes before `text`."""
    text_is_response: bool
    """The server splits by the format that the policy was trained with, so `text` has no thought
    in it and no markers."""
