"""The charts about training: its curves, and which epoch was kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forethought.evaluation.scale import Scale
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
from forethought.report.data.collect import ArmData, LogEntry, RunData, Selection

STEP_LIMIT = 1_000
"""Points per curve; a longer log is thinned evenly and says so."""
SMOOTH_FROM = 30
"""Shorter curves are shown as they are, longer ones with a running mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stroke:
    """One line of a chart, for each arm.

    Example: `Stroke(words="chosen", dash="solid", field="chosen_thought_reward",
    thought_only=True)`
    """

    words: str = ""
    """Stands after the arm's name."""
    dash: str = "solid"
    field: str
    minus: str | None = None
    """Another field, to be taken off."""
    thought_only: bool = False
    """The direct arm has no thoughts, so its line would be flat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """A chart of the training log.

    Example: `Curves(key="loss", title="Loss", caption="…", axis="loss",
    strokes=(Stroke(field="loss"),), fields=("loss",))`
    """

    key: str
    title: str
    caption: str
    axis: str
    strokes: tuple[Stroke, ...]
    fields: tuple[str, ...]
    """Columns of the table."""


def _rewards(part: str, caption: str) -> Curves:
    """Chosen and rejected implicit reward of one part of the output."""
    fields = (f"chosen_{part}_reward", f"rejected_{part}_reward")
    only = part == "thought"
    return Curves(
        key=f"{part}-reward",
        title=f"Implicit reward of {part} tokens",
        caption=caption,
        axis="implicit reward",
        strokes=(
            Stroke(words="chosen", field=fields[0], thought_only=only),
            Stroke(words="rejected", dash="dot", field=fields[1], thought_only=only),
        ),
        fields=fields,
    )


CHARTS = (
    Curves(
        key="loss",
        title="Loss",
        caption="The training loss of each optimizer step.",
        axis="loss",
        strokes=(Stroke(field="loss"),),
        fields=("loss",),
    ),
    Curves(
        key="accuracy",
        title="Preference accuracy",
        caption="Share of a step's pairs whose chosen output has the higher implicit reward.",
        axis="accuracy",
        strokes=(Stroke(field="accuracy"),),
        fields=("accuracy",),
    ),
    Curves(
        key="margin",
        title="Reward margin",
        caption="Implicit reward of chosen minus rejected, whole outputs.",
        axis="margin",
        strokes=(Stroke(field="margin"),),
        fields=("margin", "chosen_reward", "rejected_reward"),
    ),
    Curves(
        key="parts",
        title="Where the margin comes from",
        caption="The reward margin split into the tokens of the thought and of the response: "
        "what the preference has taught each of them.",
        axis="margin",
        strokes=(
            Stroke(
                words="response", field="chosen_response_reward", minus="rejected_response_reward"
            ),
            Stroke(
                words="thought",
                dash="dot",
                field="chosen_thought_reward",
                minus="rejected_thought_reward",
                thought_only=True,
            ),
        ),
        fields=(
            "chosen_response_reward",
            "rejected_response_reward",
            "chosen_thought_reward",
            "rejected_thought_reward",
        ),
    ),
    _rewards(
        "thought",
        "How far training has moved the log-probs of the thought's tokens from the iteration's "
        "starting policy, times beta. Both falling means that both sides grow less likely.",
    ),
    _rewards(
        "response",
        "The same of the response's tokens, the end token included.",
    ),
)


def training_charts(run: RunData) -> list[Chart]:
    """The curves of every iteration that has begun training; those of preferences only where the
    loss is one on them."""
    numbers = [
        n for n in range(run.recipe.iterations) if any(a.iterations[n].steps for a in run.arms)
    ]
    longest = max((len(a.iterations[n].steps) for a in run.arms for n in numbers), default=0)
    thinned = f" {STEP_LIMIT:,} evenly spaced steps of {longest:,}." if longest > STEP_LIMIT else ""
    charts = [
        Chart(
            key=curves.key,
            title=curves.title,
            caption=curves.caption + thinned,
            views=tuple(_view(run.arms, number, curves) for number in numbers),
        )
        for curves in CHARTS
        if (any(arm.arm != "direct" for arm in run.arms) or curves.key != "thought-reward")
        and (run.recipe.training.prefers or curves.key == "loss")
    ]
    return charts if numbers else []


def selection_chart(run: RunData, scale: Scale) -> Chart | None:
    """Validation score by epoch, the chosen one marked."""
    numbers = [
        number
        for number in range(run.recipe.iterations)
        if any(_has_scores(arm.iterations[number].selection) for arm in run.arms)
    ]
    if not numbers:
        return None
    relative = run.recipe.judge.is_relative
    what = "Share of the other epochs' answers beaten" if relative else "Mean judge score"
    return Chart(
        key="selection",
        title="Epoch selection",
        caption=f"{what} on validation prompts after each epoch. The ringed epoch was kept and "
        "starts the next iteration.",
        views=tuple(_selection_view(run.arms, number, scale) for number in numbers),
        wide=True,
    )


def _has_scores(selection: Selection | None) -> bool:
    """Not where the last epoch is taken as it is."""
    return selection is not None and bool(selection.scores)


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
    x = [step["step"] for step in steps]
    # What is drawn needs no more digits than a screen has; the table has all of them.
    values = [float(f"{value:.5g}") for value in values]
    shown = line(arm.arm, x, values, name=name, dash=dash, hover="step %{x}: %{y:.4g}")
    shown["mode"] = "lines"
    shown["line"]["width"] = 2
    if len(values) < SMOOTH_FROM:
        shown["mode"] = "lines+markers"
        shown["marker"]["size"] = 5
        return [shown]
    raw = {**shown, "line": {"color": f"@{arm.arm}", "width": 1}, "opacity": 0.28}
    raw |= {"showlegend": False, "hoverinfo": "skip", "hovertemplate": None}
    return [raw, {**shown, "y": [float(f"{value:.5g}") for value in _smooth(values)]}]


def _step_axis() -> Json:
    return {"title": {"text": "optimizer step"}, "zeroline": False}


def _view(arms: Sequence[ArmData], number: int, curves: Curves) -> ChartView:
    traces: list[Json] = []
    rows: list[tuple[Cell, ...]] = []
    for arm in arms:
        steps = _thinned(arm.iterations[number].steps)
        if not steps:
            continue
        for stroke in curves.strokes:
            if arm.arm != "direct" or not stroke.thought_only:
                name = ", ".join(filter(None, (ARM_NAMES[arm.arm], stroke.words)))
                values = [_value(step, stroke) for step in steps]
                traces += _curve(arm, steps, values, stroke.dash, name)
        rows += [_step_row(arm, step, curves.fields) for step in steps]
    layout: Json = {"xaxis": _step_axis(), "yaxis": {"title": {"text": curves.axis}}}
    if curves.key == "accuracy":
        layout["yaxis"]["range"] = [0, 1.04]
    return view(traces, layout, _step_columns(curves.fields), rows, f"iteration {number}")


def _value(step: LogEntry, stroke: Stroke) -> float:
    minus = 0.0 if stroke.minus is None else float(step[stroke.minus])
    return float(step[stroke.field]) - minus


def _step_columns(fields: Sequence[str]) -> tuple[Column, ...]:
    named = (Column(name=field.replace("_", " "), digits=4) for field in fields)
    return (Column(name="arm"), Column(name="epoch"), Column(name="step"), *named)


def _step_row(arm: ArmData, step: LogEntry, fields: Sequence[str]) -> tuple[Cell, ...]:
    return (ARM_NAMES[arm.arm], step["epoch"], step["step"], *(step[field] for field in fields))


def _selection_view(arms: Sequence[ArmData], number: int, scale: Scale) -> ChartView:
    traces: list[Json] = []
    rows: list[tuple[Cell, ...]] = []
    epochs: list[int] = []
    for arm in arms:
        selection = arm.iterations[number].selection
        if selection is None or not _has_scores(selection):
            continue
        x = [score.epoch for score in selection.scores]
        y = [
            None if score.score is None else score.score * scale.factor
            for score in selection.scores
        ]
        hover = f"epoch %{{x}}: %{{y:.{scale.digits}f}}{scale.unit}"
        traces.append(line(arm.arm, x, y, hover=hover))
        chosen = x.index(selection.chosen_epoch)
        ring = line(arm.arm, [x[chosen]], [y[chosen]])
        ring |= {"mode": "markers", "showlegend": False, "hoverinfo": "skip", "hovertemplate": None}
        ring["marker"] |= {"size": 18, "symbol": "circle-open", "line": {"width": 2.5}}
        traces.append(ring)
        epochs += x
        for score, value in zip(selection.scores, y, strict=True):
            mark = "chosen" if score.epoch == selection.chosen_epoch else ""
            row = (ARM_NAMES[arm.arm], score.epoch, value, 100 * score.parse_failures, mark)
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
