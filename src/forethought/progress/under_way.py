"""What an engine says while it draws: a call may take an hour before its first result is there.

Whoever shows progress listens; whoever draws tells, without knowing who listens, or whether:

    with listening(show):
        tally = Tally("the fast decoder", prompts=64, outputs=512)  # show("", Drawing(…, done=0))
        tally.tell(done=3, tokens=4711)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

SECOND = 1.0
"""An engine is asked how far it is this often: on a GPU to count means to wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How far one call of an engine is.

    Example: `Drawing(how="the fast decoder", prompts=64, outputs=512, done=3, tokens=4711)`
    """

    how: str
    """How outputs are drawn, and what that costs where there is a better way; a sentence."""
    prompts: int
    outputs: int
    done: int
    """Outputs that have ended."""
    tokens: int
    """New tokens so far; 0 where the engine does not say."""


Listener = Callable[[str, Drawing], None]
"""Told who draws, "" for this process, and how far it is."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Engines of this thread tell it what they do inside the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def listener() -> Listener | None:
    """Who listens now."""
    return _listener.get()


class Tally:
    """One call of an engine. The first word is said at once."""

    def __init__(self, how: str, *, prompts: int, outputs: int) -> None:
        self._listener = _listener.get()
        self._how, self._prompts, self._outputs = how, prompts, outputs
        self._told = -SECOND
        self.tell(done=0, tokens=0)

    @property
    def due(self) -> bool:
        """Whether it is time to tell again; never where nobody listens."""
        return self._listener is not None and time.monotonic() - self._told >= SECOND

    def tell(self, *, done: int, tokens: int) -> None:
        """Say how many outputs have ended and how many tokens are new, both since the call began.

        The listener is told each time, `due` or not.
        """
        self._told = time.monotonic()
        if self._listener is not None:
            drawing = Drawing(
                how=self._how,
                prompts=self._prompts,
                outputs=self._outputs,
                done=done,
                tokens=tokens,
            )
            self._listener("", drawing)
