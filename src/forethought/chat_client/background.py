"""An event loop in a thread of its own.

Calls in flight go on while a caller looks at the results that it has, whatever thread the caller
is in and whether or not an event loop runs there. Ctrl-C reaches the caller at once, since only
the caller waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

GRACE = 20.0
"""Seconds for calls in flight to end when another one has failed for good."""
PATIENCE = 5.0
"""Seconds to wait for cancelled work to end; the thread does not outlive the process anyway."""


class Background:
    """Runs coroutines until it is closed, `workers` of them at a time where there are many."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin; cancelling the future cancels the work."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def results(
        self, items: Iterable[T], work: Callable[[T, asyncio.Event], Awaitable[R]]
    ) -> Generator[tuple[T, R], None, None]:
        """Each item with what `work` makes of it, in the order in which they are done.

        When one fails no more are begun, the event tells those in flight to give up soon, they have
        `GRACE` seconds to end, what they gave is given, and the error is raised. Closing the
        generator cancels what is in flight.
        """
        news: SimpleQueue[tuple[T, R] | None] = SimpleQueue()
        waiting = iter(items)
        give_up = asyncio.Event()

        async def worker() -> None:
            for item in waiting:
                news.put((item, await work(item, give_up)))
                # Work that took no wait must not keep the others from their turn.
                await asyncio.sleep(0)
                if give_up.is_set():
                    return

        running = self.start(_all_of([worker() for _ in range(self._workers)], give_up))
        running.add_done_callback(lambda _: news.put(None))
        try:
            while (result := news.get()) is not None:
                yield result
            assert not running.cancelled(), "it was closed while it was in use"
            running.result()
        finally:
            running.cancel()

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Cancel what is under way, run `last`, and end the thread."""
        wait([self.start(_end(last))], PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        if not self._thread.is_alive():
            self._loop.close()


async def _all_of(workers: Iterable[Coroutine[Any, Any, None]], give_up: asyncio.Event) -> None:
    """Until all are done, or one has failed and the others had their time.

    Raises: what the one raised.
    """
    tasks = [asyncio.create_task(worker) for worker in workers]
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
