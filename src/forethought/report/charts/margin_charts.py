"""The chart of what rounding leaves: the learned margin that a policy has when it is sampled."""

from __future__ import annotations

from collections.abc import Sequence

from forethought.report.charts.figures import (
    ARM_NAMES,
    Cell,
    Chart,
    ChartView,
    Column,
    Json,
    line,
    view,
    whole_number_axis,
)
from forethought.report.data.collect import ArmData, RunData
from forethought.training.results import LEAST_KEPT
from forethought.types import Arm


def kept_chart(run: RunData) -> Chart | None:
    """The share of the margin that is left, by epoch; `None` before one is measured."""
    numbers = [n for n in range(run.recipe.iterations) if any(_shares(a, n) for a in run.arms)]
    if not numbers:
        return None
    return Chart(
        key="margin-kept",
        title="Learned margin that is left when sampled",
        caption="Log-ratio margin of the weights as they are sampled, over that of the weights as "
        f"trained, after each epoch. Below {LEAST_KEPT:.0%} rounding takes too much of what was "
        "learned.",
        views=tuple(_view(run.arms, number) for number in numbers),
    )


def kept_warning(run: RunData) -> str | None:
    """A warning with the least share, or `None` where every share reaches `LEAST_KEPT`."""
    found: list[tuple[float, Arm, int]] = [
        (share, arm.arm, number)
        for arm in run.arms
        for number in range(run.recipe.iterations)
        for share in _shares(arm, number).values()
    ]
    low = [entry for entry in found if entry[0] < LEAST_KEPT]
    if not low:
        return None
    share, arm, number = min(low)
    return (
        f"Of the margin that was learned, {share:.0%} is left in a policy as it is sampled "
        f"({ARM_NAMES[arm]}, iteration {number}; {len(low)} of {len(found)} checkpoints are below "
        f"{LEAST_KEPT:.0%}). Rounding takes the rest: training.checkpoint_dtype: masters keeps it."
    )


def _shares(arm: ArmData, number: int) -> dict[int, float]:
    """By epoch, from the last step of each."""
    return {
        step["epoch"]: step["margin_kept"]
        for step in arm.iterations[number].steps
        if step.get("margin_kept") is not None
    }


def _view(arms: Sequence[ArmData], number: int) -> ChartView:
    traces: list[Json] = []
    rows: list[tuple[Cell, ...]] = []
    epochs: list[int] = []
    for arm in arms:
        shares = _shares(arm, number)
        if shares:
            values = [100 * share for share in shares.values()]
            traces.append(line(arm.arm, list(shares), values, hover="epoch %{x}: %{y:.1f}%"))
            rows += [(ARM_NAMES[arm.arm], epoch, 100 * share) for epoch, share in shares.items()]
            epochs += shares
    layout: Json = {
        "xaxis": whole_number_axis("epoch", epochs, {}),
        "yaxis": {"title": {"text": "margin left, %"}, "rangemode": "tozero"},
    }
    columns = (
        Column(name="arm"),
        Column(name="epoch"),
        Column(name="margin left, %", digits=1),
    )
    return view(traces, layout, columns, rows, f"iteration {number}")
