"""The connection to Ray: a cluster that exists, or a small one of this machine alone.

A process has one connection, Ray's own; it stays open until the process ends, so that the stages of
a run share it, those that have workers and those that train. A cluster of this machine ends with
the process, also where that is killed.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from forethought.config import RayConfig, Workers

OBJECT_STORE = 256 * 2**20
"""Bytes of shared memory of a cluster of our own; what workers return is a few megabytes."""
LISTENS = 10.0
"""Seconds in which a cluster's head must take a connection."""
LOCAL = "local"
"""Ray's name for a new cluster; without any address it would look for one by itself."""
NO_RAY = (
    "launch.ray: Ray is not installed, and sampling.workers, judge.workers and launch.type ray "
    "need it; pip install 'forethought[ray]', or leave them out"
)


def import_ray() -> Any:
    """Raises: ValueError if it is not installed."""
    # It would speak of usage statistics, and wait, where a person started us.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ValueError(NO_RAY) from error
    return ray


def connect(config: RayConfig) -> Any:
    """The `ray` module, connected. A process that is connected already stays so.

    Raises: ValueError if Ray is not installed or the cluster cannot be reached.
    """
    ray = import_ray()
    if ray.is_initialized():
        return ray
    address = config.address
    if address is None and os.environ.get("RAY_ADDRESS"):
        raise ValueError(
            f"launch.ray.address: this process belongs to a Ray cluster (RAY_ADDRESS is "
            f"{os.environ['RAY_ADDRESS']}) and the recipe names none; give launch.ray.address=auto "
            f"to use it, or {LOCAL} for a new one of this machine"
        )
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address in (None, LOCAL):
            ray.init(
                address=LOCAL, include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet
            )
        else:
            _refuse_a_closed_port(address)
            ray.init(address=address, **quiet)
    # Ray's many ways to fail share no base class.
    except Exception as error:
        raise ValueError(
            f"launch.ray.address: no Ray cluster could be reached at {address or LOCAL}: {error}; "
            "start one (ray start --head), correct the address, or leave it out for a cluster of "
            "this machine alone"
        ) from error
    return ray


def _refuse_a_closed_port(address: str) -> None:
    """At once; Ray itself tries for minutes.

    Raises: OSError if nothing listens at `HOST:PORT`; other forms are Ray's to judge.
    """
    host, _, port = address.rpartition(":")
    if host and "/" not in address and port.isdigit():
        socket.create_connection((host, int(port)), timeout=LISTENS).close()


def refuse_without_room(ray: Any, workers: Workers, gpus: float | None, local: bool) -> None:
    """Say at once what waiting would not change: a machine too small, GPUs that stay hidden.

    Raises: ValueError that names what a worker asks for and what there is.
    """
    there = ray.cluster_resources()
    if gpus is None and there.get("GPU", 0) > 0:
        raise ValueError(
            f"workers.gpus: the cluster has {there['GPU']:g} GPUs and a worker would see none of "
            "them; give workers.gpus, such as 1, or 0 to work on CPU"
        )
    wanted = {"CPU": workers.cpus, "GPU": gpus or 0}
    short = {name: n for name, n in wanted.items() if n > there.get(name, 0)}
    if local and short:
        asked = ", ".join(f"{n:g} {name}" for name, n in short.items())
        has = ", ".join(f"{there.get(name, 0):g} {name}" for name in short)
        raise ValueError(
            f"workers: one asks for {asked} and this machine has {has}; lower workers.cpus or "
            "workers.gpus, or give launch.ray.address, a cluster that has more"
        )
