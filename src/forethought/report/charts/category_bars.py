"""Sorted bars of one figure by category."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forethought.evaluation.scale import Scale
from forethought.report.charts.figures import (
    Cell,
    Chart,
    Column,
    Json,
    bars,
    hover_detail,
    hover_text,
    level_line,
    view,
)
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
    rows = [
        row
        for name in reversed(order)
        for group in groups
        if (row := _row(group, name, scale)) is not None
    ]
    ends = _ends(scale, signed=signed)
    traces = [_trace(group, order, scale, signed, ends) for group in reversed(groups)]
    layout: Json = {
        "barmode": "group",
        "bargap": 0.35,
        "xaxis": {"title": {"text": axis}, "zerolinecolor": "@muted", "zerolinewidth": 2},
        "yaxis": {
            "automargin": True,
            "ticklabelstandoff": 6,
            "tickvals": order,
            "ticktext": [_label(groups, name) for name in order],
        },
    }
    if ends is not None:
        layout["xaxis"] |= {"range": _range(traces)}
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


def _ends(scale: Scale, *, signed: bool) -> tuple[float, float] | None:
    """What a figure can be at least and at most, as it is drawn; `None` where nothing says so."""
    return (-100.0 if signed else 0.0, 100.0) if scale.unit == "%" else None


def _range(traces: Sequence[Json]) -> list[float]:
    """From the lowest to the highest whisker, zero included, with room for their caps."""
    reached = [0.0]
    for trace in traces:
        up, down = trace["error_x"]["array"], trace["error_x"]["arrayminus"]
        for value, above, below in zip(trace["x"], up, down, strict=True):
            if value is not None:
                reached += [value - below, value + above]
    room = 0.04 * (max(reached) - min(reached))
    return [min(reached) - room * (min(reached) < 0), max(reached) + room]


def _label(groups: Sequence[Bars], name: str) -> str:
    """A category with the prompts behind each of its bars, in the legend's order."""
    counts = [f"{group.by_category[name].count:,}" for group in groups if name in group.by_category]
    shown = counts[:1] if len(set(counts)) == 1 else counts
    return f"{hover_text(name)}<br><span style='font-size:11px'>n = {' / '.join(shown)}</span>"


def _value(means: Mapping[str, Mean], name: str) -> float:
    return means[name].value if name in means else -math.inf


def _largest(groups: Sequence[Bars], name: str) -> int:
    return max(group.by_category[name].count for group in groups if name in group.by_category)


def _trace(
    group: Bars,
    order: Sequence[str],
    scale: Scale,
    signed: bool,
    ends: tuple[float, float] | None,
) -> Json:
    means = [group.by_category.get(name) for name in order]
    values = [None if mean is None else mean.value * scale.factor for mean in means]
    up, down = zip(*(_whisker(mean, scale, ends) for mean in means), strict=True)
    whiskers = {
        "array": list(up),
        "arrayminus": list(down),
        "symmetric": False,
        "color": "@whisker",
        "thickness": 1.5,
        "width": 3,
    }
    form = f"%{{x:{'+' if signed else ''}.{scale.digits}f}}"
    unit = f" {scale.points}" if signed else scale.unit
    return bars(
        group.name,
        values,
        list(order),
        f"@{group.colour}",
        orientation="h",
        error_x=whiskers,
        customdata=["" if mean is None else hover_detail(mean, scale) for mean in means],
        hovertemplate=f"{form}{unit}%{{customdata}}<extra>{group.name}</extra>",
    )


def _whisker(
    mean: Mean | None, scale: Scale, ends: tuple[float, float] | None
) -> tuple[float, float]:
    """How far the interval reaches above and below; no further than the figure itself can."""
    if mean is None or mean.interval is None:
        return 0.0, 0.0
    value = mean.value * scale.factor
    low, high = (end * scale.factor for end in mean.interval)
    if ends is not None:
        low, high = max(low, ends[0]), min(high, ends[1])
    return max(high - value, 0.0), max(value - low, 0.0)


def _row(group: Bars, name: str, scale: Scale) -> tuple[Cell, ...] | None:
    mean = group.by_category.get(name)
    if mean is None:
        return None
    ends = mean.interval or (None, None)
    low, high = (None if end is None else end * scale.factor for end in ends)
    return (name, group.name, mean.value * scale.factor, low, high, mean.count)
