"""Have a job done by processes on the nodes of a Ray cluster, by Ray Train, and watch them.

Ray Train places the processes and makes their group; what they do is what torchrun's do. All nodes
must see the run directory under the same path.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from forethought.training.job import Job, take_part
from forethought.training.processes import POLL, ProcessesError
from forethought.training.ranks import PATIENCE, backend
from forethought.training.worker import failure


def ray_device(device: str) -> Literal["cpu", "cuda"]:
    """What the cluster's processes train on: `auto` is a GPU where the cluster has one.

    Raises: ValueError as `connect` does.
    """
    if device == "auto":
        return "cuda" if connect().cluster_resources().get("GPU", 0) else "cpu"
    return "cuda" if device.startswith("cuda") else "cpu"


def run_on_ray(job: Job, folder: Path, watch: Callable[[], None]) -> None:
    """Do a job by `job.processes` processes; `folder` takes Ray's notes, `watch` is called often.

    Raises: ProcessesError if one of them fails or its node is lost; ValueError if the cluster has
    no room for them.
    """
    ray = connect()
    _refuse_without_room(ray, job)
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

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
        run_config=RunConfig(name="processes", storage_path=str(folder / "ray")),
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
        raise ProcessesError(_reason(failed[0])) from failed[0]


def connect() -> Any:
    """The `ray` module, connected to the cluster that this process belongs to.

    Raises: ValueError if Ray is not installed or there is no cluster.
    """
    try:
        import ray
        import ray.train
    except ImportError as error:
        raise ValueError(
            f"launch.type: ray needs Ray Train ({error}); install it with pip install "
            "'forethought[ray]', or use launch.type torchrun"
        ) from error
    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise ValueError(
                "launch.type: ray finds no cluster that this process belongs to; start one (ray "
                "start --head) or submit the run to one (ray job submit)"
            ) from error
    return ray


def _take_part(config: dict[str, Any]) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    take_part(Job.read(Path(config["job"])))
    torch.distributed.barrier()


def _resources(job: Job) -> dict[str, float]:
    needed: dict[str, float] = {"CPU": job.threads or 1}
    if job.device == "cuda":
        needed["GPU"] = 1
    return needed


def _refuse_without_room(ray: Any, job: Job) -> None:
    there = ray.cluster_resources()
    for name, each in _resources(job).items():
        if there.get(name, 0) < each * job.processes:
            raise ValueError(
                f"launch.processes: {job.processes} processes with {each:g} {name} each do not fit "
                f"a cluster with {there.get(name, 0):g} {name}; lower launch.processes or "
                "launch.threads, or add nodes first"
            )


def _reason(error: Exception) -> str:
    """What the process that failed by itself says; others follow it."""
    from ray.train import WorkerGroupError

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
