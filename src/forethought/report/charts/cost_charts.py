"""The charts about cost: time and device hours by stage, tokens, paid calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from forethought.report.charts.figures import ARM_NAMES, Cell, Chart, Column, Json, bars, view
from forethought.report.charts.stage_colours import STAGES
from forethought.report.data.collect import RunData
from forethought.report.data.stage_costs import Calls, SpentOnStage
from forethought.runs.layout import WARM_START
from forethought.types import Arm

MOST_ROWS = 20
"""Of an arm's iterations in a chart; more of them share rows."""


def cost_charts(run: RunData) -> list[Chart]:
    """Charts of where time, devices and tokens went; empty before anything is finished."""
    if not run.costs:
        return []
    charts = [_time(run), _devices(run)]
    if any(
        iteration.steps or iteration.rollouts for arm in run.arms for iteration in arm.iterations
    ):
        charts.append(_tokens(run))
    if any(cost.judge or cost.sampling for cost in run.costs):
        charts.append(_calls(run))
    return charts


def _time(run: RunData) -> Chart:
    rows_of: dict[str, dict[str, float]] = {}
    together = math.ceil(run.recipe.iterations / MOST_ROWS)
    for cost in sorted(run.costs, key=lambda cost: _row_order(run, cost)):
        seconds = rows_of.setdefault(_row_name(cost, together, run.recipe.iterations), {})
        seconds[cost.stage] = seconds.get(cost.stage, 0.0) + cost.seconds
    found = [stage for stage in STAGES if any(stage in by_stage for by_stage in rows_of.values())]
    unit, size = time_unit(max(sum(by_stage.values()) for by_stage in rows_of.values()))
    traces = [
        bars(
            STAGES[stage][0],
            [by_stage.get(stage, 0.0) / size for by_stage in rows_of.values()],
            list(rows_of),
            STAGES[stage][1],
            orientation="h",
            hovertemplate=f"{STAGES[stage][0]}: %{{x:.2f}} {unit}<extra>%{{y}}</extra>",
        )
        for stage in found
    ]
    rows = [
        (name, *(by_stage.get(stage) for stage in found), sum(by_stage.values()))
        for name, by_stage in rows_of.items()
    ]
    columns = (
        Column(name="where"),
        *(Column(name=f"{STAGES[stage][0]}, s", digits=1) for stage in found),
        Column(name="total, s", digits=1),
    )
    return Chart(
        key="time",
        title="Time by iteration",
        caption="Wall-clock time of every finished stage, over all attempts.",
        views=(view(traces, _bar_layout(f"wall-clock {unit}", "stack"), columns, rows),),
        height=130 + 34 * len(rows_of),
        wide=True,
    )


def _row_order(run: RunData, cost: SpentOnStage) -> tuple[int, int, int]:
    late = cost.stage in ("evaluation", "measures")
    return (late, run.recipe.arms.index(cost.arm), 0 if late else cost.index)


def _row_name(cost: SpentOnStage, together: int, iterations: int) -> str:
    """So many iterations share a row."""
    if cost.stage in ("evaluation", "measures"):
        return f"{ARM_NAMES[cost.arm]}, {cost.stage}"
    if cost.index == WARM_START:
        return f"{ARM_NAMES[cost.arm]}, warm start"
    if together == 1:
        return f"{ARM_NAMES[cost.arm]}, iteration {cost.index}"
    first = cost.index // together * together
    last = min(first + together, iterations) - 1
    return f"{ARM_NAMES[cost.arm]}, iterations {first} to {last}"


def _devices(run: RunData) -> Chart:
    found = _stages(run.costs)
    totals: dict[tuple[Arm, str], list[SpentOnStage]] = {
        (arm, stage): [cost for cost in run.costs if (cost.arm, cost.stage) == (arm, stage)]
        for stage in found
        for arm in run.recipe.arms
    }
    longest = max(sum(cost.device_seconds for cost in costs) for costs in totals.values())
    unit, size = time_unit(longest)
    names = [STAGES[stage][0] for stage in found]
    traces = [
        bars(
            ARM_NAMES[arm],
            [sum(total.device_seconds for total in totals[arm, stage]) / size for stage in found],
            names,
            f"@{arm}",
            orientation="h",
            hovertemplate=f"%{{y}}: %{{x:.2f}} device {unit}<extra>{ARM_NAMES[arm]}</extra>",
        )
        for arm in run.recipe.arms
    ]
    rows: list[tuple[Cell, ...]] = []
    for (arm, stage), costs in totals.items():
        if costs:
            seconds = sum(cost.seconds for cost in costs)
            hours = sum(cost.device_seconds for cost in costs) / 3600
            devices = max(cost.devices for cost in costs)
            rows.append((STAGES[stage][0], ARM_NAMES[arm], seconds, devices, hours))
    columns = (
        Column(name="stage"),
        Column(name="arm"),
        Column(name="wall clock, s", digits=1),
        Column(name="devices"),
        Column(name="device hours", digits=4),
    )
    layout = _bar_layout(f"device {unit}", "group")
    one_device = all(cost.devices == 1 for cost in run.costs)
    return Chart(
        key="device-hours",
        title="Device time by stage",
        caption=f"Wall-clock time times devices. {_device_words(run)}",
        views=(view(traces, layout, columns, rows),),
        height=120 + 40 * len(found),
        wide=True,
        # On one device it is the time above once more.
        folded=one_device,
    )


def _device_words(run: RunData) -> str:
    most = max(cost.devices for cost in run.costs)
    words = "Every stage is one process on one device: its GPU, or the CPU."
    if most > 1:
        words = (
            "A stage is one process on one device (its GPU, or the CPU), but where processes train "
            "together, workers share the parts, or vLLM shares a model over GPUs: up to "
            f"{most} devices."
        )
    if any(cost.judge or cost.sampling for cost in run.costs):
        words += " The devices of a server are not known and not counted."
    return words


def _tokens(run: RunData) -> Chart:
    rows: list[tuple[Cell, ...]] = []
    for arm in run.arms:
        for iteration in arm.iterations:
            trained = (
                int(sum(step["tokens"] for step in iteration.steps)) if iteration.steps else None
            )
            sampled = (None, None)
            if iteration.rollouts is not None:
                sampled = (iteration.rollouts.thought_tokens, iteration.rollouts.response_tokens)
            if iteration.steps or iteration.rollouts:
                rows.append((ARM_NAMES[arm.arm], iteration.number, *sampled, trained))
    x = [[str(row[0]) for row in rows], [str(row[1]) for row in rows]]
    kinds = [
        ("sampled thought", "@stage-1", 2),
        ("sampled response", "@stage-6", 3),
        ("trained on", "@stage-5", 4),
    ]
    traces = [
        bars(
            name,
            x,
            [row[column] for row in rows],
            colour,
            hovertemplate=f"%{{y:,}} tokens<extra>{name}</extra>",
        )
        for name, colour, column in kinds
    ]
    layout = {
        "barmode": "group",
        "xaxis": {"type": "multicategory", "title": {"text": "iteration"}},
        "yaxis": {"title": {"text": "tokens"}, "rangemode": "tozero", "tickformat": "~s"},
    }
    columns = (
        Column(name="arm"),
        Column(name="iteration"),
        *(Column(name=f"{name}, tokens") for name, _, _ in kinds),
    )
    return Chart(
        key="tokens",
        title="Tokens sampled and trained on",
        caption="Sampled for training, end tokens not counted; trained on counts every epoch.",
        views=(view(traces, layout, columns, rows),),
        wide=True,
    )


def _calls(run: RunData) -> Chart:
    """Calls of judge models and of policies' servers: tokens as bars, money in the table."""
    rows: list[tuple[Cell, ...]] = []
    kinds: tuple[tuple[str, Callable[[SpentOnStage], Calls | None]], ...] = (
        ("sampling", lambda cost: cost.sampling),
        ("judging", lambda cost: cost.judge),
    )
    for stage in _stages(run.costs):
        for arm in run.recipe.arms:
            own = [cost for cost in run.costs if (cost.stage, cost.arm) == (stage, arm)]
            for kind, calls_of in kinds:
                calls = [found for cost in own if (found := calls_of(cost)) is not None]
                if calls:
                    rows.append(_calls_row(f"{STAGES[stage][0]}: {kind}", arm, calls))
    names = [f"{row[0]}, {str(row[1]).lower()}" for row in rows]
    traces = [
        bars(
            name,
            [row[column] for row in rows],
            names,
            colour,
            orientation="h",
            hovertemplate=f"%{{x:,}} {name}<extra>%{{y}}</extra>",
        )
        for name, colour, column in (
            ("prompt tokens", "@stage-1", 4),
            ("completion tokens", "@stage-2", 5),
        )
    ]
    columns = (
        Column(name="stage"),
        Column(name="arm"),
        Column(name="calls"),
        Column(name="found in the cache"),
        Column(name="prompt tokens"),
        Column(name="completion tokens"),
        Column(name="money", digits=4),
    )
    layout = _bar_layout("tokens", "stack")
    layout["xaxis"]["tickformat"] = "~s"
    return Chart(
        key="calls",
        title="Calls of judge models and servers",
        caption="Answers paid for over all attempts; those found in the cache cost nothing. Money "
        "is in the currency of the recipe's prices, 0 where it names none.",
        views=(view(traces, layout, columns, rows),),
        height=130 + 34 * len(rows),
        wide=True,
    )


def _calls_row(what: str, arm: Arm, calls: Sequence[Calls]) -> tuple[Cell, ...]:
    return (
        what,
        ARM_NAMES[arm],
        sum(call.calls for call in calls),
        sum(call.hits for call in calls),
        sum(call.prompt_tokens for call in calls),
        sum(call.completion_tokens for call in calls),
        sum(call.money for call in calls),
    )


def _stages(costs: Sequence[SpentOnStage]) -> list[str]:
    return [stage for stage in STAGES if any(cost.stage == stage for cost in costs)]


def _bar_layout(title: str, barmode: str) -> Json:
    return {
        "barmode": barmode,
        "bargap": 0.4,
        "xaxis": {"title": {"text": title}, "rangemode": "tozero"},
        "yaxis": {"automargin": True, "autorange": "reversed", "ticklabelstandoff": 6},
    }


def time_unit(seconds: float) -> tuple[str, int]:
    """The unit in which so long a time reads well, and how many seconds it has."""
    if seconds < 300:
        return "seconds", 1
    return ("minutes", 60) if seconds <= 3 * 3600 else ("hours", 3600)
