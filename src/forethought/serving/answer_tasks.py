"""Makes the answers of one request at the same time and hands on what comes, in order of arrival.

Each answer has a task that waits for a slot and then follows the answerer. A bounded buffer stands
between the tasks and the client: who reads slowly makes the tasks wait, and nothing grows. Leaving
the block ends the tasks, frees their slots and closes the backend's iterators before it returns.

Here a thought parts from what is sent: an `Arrival` has it only where the caller has the right.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Self

from forethought.serving.backends.base import AnswerDelta, AnswerEnd, Answerer, AnswerRequest
from forethought.serving.http.limits import Admission

BUFFER = 32
"""Arrivals that may wait for the client, over all answers of a request."""

Arrival = tuple[int, AnswerDelta | AnswerEnd]
"""Which answer of the request, and what is new of it."""


@dataclass(kw_only=True)
class AnswerRecord:
    """What the private log is told of an answer.

    Example: `AnswerRecord(question=AnswerRequest(…), index=0)`
    """

    question: AnswerRequest
    index: int
    thought: list[str] = field(default_factory=list)
    response: list[str] = field(default_factory=list)
    outcome: str = "cancelled"


class AnswerTasks:
    """The answers of a request while they are made; an async context manager.

    Example: `async with AnswerTasks(answerer, questions, admission, …) as tasks: …`
    """

    def __init__(
        self,
        answerer: Answerer,
        questions: Sequence[AnswerRequest],
        admission: Admission,
        *,
        reasoning: bool,
        keep: bool,
        ended: Callable[[AnswerRecord], None],
        waited: Callable[[float], None],
    ) -> None:
        """`reasoning`: the caller may see thoughts. `keep`: thoughts and responses are gathered
        for `ended`, which is called once per answer. `waited` is told the seconds in the queue."""
        self._answerer = answerer
        self._questions = questions
        self._admission = admission
        self._reasoning = reasoning
        self._keep = keep
        self._ended = ended
        self._waited = waited
        self._buffer: asyncio.Queue[tuple[int, AnswerDelta | AnswerEnd | Exception]]
        self._buffer = asyncio.Queue(BUFFER)
        self._tasks: list[asyncio.Task[None]] = []
        self._open = len(questions)
        self._error: Exception | None = None
        self.begun = False
        """Whether one of them has a slot."""

    async def __aenter__(self) -> Self:
        for index, question in enumerate(self._questions):
            self._tasks.append(asyncio.create_task(self._make(index, question)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def done(self) -> bool:
        """Whether all ends have been handed on."""
        return not self._open

    async def arrivals(self, patience: float | None) -> list[Arrival]:
        """What has come; waits for it up to `patience` seconds and is empty then.

        Raises: what one of the answers failed with, after all that came before it.
        """
        if self._error is not None:
            raise self._error
        try:
            async with asyncio.timeout(patience):
                queued = [await self._buffer.get()]
        except TimeoutError:
            return []
        while not self._buffer.empty():
            queued.append(self._buffer.get_nowait())
        arrivals: list[Arrival] = []
        for index, part in queued:
            if isinstance(part, Exception):
                self._error = part
                break
            self._open -= isinstance(part, AnswerEnd)
            arrivals.append((index, part))
        if self._error is not None and not arrivals:
            raise self._error
        return arrivals

    async def _make(self, index: int, question: AnswerRequest) -> None:
        record = AnswerRecord(question=question, index=index)
        came = time.monotonic()
        last: AnswerEnd | Exception
        try:
            async with self._admission.slot():
                self.begun = True
                self._waited(time.monotonic() - came)
                last = await self._follow(record)
            record.outcome = last.finish_reason
        except Exception as error:
            record.outcome = "error"
            last = error
        finally:
            self._ended(record)
        # The slot is free by now, however slowly the client reads.
        await self._buffer.put((index, last))

    async def _follow(self, record: AnswerRecord) -> AnswerEnd:
        # Closing the answer is what closes the backend's draw.
        async with aclosing(self._answerer.answer(record.question)) as answer:
            async for part in answer:
                if isinstance(part, AnswerEnd):
                    return part
                if self._keep:
                    record.thought.append(part.thought)
                    record.response.append(part.response)
                if part.thought and not self._reasoning:
                    part = replace(part, thought="")
                if part.response or part.thought or part.logprobs:
                    await self._buffer.put((record.index, part))
        raise AssertionError("an answerer ended without an end")
