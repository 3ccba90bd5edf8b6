"""A bounded number of answers at a time, and a bounded number that wait.

First come, first served, by answer: of a request for several answers some may run while others
wait, so no request can block another one for good.

    with slots.admit(count) as admission:   # raises QueueFullError at once
        ... in a task per answer:
        async with admission.slot():
            ...
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

RETRY_MOST = 60
"""Seconds that a client is asked to wait at most."""
MEMORY = 0.9
"""Weight of the past in the running mean of an answer's time."""


class QueueFullError(Exception):
    """No slot, and no place to wait for one."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("the queue is full")
        self.retry_after = retry_after
        """Seconds after which there is likely to be a place."""


class Slots:
    """Slots for answers, with a queue.

    Example: `Slots(slots=16, queue=64)`
    """

    def __init__(self, slots: int, queue: int) -> None:
        self._slots = slots
        self._queue = queue
        self._free = asyncio.Semaphore(slots)
        self._mean_seconds = 1.0
        self.running = 0
        self.waiting = 0

    def admit(self, count: int) -> Admission:
        """Places for so many answers, all or none.

        Raises: QueueFullError.
        """
        if self.running + self.waiting + count > self._slots + self._queue:
            ahead = self.running + self.waiting
            seconds = math.ceil(self._mean_seconds * ahead / self._slots)
            raise QueueFullError(min(max(seconds, 1), RETRY_MOST))
        self.waiting += count
        return Admission(self, count)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """A slot for one that is counted as waiting; it is not waiting afterwards."""
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            self._mean_seconds = MEMORY * self._mean_seconds + (1 - MEMORY) * seconds
            self.running -= 1
            self._free.release()


class Admission:
    """Places in the queue that were given to a request; leaving its block gives back the rest."""

    def __init__(self, slots: Slots, count: int) -> None:
        self._slots = slots
        self._left = count

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot and hold it while the block runs."""
        assert self._left, "more slots than were admitted"
        self._left -= 1
        async with self._slots._slot():
            yield

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._slots.waiting -= self._left
        self._left = 0
