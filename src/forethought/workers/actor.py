"""The far side of an executor on Ray: one process on some node, with what it opened.

It writes no file and knows no run. What is the user's mistake comes back as a value, so that it
reads as it would have read without workers; any other exception is Ray's to carry, and the
executor takes it for the worker's death.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from forethought.progress.under_way import Drawing, listening
from forethought.workers.base import WorkerFactory
from forethought.workers.board import write


@dataclass(frozen=True, slots=True)
class Mistake:
    """A `ValueError` of the worker as a value; the executor raises it again.

    Example: `Mistake("model: gave logits that are NaN …")`
    """

    message: str


class Worker:
    """Opened once, then given part after part."""

    def __init__(self, threads: int, path: list[str]) -> None:
        import torch

        # A user's own verifier is found where its folder is on this node, too.
        sys.path += [folder for folder in path if folder not in sys.path]
        # Float rounding depends on them.
        torch.set_num_threads(threads)
        self._stack = ExitStack()
        self._do: Any = None

    def place(self) -> str:
        """The address of the node that has room for this worker."""
        import ray

        return ray.util.get_node_ip_address()

    def open(self, factory: WorkerFactory[Any, Any]) -> Mistake | None:
        """Load what the parts need."""
        try:
            self._do = self._stack.enter_context(factory())
        except ValueError as error:
            return Mistake(str(error))
        return None

    def do(self, part: Any, place: str) -> Any:
        """The part's result, or the user's mistake; how far it is stands at `place` of the board
        meanwhile."""

        def tell(who: str, drawing: Drawing) -> None:
            write(place, drawing)

        try:
            with listening(tell):
                return self._do(part)
        except ValueError as error:
            return Mistake(str(error))

    def close(self) -> None:
        """Leave the engine as one leaves it anywhere, so that another can be opened."""
        self._do = None
        self._stack.close()
