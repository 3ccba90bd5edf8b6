"""How fast a device does the operations it is given: every constant of the cost model.

CPU: the matrix rate and the cost of a small operation are measured where you plan (about two
seconds); the shares were fitted on one iteration of the quickstart and checked on other sizes
(benchmarks/planning.py). The share of the matrix rate grows with the model's width as
`h / (h + h0)`: benchmarks/README.md has 30 % at 128, 42 and 46 % at 256, 64 % at 512.

GPUs: nothing was measured on one. Shares are assumptions, and a plan for a GPU says so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from forethought.planning.devices import Device
from forethought.planning.model_shape import ModelShape

if TYPE_CHECKING:
    import torch

LAYER_OPERATIONS = 1150
"""What a layer and decoding step cost on a CPU whatever the batch, counted in additions of a few
numbers: 12.5 ms a step of four layers, where an addition takes 2.7 microseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Shares of a device's rates that are reached, and times that do not depend on size.

    Example: `GPU`
    """

    calibrated: bool
    forward: float
    """Share of the matrix rate in judging, reference log-probs and reading prompts."""
    training: float
    """Share of the matrix rate in training."""
    decode: float
    """Share of the matrix rate in decoding."""
    bandwidth: float
    """Share of the memory's rate in decoding."""
    layer: float
    """Seconds per layer and decoding step that no batch size avoids, in the embedded engine."""
    step: float
    """The same of a whole step in vLLM, which replays graphs."""
    output: float
    """Seconds of this process per output: text, splitting, records."""
    verdict: float
    """Seconds of a verifier per response."""
    answer: float
    """Seconds of this process per held-out prompt beside its outputs: scores, intervals."""
    prompt: float
    """Seconds per prompt to load, deduplicate and cut."""
    record: float
    """Seconds per token of rollouts to take them in and write them, in one process."""
    token: float
    """Seconds per token of rollouts to read them back and choose pairs, in one process."""
    start: float
    """Seconds of a stage that loads a model, beside reading its weights."""
    engine_start: float
    """The same of vLLM."""
    stage: float
    """Seconds of any stage."""
    storage: float
    """Bytes per second to and from the run directory."""


GPU = Rates(
    calibrated=False,
    forward=0.5,
    training=0.45,
    decode=0.5,
    bandwidth=0.7,
    # Fifty launches of 10 microseconds.
    layer=500e-6,
    step=2e-3,
    output=1e-3,
    verdict=50e-6,
    answer=1e-3,
    # This and the next two were measured, on a CPU: 20,000 prompts of 1.1 kB; 20,000 rollouts of
    # 250 and 700 tokens (benchmarks/large_iteration.py, and 50 microseconds to unpickle one).
    prompt=0.1e-3,
    record=0.14e-6,
    token=0.18e-6,
    start=15,
    engine_start=60,
    stage=1,
    storage=1e9,
)
"""Assumed. `training` is the project's aim for one H200, not a figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuSpeed:
    """What was measured of this machine.

    Example: `CpuSpeed(flops=3.9e11, dispatch=3e-6, threads=2)`
    """

    flops: float
    """Operations per second of a product as wide as the model's MLP."""
    dispatch: float
    """Seconds of an operation on a few numbers."""
    threads: int


FORWARD_WIDTH, TRAINING_WIDTH, DECODE_WIDTH = 230.0, 190.0, 300.0
"""h0 of the shares on a CPU."""
QUICKSTART_DISPATCH = 2.7e-6
"""Seconds of a small operation where the host's times below were measured."""


def cpu_rates(shape: ModelShape, speed: CpuSpeed) -> Rates:
    """The rates of a machine; the host's own times grow as its small operations do."""
    slower = speed.dispatch / QUICKSTART_DISPATCH

    def share(width: float) -> float:
        return shape.hidden / (shape.hidden + width)

    return Rates(
        calibrated=True,
        forward=share(FORWARD_WIDTH),
        training=share(TRAINING_WIDTH),
        decode=share(DECODE_WIDTH),
        bandwidth=0.7,
        layer=LAYER_OPERATIONS * speed.dispatch,
        step=20e-3,
        output=0.1e-3 * slower,
        verdict=5e-6 * slower,
        answer=1e-3 * slower,
        prompt=0.3e-3 * slower,
        record=0.2e-6 * slower,
        token=0.3e-6 * slower,
        start=0.1 * slower,
        engine_start=5 * slower,
        stage=0.06 * slower,
        storage=200e6,
    )


def measure_cpu(shape: ModelShape, dtype: str, threads: int | None) -> CpuSpeed:
    """Time products and small operations, the best of many: neighbours only slow them down.

    `dtype` is the number type of the training, whose products are timed; `threads` of `None` leaves
    torch's number as it is.
    """
    import torch

    from forethought.models.number_types import product_type

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        kind = product_type(getattr(torch, dtype), "cpu")
        left = torch.randn(4096, shape.hidden, dtype=kind)
        right = torch.randn(shape.hidden, shape.inner, dtype=kind)
        matrix = min(_seconds(left, right) for _ in range(40))
        few = torch.randn(8, 8)
        small = min(_small(few) for _ in range(40))
        return CpuSpeed(
            flops=2 * 4096 * shape.hidden * shape.inner / matrix,
            dispatch=small,
            threads=torch.get_num_threads(),
        )
    finally:
        torch.set_num_threads(before)


def measured_device(device: Device, speed: CpuSpeed) -> Device:
    """This machine in place of the table's row, with the memory that it has."""
    import os

    from forethought.models.number_types import cpu_has_bfloat16

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return replace(device, flops=speed.flops, memory=float(memory), bfloat16=cpu_has_bfloat16())


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    import torch

    start = time.perf_counter()
    torch.mm(left, right)
    return time.perf_counter() - start


def _small(few: torch.Tensor) -> float:
    start = time.perf_counter()
    for _ in range(500):
        few.add(1)
    return (time.perf_counter() - start) / 500
