"""What an executor is: it does the parts of a stage, wherever there is room for them.

A part is the unit of everything: its seeds and its batches are its own, one worker does the whole
of it, and it is done again whole. That is why placement changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")
In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)

Do = Callable[[Part], Result]
"""Does one part. A `ValueError` is the user's mistake and ends the stage."""
WorkerFactory = Callable[[], AbstractContextManager[Do[Part, Result]]]
"""Opens what parts need, once for all parts of a worker. It is sent to each worker on Ray, so it
must be picklable."""


class Executor(Protocol[In, Out]):
    """Does parts. Only who asked for them writes files."""

    def each(self, numbers: Sequence[int], part: Callable[[int], In]) -> Iterator[tuple[int, Out]]:
        """The result of each part, with its number, in the order in which they are done.

        `part` makes a part when its turn comes, so that they need not all be in memory.

        Raises: ValueError where a part is the user's mistake, or could not be done at all.
        """
        ...
