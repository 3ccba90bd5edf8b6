"""Opens an executor: this process, part after part, or workers on Ray, many parts at a time.

A stage is written once for both:

    with open_executor(factory, workers, launch, name="thought policy 1") as executor:
        for index, records in executor.each([0, 3], lambda index: requests[index]):
            stage.write_records(f"part_{index:05d}", records, Rollout)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic

from forethought.config import LaunchConfig, Workers
from forethought.workers.base import Do, Executor, Part, Result, WorkerFactory
from forethought.workers.ray_executor import RayExecutor


@contextmanager
def open_executor(
    factory: WorkerFactory[Part, Result],
    workers: Workers | None,
    launch: LaunchConfig,
    *,
    name: str,
    gpus: int | None = None,
) -> Iterator[Executor[Part, Result]]:
    """An executor whose worker or workers are opened by `factory`; leaving the block closes them.

    Without `workers` this process is the worker. `gpus` is what a worker on Ray needs where
    `workers.gpus` does not say, and `name` stands in the messages of its errors.

    Raises: ValueError if the factory refuses, or workers on Ray cannot be had.
    """
    if workers is None:
        with factory() as do:
            yield LocalExecutor(do)
    else:
        with RayExecutor(factory, workers, launch, name=name, gpus=gpus) as executor:
            yield executor


@dataclass(frozen=True, slots=True)
class LocalExecutor(Generic[Part, Result]):
    """This process: the parts in order, one at a time.

    Example: `LocalExecutor(draw)`
    """

    do: Do[Part, Result]

    def each(
        self, numbers: Sequence[int], part: Callable[[int], Part]
    ) -> Iterator[tuple[int, Result]]:
        for number in numbers:
            yield number, self.do(part(number))


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
