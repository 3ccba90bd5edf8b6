"""The charts about results: scores, lengths, failures, categories, and what became of prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from forethought.report.collect import ArmData, IterationData, Run
from forethought.report.figures import (
    ARM_NAMES,
    PERCENT,
    RAW,
    Cell,
    Chart,
    Column,
    Json,
    Scale,
    band,
    bars,
    line,
    view,
    whole_number_axis,
)
from forethought.report.scores import Mean, PolicyScore
from forethought.types import Arm, ParseStatus

CATEGORY_LIMIT = 24
"""Bars stay readable up to so many categories; the largest are kept."""

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
}


def scale_of(run: Run) -> Scale:
    """Per cent where a verifier's scores are shares; a reward model's scores stay as they are."""
    values = [one.score.value for arm in run.arms for one in arm.policies]
    shares = all(0 <= value <= 1 for value in values)
    return PERCENT if run.recipe.judge.type == "verifier" and shares else RAW


def result_charts(run: Run, scale: Scale) -> list[Chart]:
    """Charts of scores, lengths and parse failures; those without any data are left out."""
    charts: list[Chart] = []
    if any(arm.policies for arm in run.arms):
        charts += [_score(run, scale), _test_length(run, "thought"), _test_length(run, "response")]
    if any(one.rollouts for arm in run.arms for one in arm.iterations):
        charts.append(_failures(run))
    if any(one.pairs for arm in run.arms for one in arm.iterations):
        charts += [_pair_lengths(run), _outcomes(run)]
    if any(one.gains for arm in run.arms for one in arm.policies):
        charts.append(_categories(run, scale))
    return charts


def policy_axis(policies: Sequence[PolicyScore]) -> Json:
    """Policies from left to right, the seed first."""
    return whole_number_axis("policy", [one.policy for one in policies], {0: "seed"})


def _score(run: Run, scale: Scale) -> Chart:
    traces: list[Json] = []
    rows: list[tuple[Cell, ...]] = []
    for arm in run.arms:
        x = [one.policy for one in arm.policies]
        y = [one.score.value * scale.factor for one in arm.policies]
        spans = [one.score.interval or (one.score.value,) * 2 for one in arm.policies]
        low = [span[0] * scale.factor for span in spans]
        high = [span[1] * scale.factor for span in spans]
        if len(x) > 1:
            traces.append(band(arm.arm, x, low, high))
        hover = f"%{{y:.{scale.digits}f}}{scale.unit}  [%{{customdata}}]"
        labels = [
            f"{a:.{scale.digits}f}, {b:.{scale.digits}f}" for a, b in zip(low, high, strict=True)
        ]
        traces.append(line(arm.arm, x, y, hover=hover) | {"customdata": labels})
        for one, value, a, b in zip(arm.policies, y, low, high, strict=True):
            rows.append((ARM_NAMES[arm.arm], _policy(one), value, a, b, one.score.count))
    layout = {
        "xaxis": policy_axis([one for arm in run.arms for one in arm.policies]),
        "yaxis": {"title": {"text": f"test score{scale.suffix}"}},
    }
    columns = (
        Column(name="arm"),
        Column(name="policy"),
        Column(name=f"test score{scale.suffix}", digits=scale.digits),
        Column(name="95 % low", digits=scale.digits),
        Column(name="95 % high", digits=scale.digits),
        Column(name="prompts"),
    )
    return Chart(
        key="score",
        title="Judge score on test prompts",
        caption="Mean over prompts no policy was trained on; the band is the 95 % interval. "
        "An answer without a response counts as a loss.",
        views=(view(traces, layout, columns, rows),),
        height=360,
        wide=True,
    )


def _test_length(run: Run, side: str) -> Chart:
    thinking = [arm for arm in run.arms if side == "response" or arm.arm == "thought"]
    traces: list[Json] = []
    rows: list[tuple[Cell, ...]] = []
    for arm in thinking:
        values = [
            one.thought_tokens if side == "thought" else one.response_tokens for one in arm.policies
        ]
        hover = "%{y:.1f} tokens"
        traces.append(line(arm.arm, [one.policy for one in arm.policies], values, hover=hover))
        rows += [
            (ARM_NAMES[arm.arm], _policy(one), value)
            for one, value in zip(arm.policies, values, strict=True)
        ]
    layout = {
        "xaxis": policy_axis([one for arm in thinking for one in arm.policies]),
        "yaxis": {"title": {"text": "tokens per answer"}, "rangemode": "tozero"},
    }
    columns = (Column(name="arm"), Column(name="policy"), Column(name="mean tokens", digits=1))
    captions = {
        "thought": "Mean tokens before the response, markers included, on test prompts.",
        "response": "Mean tokens of the response alone, on test prompts.",
    }
    return Chart(
        key=f"{side}-length",
        title=f"{side.capitalize()} length",
        caption=captions[side],
        views=(view(traces, layout, columns, rows),),
    )


def _failures(run: Run) -> Chart:
    places = _places(run, lambda one: one.rollouts is not None)
    traces: list[Json] = []
    rows: list[list[Cell]] = [[ARM_NAMES[arm.arm], one.number] for arm, one in places]
    for status, (name, colour) in FAILURES.items():
        shares: list[float] = []
        for _, one in places:
            assert one.rollouts is not None
            shares.append(100 * one.rollouts.statuses[status] / max(one.rollouts.outputs, 1))
        hover = "%{y:.1f}% of outputs<extra>" + name + "</extra>"
        traces.append(bars(name, _arm_and_iteration(places), shares, colour, hovertemplate=hover))
        for row, share in zip(rows, shares, strict=True):
            row.append(share)
    for row, (_, one) in zip(rows, places, strict=True):
        assert one.rollouts is not None
        row.append(one.rollouts.outputs)
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
        caption="Share of the outputs sampled for training that have no usable response, by cause. "
        "Iteration i samples from policy i.",
        views=(view(traces, layout, columns, [tuple(row) for row in rows]),),
    )


def _pair_lengths(run: Run) -> Chart:
    traces: list[Json] = []
    rows: list[tuple[Cell, ...]] = []
    for arm in run.arms:
        done = [(one.number, one.pairs) for one in arm.iterations if one.pairs is not None]
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


def _outcomes(run: Run) -> Chart:
    places = _places(run, lambda one: one.pairs is not None)
    counts = [one.pairs.outcomes for _, one in places if one.pairs is not None]
    known = [*OUTCOMES, *sorted({key for each in counts for key in each} - OUTCOMES.keys())]
    found = [key for key in known if any(each.get(key) for each in counts)]
    traces: list[Json] = []
    for key in found:
        name, colour = OUTCOMES.get(key, (key, "@muted"))
        values = [each.get(key, 0) for each in counts]
        hover = "%{y} prompts<extra>" + name + "</extra>"
        traces.append(bars(name, _arm_and_iteration(places), values, colour, hovertemplate=hover))
    rows = [
        (ARM_NAMES[arm.arm], one.number, *(each.get(key, 0) for key in found))
        for (arm, one), each in zip(places, counts, strict=True)
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
        caption="One pair per prompt at most; no pair where nothing could be told apart.",
        views=(view(traces, layout, columns, rows),),
        wide=True,
    )


def _categories(run: Run, scale: Scale) -> Chart:
    trained = [arm for arm in run.arms if arm.policies and arm.policies[-1].gains]
    last: dict[Arm, PolicyScore] = {arm.arm: arm.policies[-1] for arm in trained}
    first = next(iter(last.values())).gains
    by_size = sorted(first, key=lambda name: -first[name].count)[:CATEGORY_LIMIT]
    names = sorted(by_size, key=lambda name: (first[name].value, name))
    traces: list[Json] = []
    rows: list[tuple[Cell, ...]] = []
    for arm in reversed(last):
        gains = [last[arm].gains.get(name) for name in names]
        values = [None if one is None else one.value * scale.factor for one in gains]
        errors = [_half_width(one) * scale.factor for one in gains]
        whiskers = {"array": errors, "color": "@whisker", "thickness": 1, "width": 0}
        hover = f"%{{x:+.{scale.digits}f}} {scale.points}<extra>{ARM_NAMES[arm]}</extra>"
        style = {"orientation": "h", "error_x": whiskers, "hovertemplate": hover}
        traces.append(bars(ARM_NAMES[arm], values, names, f"@{arm}", **style))
        for name, one, value, error in zip(names, gains, values, errors, strict=True):
            if one is not None and value is not None:
                rows.append((name, ARM_NAMES[arm], value, value - error, value + error, one.count))
    rows.sort(key=lambda row: (-names.index(str(row[0])), row[1] != ARM_NAMES["thought"]))
    layout = {
        "barmode": "group",
        "bargap": 0.35,
        "xaxis": {"title": {"text": f"gain, {scale.points}"}},
        "yaxis": {"automargin": True, "ticklabelstandoff": 6},
    }
    columns = (
        Column(name="category"),
        Column(name="arm"),
        Column(name=f"gain, {scale.points}", digits=scale.digits),
        Column(name="95 % low", digits=scale.digits),
        Column(name="95 % high", digits=scale.digits),
        Column(name="prompts"),
    )
    dropped = len(first) - len(names)
    more = f" The {len(names)} largest of {len(first)} categories." if dropped else ""
    return Chart(
        key="categories",
        title="Gain by category",
        caption="Last policy minus the seed of the same arm, prompt by prompt, sorted by the "
        f"{ARM_NAMES[next(iter(last))].lower()}; whiskers are 95 % intervals.{more}",
        views=(view(traces, layout, columns, rows),),
        height=110 + 34 * len(names),
        wide=True,
    )


def _half_width(mean: Mean | None) -> float:
    if mean is None or mean.interval is None:
        return 0.0
    return mean.interval[1] - mean.value


def _places(run: Run, has: Callable[[IterationData], bool]) -> list[tuple[ArmData, IterationData]]:
    return [(arm, one) for arm in run.arms for one in arm.iterations if has(one)]


def _arm_and_iteration(places: Sequence[tuple[ArmData, IterationData]]) -> list[list[str]]:
    return [[ARM_NAMES[arm.arm] for arm, _ in places], [str(one.number) for _, one in places]]


def _policy(one: PolicyScore) -> Cell:
    return "seed" if one.policy == 0 else one.policy
