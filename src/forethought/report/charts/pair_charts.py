"""The charts about what was sampled for training and what became a pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from forethought.evaluation.scale import RAW, Scale
from forethought.report.charts.figures import (
    ARM_NAMES,
    Cell,
    Chart,
    Column,
    Json,
    band,
    bars,
    line,
    view,
    whole_number_axis,
)
from forethought.report.data.collect import ArmData, IterationData, RunData
from forethought.types import ParseStatus

FAILURES = {
    ParseStatus.NO_RESPONSE: ("no response marker", "@status-no-response"),
    ParseStatus.TRUNCATED: ("cut off by the token limit", "@status-truncated"),
    ParseStatus.EMPTY_RESPONSE: ("empty response", "@status-empty"),
}
OUTCOMES = {
    "judged": ("pair", "@outcome-judged"),
    "unparsable": ("pair against an unparsable output", "@outcome-unparsable"),
    "tie": ("tie", "@outcome-tie"),
    "one_judged": ("one response only", "@outcome-one"),
    "none_judged": ("no response", "@outcome-none"),
    "unjudged": ("judge failed", "@outcome-unjudged"),
    "unparsable_quota": ("unparsable pairs' quota reached", "@outcome-quota"),
    "one_mode": ("one mode only", "@outcome-one"),
}


def pair_charts(run: RunData, scale: Scale) -> list[Chart]:
    """Charts of what was sampled and paired; those without any data are left out."""
    charts: list[Chart] = []
    if any(iteration.rollouts for arm in run.arms for iteration in arm.iterations):
        charts.append(_failures(run))
    if any(iteration.pairs for arm in run.arms for iteration in arm.iterations):
        # A judge that only compares gives pairs its own scores, not shares of wins.
        margins = RAW if run.recipe.judge.is_relative else scale
        charts.append(_pair_lengths(run))
        flat = _flat_margins(run, margins)
        if flat is None:
            charts.append(_pair_margins(run, margins))
        charts.append(_outcomes(run, "" if flat is None else f" {flat}"))
    return charts


def _flat_margins(run: RunData, scale: Scale) -> str | None:
    """A sentence in place of a chart of flat lines; `None` where margins spread.

    Such are those of a judge that gives 0 or 1: both quartiles are the same in every iteration.
    """
    there = [
        pairs
        for arm in run.arms
        for iteration in arm.iterations
        if (pairs := iteration.pairs) is not None and pairs.margin is not None
    ]
    quartiles = {end for pairs in there for end in (pairs.margin_quartiles or ())}
    if len(quartiles) != 1:
        return None
    size = f"{scale.size(quartiles.pop())} {scale.points} apart by the judge's score"
    ends = {end for pairs in there for end in (pairs.margin_ends or ())}
    if len(ends) == 1:
        return f"Chosen and rejected of every pair are {size}."
    means = sorted(pairs.margin for pairs in there if pairs.margin is not None)
    least, most = scale.size(means[0]), scale.size(means[-1])
    span = least if least == most else f"{least} to {most}"
    return f"Chosen and rejected of most pairs are {size}; the mean is {span} {scale.points}."


def _failures(run: RunData) -> Chart:
    places = _places(run, lambda iteration: iteration.rollouts is not None)
    traces: list[Json] = []
    rows: list[list[Cell]] = [[ARM_NAMES[arm.arm], iteration.number] for arm, iteration in places]
    for status, (name, colour) in FAILURES.items():
        shares: list[float] = []
        for _, iteration in places:
            assert iteration.rollouts is not None
            shares.append(
                100 * iteration.rollouts.statuses[status] / max(iteration.rollouts.outputs, 1)
            )
        hover = "%{y:.1f}% of outputs<extra>" + name + "</extra>"
        traces.append(bars(name, _arm_and_iteration(places), shares, colour, hovertemplate=hover))
        for row, share in zip(rows, shares, strict=True):
            row.append(share)
    for row, (_, iteration) in zip(rows, places, strict=True):
        assert iteration.rollouts is not None
        row.append(iteration.rollouts.outputs)
    columns = (
        Column(name="arm"),
        Column(name="iteration"),
        *(Column(name=f"{name}, %", digits=2) for name, _ in FAILURES.values()),
        Column(name="outputs"),
    )
    layout = {
        "barmode": "stack",
        "bargap": 0.4,
        "xaxis": {"type": "multicategory", "title": {"text": "iteration"}},
        "yaxis": {"title": {"text": "% of sampled outputs"}, "rangemode": "tozero"},
    }
    return Chart(
        key="failures",
        title="Outputs without a response",
        caption="Share of the outputs sampled for training that have no usable response, by cause"
        f"{_outputs_words([int(row[-1] or 0) for row in rows])}. Iteration i samples from policy "
        "i, which is the seed for 0, and trains policy i + 1.",
        views=(view(traces, layout, columns, [tuple(row) for row in rows]),),
    )


def _outputs_words(outputs: Sequence[int]) -> str:
    least, most = min(outputs), max(outputs)
    count = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"; n = {count} outputs a bar"


def _pair_lengths(run: RunData) -> Chart:
    traces: list[Json] = []
    rows: list[tuple[Cell, ...]] = []
    for arm in run.arms:
        done = [
            (iteration.number, iteration.pairs)
            for iteration in arm.iterations
            if iteration.pairs is not None
        ]
        x = [number for number, _ in done]
        name = ARM_NAMES[arm.arm]
        hover = "%{y:.1f} tokens"
        chosen = [pairs.chosen_tokens for _, pairs in done]
        rejected = [pairs.rejected_tokens for _, pairs in done]
        traces.append(line(arm.arm, x, chosen, name=f"{name}, chosen", hover=hover))
        other = line(arm.arm, x, rejected, name=f"{name}, rejected", dash="dot", hover=hover)
        other["marker"]["symbol"] += "-open"
        traces.append(other)
        rows += [
            (name, number, pairs.chosen_tokens, pairs.rejected_tokens, pairs.judged_pairs)
            for number, pairs in done
        ]
    numbers = [int(row[1] or 0) for row in rows]
    layout = {
        "xaxis": whole_number_axis("iteration", numbers, {}),
        "yaxis": {"title": {"text": "response tokens"}, "rangemode": "tozero"},
    }
    columns = (
        Column(name="arm"),
        Column(name="iteration"),
        Column(name="chosen, mean tokens", digits=1),
        Column(name="rejected, mean tokens", digits=1),
        Column(name="pairs"),
    )
    return Chart(
        key="pair-lengths",
        title="Chosen against rejected response length",
        caption="Mean response tokens of the pairs trained on. Chosen above rejected means that "
        "length is being taught; a larger pairs.rho counters it.",
        views=(view(traces, layout, columns, rows),),
    )


def _pair_margins(run: RunData, scale: Scale) -> Chart:
    traces: list[Json] = []
    rows: list[tuple[Cell, ...]] = []
    for arm in run.arms:
        x: list[int] = []
        means: list[float] = []
        quartiles: list[tuple[float, float, float]] = []
        for iteration in arm.iterations:
            pairs = iteration.pairs
            if pairs is None or pairs.margin is None or pairs.margin_quartiles is None:
                continue
            low, middle, high = (end * scale.factor for end in pairs.margin_quartiles)
            x.append(iteration.number)
            means.append(pairs.margin * scale.factor)
            quartiles.append((low, middle, high))
            shown = (means[-1], low, middle, high, pairs.judged_pairs)
            rows.append((ARM_NAMES[arm.arm], iteration.number, *shown))
        if len(x) > 1:
            lows, _, highs = zip(*quartiles, strict=True)
            traces.append(band(arm.arm, x, lows, highs))
        traces.append(line(arm.arm, x, means, hover=f"%{{y:.{scale.digits}f}}"))
    layout = {
        "xaxis": whole_number_axis("iteration", [int(row[1] or 0) for row in rows], {}),
        "yaxis": {"title": {"text": f"margin, {scale.points}"}, "rangemode": "tozero"},
    }
    names = ("mean margin", "lower quartile", "median", "upper quartile")
    columns = (
        Column(name="arm"),
        Column(name="iteration"),
        *(Column(name=f"{name}, {scale.points}", digits=scale.digits) for name in names),
        Column(name="pairs"),
    )
    return Chart(
        key="pair-margins",
        title="Judge margin of the pairs",
        caption="Judge score of chosen minus rejected, mean over the pairs trained on; the band "
        "goes from the lower to the upper quartile.",
        views=(view(traces, layout, columns, rows),),
    )


def _outcomes(run: RunData, more: str) -> Chart:
    """`more` stands at the end of the caption."""
    places = _places(run, lambda iteration: iteration.pairs is not None)
    counts = [iteration.pairs.outcomes for _, iteration in places if iteration.pairs is not None]
    known = [*OUTCOMES, *sorted({key for outcomes in counts for key in outcomes} - OUTCOMES.keys())]
    found = [key for key in known if any(outcomes.get(key) for outcomes in counts)]
    traces: list[Json] = []
    for key in found:
        name, colour = OUTCOMES.get(key, (key, "@muted"))
        values = [outcomes.get(key, 0) for outcomes in counts]
        hover = "%{y} prompts<extra>" + name + "</extra>"
        traces.append(bars(name, _arm_and_iteration(places), values, colour, hovertemplate=hover))
    rows = [
        (ARM_NAMES[arm.arm], iteration.number, *(outcomes.get(key, 0) for key in found))
        for (arm, iteration), outcomes in zip(places, counts, strict=True)
    ]
    columns = (
        Column(name="arm"),
        Column(name="iteration"),
        *(Column(name=OUTCOMES.get(key, (key, ""))[0]) for key in found),
    )
    layout = {
        "barmode": "stack",
        "bargap": 0.4,
        "xaxis": {"type": "multicategory", "title": {"text": "iteration"}},
        "yaxis": {"title": {"text": "prompts"}, "rangemode": "tozero"},
    }
    return Chart(
        key="outcomes",
        title="What became of each prompt",
        caption=f"One pair per prompt at most; no pair where nothing could be told apart.{more}",
        views=(view(traces, layout, columns, rows),),
        wide=True,
    )


def _places(
    run: RunData, has: Callable[[IterationData], bool]
) -> list[tuple[ArmData, IterationData]]:
    return [(arm, iteration) for arm in run.arms for iteration in arm.iterations if has(iteration)]


def _arm_and_iteration(places: Sequence[tuple[ArmData, IterationData]]) -> list[list[str]]:
    return [
        [ARM_NAMES[arm.arm] for arm, _ in places],
        [str(iteration.number) for _, iteration in places],
    ]
