"""The four trackers, through accelerate's classes, and what each of them already holds.

Each store is opened for one attempt at a run and finished at its end. Weights & Biases and trackio
send from a queue, so that only `finish` makes sure of what was logged; after an attempt that was
killed `found` reads back what arrived. Without options all four work offline: what they write
lies in the run directory (`RUN/trackers/`), trackio's where its dashboard looks for it.
"""

from __future__ import annotations

import logging
import os
import re
import struct
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from forethought.config import TrackerConfig
from forethought.trackers.points import Point

Logged = set[tuple[str, int]]
"""Name and step of every figure that a store holds."""

RUN_TAG = "forethought.run"
"""MLflow's tag by which a resumed run is found again."""
WANDB_BLOCK = 32768
"""Bytes of a block of Weights & Biases' local log, which is laid out as LevelDB's."""


class Store(Protocol):
    """One tracker of one run."""

    def found(self) -> Logged:
        """Read back what earlier attempts left there."""
        ...

    def start(self, settings: dict[str, str], held: int) -> None:
        """Open it for more than the `held` points that it is known to hold.

        `settings` is the recipe, or empty where it was given before.
        """
        ...

    def log(self, point: Point) -> None:
        """Add a point."""
        ...

    def finish(self) -> None:
        """Return when everything logged is kept."""
        ...


def open_store(config: TrackerConfig, run: Path, run_id: str) -> Store:
    """The store of a recipe's tracker for a run directory.

    Raises: ValueError if its package is not installed.
    """
    for package in ("accelerate", config.type):
        if find_spec(package) is None:
            raise ValueError(f"the package {package} is not installed (pip install {package})")
    from accelerate import PartialState

    # accelerate's trackers ask it which process they are in; on the CPU it touches no GPU.
    PartialState(cpu=True)
    kinds = {
        "tensorboard": _TensorBoard,
        "wandb": _WandB,
        "mlflow": _MLflow,
        "trackio": _Trackio,
    }
    return kinds[config.type](config, run, run_id)


class _TensorBoard:
    """Event files in `RUN/trackers/tensorboard/NAME`, or below `options.logging_dir`."""

    def __init__(self, config: TrackerConfig, run: Path, run_id: str) -> None:
        from accelerate.tracking import TensorBoardTracker

        folder = run / "trackers" / "tensorboard"
        options: dict[str, Any] = {"logging_dir": folder} | config.options
        name = config.name or run.resolve().name
        self._folder = Path(options["logging_dir"]) / name
        self._tracker = TensorBoardTracker(name, **options)

    def found(self) -> Logged:
        if not self._folder.is_dir():
            return set()
        reader = import_module("tensorboard.backend.event_processing.event_accumulator")
        # 0 keeps every value; by default it draws 10,000 of a tag's.
        events = reader.EventAccumulator(str(self._folder), size_guidance={"scalars": 0})
        events.Reload()
        tags = events.Tags()["scalars"]
        return {(tag, event.step) for tag in tags for event in events.Scalars(tag)}

    def start(self, settings: dict[str, str], held: int) -> None:
        self._tracker.start()
        if settings:
            table = "\n".join(f"| {key} | {value} |" for key, value in settings.items())
            self._tracker.log({"recipe": f"| field | value |\n| --- | --- |\n{table}"}, step=0)

    def log(self, point: Point) -> None:
        self._tracker.log(point.values, step=point.step)

    def finish(self) -> None:
        self._tracker.finish()


class _WandB:
    """A run of Weights & Biases, online unless `options.mode` is `offline`.

    Its own step may only grow, so it counts points; each figure's axis is a metric of its own.
    """

    def __init__(self, config: TrackerConfig, run: Path, run_id: str) -> None:
        from accelerate.tracking import WandBTracker

        standard: dict[str, Any] = {
            "id": run_id,
            "resume": "allow",
            "name": config.name or run.resolve().name,
            "dir": str(run / "trackers"),
            # Its console capture and its messages would cut through the progress bars; a server
            # that cannot be reached is given up before the run's own patience ends.
            "settings": {"console": "off", "silent": True, "init_timeout": 30},
        }
        options = standard | config.options
        self._folder = Path(options["dir"])
        self._offline = options.get("mode", os.environ.get("WANDB_MODE")) in OFFLINE
        self._id = options["id"]
        self._tracker = WandBTracker(config.project, **options)
        self._axes: set[str] = set()
        self._next = 0

    def found(self) -> Logged:
        held: Logged = set()
        for file in sorted(self._folder.glob(f"wandb/*run-*/run-{self._id}.wandb")):
            for row in _wandb_history(file):
                axis = next(name for name in row if name.endswith("/step"))
                names = (name for name in row if name != axis and not name.startswith("_"))
                held |= {(name, int(row[axis])) for name in names}
                self._next = max(self._next, int(row["_step"]) + 1)
        return held

    def start(self, settings: dict[str, str], held: int) -> None:
        wandb = import_module("wandb")
        # Asked in the middle of a run, for a key, nobody would answer.
        if not self._offline and not wandb.login(prompt=False, verify=False):
            raise ValueError("there is no API key: run `wandb login`, or set options.mode: offline")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._next = max(self._next, held)
        self._tracker.start()
        self._tracker.store_init_configuration(settings)

    def log(self, point: Point) -> None:
        axis = f"{point.axis}/step"
        if axis not in self._axes:
            self._axes.add(axis)
            self._tracker.tracker.define_metric(f"{point.axis}/*", step_metric=axis)
        self._tracker.log(point.values | {axis: point.step}, step=self._next, commit=True)
        self._next += 1

    def finish(self) -> None:
        self._tracker.finish()


OFFLINE = ("offline", "disabled", "dryrun")


def _wandb_history(file: Path) -> Iterator[dict[str, float]]:
    """The rows that a local log holds of our points; a record that a kill cut off ends it."""
    messages = import_module("wandb.proto.wandb_internal_pb2")
    for content in _wandb_records(file.read_bytes()):
        record = messages.Record()
        record.ParseFromString(content)
        texts = {item.nested_key[0]: item.value_json for item in record.history.item}
        if any(name.endswith("/step") for name in texts):
            yield {name: float(text) for name, text in texts.items()}


def _wandb_records(data: bytes) -> Iterator[bytes]:
    """Records of LevelDB's log format after a header of seven bytes."""
    place, begun = 7, b""
    while place + 7 <= len(data):
        left = WANDB_BLOCK - place % WANDB_BLOCK
        # A record's header of seven bytes never lies across two blocks; a shorter rest is padding.
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        content = data[place + 7 : place + 7 + length]
        # Zeros that were never written over, or a record that a kill cut off.
        if kind == 0 or len(content) < length:
            return
        place += 7 + length
        begun += content
        # 1 is a whole record, 4 the last piece of one; 2 and 3 are pieces that go on.
        if kind in (1, 4):
            yield begun
            begun = b""


class _MLflow:
    """A run of MLflow at `options.tracking_uri`, `MLFLOW_TRACKING_URI`, or in
    `RUN/trackers/mlflow.db`."""

    def __init__(self, config: TrackerConfig, run: Path, run_id: str) -> None:
        mlflow = import_module("mlflow")
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        options: dict[str, Any] = dict(config.options)
        folder = (run / "trackers").resolve()
        given = options.pop("tracking_uri", None) or os.environ.get("MLFLOW_TRACKING_URI")
        if given is None:
            _make_database(mlflow, folder / "mlflow.db")
            options.setdefault("logging_dir", (folder / "mlflow_artifacts").as_uri())
        mlflow.set_tracking_uri(given or f"sqlite:///{folder}/mlflow.db")
        tags = {RUN_TAG: run_id} | options.pop("tags", {})
        name = config.name or run.resolve().name
        self._options: dict[str, Any] = {"run_name": name, "tags": tags} | options
        self._project = config.project
        self._id = run_id
        self._tracker: Any = None

    def found(self) -> Logged:
        run = self._run()
        if run is None:
            return set()
        client = import_module("mlflow").MlflowClient()
        return {
            (key, metric.step)
            for key in run.data.metrics
            for metric in client.get_metric_history(run.info.run_id, key)
        }

    def start(self, settings: dict[str, str], held: int) -> None:
        from accelerate.tracking import MLflowTracker

        run = self._run()
        known = {} if run is None else {"run_id": run.info.run_id}
        self._tracker = MLflowTracker(self._project, **(known | self._options))
        self._tracker.start()
        self._tracker.store_init_configuration(settings)

    def log(self, point: Point) -> None:
        values = {mlflow_name(name): value for name, value in point.values.items()}
        self._tracker.log(values, step=point.step)

    def finish(self) -> None:
        self._tracker.finish()

    def _run(self) -> Any:
        found = import_module("mlflow").search_runs(
            search_all_experiments=True,
            filter_string=f"tags.`{RUN_TAG}` = '{self._id}'",
            output_format="list",
        )
        return found[0] if found else None


def _make_database(mlflow: Any, path: Path) -> None:
    """MLflow makes its tables one by one, and refuses a file in which a kill left only some."""
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    mlflow.set_tracking_uri(f"sqlite:///{partial}")
    mlflow.search_experiments()
    os.replace(partial, path)


def mlflow_name(name: str) -> str:
    """A name in the characters that MLflow takes; a prompt's category may have others."""
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)


class _Trackio:
    """A run of trackio, in its own folder (`TRACKIO_DIR`) or at `options.space_id`."""

    def __init__(self, config: TrackerConfig, run: Path, run_id: str) -> None:
        from accelerate.tracking import TrackioTracker

        # Its runs are told apart by name alone.
        name = f"{config.name or run.resolve().name}-{run_id}"
        options: dict[str, Any] = {"name": name, "resume": "allow"} | config.options
        self._project = config.project
        self._name = options["name"]
        self._tracker = TrackioTracker(config.project, **options)

    def found(self) -> Logged:
        storage = import_module("trackio.sqlite_storage").SQLiteStorage
        rows = storage.get_logs(self._project, self._name)
        return {(name, row["step"]) for row in rows for name in row if "/" in name}

    def start(self, settings: dict[str, str], held: int) -> None:
        self._tracker.init_kwargs["config"] = settings
        self._tracker.start()

    def log(self, point: Point) -> None:
        self._tracker.log(point.values, step=point.step)

    def finish(self) -> None:
        self._tracker.finish()
