"""Have a job done by processes on the nodes of a Ray cluster, by Ray Train, and watch them.

Ray Train places the processes and makes their group; what they do is what torchrun's do. All nodes
must see the run directory under the same path.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from forethought.config import RayConfig
from forethought.training.distributed.job import Job, take_part
from forethought.training.distributed.processes import POLL, ProcessesError
from forethought.training.distributed.ranks import PATIENCE, backend
from forethought.training.distributed.worker import failure
from forethought.workers.cluster import connect
from forethought.workers.ray_executor import dismiss_idle

START_SECONDS = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
"""Ray Train's setting for how long it waits for room."""


def ray_device(device: str, cluster: RayConfig) -> Literal["cpu", "cuda"]:
    """What the cluster's processes train on: `auto` is a GPU where the cluster has one.

    Raises: ValueError as `connect` does.
    """
    if device == "auto":
        return "cuda" if connect(cluster).cluster_resources().get("GPU", 0) else "cpu"
    return "cuda" if device.startswith("cuda") else "cpu"


def run_on_ray(job: Job, folder: Path, watch: Callable[[], None], cluster: RayConfig) -> None:
    """Do a job by `job.processes` processes; `folder` takes Ray's notes, `watch` is called often.

    Idle workers of earlier stages end first: they hold the room that the processes need.

    Raises: ProcessesError if one of them fails or its node is lost; ValueError if Ray Train is not
    installed, or the cluster has no room for them.
    """
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise ValueError(
            f"launch.type: ray needs Ray Train ({error}); install it with pip install "
            "'forethought[ray]', or use launch.type torchrun"
        ) from error
    ray = connect(cluster)
    _refuse_without_room(ray, job)
    dismiss_idle(ray)
    os.environ[START_SECONDS] = f"{cluster.patience:g}"
    path = folder / "job.json"
    job.write(path)
    trainer = TorchTrainer(
        _take_part,
        train_loop_config={"job": str(path)},
        torch_config=TorchConfig(
            backend=backend(job.device), timeout_s=int(PATIENCE.total_seconds())
        ),
        scaling_config=ScalingConfig(
            num_workers=job.processes,
            use_gpu=job.device == "cuda",
            resources_per_worker=_resources(job),
        ),
        run_config=RunConfig(
            name="processes",
            storage_path=str(folder / "ray"),
            # Without it Ray Train would wait for room without end.
            failure_config=FailureConfig(controller_failure_limit=0),
        ),
    )
    failed: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        # Passed on to the thread that waits.
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL)
        watch()
    if failed:
        raise ProcessesError(_reason(failed[0], job, cluster)) from failed[0]


def _take_part(config: dict[str, Any]) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    take_part(Job.read(Path(config["job"])))
    torch.distributed.barrier()


def _resources(job: Job) -> dict[str, float]:
    needed: dict[str, float] = {"CPU": job.threads or 1}
    if job.device == "cuda":
        needed["GPU"] = 1
    return needed


def _asked(job: Job) -> str:
    return ", ".join(f"{need:g} {name}" for name, need in _resources(job).items())


def _refuse_without_room(ray: Any, job: Job) -> None:
    there = ray.cluster_resources()
    for name, need in _resources(job).items():
        if there.get(name, 0) < need * job.processes:
            raise ValueError(
                f"launch.processes: {job.processes} processes with {need:g} {name} each do not fit "
                f"a cluster with {there.get(name, 0):g} {name}; lower launch.processes or "
                "launch.threads, or add nodes first"
            )


def _reason(error: Exception, job: Job, cluster: RayConfig) -> str:
    """What the process that failed by itself says; others follow it."""
    from ray.train import ControllerError, WorkerGroupError

    if isinstance(error, ControllerError):
        error = error.controller_failure
        if type(error).__name__ == "WorkerGroupStartupTimeoutError":
            return (
                f"launch.processes: for {cluster.patience:g} seconds the cluster had no room for "
                f"{job.processes} processes with {_asked(job)} each; others may use it. Lower "
                "launch.processes, add nodes, or raise launch.ray.patience"
            )
    if not isinstance(error, WorkerGroupError):
        return f"Ray Train: {(str(error).splitlines() or [''])[0]}"
    causes = []
    for rank, cause in error.worker_failures.items():
        if type(cause).__name__ == "WorkerHealthCheckFailedError":
            message = f"rank {rank} is gone: it was killed, or its node was lost"
            causes.append((False, rank, message))
        else:
            found = failure(rank, cause)
            causes.append((found["echo"], rank, found["message"]))
    return min(causes)[-1]
