"""What a chart is, and the few shapes all charts are made of.

A colour is written as the name of a CSS variable with `@` in front (`@thought`). The page's script
puts the variable's value in its place, so that a change of theme recolours every chart. Arms differ
in marker and dash as well, never in colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from forethought.evaluation.scale import Scale
from forethought.report.data.scores import Mean
from forethought.types import Arm

Cell = str | int | float | None
Json = dict[str, Any]

ARM_NAMES: dict[Arm, str] = {
    "thought": "Thought arm",
    "direct": "Direct arm",
    "hybrid": "Hybrid arm",
}
ARM_SYMBOLS: dict[Arm, str] = {"thought": "circle", "direct": "square", "hybrid": "diamond"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a chart's table.

    Example: `Column(name="test score, %", digits=1)`
    """

    name: str
    digits: int | None = None
    """Decimals shown; `None` for text and whole numbers. The CSV has all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A chart's numbers.

    Example: `Table(columns=(Column(name="arm"),), rows=(("Thought arm",),))`
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartView:
    """One figure of a chart; a chart by iteration has one for each.

    Example: `ChartView(label="iteration 0", traces=[{…}], layout={…}, table=Table(…))`
    """

    label: str
    traces: list[Json]
    layout: Json
    table: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A titled figure with its numbers.

    Example: `Chart(key="score", title="Judge score", caption="…", views=(ChartView(…),),
    height=320)`
    """

    key: str
    title: str
    caption: str
    views: tuple[ChartView, ...]
    height: int = 300
    """Pixels; 0 for a table without a figure."""
    wide: bool = False
    folded: bool = False
    """Stands behind a fold after the section's other charts."""


MOST_TICKS = 13
"""Of an axis of whole numbers; with more, some are left out at equal distances."""


def line(
    arm: Arm,
    x: Sequence[Cell],
    y: Sequence[Cell],
    *,
    name: str | None = None,
    dash: str = "solid",
    hover: str = "%{y}",
) -> Json:
    """An arm's line with markers."""
    return curve(name or ARM_NAMES[arm], arm, x, y, dash=dash, symbol=ARM_SYMBOLS[arm], hover=hover)


def curve(
    name: str,
    colour: str,
    x: Sequence[Cell],
    y: Sequence[Cell],
    *,
    dash: str = "solid",
    symbol: str = "circle",
    hover: str = "%{y}",
) -> Json:
    """A line with markers in any colour, named without its `@`."""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "legendgroup": name,
        "x": list(x),
        "y": list(y),
        "line": {"color": f"@{colour}", "width": 2.5, "dash": dash},
        "marker": {"color": f"@{colour}", "size": 8, "symbol": symbol},
        # A marker at the axis' end is shown whole.
        "cliponaxis": False,
        "hovertemplate": f"{hover}<extra>{hover_text(name)}</extra>",
    }


def band(colour: str, x: Sequence[Cell], low: Sequence[float], high: Sequence[float]) -> Json:
    """The filled area between `low` and `high` along `x`, for the interval of a line."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, *reversed(x)],
        "y": [*high, *reversed(low)],
        "fill": "toself",
        "fillcolor": f"@{colour}-band",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def level_line(at: float, across: str = "y") -> Json:
    """A dashed line over the whole chart, at a value of the axis named `across`."""
    other = "x" if across == "y" else "y"
    place: Json = {f"{other}ref": "paper", f"{other}0": 0, f"{other}1": 1}
    place |= {f"{across}0": at, f"{across}1": at}
    style = {"color": "@muted", "width": 1.5, "dash": "dash"}
    return {"type": "line", **place, "line": style, "layer": "below"}


def hover_detail(mean: Mean, scale: Scale) -> str:
    """What a label says after a figure: its interval, where it has one, and its count."""
    count = f"n = {mean.count:,}"
    if mean.interval is None:
        return f"  {count}"
    low, high = (f"{end * scale.factor:.{scale.digits}f}" for end in mean.interval)
    return f"  [{low}, {high}]  {count}"


def hover_text(text: str) -> str:
    """A user's own words for a label of the chart library, which reads some markup and `%{…}`."""
    return escape(text, quote=False).replace("%{", "%\N{ZERO WIDTH SPACE}{")


def bars(name: str, x: Sequence[Any], y: Sequence[Any], colour: str, **extra: Any) -> Json:
    """Bars of one colour, written as the chart library takes it; `extra` goes over the trace."""
    return {
        "type": "bar",
        "name": name,
        "x": list(x),
        "y": list(y),
        "marker": {"color": colour},
    } | {
        "hovertemplate": "%{y}<extra>%{fullData.name}</extra>",
        **extra,
    }


def whole_number_axis(title: str, values: Sequence[int], labels: dict[int, Cell]) -> Json:
    """An axis whose ticks are iterations, epochs or policies; `labels` names some of them."""
    ticks = sorted(set(values))
    shown = ticks[:: -(-len(ticks) // MOST_TICKS)] if ticks else []
    return {
        "title": {"text": title},
        "tickvals": shown,
        "ticktext": [str(labels.get(tick, tick)) for tick in shown],
        "range": [ticks[0] - 0.25, ticks[-1] + 0.25] if ticks else None,
        "zeroline": False,
    }


def view(
    traces: list[Json],
    layout: Json,
    columns: tuple[Column, ...],
    rows: Sequence[tuple[Cell, ...]],
    label: str = "",
) -> ChartView:
    """A figure with its numbers."""
    table = Table(columns=columns, rows=tuple(rows))
    return ChartView(label=label, traces=traces, layout=layout, table=table)


def arranged(charts: Sequence[Chart]) -> tuple[Chart, ...]:
    """The charts in rows: two narrow ones share a row, one without a neighbour gets a whole one.

    Those behind the fold come last and have rows of their own.
    """
    shown = [chart for chart in charts if not chart.folded]
    return (*_in_rows(shown), *_in_rows([chart for chart in charts if chart.folded]))


def _in_rows(charts: Sequence[Chart]) -> list[Chart]:
    placed: list[Chart] = []
    alone = True
    for chart, after in zip(charts, [*charts, None][1:], strict=True):
        if chart.wide:
            alone = True
        elif alone and (after is None or after.wide):
            chart = replace(chart, wide=True)
        else:
            alone = not alone
        placed.append(chart)
    return placed
