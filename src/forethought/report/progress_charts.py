"""The charts about the work itself: training curves, epoch selection, time and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forethought.report.collect import ITERATION_STAGES, ArmData, IterationData, LogEntry, Run
from forethought.report.figures import (
    ARM_NAMES,
    Cell,
    Chart,
    Column,
    Json,
    Scale,
    View,
    bars,
    line,
    view,
    whole_number_axis,
)

STEP_LIMIT = 1_000
"""Points per curve; a longer log is thinned evenly and says so."""
SMOOTH_FROM = 30
"""Shorter curves are shown as they are, longer ones with a running mean."""

STAGES = {
    "rollouts": ("sampling", "@stage-1"),
    "judgements": ("judging", "@stage-2"),
    "pairs": ("pairs", "@stage-3"),
    "reference": ("reference log-probs", "@stage-4"),
    "training": ("training", "@stage-5"),
    "selection": ("epoch selection", "@stage-6"),
    "evaluation": ("evaluation", "@stage-7"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One quantity of the training log.

    Example: `Curve(key="loss", title="Loss", caption="…", axis="loss", fields=("loss",))`
    """

    key: str
    title: str
    caption: str
    axis: str
    fields: tuple[str, ...]


CURVES = (
    Curve(
        key="loss",
        title="Loss",
        caption="The training loss of each optimizer step.",
        axis="loss",
        fields=("loss",),
    ),
    Curve(
        key="margin",
        title="Reward margin",
        caption="Implicit reward of chosen minus rejected, whole outputs.",
        axis="margin",
        fields=("margin", "chosen_reward", "rejected_reward"),
    ),
    Curve(
        key="accuracy",
        title="Preference accuracy",
        caption="Share of a step's pairs whose chosen output has the higher implicit reward.",
        axis="accuracy",
        fields=("accuracy",),
    ),
)


def training_charts(run: Run) -> list[Chart]:
    """The curves of every iteration that has begun training."""
    numbers = [
        n for n in range(run.recipe.iterations) if any(a.iterations[n].steps for a in run.arms)
    ]
    if not numbers:
        return []
    charts = [
        Chart(
            key=curve.key,
            title=curve.title,
            caption=curve.caption,
            views=tuple(_curve_view(run.arms, number, curve) for number in numbers),
        )
        for curve in CURVES
    ]
    return [*charts, _parts_chart(run, numbers)]


def selection_chart(run: Run, scale: Scale) -> Chart | None:
    """Validation score by epoch, the chosen one marked."""
    numbers = [
        n for n in range(run.recipe.iterations) if any(a.iterations[n].selection for a in run.arms)
    ]
    if not numbers:
        return None
    return Chart(
        key="selection",
        title="Epoch selection",
        caption="Mean judge score on validation prompts after each epoch. The ringed epoch was "
        "kept and starts the next iteration.",
        views=tuple(_selection_view(run.arms, number, scale) for number in numbers),
        wide=True,
    )


def cost_charts(run: Run) -> list[Chart]:
    """Where time and tokens went; empty before anything is finished."""
    rows = [(arm, one) for arm in run.arms for one in arm.iterations if one.seconds]
    if not rows:
        return []
    return [_time(run, rows), _tokens(run, rows)]


def _thinned(steps: Sequence[LogEntry]) -> Sequence[LogEntry]:
    if len(steps) <= STEP_LIMIT:
        return steps
    return [steps[index * len(steps) // STEP_LIMIT] for index in range(STEP_LIMIT)]


def _smooth(values: Sequence[float]) -> list[float]:
    """Centred running mean over a twentieth of the curve."""
    half = max(len(values) // 40, 1)
    windows = [values[max(i - half, 0) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _curve(
    arm: ArmData, steps: Sequence[LogEntry], values: list[float], dash: str, name: str
) -> list[Json]:
    """The mean as a line; under it, faint, the values it was made of."""
    x = [one["step"] for one in steps]
    shown = line(arm.arm, x, values, name=name, dash=dash, hover="step %{x}: %{y:.4g}")
    shown["mode"] = "lines"
    shown["line"]["width"] = 2
    if len(values) < SMOOTH_FROM:
        shown["mode"] = "lines+markers"
        shown["marker"]["size"] = 5
        return [shown]
    raw = {**shown, "line": {"color": f"@{arm.arm}", "width": 1}, "opacity": 0.28}
    raw |= {"showlegend": False, "hoverinfo": "skip", "hovertemplate": None}
    return [raw, {**shown, "y": _smooth(values)}]


def _step_axis() -> Json:
    return {"title": {"text": "optimizer step"}, "zeroline": False}


def _curve_view(arms: Sequence[ArmData], number: int, curve: Curve) -> View:
    traces: list[Json] = []
    rows: list[tuple[Cell, ...]] = []
    for arm in arms:
        steps = _thinned(arm.iterations[number].steps)
        if steps:
            values = [float(one[curve.fields[0]]) for one in steps]
            traces += _curve(arm, steps, values, "solid", ARM_NAMES[arm.arm])
            rows += [_step_row(arm, one, curve.fields) for one in steps]
    layout: Json = {"xaxis": _step_axis(), "yaxis": {"title": {"text": curve.axis}}}
    if curve.key == "accuracy":
        layout["yaxis"]["range"] = [0, 1.04]
    return view(traces, layout, _step_columns(curve.fields), rows, f"iteration {number}")


def _parts_chart(run: Run, numbers: Sequence[int]) -> Chart:
    return Chart(
        key="parts",
        title="Where the margin comes from",
        caption="The reward margin split into the tokens of the thought and of the response: "
        "what the preference has taught each of them.",
        views=tuple(_parts_view(run.arms, number) for number in numbers),
    )


def _parts_view(arms: Sequence[ArmData], number: int) -> View:
    traces: list[Json] = []
    rows: list[tuple[Cell, ...]] = []
    parts = [("response", "solid"), ("thought", "dot")]
    fields = tuple(f"{side}_{part}_reward" for part, _ in parts for side in ("chosen", "rejected"))
    for arm in arms:
        steps = _thinned(arm.iterations[number].steps)
        for part, dash in parts if arm.arm == "thought" else parts[:1]:
            values = [
                float(one[f"chosen_{part}_reward"]) - float(one[f"rejected_{part}_reward"])
                for one in steps
            ]
            if steps:
                name = f"{ARM_NAMES[arm.arm]}, {part}"
                traces += _curve(arm, steps, values, dash, name)
        rows += [_step_row(arm, one, fields) for one in steps]
    layout: Json = {"xaxis": _step_axis(), "yaxis": {"title": {"text": "margin"}}}
    return view(traces, layout, _step_columns(fields), rows, f"iteration {number}")


def _step_columns(fields: Sequence[str]) -> tuple[Column, ...]:
    named = (Column(name=field.replace("_", " "), digits=4) for field in fields)
    return (Column(name="arm"), Column(name="epoch"), Column(name="step"), *named)


def _step_row(arm: ArmData, step: LogEntry, fields: Sequence[str]) -> tuple[Cell, ...]:
    return (ARM_NAMES[arm.arm], step["epoch"], step["step"], *(step[field] for field in fields))


def _selection_view(arms: Sequence[ArmData], number: int, scale: Scale) -> View:
    traces: list[Json] = []
    rows: list[tuple[Cell, ...]] = []
    epochs: list[int] = []
    for arm in arms:
        selection = arm.iterations[number].selection
        if selection is None:
            continue
        x = [one.epoch for one in selection.scores]
        y = [one.score * scale.factor for one in selection.scores]
        hover = f"epoch %{{x}}: %{{y:.{scale.digits}f}}{scale.unit}"
        traces.append(line(arm.arm, x, y, hover=hover))
        chosen = x.index(selection.chosen_epoch)
        ring = line(arm.arm, [x[chosen]], [y[chosen]])
        ring |= {"mode": "markers", "showlegend": False, "hoverinfo": "skip", "hovertemplate": None}
        ring["marker"] |= {"size": 18, "symbol": "circle-open", "line": {"width": 2.5}}
        traces.append(ring)
        epochs += x
        for one, value in zip(selection.scores, y, strict=True):
            mark = "chosen" if one.epoch == selection.chosen_epoch else ""
            row = (ARM_NAMES[arm.arm], one.epoch, value, 100 * one.parse_failures, mark)
            rows.append(row)
    layout = {
        "xaxis": whole_number_axis("epoch", epochs, {}),
        "yaxis": {"title": {"text": f"validation score{scale.suffix}"}},
    }
    columns = (
        Column(name="arm"),
        Column(name="epoch"),
        Column(name=f"validation score{scale.suffix}", digits=scale.digits),
        Column(name="without a response, %", digits=1),
        Column(name="kept"),
    )
    return view(traces, layout, columns, rows, f"iteration {number}")


def _time(run: Run, places: Sequence[tuple[ArmData, IterationData]]) -> Chart:
    names: list[str] = [f"{ARM_NAMES[arm.arm]}, iteration {one.number}" for arm, one in places]
    seconds: list[dict[str, float]] = [dict(one.seconds) for _, one in places]
    for arm in run.arms:
        if arm.policies:
            names.append(f"{ARM_NAMES[arm.arm]}, evaluation")
            seconds.append({"evaluation": sum(one.seconds for one in arm.policies)})
    longest = max(sum(each.values()) for each in seconds)
    unit, size = ("seconds", 1) if longest < 300 else ("minutes", 60)
    if longest > 3 * 3600:
        unit, size = "hours", 3600
    traces: list[Json] = []
    for stage in (*ITERATION_STAGES, "evaluation"):
        name, colour = STAGES[stage]
        values = [each.get(stage, 0.0) / size for each in seconds]
        hover = f"{name}: %{{x:.2f}} {unit}<extra>%{{y}}</extra>"
        style = {"orientation": "h", "hovertemplate": hover}
        traces.append(bars(name, values, names, colour, **style))
    stages = (*ITERATION_STAGES, "evaluation")
    rows = [
        (name, *(each.get(stage) for stage in stages), sum(each.values()))
        for name, each in zip(names, seconds, strict=True)
    ]
    columns = (
        Column(name="where"),
        *(Column(name=f"{STAGES[stage][0]}, s", digits=1) for stage in stages),
        Column(name="total, s", digits=1),
    )
    layout = {
        "barmode": "stack",
        "bargap": 0.4,
        "xaxis": {"title": {"text": f"wall-clock {unit}"}, "rangemode": "tozero"},
        "yaxis": {"automargin": True, "autorange": "reversed", "ticklabelstandoff": 6},
    }
    return Chart(
        key="time",
        title="Time by stage",
        caption="Wall-clock time of every finished stage, over all attempts.",
        views=(view(traces, layout, columns, rows),),
        height=130 + 34 * len(names),
        wide=True,
    )


def _tokens(run: Run, places: Sequence[tuple[ArmData, IterationData]]) -> Chart:
    rows: list[tuple[Cell, ...]] = []
    for arm, one in places:
        trained = int(sum(step["tokens"] for step in one.steps)) if one.steps else None
        sampled = (None, None)
        if one.rollouts is not None:
            sampled = (one.rollouts.thought_tokens, one.rollouts.response_tokens)
        rows.append((ARM_NAMES[arm.arm], one.number, *sampled, trained))
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
