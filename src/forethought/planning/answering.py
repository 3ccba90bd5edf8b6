"""Cost of drawing outputs: prompts are read, then all live rows take steps together.

A step reads the weights once and each row's keys and values; it takes as long as the slower of that
and its operations. A part ends when its longest output does, so that its last steps serve few rows.
One engine for each `tensor_parallel` devices.
"""

from __future__ import annotations

import math

from forethought.config import EngineConfig, TransformersEngine, VllmEngine
from forethought.planning.cluster import Cluster, Effort
from forethought.planning.lengths import SPREAD
from forethought.planning.memory import sampling_memory
from forethought.planning.model_shape import ModelShape
from forethought.planning.work import Tokens, forward_flops, outputs_after


def sample_cost(
    shape: ModelShape,
    engine: EngineConfig,
    cluster: Cluster,
    *,
    prompts: float,
    k: int,
    prompt: float,
    output: float,
    longest: float,
    part_size: float,
    even: bool = True,
) -> Effort:
    """`k` outputs for each of `prompts`, in parts: of equal size for all engines, or of `part_size`
    where the parts are not `even`.

    Raises: ValueError if a model is spread over more devices than there are.
    """
    if not isinstance(engine, TransformersEngine | VllmEngine):
        # A server, or a file of replies: somebody else's time.
        return Effort(tokens=prompts * k * output, seconds=cluster.rates.stage, bound="host")
    rates = cluster.rates
    together = engine.tensor_parallel if isinstance(engine, VllmEngine) else 1
    if together > cluster.gpus:
        raise ValueError(
            f"tensor_parallel: {together} devices share a model, and the plan has {cluster.gpus}; "
            f"lower it or plan with --gpus {together}"
        )
    engines = cluster.gpus // together
    part = min(part_size, math.ceil(prompts / engines) if even else prompts)
    count = math.ceil(prompts / part)
    rounds = math.ceil(count / engines)
    # What is left over is a shorter part; it counts where it is a round of its own.
    alone = (rounds - 1) * engines == count - 1
    last = prompts - (count - 1) * part if alone else part

    def seconds(size: float) -> dict[str, float]:
        return _part_seconds(shape, engine, cluster, size, k, prompt, output, longest)

    whole, rest = seconds(part), seconds(last)
    start = rates.engine_start if isinstance(engine, VllmEngine) else rates.start
    parts = {
        **{name: (rounds - 1) * whole[name] + rest[name] for name in whole},
        "host": prompts * k * rates.output / engines,
        "start": start + rates.stage,
        "storage": 2 * shape.parameters / rates.storage,
    }
    rows = min(_rows(engine), part * k)
    drawn = outputs_after(prompt, output, k, predicted=True) * prompts
    return Effort.of(
        parts,
        flops=forward_flops(shape, drawn),
        tokens=prompts * k * output,
        memory=_memory(shape, engine, cluster, rows, prompt, output, k),
    )


def _part_seconds(
    shape: ModelShape,
    engine: TransformersEngine | VllmEngine,
    cluster: Cluster,
    part: float,
    k: int,
    prompt: float,
    output: float,
    longest: float,
) -> dict[str, float]:
    """Seconds of an engine for the outputs of so many prompts, by what they are spent on."""
    rates, device = cluster.rates, cluster.device
    together = engine.tensor_parallel if isinstance(engine, VllmEngine) else 1
    rows = min(_rows(engine), part * k)
    steps = longest + max(0.0, part * k - rows) * output / rows
    reading = forward_flops(shape, Tokens(read=prompt, seen=prompt**2 / 2, predicted=1)) * part
    whole = forward_flops(shape, outputs_after(prompt, output, k, predicted=True)) * part
    fed = together * device.flops
    decode = (whole - reading) / (fed * rates.decode)
    shared = k if isinstance(engine, TransformersEngine) else 1
    cached = part * k * output * (prompt / shared + SPREAD * output / 2) * shape.cache_bytes
    moved = steps * 2 * shape.parameters + cached
    carried = moved / (together * device.bandwidth * rates.bandwidth)
    waits = steps * (rates.step if isinstance(engine, VllmEngine) else rates.layer * shape.layers)
    return {
        "compute": reading / (fed * rates.forward) + (decode if decode > carried else 0),
        "bandwidth": carried if carried >= decode else 0,
        "steps": waits,
    }


def _rows(engine: TransformersEngine | VllmEngine) -> int:
    return engine.rows if isinstance(engine, TransformersEngine) else engine.max_sequences


def _memory(
    shape: ModelShape,
    engine: TransformersEngine | VllmEngine,
    cluster: Cluster,
    rows: float,
    prompt: float,
    output: float,
    k: int,
) -> float:
    if isinstance(engine, TransformersEngine):
        return sampling_memory(shape, rows, prompt, output, k)
    # vLLM takes its share whatever the model; it must hold the weights and one long sequence.
    needed = 2 * shape.parameters + (prompt + output) * shape.cache_bytes
    taken = cluster.device.memory * engine.gpu_memory
    least = needed / engine.tensor_parallel
    return max(taken, least / engine.gpu_memory if least > taken else taken)
