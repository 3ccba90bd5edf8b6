"""The executor on Ray: actors that do the parts of a stage, wherever there is room for them.

An actor holds one opened engine and does one part at a time. This process hands out parts, oldest
first, and takes results as they come; Ray places the actors, starts those that wait when a node
joins, and says when one is gone. A part whose worker or node dies, or raises anything that is no
`ValueError`, is done again by another, `attempts` times at most; the worker is ended and another
asked for in its place. Nothing but parts and results travels: no worker reads or writes the run
directory, and a policy's weights must be readable under the same path on every node.

A worker is a process of its own and takes seconds to import torch. So one which left its engine
well stays for the next stage, until a stage wants workers of another shape, or this process ends.

An engine on several GPUs (`tensor_parallel`) is one actor that holds all of them. Ray puts an
actor's GPUs on one node, so no placement group is needed, and must not be there: vLLM would take it
as the order to spread over Ray's actors of its own. A model wider than a node does not fit so.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Self

from forethought.config import LaunchConfig, Workers
from forethought.progress.under_way import listener
from forethought.workers import board
from forethought.workers.actor import Mistake, Worker
from forethought.workers.base import Part, Result, WorkerFactory
from forethought.workers.cluster import LOCAL, connect, import_ray, refuse_without_room

LEAVE_SECONDS = 10.0
"""What engines have to end by themselves before their processes are killed."""
LONGEST_CAUSE = 600
"""Characters of what Ray says of a death."""


@dataclass(frozen=True, slots=True)
class _WorkerKind:
    """What workers must share to stand in for each other."""

    driver: str
    """Ray's name of this process, another after each connection."""
    cpus: float
    gpus: float
    threads: int


_idle: dict[_WorkerKind, list[Any]] = {}
"""Actors without an engine: they hold their CPUs and GPUs."""


@dataclass(slots=True)
class _Seat:
    """A worker's place: its actor and what it does now."""

    actor: Any
    task: Any
    """Ray's reference to what it does; `None` when it waits for a part."""
    node: str | None = None
    """Where it was placed; `None` as long as there is no room for it."""
    ready: bool = False
    """Whether it has opened."""
    part: int | None = None
    board: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Its place on the board; read while somebody listens."""


@dataclass(slots=True)
class _Work(Generic[Part]):
    owed: deque[int]
    part: Callable[[int], Part]
    tries: Counter[int] = field(default_factory=Counter)


def dismiss_idle(ray: Any, but: _WorkerKind | None = None, *, gpus: bool = False) -> None:
    """End idle workers, but those of one shape: they hold room that others need. With `gpus` only
    those that hold any."""
    here = _driver(ray)
    for shape in [shape for shape in _idle if shape != but and (shape.gpus or not gpus)]:
        for actor in _idle.pop(shape):
            # Those of an earlier connection ended with it.
            if shape.driver == here:
                ray.kill(actor)


def give_back_gpus() -> None:
    """End idle workers that hold GPUs, before a stage that takes GPUs without asking Ray."""
    if any(shape.gpus for shape in _idle):
        dismiss_idle(import_ray(), gpus=True)


def _driver(ray: Any) -> str:
    # The first driver of every cluster has the same id; a node's is its own.
    here = ray.get_runtime_context()
    return f"{here.get_node_id()} {here.get_worker_id()}"


class RayExecutor(Generic[Part, Result]):
    """Workers opened by the same factory.

    Example: `RayExecutor(partial(open_engine, policy), Workers(count=8, gpus=1), launch,
    name="thought policy 1")`
    """

    def __init__(
        self,
        factory: WorkerFactory[Part, Result],
        workers: Workers,
        launch: LaunchConfig,
        *,
        name: str,
        gpus: int | None = None,
    ) -> None:
        """Connect. Workers start with the first parts, never more of them than parts.

        `gpus` is what the engine needs where `workers.gpus` does not say; `name` stands in errors.

        Raises: ValueError if there is no Ray, no cluster, or surely never room for a worker.
        """
        self._ray = ray = connect(launch.ray)
        self._workers, self._patience, self._name = workers, launch.ray.patience, name
        wanted = gpus if workers.gpus is None else workers.gpus
        refuse_without_room(ray, workers, wanted, launch.ray.address in (None, LOCAL))
        self._factory = ray.put(factory)
        self._shape = _WorkerKind(
            driver=_driver(ray),
            cpus=workers.cpus,
            gpus=wanted or 0,
            threads=launch.threads or max(1, int(workers.cpus)),
        )
        self._kind = ray.remote(Worker).options(
            num_cpus=self._shape.cpus, num_gpus=self._shape.gpus, max_restarts=0
        )
        self._lost_openings = 0
        self._seats: list[_Seat] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # One may be in the middle of a part for which nobody waits any more.
        free = [seat for seat in self._seats if seat.ready and seat.task is None and kind is None]
        leaving = {seat.actor.close.remote(): seat for seat in free}
        left: list[Any] = []
        if leaving:
            left, _ = self._ray.wait(list(leaving), num_returns=len(leaving), timeout=LEAVE_SECONDS)
        stay = [leaving[task].actor for task in left if self._left_well(task)]
        _idle.setdefault(self._shape, []).extend(stay)
        for seat in self._seats:
            board.clear(seat.board)
            if seat.actor not in stay:
                self._ray.kill(seat.actor)
        self._seats = []

    def each(
        self, numbers: Sequence[int], part: Callable[[int], Part]
    ) -> Iterator[tuple[int, Result]]:
        """Results as they come.

        Raises: ValueError for a user's mistake; where a part's workers died too often, naming it
        and the last cause; where the cluster has had no room for a worker for too long.
        """
        # Idle workers of another shape hold room that these need.
        dismiss_idle(self._ray, self._shape)
        work = _Work(owed=deque(numbers), part=part)
        while len(self._seats) < min(self._workers.count, len(work.owed)):
            self._seats.append(self._seat())
        placed = time.monotonic()
        while work.owed or any(seat.part is not None for seat in self._seats):
            self._hand_out(work)
            tasks = {seat.task: seat for seat in self._seats if seat.task is not None}
            # Not for all of them: a result is written as soon as it is there.
            done, _ = self._ray.wait(list(tasks), num_returns=1, timeout=1.0)
            self._relay()
            for task in done:
                yield from self._take(tasks[task], work)
            # Those without room may wait as long as another has some.
            if any(seat.node is not None for seat in self._seats):
                placed = time.monotonic()
            elif time.monotonic() - placed > self._patience:
                raise ValueError(self._no_room())

    def _relay(self) -> None:
        """Tell whoever listens how far the parts under way are."""
        if (hear := listener()) is None:
            return
        for seat in self._seats:
            if seat.part is not None and (drawing := board.read(seat.board)) is not None:
                hear(seat.board, drawing)

    def _left_well(self, task: Any) -> bool:
        try:
            self._ray.get(task)
        # Whatever it was, the engine may still hold memory.
        except Exception:
            return False
        return True

    def _seat(self) -> _Seat:
        idle = _idle.get(self._shape)
        actor = idle.pop() if idle else self._kind.remote(self._shape.threads, sys.path)
        return _Seat(actor=actor, task=actor.place.remote())

    def _hand_out(self, work: _Work[Part]) -> None:
        for seat in self._seats:
            if work.owed and seat.ready and seat.task is None:
                seat.part = work.owed.popleft()
                seat.task = seat.actor.do.remote(work.part(seat.part), seat.board)

    def _take(self, seat: _Seat, work: _Work[Part]) -> Iterator[tuple[int, Result]]:
        """What a seat's task came to: a place, an opened engine, a result, a mistake, a death."""
        number = seat.part
        try:
            outcome = self._ray.get(seat.task)
        # Ray gives an exception of the worker as an instance of that exception's own class, too.
        except Exception as error:
            self._replace(seat, _cause(error), work)
            return
        if isinstance(outcome, Mistake):
            raise ValueError(outcome.message)
        if seat.node is None:
            seat.node, seat.task = outcome, seat.actor.open.remote(self._factory)
            return
        seat.task, seat.part, seat.ready = None, None, True
        self._lost_openings = 0
        if number is not None:
            yield number, outcome

    def _replace(self, seat: _Seat, cause: str, work: _Work[Part]) -> None:
        """Another worker in a dead one's seat, its part owed again.

        Raises: ValueError if there were too many such deaths.
        """
        if seat.part is None:
            self._lost_openings += 1
            if self._lost_openings >= self._workers.attempts * len(self._seats):
                raise ValueError(
                    f"{self._name}: {self._lost_openings} workers died one after the other while "
                    f"they loaded the engine, the last on {seat.node} because: {cause}"
                )
        else:
            work.tries[seat.part] += 1
            if work.tries[seat.part] >= self._workers.attempts:
                raise ValueError(
                    f"{self._name}: part {seat.part} was tried {work.tries[seat.part]} times and "
                    f"its worker died each time, the last on {seat.node} because: {cause}. Parts "
                    "that were done are kept"
                )
            work.owed.appendleft(seat.part)
        # Whoever raised may have an engine that is beyond use.
        self._ray.kill(seat.actor)
        self._seats[self._seats.index(seat)] = self._seat()

    def _no_room(self) -> str:
        there = self._ray.available_resources()
        free = ", ".join(f"{there.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
        return (
            f"{self._name}: for {self._patience:g} seconds the cluster had no room for a worker, "
            f"which asks for {self._shape.cpus:g} CPU and {self._shape.gpus:g} GPU; free "
            f"are {free}. Lower workers.cpus or workers.gpus, add nodes, or raise "
            "launch.ray.patience; finished parts are kept"
        )


def _cause(error: Exception) -> str:
    """What Ray says of it, in one line; of an exception in the worker its last line."""
    from ray.exceptions import RayTaskError

    text = repr(error.cause) if isinstance(error, RayTaskError) else str(error)
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_CAUSE else line[:LONGEST_CAUSE] + " …"
