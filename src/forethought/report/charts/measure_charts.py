"""The charts of what was measured besides the test score: win rates, accuracies, benchmarks.

Every figure that a measure reports has a chart. Those known here have a title and a scale of their
own; a figure of another name is drawn as it is. Probes have charts of their own beside this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forethought.config import Recipe
from forethought.evaluation.scale import PERCENT, PUBLISHED, RAW, TOKENS, Scale
from forethought.report.charts.category_bars import Bars, category_chart
from forethought.report.charts.figures import ARM_NAMES, ARM_SYMBOLS, Chart
from forethought.report.charts.policy_lines import Quantity, Series, policy_chart
from forethought.report.data.collect import RunData
from forethought.report.data.measure_figures import Measured, figures_of, last_by_category, names_of
from forethought.report.data.scores import Mean
from forethought.runs.comparison import first_policy
from forethought.types import Arm


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a reader needs to know of a figure.

    Example: `Known(title="Win rate", caption="…", axis="win rate", scale=PERCENT, even=0.5)`
    """

    title: str
    caption: str
    axis: str
    scale: Scale
    even: float | None = None
    folded: bool = False


SEVERAL = {
    "best_of_n": (
        "the best of several direct answers",
        "the judge picks the best of them before they are compared",
    ),
    "best_of_n_by_vote": (
        "a vote of several direct answers",
        "the response that most of them agree on is compared. The judge does not pick",
    ),
    "best_of_n_by_likelihood": (
        "the likeliest of several direct answers",
        "the one that it finds likeliest per token is compared. The judge does not pick",
    ),
}
"""How one of several answers was picked: the rival in words, and what a reader needs to know."""

KNOWN = {
    "win_rate": Known(
        title="Win rate, thought against direct",
        caption="Share of test prompts on which the judge prefers the thought arm's response to "
        "that of the direct arm's policy of the same iteration; ties count half.",
        axis="win rate",
        scale=PERCENT,
        even=0.5,
    ),
    "length_controlled_win_rate": Known(
        title="Win rate at equal length",
        caption="Thought against direct, with the effect of the responses' lengths taken out by a "
        "logistic model, as AlpacaEval 2 does. Where the lengths hardly overlap there is none.",
        axis="win rate",
        scale=PERCENT,
        even=0.5,
        folded=True,
    ),
    **{
        f"win_rate_{name}": Known(
            title=f"Win rate against {words}",
            caption="The direct policy draws more answers with the tokens that thinking took; "
            f"{picked}.",
            axis="win rate",
            scale=PERCENT,
            even=0.5,
        )
        for name, (words, picked) in SEVERAL.items()
    },
    "win_rate_longer": Known(
        title="Win rate against a longer direct answer",
        caption="The direct policy is asked for one longer answer and may spend the tokens that "
        "thinking took; what it did spend stands with the tokens.",
        axis="win rate",
        scale=PERCENT,
        even=0.5,
    ),
    **{
        f"length_controlled_win_rate_{name}": Known(
            title=f"Win rate against {words}, at equal length",
            caption="The same with the effect of the responses' lengths taken out.",
            axis="win rate",
            scale=PERCENT,
            even=0.5,
            folded=True,
        )
        for name, (words, _) in SEVERAL.items()
    },
    "length_controlled_win_rate_longer": Known(
        title="Win rate against a longer answer, at equal length",
        caption="Against a longer direct answer, with the effect of the responses' lengths taken "
        "out.",
        axis="win rate",
        scale=PERCENT,
        even=0.5,
        folded=True,
    ),
    "second_judge": Known(
        title="Score by the second judge",
        caption="The same answers as in the test score, scored by a judge by which nothing is "
        "trained or chosen. Where the test score rises and this does not, the policy has learned "
        "what pleases its judge.",
        axis="score",
        scale=RAW,
    ),
    "gsm8k": Known(
        title="Capability canary: right final answers",
        caption="Share of questions with the right final answer. Training on chats alone may cost "
        "what the seed could do; a fall here is that cost.",
        axis="accuracy",
        scale=PERCENT,
    ),
    "gsm8k_answer_only": Known(
        title="Capability canary: the bare answer",
        caption="The same questions, but the response may hold the final answer alone; only a "
        "thought leaves room for steps.",
        axis="accuracy",
        scale=PERCENT,
    ),
    "alpaca_eval_length_controlled_win_rate": Known(
        title="AlpacaEval 2, length-controlled win rate",
        caption="Win rate against the benchmark's baseline with the length's effect taken out.",
        axis="win rate",
        scale=PUBLISHED,
    ),
    "alpaca_eval_win_rate": Known(
        title="AlpacaEval 2, win rate",
        caption="Mean preference over the benchmark's baseline, length not controlled.",
        axis="win rate",
        scale=PUBLISHED,
    ),
    "arena_hard": Known(
        title="Arena-Hard",
        caption="Weighted share of games won against the benchmark's baseline.",
        axis="score",
        scale=PUBLISHED,
    ),
}
"""In the order in which they are shown."""

SIDES = {
    "first": ("Thought arm", "thought", "solid", "circle"),
    "second": ("Direct arm, one answer", "direct", "solid", "square"),
    "best_of_n": ("Direct arm, best of several", "direct", "dash", "diamond"),
    "best_of_n_by_vote": ("Direct arm, a vote of several", "direct", "dash", "diamond"),
    "best_of_n_by_likelihood": ("Direct arm, likeliest of several", "direct", "dash", "diamond"),
    "longer": ("Direct arm, a longer answer", "direct", "dot", "triangle-up"),
}
"""Sides of the head to head: words, colour, dash, marker."""


def measure_charts(run: RunData) -> list[Chart]:
    """One chart for each figure over policies, and one by category where there are categories."""
    charts: list[Chart] = []
    for name in shown_names(run.measures):
        series = [
            line for arm in run.recipe.arms if (line := arm_series(run.measures, name, arm)).points
        ]
        charts.append(policy_chart(quantity_of(name), series))
    charts += _token_charts(run)
    for name in shown_names(run.measures):
        charts += _category_charts(run, name)
    return charts


def shown_names(measured: Sequence[Measured]) -> list[str]:
    """Names of figures that have a chart here: all but the probes', known ones first."""
    names = [name for name in names_of(measured) if not name.startswith("probe_")]
    return sorted(names, key=lambda name: [*KNOWN, name].index(name))


def quantity_of(name: str) -> Quantity:
    """How a figure is drawn; one that is not known keeps its name and its own scale."""
    plain = name.replace("_", " ")
    known = KNOWN.get(name) or Known(
        title=plain.capitalize(), caption="As the measure reports it.", axis=plain, scale=RAW
    )
    return Quantity(
        key=f"measure-{name}",
        title=known.title,
        caption=known.caption,
        axis=known.axis,
        scale=known.scale,
        even=known.even,
        counted="n",
        folded=known.folded,
    )


def arm_series(measured: Sequence[Measured], name: str, arm: Arm) -> Series:
    """One arm's line of a figure; without points where the arm was not measured."""
    return Series(
        name=ARM_NAMES[arm],
        cells=(ARM_NAMES[arm],),
        colour=arm,
        symbol=ARM_SYMBOLS[arm],
        points=figures_of(measured, name, arm),
    )


def _category_charts(run: RunData, name: str) -> list[Chart]:
    groups: list[Bars] = []
    policies: list[str] = []
    for arm in run.recipe.arms:
        last = last_by_category(run.measures, name, arm)
        if last is not None:
            groups.append(Bars(name=ARM_NAMES[arm], colour=arm, by_category=last[1]))
            policies.append(f"{ARM_NAMES[arm].lower()}: {policy_words(last[0], run.recipe)}")
    if not groups:
        return []
    quantity = quantity_of(name)
    chart = category_chart(
        f"{quantity.key}-categories",
        f"{quantity.title}, by category",
        f"The last policy measured ({'; '.join(policies)}), sorted; whiskers are 95 % intervals.",
        groups=groups,
        axis=f"{quantity.axis}{quantity.scale.suffix}",
        scale=quantity.scale,
        even=quantity.even,
    )
    return [chart]


def _token_charts(run: RunData) -> list[Chart]:
    """What each side of the head to head spent: thinking is to be paid for like anything else."""
    spent = [
        measure for measure in run.measures if measure.measure == "win_rate" and measure.tokens
    ]
    series = [
        Series(
            name=words,
            cells=(words,),
            colour=colour,
            dash=dash,
            symbol=symbol,
            points=tuple(
                (measure.policy, Mean(value=measure.tokens[side], interval=None, count=0))
                for measure in spent
                if side in measure.tokens
            ),
        )
        for side, (words, colour, dash, symbol) in SIDES.items()
    ]
    quantity = Quantity(
        key="measure-win_rate-tokens",
        title="Tokens spent head to head",
        caption="Mean new tokens per test prompt, thoughts and all drawn answers included: what "
        "each side of the win rates above had to spend.",
        axis="tokens per prompt",
        scale=TOKENS,
        from_zero=True,
        intervals=False,
    )
    return [policy_chart(quantity, [line for line in series if line.points])] if spent else []


def policy_words(policy: int, recipe: Recipe) -> str:
    """A policy in running text: `the seed` or `policy 2`."""
    return f"the {first_policy(recipe)}" if policy == 0 else f"policy {policy}"
