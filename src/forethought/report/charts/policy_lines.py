"""Charts of one figure by policy: a line for each arm, or for each arm of each run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forethought.evaluation.scale import Scale
from forethought.report.charts.figures import (
    Cell,
    Chart,
    Column,
    Json,
    band,
    curve,
    hover_detail,
    level_line,
    view,
    whole_number_axis,
)
from forethought.report.data.scores import Mean

BAND_LIMIT = 4
"""More lines than this stand without their intervals' areas; hover and table still have them."""
SPREAD = 0.3
"""Of an axis of one policy alone, which is 0.5 wide: its markers stand side by side on so much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line.

    Example: `Series(name="Thought arm", cells=("Thought arm",), colour="thought",
    points=((0, Mean(…)), (1, Mean(…))))`
    """

    name: str
    cells: tuple[str, ...]
    """What stands before the figures in the table."""
    colour: str
    points: tuple[tuple[int, Mean], ...]
    """Policy and figure, the seed first."""
    dash: str = "solid"
    symbol: str = "circle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """What a chart shows.

    Example: `Quantity(key="win_rate", title="Win rate", caption="…", axis="win rate",
    scale=PERCENT, even=0.5)`
    """

    key: str
    title: str
    caption: str
    """How intervals are shown is said after it."""
    axis: str
    scale: Scale
    even: float | None = None
    """Where a dashed line means that neither side is ahead."""
    from_zero: bool = False
    counted: str = "prompts"
    intervals: bool = True
    """Whether the figures have intervals and counts worth a column."""
    folded: bool = False
    """Whether the chart stands behind its section's fold."""


def policy_chart(
    quantity: Quantity,
    series: Sequence[Series],
    *,
    lead: Sequence[str] = ("arm",),
    wide: bool = False,
    height: int = 300,
) -> Chart:
    """A line over policies for each of `series`.

    `lead` names the table's columns before the policy, as many as each series has `cells`.
    """
    traces: list[Json] = []
    rows: list[tuple[Cell, ...]] = []
    banded = len(series) <= BAND_LIMIT
    policies = [policy for line in series for policy, _ in line.points]
    apart = SPREAD / len(series) if len(set(policies)) == 1 else 0.0
    for place, line in enumerate(series):
        aside = apart * (place - (len(series) - 1) / 2)
        traces += _traces(quantity, line, banded=banded, aside=aside)
        rows += [_row(quantity, line, policy, mean) for policy, mean in line.points]
    scale = quantity.scale
    layout: Json = {
        "xaxis": whole_number_axis("policy", policies, {0: policy_name(0)}),
        "yaxis": {"title": {"text": f"{quantity.axis}{scale.suffix}"}},
    }
    if quantity.from_zero:
        layout["yaxis"]["rangemode"] = "tozero"
    if quantity.even is not None:
        layout["shapes"] = [level_line(quantity.even * scale.factor)]
    columns = [*(Column(name=name) for name in lead), Column(name="policy")]
    columns.append(Column(name=f"{quantity.axis}{scale.suffix}", digits=scale.digits))
    if quantity.intervals:
        columns += [Column(name=f"95 % {end}", digits=scale.digits) for end in ("low", "high")]
        columns.append(Column(name=quantity.counted))
    return Chart(
        key=quantity.key,
        title=quantity.title,
        caption=quantity.caption + _interval_words(quantity, series, banded=banded),
        views=(view(traces, layout, tuple(columns), rows),),
        height=height,
        wide=wide,
        folded=quantity.folded,
    )


def policy_name(policy: int) -> Cell:
    """A policy as axes and tables write it: its number, and of 0 that iterations start from it (the
    seed, or what a warm start made of it)."""
    return "0 (start)" if policy == 0 else policy


def _traces(quantity: Quantity, line: Series, *, banded: bool, aside: float) -> list[Json]:
    """Band and line; `aside` is how far a marker stands beside its policy."""
    scale = quantity.scale
    x = [policy + aside for policy, _ in line.points]
    y = [mean.value * scale.factor for _, mean in line.points]
    ends = [mean.interval or (mean.value, mean.value) for _, mean in line.points]
    low, high = ([end[side] * scale.factor for end in ends] for side in (0, 1))
    hover = f"%{{y:.{scale.digits}f}}{scale.unit}"
    if quantity.intervals:
        hover += "%{customdata}"
    shown = curve(line.name, line.colour, x, y, dash=line.dash, symbol=line.symbol, hover=hover)
    if not quantity.intervals:
        return [shown]
    shown["customdata"] = [hover_detail(mean, scale) for _, mean in line.points]
    if len(x) == 1:
        # A band needs two policies; one alone shows its interval as whiskers.
        up, down = [high[0] - y[0]], [y[0] - low[0]]
        style = {"color": f"@{line.colour}", "thickness": 1.5, "width": 5}
        shown["error_y"] = {"array": up, "arrayminus": down, "symmetric": False, **style}
        return [shown]
    return [band(line.colour, x, low, high), shown] if banded else [shown]


def _interval_words(quantity: Quantity, series: Sequence[Series], *, banded: bool) -> str:
    if not quantity.intervals or not any(m.interval for line in series for _, m in line.points):
        return ""
    if all(len(line.points) == 1 for line in series):
        return " The whiskers are 95 % intervals."
    if banded:
        return " The band is the 95 % interval."
    return " Hover and table give the 95 % intervals."


def _row(quantity: Quantity, line: Series, policy: int, mean: Mean) -> tuple[Cell, ...]:
    factor = quantity.scale.factor
    row: tuple[Cell, ...] = (*line.cells, policy_name(policy), mean.value * factor)
    if not quantity.intervals:
        return row
    low, high = mean.interval or (None, None)
    return (*row, *(None if end is None else end * factor for end in (low, high)), mean.count)
