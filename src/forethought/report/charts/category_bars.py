"""Sorted bars of one figure by category."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forethought.evaluation.scale import Scale
from forethought.report.charts.figures import Cell, Chart, Column, Json, bars, level_line, view
from forethought.report.data.scores import Mean

CATEGORY_LIMIT = 24
"""Bars stay readable up to so many categories; the largest are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """One colour of bars.

    Example: `Bars(name="Thought arm", colour="thought", by_category={"rivers": Mean(…)})`
    """

    name: str
    colour: str
    by_category: Mapping[str, Mean]


def category_chart(
    key: str,
    title: str,
    caption: str,
    *,
    groups: Sequence[Bars],
    axis: str,
    scale: Scale,
    lead: str = "arm",
    signed: bool = False,
    even: float | None = None,
) -> Chart:
    """A bar for each category and group, sorted from the top down by the first of `groups`.

    A dashed line is drawn at `even`. Of more than `CATEGORY_LIMIT` categories those with the most
    prompts are shown. `lead` names the table's column of groups.
    """
    first = groups[0].by_category
    known = dict.fromkeys(name for group in groups for name in group.by_category)
    by_size = sorted(known, key=lambda name: -_largest(groups, name))[:CATEGORY_LIMIT]
    # The chart library stacks horizontal bars from the bottom up, hence the least first.
    order = sorted(by_size, key=lambda name: (_value(first, name), name))
    traces = [_trace(group, order, scale, signed) for group in reversed(groups)]
    rows = [
        row
        for name in reversed(order)
        for group in groups
        if (row := _row(group, name, scale)) is not None
    ]
    layout: Json = {
        "barmode": "group",
        "bargap": 0.35,
        "xaxis": {"title": {"text": axis}},
        "yaxis": {"automargin": True, "ticklabelstandoff": 6},
    }
    if scale.unit == "%":
        # An interval of a few prompts may reach far; a share ends where it ends.
        layout["xaxis"] |= {"range": _range(groups, -1.0 if signed else 0.0)}
    if even is not None:
        layout["shapes"] = [level_line(even * scale.factor, across="x")]
    columns = (
        Column(name="category"),
        Column(name=lead),
        Column(name=axis, digits=scale.digits),
        Column(name="95 % low", digits=scale.digits),
        Column(name="95 % high", digits=scale.digits),
        Column(name="prompts"),
    )
    dropped = len(known) - len(order)
    more = f" The {len(order)} largest of {len(known)} categories." if dropped else ""
    return Chart(
        key=key,
        title=title,
        caption=caption + more,
        views=(view(traces, layout, columns, rows),),
        height=110 + max(34, 11 + 12 * len(groups)) * len(order),
        wide=True,
    )


def _range(groups: Sequence[Bars], floor: float) -> list[float]:
    """In per cent: all whiskers, but nothing that no share or difference of shares can be."""
    ends = [
        end
        for group in groups
        for mean in group.by_category.values()
        for end in (mean.value, *(mean.interval or ()))
    ]
    low, high = max(min(*ends, 0.0), floor), min(max(*ends, 0.0), 1.0)
    room = 0.03 * (high - low)
    return [100 * (low - room * (low < 0)), 100 * (high + room)]


def _value(means: Mapping[str, Mean], name: str) -> float:
    return means[name].value if name in means else -math.inf


def _largest(groups: Sequence[Bars], name: str) -> int:
    return max(group.by_category[name].count for group in groups if name in group.by_category)


def _trace(group: Bars, order: Sequence[str], scale: Scale, signed: bool) -> Json:
    means = [group.by_category.get(name) for name in order]
    values = [None if mean is None else mean.value * scale.factor for mean in means]
    up, down = zip(*(_whisker(mean, scale) for mean in means), strict=True)
    whiskers = {
        "array": list(up),
        "arrayminus": list(down),
        "symmetric": False,
        "color": "@whisker",
        "thickness": 1,
        "width": 0,
    }
    form = f"%{{x:{'+' if signed else ''}.{scale.digits}f}}"
    unit = f" {scale.points}" if signed else scale.unit
    counts = [0 if mean is None else mean.count for mean in means]
    return bars(
        group.name,
        values,
        list(order),
        f"@{group.colour}",
        orientation="h",
        error_x=whiskers,
        customdata=counts,
        hovertemplate=f"{form}{unit}  n = %{{customdata}}<extra>{group.name}</extra>",
    )


def _whisker(mean: Mean | None, scale: Scale) -> tuple[float, float]:
    if mean is None or mean.interval is None:
        return 0.0, 0.0
    low, high = mean.interval
    return (high - mean.value) * scale.factor, (mean.value - low) * scale.factor


def _row(group: Bars, name: str, scale: Scale) -> tuple[Cell, ...] | None:
    mean = group.by_category.get(name)
    if mean is None:
        return None
    ends = mean.interval or (None, None)
    low, high = (None if end is None else end * scale.factor for end in ends)
    return (name, group.name, mean.value * scale.factor, low, high, mean.count)
