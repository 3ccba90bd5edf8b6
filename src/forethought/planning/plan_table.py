"""Costs on a terminal and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from forethought.planning.costs import Costs, StageCost
from forethought.planning.device_shares import devices_used, idle_devices

WIDE = 106
"""Columns of text that the whole table needs."""


def cost_table(costs: Costs, width: int) -> Table:
    """One row per kind of stage; sums over the times it runs. Below a `width` of `WIDE` columns it
    stands closer and goes without operations, which `cost_json` has."""
    cluster, wide = costs.setting.cluster, width >= WIDE
    table = Table(
        title=f"Costs on {cluster.gpus} x {cluster.device.name}",
        title_justify="left",
        show_footer=True,
        caption=caption(costs),
        caption_justify="left",
        padding=(0, 1 if wide else 0),
    )
    stages = costs.stages
    tokens = sum(stage.times * stage.effort.tokens for stage in stages)
    flops = sum(stage.times * stage.effort.flops for stage in stages)
    peak = max(stage.effort.memory for stage in stages)
    table.add_column("stage", footer="in all", no_wrap=True)
    table.add_column("times", justify="right")
    table.add_column("GB per device", justify="right", footer=_gigabytes(peak))
    table.add_column("time each", justify="right", footer=duration(costs.seconds))
    table.add_column("bound by")
    table.add_column("new tokens", justify="right", footer=_number(tokens))
    if wide:
        table.add_column("FLOPs", justify="right", footer=f"{flops:.2g}")
    table.add_column("disk", justify="right", footer=_gigabytes(costs.disk))
    table.add_column("USD", justify="right", footer=f"{costs.usd:,.2f}")
    for stage in stages:
        effort = stage.effort
        table.add_row(
            " ".join(filter(None, [stage.arm, "warm start" * stage.warm, stage.stage])),
            str(stage.times),
            _gigabytes(effort.memory) if effort.memory else "",
            duration(effort.seconds),
            effort.bound,
            _number(stage.times * effort.tokens) if effort.tokens else "",
            *([f"{stage.times * effort.flops:.2g}" if effort.flops else ""] if wide else []),
            _gigabytes(stage.disk) if stage.disk else "",
            f"{_usd(costs, stage):,.2f}",
        )
    return table


def caption(costs: Costs) -> str:
    """The lines below the table: lengths, model, rates and prices that the figures stand on."""
    cluster, shape = costs.setting.cluster, costs.setting.shape
    lines = [
        f"{arm}: prompts of {lengths.prompt:.0f} tokens, outputs of {lengths.output:.0f}, "
        f"{lengths.pairs:.0%} of prompts give a pair ({lengths.source})"
        for arm, lengths in costs.setting.lengths.items()
    ]
    lines.append(f"model: {shape.name}, {shape.parameters / 1e9:.3g} billion parameters")
    if cluster.rates.calibrated:
        rate = cluster.device.flops / 1e9
        lines.append(f"measured here: {rate:.0f} GFLOP/s in products as wide as the model's")
    else:
        lines.append("not calibrated: no GPU was measured; the rates reached are assumptions")
    lines += idle_devices(costs.setting.recipe, 1 if cluster.device.is_cpu else cluster.gpus)
    lines.append(f"starting engines, judges and trainers takes {duration(costs.starting)} of it")
    lines.append(
        f"{cluster.device.price} USD per device and hour (--price); lengths by --like RUN, "
        "--prompt-tokens, --output-tokens"
    )
    return "\n".join(lines)


def cost_json(costs: Costs) -> dict[str, Any]:
    """All figures of one seed's run, in seconds, bytes, operations and USD; of a stage, of each
    time it runs."""
    cluster = costs.setting.cluster
    return {
        "seeds": max(len(costs.setting.recipe.seeds), 1),
        "device": asdict(cluster.device),
        "gpus": cluster.gpus,
        "used": devices_used(costs.setting.recipe),
        "idle": idle_devices(costs.setting.recipe, 1 if cluster.device.is_cpu else cluster.gpus),
        "calibrated": cluster.rates.calibrated,
        "rates": asdict(cluster.rates),
        "model": asdict(costs.setting.shape) | {"parameters": costs.setting.shape.parameters},
        "lengths": {arm: asdict(lengths) for arm, lengths in costs.setting.lengths.items()},
        "stages": [
            {"stage": stage.stage, "arm": stage.arm, "times": stage.times}
            | {"starts": stage.starts, "kept": stage.kept}
            | {"memory_per_device": stage.effort.memory}
            | {
                name: value
                for name, value in asdict(stage.effort).items()
                if name not in ("memory", "usd")
            }
            | {"usd": _usd(costs, stage) / stage.times}
            for stage in costs.stages
        ],
        "seconds": costs.seconds,
        "starting": costs.starting,
        "disk": costs.disk,
        "usd": costs.usd,
    }


def duration(seconds: float) -> str:
    """Seconds as a reader takes them in: `0.8 s`, `12 min`, `3.4 h`, `5.1 d`."""
    for unit, size, least in (("d", 86400, 2), ("h", 3600, 2), ("min", 60, 2)):
        if seconds >= least * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _usd(costs: Costs, stage: StageCost) -> float:
    cluster = costs.setting.cluster
    hours = stage.seconds / 3600
    return hours * cluster.gpus * cluster.device.price + stage.times * stage.effort.usd


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.3g}" if count >= 1e7 else f"{count / 1e9:.1g}"


def _number(count: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:,.0f}"
