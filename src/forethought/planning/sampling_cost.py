"""Cost of drawing outputs: prompts are read, then all live rows take steps together.

A step reads the weights once and each row's keys and values; it takes as long as the slower of that
and its operations. A part ends when its longest output does, so that its last steps serve few rows.
One engine for each `tensor_parallel` devices that the recipe gives to sampling.
"""

from __future__ import annotations

from forethought.config import DType, EngineConfig
from forethought.planning.hardware import Cluster, Effort
from forethought.planning.lengths import SPREAD
from forethought.planning.memory import sampling_memory, vllm_least
from forethought.planning.model_shape import ModelShape
from forethought.planning.work import Tokens, forward_flops, outputs_after, rounds_of


def sample_cost(
    shape: ModelShape,
    engine: EngineConfig,
    cluster: Cluster,
    dtype: DType,
    *,
    prompts: float,
    k: int,
    prompt: float,
    output: float,
    longest: float,
    part_size: float,
) -> Effort:
    """Cost of `k` outputs for each of `prompts`, in parts that one engine does whole.

    `prompt`, `output` and `longest` are tokens: two means, and the output that ends a part;
    `part_size` is in prompts.
    """
    if not engine.loads_model:
        # A server, or a file of replies: somebody else's time.
        return Effort(tokens=prompts * k * output, seconds=cluster.rates.stage, bound="host")
    rates = cluster.rates
    engines = max(1, cluster.gpus // engine.devices)
    full, part, last = rounds_of(prompts, part_size, engines)

    def seconds(size: float) -> dict[str, float]:
        return _part_seconds(shape, engine, cluster, size, k, prompt, output, longest)

    whole, rest = seconds(part), seconds(last)
    start = rates.engine_start if engine.captures_steps else rates.start
    parts = {
        **{name: full * whole[name] + rest[name] for name in whole},
        "host": (full * part + last) * k * rates.output,
        "start": start + rates.stage,
        "storage": 2 * shape.parameters / rates.storage,
    }
    rows = min(engine.rows_at_once, part * k)
    drawn = outputs_after(prompt, output, k, predicted=True) * prompts
    return Effort.of(
        parts,
        flops=forward_flops(shape, drawn),
        tokens=prompts * k * output,
        memory=_memory(shape, engine, cluster, dtype, rows, prompt, output, k),
    )


def _part_seconds(
    shape: ModelShape,
    engine: EngineConfig,
    cluster: Cluster,
    part: float,
    k: int,
    prompt: float,
    output: float,
    longest: float,
) -> dict[str, float]:
    """Seconds of an engine for the outputs of so many prompts, by what they are spent on."""
    rates, device = cluster.rates, cluster.device
    rows = min(engine.rows_at_once, part * k)
    # A row that ends takes the next waiting output: only the last ones wait for the longest.
    steps = longest + max(0.0, part * k - rows) * output / rows
    reading = forward_flops(shape, Tokens(read=prompt, seen=prompt**2 / 2, predicted=1)) * part
    whole = forward_flops(shape, outputs_after(prompt, output, k, predicted=True)) * part
    fed = engine.devices * device.flops
    decode = (whole - reading) / (fed * rates.decode)
    shared = k if engine.shares_prompts else 1
    # Each new token reads its prompt, and half of its own output on average.
    cached = part * k * output * (prompt / shared + SPREAD * output / 2) * shape.cache_bytes
    moved = steps * 2 * shape.parameters + cached
    carried = moved / (engine.devices * device.bandwidth * rates.bandwidth)
    waits = steps * (rates.step if engine.captures_steps else rates.layer * shape.layers)
    return {
        "compute": reading / (fed * rates.forward) + (decode if decode > carried else 0),
        "bandwidth": carried if carried >= decode else 0,
        "steps": waits,
    }


def _memory(
    shape: ModelShape,
    engine: EngineConfig,
    cluster: Cluster,
    dtype: DType,
    rows: float,
    prompt: float,
    output: float,
    k: int,
) -> float:
    if engine.reserved is None:
        return sampling_memory(shape, cluster.device.held(dtype), rows, prompt, output, k)
    # It does not start if its share is too little.
    taken = cluster.device.memory * engine.reserved
    longest = engine.context or shape.context or prompt + output
    least = vllm_least(shape, dtype, engine.rows_at_once, longest) / engine.devices
    return least / engine.reserved if least > taken else taken
