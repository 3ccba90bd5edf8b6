"""Who does the parts of a stage: this process, one by one, or workers on Ray, many at a time.

A part is the unit of everything: its seeds and its batches are its own, one worker does the whole
of it, and it is done again whole. That is why placement changes no result. What a worker needs is
an *opening*, a function without arguments that can be pickled and gives a context manager; entered
once, it gives the function that does a part. A stage is written once for both:

    with Here(opening) as crew:  # or Pool(opening, workers, launch, name="rollouts")
        for index, records in crew.each([0, 3], lambda index: requests[index]):
            stage.write_records(f"part_{index:05d}", records, Rollout)

Results come in any order, each as soon as it is there, and only the stage writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")
In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)

Do = Callable[[Part], Result]
"""Does one part. A `ValueError` is the user's mistake and ends the stage."""
Opening = Callable[[], AbstractContextManager[Do[Part, Result]]]
"""Loads what parts need; on Ray it is sent to each worker, so it must be picklable."""


class Crew(Protocol[In, Out]):
    """Leaving its `with` block frees what was loaded."""

    def each(self, numbers: Sequence[int], part: Callable[[int], In]) -> Iterator[tuple[int, Out]]:
        """The result of each part, with its number, in the order in which they are done.

        `part` makes a part when its turn comes, so that they need not all be in memory.

        Raises: ValueError where a part is the user's mistake, or could not be done at all.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...


def in_order(
    numbers: Sequence[int], results: Iterable[tuple[int, Result]]
) -> Iterator[tuple[int, Result]]:
    """The same results in the order of their numbers; those that come too early wait in memory."""
    early: dict[int, Result] = {}
    owed = iter(numbers)
    wanted = next(owed, None)
    for number, result in results:
        early[number] = result
        while wanted in early:
            yield wanted, early.pop(wanted)
            wanted = next(owed, None)


class Here(Generic[Part, Result]):
    """This process: the parts in order, one at a time.

    Example: `Here(partial(open_drawing, policy, params))`
    """

    def __init__(self, opening: Opening[Part, Result]) -> None:
        self._opened = opening()

    def __enter__(self) -> Self:
        self._do = self._opened.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self._opened.__exit__(kind, error, trace)

    def each(
        self, numbers: Sequence[int], part: Callable[[int], Part]
    ) -> Iterator[tuple[int, Result]]:
        for number in numbers:
            yield number, self._do(part(number))
