"""What a plan is made for: devices, rates, and how the models' sizes and lengths go in."""

from __future__ import annotations

from dataclasses import dataclass, replace

from forethought.config import Recipe
from forethought.planning.devices import NETWORK, NODE, Device
from forethought.planning.lengths import Lengths
from forethought.planning.model_shape import ModelShape
from forethought.planning.rates import Rates
from forethought.types import Arm


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """So many devices of one kind.

    Example: `Cluster(device=DEVICES["h200"], gpus=8, rates=GPU)`
    """

    device: Device
    gpus: int
    rates: Rates

    @property
    def link(self) -> float:
        """Bytes per second at which a device exchanges weights with all others."""
        return self.device.link if self.gpus <= NODE else min(self.device.link, NETWORK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Everything that a stage's cost depends on."""

    recipe: Recipe
    shape: ModelShape
    lengths: dict[Arm, Lengths]
    cluster: Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Part of a stage's work.

    Example: `Effort(seconds=12.0, bound="compute", flops=4e15)`
    """

    seconds: float = 0.0
    bound: str = "start"
    """What takes most of the seconds: compute, bandwidth, steps, network, storage, host, start."""
    flops: float = 0.0
    tokens: float = 0.0
    """New tokens of the policy."""
    memory: float = 0.0
    """Bytes on one device."""
    disk: float = 0.0
    """Bytes of records, and of results that are no policy's."""
    weights: float = 0.0
    """Bytes of policies."""
    scratch: float = 0.0
    """Bytes on disk that are gone when the stage is sealed."""
    start: float = 0.0
    """Of the seconds: until an engine, a judge or a trainer begins."""
    usd: float = 0.0
    """Paid to a server."""

    @classmethod
    def of(cls, parts: dict[str, float], **rest: float) -> Effort:
        """An effort from seconds by what they are spent on; the largest names the bound."""
        return cls(
            seconds=sum(parts.values()),
            bound=max(parts, key=lambda k: parts[k]),
            start=parts.get("start", 0.0),
            **rest,
        )

    def beside(self, bound: str, seconds: float) -> Effort:
        """The same beside `seconds` of something else that is done meanwhile: the longer counts."""
        return self if seconds <= self.seconds else replace(self, seconds=seconds, bound=bound)

    def __add__(self, other: Effort) -> Effort:
        # One after the other: memory and scratch of the first are free when the second begins.
        longer = self if self.seconds >= other.seconds else other
        return Effort(
            seconds=self.seconds + other.seconds,
            bound=longer.bound,
            flops=self.flops + other.flops,
            tokens=self.tokens + other.tokens,
            memory=max(self.memory, other.memory),
            disk=self.disk + other.disk,
            weights=self.weights + other.weights,
            scratch=max(self.scratch, other.scratch),
            start=self.start + other.start,
            usd=self.usd + other.usd,
        )
