"""Which devices a stage has: those of the processes and workers that the recipe names, else all.

On `cpu` the processor is one device, whatever processes and workers share it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from forethought.config import (
    MixtureJudge,
    Recipe,
    TransformersSampling,
    VerifierJudge,
    VllmSampling,
    Workers,
)
from forethought.judging.crew import judge_workers
from forethought.planning.cluster import Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A stage's part of the devices.

    Example: eight vLLM engines of two GPUs each are `Share(cluster=Cluster(gpus=16, …), workers=8,
    crowd=1)`
    """

    cluster: Cluster
    """The devices that work."""
    workers: int | None = None
    """How many the recipe names; they take whole parts. Without, the devices are taken to share the
    work evenly."""
    crowd: int = 1
    """Workers that share one device, and its memory."""


def training_share(recipe: Recipe, cluster: Cluster) -> Cluster:
    """The devices of `reference` and `training`, one for each process.

    Raises: ValueError if the recipe names more processes than there are devices.
    """
    processes = recipe.launch.processes
    if processes is None or cluster.device.is_cpu:
        return cluster
    if processes > cluster.gpus:
        raise ValueError(
            f"launch.processes: {processes} processes need a device each, and the plan has "
            f"{cluster.gpus}; lower it or plan with --gpus {processes}"
        )
    return replace(cluster, gpus=processes)


def sampling_share(recipe: Recipe, cluster: Cluster) -> Share:
    """The devices of the stages that sample.

    Raises: ValueError if `sampling.workers` need more devices than there are, or none.
    """
    sampling = recipe.sampling
    match sampling:
        case VllmSampling(workers=Workers() as workers):
            return _share("sampling", workers, sampling.tensor_parallel, cluster)
        case TransformersSampling(workers=Workers() as workers):
            return _share("sampling", workers, None, cluster)
        case _:
            return Share(cluster=cluster)


def judging_share(recipe: Recipe, cluster: Cluster) -> Share:
    """The devices of the judge; one without a model needs none.

    Raises: ValueError if `judge.workers` need more devices than there are, or none.
    """
    judge = recipe.judge
    workers = judge_workers(judge)
    if workers is None:
        return Share(cluster=cluster)
    members = [judge]
    if isinstance(judge, MixtureJudge):
        members = [member.judge for route in judge.routes for member in route.members]
    if all(isinstance(one, VerifierJudge) for one in members):
        return Share(cluster=cluster, workers=workers.count)
    return _share("judge", workers, None, cluster)


def _share(section: str, workers: Workers, engine: int | None, cluster: Cluster) -> Share:
    """The share of a pool; `engine` is what its engine needs where `workers.gpus` does not say."""
    if cluster.device.is_cpu:
        return Share(cluster=cluster)
    each = engine if workers.gpus is None else workers.gpus
    if not each:
        raise ValueError(
            f"{section}.workers.gpus: workers without a GPU work on processors, whose speed a plan "
            f"for {cluster.device.name} does not know; give {section}.workers.gpus=1, or plan with "
            "--gpu cpu"
        )
    needed = math.ceil(workers.count * each)
    if needed > cluster.gpus:
        raise ValueError(
            f"{section}.workers: {workers.count} workers of {each:g} GPUs each need {needed} "
            f"devices, and the plan has {cluster.gpus}; lower {section}.workers.count or plan with "
            f"--gpus {needed}"
        )
    # Where its engine uses fewer devices than a worker holds, the rest are idle.
    working = workers.count * engine if engine else min(needed, workers.count)
    return Share(
        cluster=replace(cluster, gpus=min(working, needed)),
        workers=workers.count,
        crowd=max(1, math.floor(1 / each)),
    )
