"""Follow a run with its trackers: each in a thread of its own, each at its own pace.

A tracker is a view of the run directory: its thread reads what was sealed and the training log as
it grows, and passes on what the tracker does not hold. `RUN/trackers/TYPE.json` says how far it
is. That file is written when the tracker has finished; if an attempt was killed before, what the
tracker did receive is read back from it, so that no step is logged twice and none is lost.

Whatever goes wrong with a tracker costs one line of warning and never the run: the next attempt
catches up.
"""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from forethought.config import Recipe, TrackerConfig
from forethought.config.recipe_files import dump
from forethought.progress.reporter import Reporter
from forethought.storage.files import write_json
from forethought.storage.sealed_stage import read_json
from forethought.trackers.points import read_points
from forethought.trackers.stores import Logged, Store, open_store

PERIOD = 15.0
"""Seconds between two looks at the run directory while a stage works."""
PATIENCE = 60.0
"""Seconds that a finished run waits for a tracker."""


class Trackers:
    """All trackers of a run. Without any it does nothing.

    Example::

        trackers = Trackers(recipe, reporter)
        try:
            ...  # after each stage:
            trackers.look()
        finally:
            trackers.close()
    """

    def __init__(self, recipe: Recipe, reporter: Reporter) -> None:
        """Start a thread for each tracker of the recipe."""
        self._reporter = reporter
        self._followers = [_Follower(tracker, recipe, reporter) for tracker in recipe.trackers]
        for follower in self._followers:
            follower.start()

    def look(self) -> None:
        """Say that there is something new in the run directory; returns at once."""
        for follower in self._followers:
            follower.awake.set()

    def close(self) -> None:
        """Let every tracker catch up and finish; one is left behind after `PATIENCE` seconds."""
        for follower in self._followers:
            follower.ending = True
            follower.awake.set()
        for follower in self._followers:
            follower.join(PATIENCE)
            if follower.is_alive():
                self._reporter.say(
                    f"tracker {follower.config.type} is not done after {PATIENCE:.0f} s and is "
                    "left behind; the next attempt at this run catches up"
                )


class _Follower(threading.Thread):
    """One tracker."""

    def __init__(self, config: TrackerConfig, recipe: Recipe, reporter: Reporter) -> None:
        super().__init__(name=f"tracker {config.type}", daemon=True)
        self.config = config
        self.awake = threading.Event()
        self.ending = False
        self._recipe = recipe
        self._reporter = reporter
        self._record = _Record(recipe.run / "trackers" / f"{config.type}.json")
        self._store: Store | None = None
        self._there: Logged = set()

    def run(self) -> None:
        """Follow until the run ends."""
        try:
            self._record.read()
            while not self.ending:
                self.awake.wait(PERIOD)
                self.awake.clear()
                self._catch_up()
            self._catch_up()
            if self._store is not None:
                self._store.finish()
                self._record.finished()
        # Four services, their clients and the network: any class of error may come out of them.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            self._reporter.say(
                f"warning: tracker {self.config.type} stopped: {reason:.300}; the run goes on "
                "without it, and the next attempt at this run catches up"
            )

    def _catch_up(self) -> None:
        points = list(read_points(self._recipe, self._record.logged))
        if points and self._store is None:
            self._store = self._open()
        for point in points:
            assert self._store is not None
            # A kill may have come between two figures of one point.
            values = {k: v for k, v in point.values.items() if (k, point.step) not in self._there}
            if values:
                self._store.log(replace(point, values=values))
        for point in points:
            self._record.logged[point.source] = point.index + 1

    def _open(self) -> Store:
        record = self._record
        store = open_store(self.config, self._recipe.run, record.run_id)
        if record.killed:
            self._there = store.found()
        settings = {} if record.opened else _flat(dump(self._recipe) | {"trackers": None})
        record.begun()
        store.start(settings, sum(record.logged.values()))
        return store


class _Record:
    """How far a tracker was when it last finished."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.opened = False
        self.run_id = uuid.uuid4().hex[:12]
        self.killed = False
        self.logged: dict[str, int] = {}
        self._last: dict[str, int] = {}

    def read(self) -> None:
        """Raises: StageError if the file is damaged."""
        if not self._path.is_file():
            return
        self.opened = True
        found = read_json(self._path)
        self.run_id = found["run_id"]
        self.killed = not found["finished"]
        self.logged = found["logged"]
        self._last = dict(self.logged)

    def begun(self) -> None:
        """From here on the tracker may hold more than the record says."""
        self._write(finished=False)

    def finished(self) -> None:
        """The tracker holds all that was logged."""
        self._last = dict(self.logged)
        self._write(finished=True)

    def _write(self, *, finished: bool) -> None:
        # Not `logged`: what an attempt sent is certain only once its tracker has finished.
        write_json(self._path, {"run_id": self.run_id, "finished": finished, "logged": self._last})


def _flat(settings: dict[str, Any], place: str = "") -> dict[str, str]:
    """Nested settings under dotted names."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{place}.{key}" if place else key
        flat |= _flat(value, name) if isinstance(value, dict) else {name: str(value)}
    return flat
