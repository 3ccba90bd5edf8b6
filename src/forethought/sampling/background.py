"""An event loop in a thread of its own.

Calls in flight go on while a caller looks at the results that it has, whatever thread the caller
is in and whether or not an event loop runs there. Ctrl-C reaches the caller at once, since only
the caller waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

T = TypeVar("T")

GRACE = 20.0
"""Seconds for calls in flight to end when another one has failed for good."""
PATIENCE = 5.0
"""Seconds to wait for cancelled work to end; the thread does not outlive the process anyway."""


class Background:
    """Runs coroutines until it is closed."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin; cancelling the future cancels the work."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Cancel what is under way, run `last`, and end the thread."""
        wait([self.start(_end(last))], PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        if not self._thread.is_alive():
            self._loop.close()


async def for_each(
    items: Iterable[T], work: Callable[[T, asyncio.Event], Awaitable[None]], *, workers: int
) -> None:
    """Work on the items in their order, so many at a time.

    When one fails no more are begun, the event tells those in flight to give up soon, they have
    `GRACE` seconds to end, and the error is raised.
    """
    waiting = iter(items)
    give_up = asyncio.Event()

    async def worker() -> None:
        for item in waiting:
            await work(item, give_up)
            # Work that took no wait must not keep the others from their turn.
            await asyncio.sleep(0)
            if give_up.is_set():
                return

    tasks = [asyncio.create_task(worker()) for _ in range(workers)]
    if not tasks:
        return
    try:
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        give_up.set()
        if pending:
            await asyncio.wait(pending, timeout=GRACE)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _end(last: Coroutine[Any, Any, None]) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await last
