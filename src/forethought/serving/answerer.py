"""From the raw outputs of a backend to answers: the thought is split off, the budgets are kept.

This is where raw text ends. What goes on is response, and thought in a field of its own; no error
that leaves here carries anything else, whatever the backend raised.

- The conversation gets the format's instruction before its last turn; assistant turns of its
  history lose their thoughts. With `think=False` there is no instruction (thought_filter.py has
  what becomes of a model that thinks unasked). A format without instruction cannot be
  told not to think, so there it is refused.
- The backend is asked for thought budget and `max_tokens` together, or for no limit where one of
  them has none; the limit of the response alone is kept here, by closing the draw. How tokens are
  counted stands in thought_filter.py.
- A draw that has spent the thought budget without a response marker is closed and drawn on from
  the same text, an unfinished last sentence left out, with an empty line and the marker behind it,
  where the backend can continue. Elsewhere it counts as an output without a response. What a
  model thinks behind that marker is thought if it writes the marker itself at last
  (thought_filter.py).
- An output without a response is drawn again, with a seed of its own, while attempts are left. A
  stop string that ends a response before its first character is the client's wish and no reason to
  draw again. The thought deltas of several outputs follow each other with an empty line between.
- `prompt_tokens` is the conversation's and counted once; the others are sums over all draws.

Joined, the response deltas are `ThoughtFormat.parse(text).response`, unless a limit ended the
answer: then a beginning of it, without white space at its end behind `max_tokens` and exactly what
stands before a stop string.

    answerer = SplittingAnswerer(backend, thought_format, AnswerSettings(…))
    async for part in answerer.answer(question): ...
"""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forethought.sampling.base import stable_seed
from forethought.serving.backends.base import (
    AnswerDelta,
    AnswerEnd,
    AnswerRequest,
    AnswerSettings,
    Backend,
    BackendError,
    Draw,
    NoResponseError,
    Piece,
    RefusedDrawError,
)
from forethought.serving.thought_filter import NOTHING, ThoughtFilter, joined
from forethought.thoughts import ThoughtFormat
from forethought.types import FinishReason, Message

KEEP_ALIVE = 0.5
"""Seconds without anything to say until an empty delta says so."""
AHEAD = 64
"""Pieces read ahead of a slow client; then the backend waits."""


class SplittingAnswerer:
    """Answers with a backend's outputs, split by one format.

    Example: `SplittingAnswerer(backend, THOUGHT_FORMATS["generic"], AnswerSettings(…))`
    """

    def __init__(
        self, backend: Backend, thought_format: ThoughtFormat, settings: AnswerSettings
    ) -> None:
        self._backend = backend
        self._format = thought_format
        self._settings = settings

    async def answer(
        self, question: AnswerRequest
    ) -> AsyncGenerator[AnswerDelta | AnswerEnd, None]:
        """Deltas as they become certain, then one end. Closing it early closes the backend's.

        Raises: NoResponseError, RefusedDrawError, BackendError.
        """
        messages = self._conversation(question)
        cost = _Cost()
        whole = question.whole or self._settings.hold_answers
        for attempt in range(self._settings.attempts):
            output = ThoughtFilter(question, self._format, self._settings.thought_budget)
            gap = "\n\n" if cost.thought_shown else ""
            held: list[AnswerDelta] = []
            shown = False
            async with aclosing(self._output(question, messages, attempt, output, cost)) as deltas:
                async for delta in deltas:
                    if delta.thought:
                        if gap:
                            delta = replace(delta, thought=gap + delta.thought)
                        gap, cost.thought_shown = "", True
                    if whole and delta is not NOTHING:
                        if delta.restart is not None:
                            held.clear()
                        shown_at_end = delta.response[delta.restart :]
                        held.append(replace(delta, response=shown_at_end, restart=None))
                        delta = replace(delta, response="", logprobs=(), restart=None)
                    shown = shown or bool(delta.response)
                    yield delta
            cost.reasoning_tokens += output.reasoning_tokens
            cost.response_tokens += output.response_tokens
            if held and output.answered:
                yield replace(joined(held), thought="")
            # What a stream has shown cannot be drawn again.
            if output.answered or shown:
                assert output.finish_reason is not None
                yield cost.end(output.finish_reason, attempt + 1)
                return
        attempts = self._settings.attempts
        if self._settings.without_response == "error":
            outputs = f"{attempts} outputs" if attempts > 1 else "one output"
            raise NoResponseError(f"the model gave no response in {outputs}", think=question.think)
        yield cost.end("length", attempts)

    def _conversation(self, question: AnswerRequest) -> tuple[Message, ...]:
        if not question.think and not self._format.can_answer_directly:
            raise RefusedDrawError(
                "this model thinks without being asked to, so it cannot be asked not to think"
            )
        if question.mode == "think" and not self._backend.can_continue:
            raise RefusedDrawError(
                "the server behind this one cannot make an answer think; leave think out"
            )
        messages = [
            replace(message, content=self._format.strip_thought(message.content))
            if message.role == "assistant"
            else message
            for message in question.messages
        ]
        if not messages or messages[-1].role != "user":
            raise RefusedDrawError("a conversation must end with a user message to be answered")
        return self._format.apply(messages) if question.think else tuple(messages)

    async def _output(
        self,
        question: AnswerRequest,
        messages: Sequence[Message],
        attempt: int,
        output: ThoughtFilter,
        cost: _Cost,
    ) -> AsyncGenerator[AnswerDelta, None]:
        """The deltas of one output: one draw, or two where the first spends the thought budget."""
        part = 0
        while output.finish_reason is None:
            if output.spent:
                if not self._backend.can_continue:
                    return
                part = 1
                output.start_response()
            draw = Draw(
                messages=tuple(messages),
                begun=output.begun,
                temperature=question.temperature,
                top_p=question.top_p,
                seed=_seed(question.seed, attempt, part),
                max_tokens=output.max_tokens,
                top_logprobs=question.top_logprobs,
                **({} if output.begun else self._opening(question)),
            )
            async with aclosing(self._read(draw, output, cost)) as deltas:
                async for delta in deltas:
                    yield delta

    def _opening(self, question: AnswerRequest) -> dict[str, Any]:
        """How a draw may open: of a hybrid policy by the client's wish or by the threshold."""
        threshold = self._settings.think_threshold if question.mode == "auto" else None
        if not self._format.hybrid or (question.mode != "direct" and threshold is None):
            return {}
        return {"barred": self._format.thought_starts_after, "threshold": threshold}

    async def _read(
        self, draw: Draw, output: ThoughtFilter, cost: _Cost
    ) -> AsyncGenerator[AnswerDelta, None]:
        now = asyncio.get_running_loop().time
        last_said = now()
        pieces = _Reader(self._backend.draw(draw))
        try:
            while output.finish_reason is None and not output.spent:
                piece = await pieces.next(last_said + KEEP_ALIVE)
                delta = NOTHING
                if piece is not None:
                    cost.note_prompt(piece, draw, output)
                    delta = output.take(piece)
                if delta is not NOTHING or now() >= last_said + KEEP_ALIVE:
                    yield delta
                    last_said = now()
        finally:
            await pieces.close()


@dataclass(slots=True)
class _Cost:
    """What an answer has cost so far."""

    prompt_tokens: int = 0
    reasoning_tokens: int = 0
    response_tokens: int = 0
    thought_shown: bool = False

    def note_prompt(self, piece: Piece, draw: Draw, output: ThoughtFilter) -> None:
        """Keep the length of the conversation, once known."""
        if self.prompt_tokens or piece.prompt_tokens is None:
            return
        # To a backend that goes on, what is written already is prompt.
        begun = output.reasoning_tokens if draw.begun else 0
        self.prompt_tokens = max(piece.prompt_tokens - begun, 0)

    def end(self, finish_reason: FinishReason, attempts: int) -> AnswerEnd:
        return AnswerEnd(
            finish_reason=finish_reason,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.reasoning_tokens + self.response_tokens,
            reasoning_tokens=self.reasoning_tokens,
            attempts=attempts,
        )


class _Reader:
    """Reads a draw in a task of its own: to stop waiting for a piece does not end the draw.

    What the draw raises is kept as words alone: an exception carries frames and the one before it,
    and those may hold an output.
    """

    def __init__(self, pieces: AsyncGenerator[Piece, None]) -> None:
        self._ready: deque[Piece] = deque()
        self._failure: tuple[type[BackendError | RefusedDrawError], str] | None = None
        self._over = False
        self._wanted: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._task = asyncio.create_task(self._read(pieces))

    async def next(self, until: float) -> Piece | None:
        """The next piece, `None` if there is none until that time of the loop's clock.

        Raises: RefusedDrawError, BackendError.
        """
        if not self._ready and not self._over:
            loop = asyncio.get_running_loop()
            self._wanted = loop.create_future()
            timer = loop.call_at(until, self._wake)
            try:
                await self._wanted
            finally:
                timer.cancel()
                self._wanted = None
        if self._ready:
            self._room.set()
            return self._ready.popleft()
        if not self._over:
            return None
        kind, words = self._failure or (BackendError, "the backend left an output unfinished")
        raise kind(words)

    async def close(self) -> None:
        """End the draw, and wait until it has ended."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _read(self, pieces: AsyncGenerator[Piece, None]) -> None:
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    self._ready.append(piece)
                    self._wake()
                    while len(self._ready) >= AHEAD:
                        self._room.clear()
                        await self._room.wait()
        except RefusedDrawError as error:
            self._failure = RefusedDrawError, str(error)
        except BackendError as error:
            self._failure = BackendError, str(error)
        except Exception as error:
            self._failure = BackendError, _described(error)
        finally:
            self._over = True
            self._wake()

    def _wake(self) -> None:
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)


def _described(error: Exception) -> str:
    """Kind and place of an error that the backend did not foresee; its words may be an output."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"the backend failed with {type(error).__name__} "
        f"({Path(place.filename).name}, line {place.lineno})"
    )


def _seed(seed: int | None, attempt: int, part: int) -> int | None:
    """The client's own for the first draw, one of its own for every other."""
    if seed is None or not (attempt or part):
        return seed
    return stable_seed(seed, attempt, part)
