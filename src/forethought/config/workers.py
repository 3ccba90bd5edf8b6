"""Workers on Ray: how many, what each needs, and the cluster they live on."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from forethought.config.base import ConfigModel


class Workers(ConfigModel):
    """A pool of Ray actors, each of which loads the engine once per stage. A number alone is
    their count. Needs the `ray` extra; `launch.ray` says on which cluster."""

    count: int = Field(ge=1)
    """How many. Those for which there is no room yet begin when there is."""
    cpus: float = Field(default=1, gt=0)
    """CPU cores of each, and its threads where `launch.threads` is not given."""
    gpus: float | None = Field(default=None, ge=0)
    """GPUs of each, all in one node; 0 hides them from it. By default vLLM has as many as
    `tensor_parallel` and everything else none, which is refused on a cluster that has GPUs."""
    attempts: int = Field(default=3, ge=1)
    """Tries of a part whose worker dies."""


def _workers(given: Any) -> Any:
    """`workers: 4` is `workers: {count: 4}`."""
    if isinstance(given, dict | Workers | None):
        return given
    if isinstance(given, int) and not isinstance(given, bool):
        return {"count": given}
    raise ValueError("give a number of workers, or a mapping with count")


OptionalWorkers = Annotated[Workers | None, BeforeValidator(_workers)]


class Pooled(ConfigModel):
    """A section of a recipe whose work may be done by workers, where it has a field `workers`."""

    @property
    def takes_workers(self) -> bool:
        """Whether it may have any."""
        return "workers" in type(self).model_fields

    @property
    def pool(self) -> Workers | None:
        """Its workers, if it has any."""
        return dict(self).get("workers")


class RayConfig(ConfigModel):
    """The Ray cluster of the workers, and of `launch.type: ray`."""

    address: str | None = None
    """`auto` for the cluster that this process belongs to, as with `ray job submit`, or
    `HOST:PORT` of its head. Without one, a small cluster of this machine alone is started, and
    ended with this process."""
    patience: float = Field(default=600, gt=0)
    """Seconds in which the cluster must have room for a worker when there is none at all, and for
    all processes that train."""
