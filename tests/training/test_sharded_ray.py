"""Ray Train does what torchrun does, on a cluster of two nodes."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sharded_cases import CASES, prepare
from test_sharded import assert_alike, train_alone
from test_sharded_ends import ENDS_WITHIN, LONG, done_steps

from forethought.config import LaunchConfig, RayConfig, Workers
from forethought.training.checkpoint import read_result
from forethought.training.distributed.processes import ProcessesError
from forethought.training.distributed.ray_processes import ray_device, run_on_ray
from forethought.workers.actor import Worker
from forethought.workers.ray_executor import RayExecutor

pytestmark = pytest.mark.scale
CLUSTER = RayConfig(address="auto")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """One CPU on each of two nodes."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.train")
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    started = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    started.add_node(**node)
    ray.init(
        address=started.address,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield started
    ray.shutdown()
    started.shutdown()


def test_two_nodes_train_the_same_also_after_a_kill(cluster: Any, tmp_path: Path):
    alone = prepare(tmp_path, LONG)
    train_alone(alone, alone.directory)
    directory, scratch = tmp_path / "together", tmp_path / "scratch"
    scratch.mkdir()
    job = alone.model_copy(update={"directory": directory, "processes": 2})
    killed = [0.0]

    def kill_one() -> None:
        if done_steps(job) >= 6 and not killed[0]:
            killed[0] = time.monotonic()
            os.kill(train_workers(cluster)[0], signal.SIGKILL)

    with pytest.raises(ProcessesError, match=r"^rank \d is gone: it was killed, or its node"):
        run_on_ray(job, scratch, kill_one, CLUSTER)
    assert time.monotonic() - killed[0] < ENDS_WITHIN
    assert 6 <= done_steps(job) < 60

    run_on_ray(job, scratch, lambda: None, CLUSTER)
    assert_alike(alone.directory, directory, 1e-5)


def test_what_the_cluster_has_not(cluster: Any, tmp_path: Path):
    job = prepare(tmp_path, CASES["few_pairs"]).model_copy(update={"processes": 3})
    with pytest.raises(ValueError, match="3 processes with 1 CPU each do not fit a cluster with 2"):
        run_on_ray(job, tmp_path, lambda: None, CLUSTER)
    assert ray_device("auto", CLUSTER) == "cpu"


def test_idle_workers_hold_no_room_and_others_are_named(cluster: Any, tmp_path: Path):
    import ray

    job = prepare(tmp_path, CASES["few_pairs"]).model_copy(update={"processes": 2})
    with RayExecutor(here, Workers(count=2), LaunchConfig(), name="here") as executor:
        assert dict(executor.each(range(8), str))[7] == "7"
    run_on_ray(job, tmp_path, lambda: None, RayConfig(patience=30))
    assert read_result(job.directory).steps > 0
    other: Any = ray.remote(num_cpus=1)(Worker).remote(1, [])
    ray.get(other.place.remote())
    with pytest.raises(ProcessesError, match="for 2 seconds the cluster had no room for 2 process"):
        run_on_ray(job, tmp_path, lambda: None, RayConfig(patience=2))
    ray.kill(other)


@contextlib.contextmanager
def here():
    yield lambda part: part


def train_workers(cluster: Any) -> list[int]:
    """Ray Train's own processes on this cluster's nodes."""
    raylets = {
        started.process.pid
        for node in cluster.list_all_nodes()
        for started in node.all_processes["raylet"]
    }
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in raylets and b"RayTrainWorker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found
