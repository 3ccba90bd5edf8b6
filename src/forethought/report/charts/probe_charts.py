"""The charts of the probes: does the response depend on the thought, or is it decoration?

The probe writes each response again after its own thought, after none, after another prompt's and
after a half of its own, and lets the run's judge score all four.
"""

from __future__ import annotations

from forethought.evaluation.scale import PERCENT, Scale, rests_on
from forethought.report.charts.category_bars import Bars, category_chart
from forethought.report.charts.figures import Chart
from forethought.report.charts.measure_charts import policy_words
from forethought.report.charts.policy_lines import Quantity, Series, policy_chart
from forethought.report.data.collect import RunData
from forethought.report.data.measure_figures import figures_of, last_by_category
from forethought.report.data.scores import Mean

VARIANTS = (
    ("own", "its own thought", "series-1", "solid", "circle"),
    ("none", "no thought", "series-2", "dash", "square"),
    ("other", "another prompt's thought", "series-3", "dot", "diamond"),
    ("half", "half of its own thought", "series-4", "dashdot", "triangle-up"),
)
"""Suffix of the figure, words, colour, dash, marker."""
HABITS = (
    ("draft_copied", "response copies a draft", "series-1", "solid", "circle"),
    ("mentions_format", "thought talks of the format", "series-2", "dash", "square"),
    ("empty_thoughts", "empty thought", "series-3", "dot", "diamond"),
    ("runaway_thoughts", "thought without an end", "series-4", "dashdot", "triangle-up"),
)


def probe_charts(run: RunData, scale: Scale) -> list[Chart]:
    """Charts of the probe's figures; those that were not measured are left out."""
    used = probe_scale(run, scale)
    charts = [_drops(run, used), _scores(run, used), _habits(run), _by_category(run, used)]
    return [chart for chart in charts if chart is not None]


def probe_scale(run: RunData, scale: Scale) -> Scale:
    """The scale of probe scores: shares of wins where the judge only compares, else `scale`."""
    return PERCENT if run.recipe.judge.is_relative else scale


def probe_sentence(run: RunData, scale: Scale) -> str | None:
    """What the last policy's probe means, in one sentence; `None` where there is none."""
    found = last_drop(run, "none")
    if found is None:
        return None
    policy, drop = found
    used, who = probe_scale(run, scale), policy_words(policy, run.recipe)
    size = f"{used.size(drop.value)} {used.points}"
    if drop.interval is None:
        why = "there is one prompt" if drop.count == 1 else "its loss is the same on all prompts"
        return f"The probe cannot tell whether {who} uses its thoughts: {why}."
    if drop.interval[0] > 0:
        text = (
            f"Responses of {who} lose {size} without their thought "
            f"({rests_on(used.size, drop)}): it uses them"
        )
    elif drop.interval[1] < 0:
        text = (
            f"Responses of {who} gain {size} without their thought "
            f"({rests_on(used.size, drop.turned)}): here the thought does harm"
        )
    else:
        text = (
            f"Without their thought responses of {who} change by "
            f"{used.change_with_interval(drop.turned)}; the interval includes zero: the thought "
            "may be decoration"
        )
    return f"{text}{_other_words(run, used)}."


def last_drop(run: RunData, variant: str) -> tuple[int, Mean] | None:
    """The last probed policy, and what its responses lose with that variant of their thought.

    `None` where no policy was probed.
    """
    points = figures_of(run.measures, f"probe_drop_{variant}", "thought")
    return points[-1] if points else None


def _other_words(run: RunData, scale: Scale) -> str:
    found = last_drop(run, "other")
    if found is None or found[1].interval is None:
        return ""
    drop = found[1]
    assert drop.interval is not None
    if drop.interval[0] > 0:
        size = f"{scale.size(drop.value)} {scale.points}"
        return f"; another prompt's thought costs {size}, so its content matters"
    return "; another prompt's thought costs nothing that can be told from zero"


def _drops(run: RunData, scale: Scale) -> Chart | None:
    series = _series(run, "probe_drop_", VARIANTS[1:])
    if not series:
        return None
    sentence = probe_sentence(run, scale)
    meaning = f" {sentence}" if sentence is not None else ""
    quantity = Quantity(
        key="probe-drop",
        title="What the response loses without its thought",
        caption="Score after the response's own thought minus score after the variant, prompt by "
        f"prompt.{meaning}",
        axis=f"loss, {scale.points}",
        scale=_bare(scale),
        even=0.0,
    )
    return policy_chart(quantity, series, lead=("instead of its own",), wide=True, height=340)


def _scores(run: RunData, scale: Scale) -> Chart | None:
    series = _series(run, "probe_", VARIANTS)
    if not series:
        return None
    what = "Share of wins" if run.recipe.judge.is_relative else "Mean judge score"
    quantity = Quantity(
        key="probe-scores",
        title="Score after each kind of thought",
        caption=f"{what} of the response written again after its own thought, after none, after "
        "another prompt's, and after its own cut in half.",
        axis="score",
        scale=scale,
    )
    return policy_chart(quantity, series, lead=("after",))


def _habits(run: RunData) -> Chart | None:
    series = _series(run, "probe_", HABITS)
    if not series:
        return None
    quantity = Quantity(
        key="probe-habits",
        title="Habits of the thoughts",
        caption="Share of answers with each sign that a thought is not used as one.",
        axis="answers",
        scale=PERCENT,
        from_zero=True,
        counted="answers",
    )
    return policy_chart(quantity, series, lead=("habit",))


def _by_category(run: RunData, scale: Scale) -> Chart | None:
    groups: list[Bars] = []
    policy = 0
    for suffix, words, colour, _, _ in VARIANTS[1:]:
        last = last_by_category(run.measures, f"probe_drop_{suffix}", "thought")
        if last is not None:
            policy = last[0]
            groups.append(Bars(name=words, colour=colour, by_category=last[1]))
    if not groups:
        return None
    return category_chart(
        "probe-categories",
        "What the response loses, by category",
        f"Of {policy_words(policy, run.recipe)}, sorted by what is lost with {groups[0].name}; "
        "whiskers are 95 % intervals.",
        groups=groups,
        axis=f"loss, {scale.points}",
        scale=scale,
        lead="instead of its own",
        signed=True,
    )


def _bare(scale: Scale) -> Scale:
    """For an axis title that already says what is counted."""
    return Scale(factor=scale.factor, digits=scale.digits, unit="", points=scale.points)


def _series(
    run: RunData, prefix: str, kinds: tuple[tuple[str, str, str, str, str], ...]
) -> list[Series]:
    series = [
        Series(
            name=words.capitalize(),
            cells=(words,),
            colour=colour,
            dash=dash,
            symbol=symbol,
            points=figures_of(run.measures, f"{prefix}{suffix}", "thought"),
        )
        for suffix, words, colour, dash, symbol in kinds
    ]
    return [line for line in series if line.points]
