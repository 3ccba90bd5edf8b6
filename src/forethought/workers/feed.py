"""Parts that are told one by one while others are done, from one thread to another."""

from __future__ import annotations

import threading


class Feed:
    """Numbers of parts, in the order in which they were told.

    Example::

        feed = Feed()
        threading.Thread(target=do_all, args=[pool.follow(feed, part)]).start()
        feed.put(0)
        feed.stop()
    """

    def __init__(self) -> None:
        self._new: list[int] = []
        self._changed = threading.Condition()
        self.stopped = False
        """No further part is begun."""
        self.cut_short = False
        """Nor is one that was begun waited for."""

    def put(self, number: int) -> None:
        """Tell of a part."""
        with self._changed:
            self._new.append(number)
            self._changed.notify_all()

    def stop(self, *, at_once: bool = False) -> None:
        """Begin no further part. Those that are begun are ended, or with `at_once` dropped."""
        with self._changed:
            self.stopped = True
            self.cut_short |= at_once
            self._changed.notify_all()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until there is something to take or it is stopped; whether there is."""
        with self._changed:
            self._changed.wait_for(lambda: self._new or self.stopped, seconds)
            return bool(self._new) and not self.stopped

    def take(self) -> list[int]:
        """What was told since the last time; nothing after the stop."""
        with self._changed:
            taken, self._new = self._new, []
            return [] if self.stopped else taken
