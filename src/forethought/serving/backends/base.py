"""What is asked of a served model, what it gives, and what a backend is.

Three layers, each knowing only the one below it: a *backend* writes raw outputs (embedded, or a
server behind us); the *answerer* splits them, holds back the thought and keeps the budgets; the
*application* speaks HTTP. Raw text never leaves the answerer: what it yields is response, and, in a
field of its own that only a key with that right is shown, thought.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol

from forethought.types import FinishReason, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """One token of an output with its log-probability and its likeliest rivals.

    Example: `TokenLogprob(token=" Paris", logprob=-0.02, top=((" Paris", -0.02), (" Rome", -4.1)))`
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One raw output that a backend is asked for.

    Example: `Draw(messages=(Message(…),), begun="", temperature=0.8, top_p=0.95, seed=17,
    max_tokens=1024, top_logprobs=None)`
    """

    messages: tuple[Message, ...]
    """The conversation, thought instruction applied."""
    begun: str
    """Text the output has begun with, already written; the backend goes on from its end."""
    temperature: float
    top_p: float
    seed: int | None
    max_tokens: int | None
    """New tokens at most; the model's context where `None`."""
    top_logprobs: int | None
    """Rivals wanted per token, 0 for the token's own alone; `None` for no log-probabilities."""
    barred: tuple[str, ...] = ()
    """What the output may not begin with: the spellings of a hybrid policy's thought marker."""
    threshold: float | None = None
    """The output begins with the first of `barred`, one token of the model, where that is at least
    so likely, and else with none of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What a backend adds to an output; the last one has a `finish_reason`.

    Example: `Piece(text=" is", tokens=1, logprobs=(), prompt_tokens=None, finish_reason=None)`
    """

    text: str
    """Whole characters only: a character whose bytes are not all there is held back."""
    tokens: int
    """Tokens that `text` and `reasoning` took, the end token included."""
    logprobs: tuple[TokenLogprob, ...]
    prompt_tokens: int | None
    """Tokens of the conversation, in at least one piece of an output if the backend knows them."""
    finish_reason: FinishReason | None
    reasoning: str = ""
    """What the backend's server has taken out of the output as reasoning; comes before `text`. It
    is never split: whatever it holds, a marker too, stays thought."""
    text_is_response: bool = False
    """The backend's server splits by the format that the policy was trained with, so `text` has no
    thought in it and no markers."""


class Backend(Protocol):
    """Writes raw outputs. Closing the iterator early frees the model's slot at once."""

    @property
    def model(self) -> str:
        """The served model's name."""
        ...

    @property
    def can_continue(self) -> bool:
        """Whether it can go on from `Draw.begun`; a thought budget needs that."""
        ...

    def draw(self, draw: Draw) -> AsyncGenerator[Piece, None]:
        """One output, piece by piece.

        Raises: RefusedDrawError for a conversation it cannot take, BackendError where it fails.
        """
        ...

    async def healthy(self) -> bool:
        """Whether it can write outputs now."""
        ...

    async def close(self) -> None:
        """Free the model or the connections."""
        ...


class BackendError(Exception):
    """The backend failed; the message holds nothing of any output."""


class RefusedDrawError(Exception):
    """This conversation cannot be answered, such as one beyond the context; says why."""


class NoResponseError(Exception):
    """No output had a response after all attempts; `think` is whether a thought was asked for."""

    def __init__(self, message: str = "", *, think: bool = True) -> None:
        super().__init__(message)
        self.think = think


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRequest:
    """One answer that a client asks for, checked and in our words.

    Example: `AnswerRequest(messages=(Message(role="user", content="Hi"),), think=True,
    temperature=0.8, top_p=0.95, seed=17, max_tokens=256, stop=("\\n\\n",), top_logprobs=None)`
    """

    messages: tuple[Message, ...]
    """As the client sent them; thoughts of earlier turns may still be in them."""
    think: bool
    """`False`: the direct format, no thought instruction."""
    temperature: float
    top_p: float
    seed: int | None
    max_tokens: int | None
    """Of the response alone."""
    stop: tuple[str, ...]
    """Ends the response before the first of these strings in it."""
    top_logprobs: int | None
    whole: bool = False
    """The response is wanted in one delta, when its last character is known."""
    mode: Literal["auto", "think", "direct"] = "auto"
    """Of a hybrid policy: `auto` leaves it to the policy, or to `AnswerSettings.think_threshold`,
    whether it thinks. `think` is true in each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSettings:
    """How answers are made from outputs.

    Example: `AnswerSettings(thought_budget=1024, attempts=3, without_response="error")`
    """

    thought_budget: int | None
    """Tokens after which the model is made to start its response; `None`: no limit of its own."""
    attempts: int
    """Outputs without a response are drawn again up to so many times."""
    without_response: Literal["error", "empty"]
    """What then: an error, or an empty message with `finish_reason: length`."""
    hold_answers: bool = False
    """Give every response whole, streams too: what turns out late to be a thought is then never
    shown."""
    think_threshold: float | None = None
    """A hybrid policy thinks where it would with at least this probability; `None`: it draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerDelta:
    """What became certain of an answer; either text may be empty.

    Example: `AnswerDelta(response="The answer", thought="", logprobs=())`
    """

    response: str
    thought: str
    logprobs: tuple[TokenLogprob, ...]
    """Of response tokens only."""
    restart: int | None = None
    """Where in `response` the response begins anew: all of it that was given before, in earlier
    deltas too, was thought. An answer that is given whole has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerEnd:
    """The end of an answer, with what it cost over all attempts.

    Example: `AnswerEnd(finish_reason="stop", prompt_tokens=41, completion_tokens=96,
    reasoning_tokens=71, attempts=1)`
    """

    finish_reason: FinishReason
    prompt_tokens: int
    """Of the conversation, counted once; 0 where the backend never said."""
    completion_tokens: int
    """Thought, markers and response of every output drawn."""
    reasoning_tokens: int
    """Those of them before the response, failed outputs included."""
    attempts: int


class Answerer(Protocol):
    """Makes answers from a backend's outputs."""

    def answer(self, question: AnswerRequest) -> AsyncGenerator[AnswerDelta | AnswerEnd, None]:
        """Deltas as they become certain, then one end. Closing it early closes the backend's.

        While the model thinks, a delta with empty texts comes now and then for keep-alive.

        Raises: NoResponseError, RefusedDrawError, BackendError.
        """
        ...
