"""Which devices a stage has: those that the recipe launches something on, and no others.

Without a launcher training is one process on one device; without workers sampling is one engine
and judging one judge, whatever else the machine has. `idle_devices` says what is left over. On
`cpu` the processor is one device, whatever processes and workers share it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from forethought.config import JudgeConfig, Recipe, SamplingConfig, Workers
from forethought.planning.hardware import Cluster
from forethought.stages.policies.sample_until_parsed import answers_part


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A stage's part of the devices.

    Example: eight vLLM engines of two GPUs each are `Share(cluster=Cluster(gpus=16, …), workers=8,
    crowd=1)`
    """

    cluster: Cluster
    """The devices that work."""
    workers: int = 1
    """How many engines or judges do parts at a time."""
    crowd: int = 1
    """Workers that share one device, and its memory."""


def devices_used(recipe: Recipe) -> dict[str, int]:
    """GPUs that the recipe works on: while it samples, judges and trains.

    Example: `{"sampling": 8, "judging": 8, "training": 1}`
    """
    pools = {
        "sampling": _pool("sampling", recipe.sampling),
        "judging": _pool("judge", recipe.judge),
    }
    used = {
        name: math.ceil(pool.count * (pool.held or pool.engine)) if pool.engine else 0
        for name, pool in pools.items()
    }
    return used | {"training": recipe.launch.processes or 1}


def idle_devices(recipe: Recipe, gpus: int) -> list[str]:
    """Who leaves devices idle while it works, and the setting that would change it."""
    settings = {
        "sampling": "sampling.workers",
        "judging": recipe.judge.more_devices,
        "training": "launch.type, launch.processes",
    }
    lines = [
        f"{gpus - used} of {gpus} GPUs idle while {name}: {settings[name]}"
        for name, used in devices_used(recipe).items()
        # Who computes on none, such as a verifier or a server, has no setting for it.
        if 0 < used < gpus
    ]
    return lines + _workers_without_parts(recipe)


def _workers_without_parts(recipe: Recipe) -> list[str]:
    """Where sampling has fewer parts than workers."""
    size, workers = recipe.sampling.part_size, _pool("sampling", recipe.sampling).count
    parts = {"training": (recipe.prompts_per_iteration, size)}
    if recipe.selection.by == "judge":
        parts["validation"] = (recipe.prompts.validation.count, answers_part(size))
    if recipe.prompts.test is not None:
        parts["test"] = (recipe.prompts.test.count, answers_part(size))
    return [
        f"{workers - count} of {workers} workers idle while {name} prompts are sampled, "
        f"{count} part{'s' * (count > 1)} of {part}: sampling.part_size"
        for name, (prompts, part) in parts.items()
        if (count := math.ceil(prompts / part)) < workers
    ]


def training_share(recipe: Recipe, cluster: Cluster) -> Cluster:
    """The devices of `reference` and `training`, one for each process.

    Raises: ValueError if the recipe names more processes than there are devices.
    """
    processes = recipe.launch.processes or 1
    if cluster.device.is_cpu:
        return cluster
    if processes > cluster.gpus:
        raise ValueError(
            f"launch.processes: {processes} processes need a device each, and the plan has "
            f"{cluster.gpus}; lower it or plan with --gpus {processes}"
        )
    return replace(cluster, gpus=processes)


def sampling_share(recipe: Recipe, cluster: Cluster) -> Share:
    """The devices of the stages that sample.

    Raises: ValueError if sampling needs more devices than there are, or its workers name none.
    """
    return _share(_pool("sampling", recipe.sampling), cluster)


def judging_share(recipe: Recipe, cluster: Cluster) -> Share:
    """The devices of the judge; one without a model needs none.

    Raises: ValueError if the judge needs more devices than there are, or its workers name none.
    """
    return _share(_pool("judge", recipe.judge), cluster)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool:
    """What a section of the recipe starts: one engine in this process, or workers."""

    section: str
    workers: Workers | None
    engine: int
    """Devices that an engine computes on; 0 where it computes on none."""
    held: float | None
    """Devices that each holds, where the recipe or the engine says so."""

    @property
    def count(self) -> int:
        return 1 if self.workers is None else self.workers.count


def _pool(section: str, starts: SamplingConfig | JudgeConfig) -> _Pool:
    held = starts.devices if starts.pool is None else starts.pool.gpus
    return _Pool(
        section=section,
        workers=starts.pool,
        engine=starts.devices,
        held=starts.gpus if held is None else held,
    )


def _share(pool: _Pool, cluster: Cluster) -> Share:
    if cluster.device.is_cpu:
        return Share(cluster=cluster, workers=pool.count, crowd=pool.count)
    if not pool.engine:
        return Share(cluster=cluster, workers=pool.count)
    if not pool.held:
        raise ValueError(
            f"{pool.section}.workers.gpus: workers without a GPU work on processors, whose speed "
            f"a plan for {cluster.device.name} does not know; give {pool.section}.workers.gpus=1, "
            "or plan with --gpu cpu"
        )
    needed = math.ceil(pool.count * pool.held)
    if needed > cluster.gpus:
        what, field = f"tensor_parallel: {needed} devices share a model", "it"
        if pool.workers is not None:
            what = f"workers: {pool.count} workers of {pool.held:g} GPUs each need {needed} devices"
            field = f"{pool.section}.workers.count"
        raise ValueError(
            f"{pool.section}.{what}, and the plan has {cluster.gpus}; lower {field} or plan with "
            f"--gpus {needed}"
        )
    # Where its engine uses fewer devices than a worker holds, the rest are idle.
    return Share(
        cluster=replace(cluster, gpus=min(pool.count * pool.engine, needed)),
        workers=pool.count,
        crowd=max(1, math.floor(1 / pool.held)),
    )
