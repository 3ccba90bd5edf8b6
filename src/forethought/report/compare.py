"""Several runs side by side: what they share, what differs, their scores, measures and cost.

Scores are compared only where they mean the same: one judge, and, for a judge that only compares,
one baseline. Where that is not so the page says it and leaves the comparison out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forethought.evaluation.scale import PERCENT, RAW, Scale
from forethought.report.charts.figures import Chart, arranged
from forethought.report.charts.measure_charts import arm_series, quantity_of, shown_names
from forethought.report.charts.policy_lines import Quantity, Series, policy_chart
from forethought.report.charts.probe_charts import VARIANTS
from forethought.report.charts.score_charts import (
    TEST_QUANTITIES,
    score_quantity,
    score_series,
    test_series,
)
from forethought.report.compare_tables import differences_table, runs_table
from forethought.report.data.collect import RunData
from forethought.report.data.measure_figures import Measured, names_of
from forethought.report.seeds_table import over_seeds_table
from forethought.runs.layout import StageRef
from forethought.runs.schedule import evaluation_refs
from forethought.runs.seeds import differ_by_seed, over_seeds
from forethought.storage.sealed_stage import read_manifest, read_object

DASHES = ("solid", "dot", "dash", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
BY_JUDGE = frozenset({"win_rate", "probe"})
"""Measures whose figures are the run's own judge's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """What stands above the runs' own sections.

    Example: `RunComparison(notices=("These runs have different judges …",), charts=(Chart(…),))`
    """

    notices: tuple[str, ...]
    charts: tuple[Chart, ...]


def run_labels(folders: Sequence[Path]) -> list[str]:
    """Folder names, with as many of the folders above as it takes to tell them apart.

    Raises: ValueError if a run is named twice.
    """
    whole = [folder.resolve() for folder in folders]
    for index, folder in enumerate(whole):
        if folder in whole[:index]:
            raise ValueError(
                f"run: {folders[index]} is named twice; a run is compared with other runs"
            )
    depth = 1
    while len({path.parts[-depth:] for path in whole}) < len(whole):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in whole]


def compare(runs: Sequence[RunData], labels: Sequence[str]) -> RunComparison:
    """Tables and charts of all runs, and what a reader must know before comparing.

    `labels` has a name for each of the runs.

    Raises: StageError if a sealed stage is damaged.
    """
    obstacle = _obstacle(runs, labels)
    comparable = obstacle is None
    notices = [obstacle] if obstacle is not None else []
    notices += _warnings(runs, labels)
    scale = _common_scale(runs)
    charts = [
        *_over_seeds(runs, scale),
        runs_table(runs, labels, scale if comparable else None),
        differences_table(runs, labels),
    ]
    if comparable:
        charts += _chart(
            score_quantity(runs[0], scale), [score_series(run) for run in runs], labels
        )
    for quantity in TEST_QUANTITIES:
        charts += _chart(quantity, [test_series(run, quantity.key) for run in runs], labels)
    measured, excluded = _measure_charts(runs, labels, comparable, scale)
    charts += measured
    return RunComparison(notices=(*notices, *excluded), charts=arranged(charts))


def _over_seeds(runs: Sequence[RunData], scale: Scale) -> list[Chart]:
    """What the seeds came to, where the runs are one recipe's with several."""
    recipes = [run.recipe for run in runs]
    found = over_seeds(recipes) if differ_by_seed(recipes) else None
    return [] if found is None else [over_seeds_table(found, scale)]


def run_style(index: int) -> tuple[str, str]:
    """Dash and marker of a run, by its place; no two of 36 runs have both in common."""
    turn, style = divmod(index, len(DASHES))
    return DASHES[style], SYMBOLS[(style + turn) % len(SYMBOLS)]


def _obstacle(runs: Sequence[RunData], labels: Sequence[str]) -> str | None:
    """Why scores must not be compared; `None` where they may."""
    judges = [_judge(run) for run in runs]
    if any(judge != judges[0] for judge in judges):
        named = "; ".join(
            f"{label}: {run.recipe.judge.title}" for run, label in zip(runs, labels, strict=True)
        )
        return (
            "These runs have different judges, so their scores, win rates and probes do not mean "
            f"the same and are not compared here ({named}). Each run's own are in its own section."
        )
    if runs[0].recipe.judge.is_relative:
        baselines = {_baseline(run) for run in runs}
        if len(baselines) > 1 or baselines == {None}:
            return (
                "The judge only compares, and each run's scores are shares of wins against a "
                "baseline of its own, so they are not compared here. Each run's own are in its "
                "own section."
            )
    return None


def _warnings(runs: Sequence[RunData], labels: Sequence[str]) -> list[str]:
    notices: list[str] = []
    scored = [prompts for run in runs if (prompts := _test_prompts(run))]
    if any(each != scored[0] for each in scored):
        notices.append(
            "These runs have different test prompts, so a difference between runs may come from "
            "the prompts."
        )
    open_ones = [label for run, label in zip(runs, labels, strict=True) if run.missing]
    if open_ones:
        verb = "is" if len(open_ones) == 1 else "are"
        notices.append(f"Not finished {verb}: {', '.join(open_ones)}.")
    return notices


def _test_prompts(run: RunData) -> set[str]:
    return {score for arm in run.arms for policy in arm.policies for score in policy.prompt_scores}


def _judge(run: RunData) -> Any:
    """As the evaluation sealed it, with the words of its prompt file; else as the recipe has it."""
    for arm in run.recipe.arms:
        for ref in evaluation_refs(run.recipe, arm):
            if ref.begun:
                judge = read_object(ref.folder / "intent.json")["config"].get("judge")
                if judge is not None:
                    return judge
    return run.recipe.judge.identity()


def _baseline(run: RunData) -> str | None:
    ref = StageRef(recipe=run.recipe, stage="evaluation", arm=run.recipe.baseline_arm, index=0)
    return read_manifest(ref.folder).digest if ref.sealed else None


def _common_scale(runs: Sequence[RunData]) -> Scale:
    return PERCENT if all(run.claim.scale == PERCENT for run in runs) else RAW


def _chart(
    quantity: Quantity, lines: Sequence[Sequence[Series]], labels: Sequence[str]
) -> list[Chart]:
    """A chart of all runs' lines: colour for the arm, dash and marker for the run."""
    series = [
        replace(
            line,
            name=f"{labels[index]}, {line.name.lower()}",
            cells=(labels[index], *line.cells),
            dash=run_style(index)[0],
            # Filled or open tells the arms apart where colour does not.
            symbol=run_style(index)[1] + ("-open" if line.colour == "direct" else ""),
        )
        for index, own in enumerate(lines)
        for line in own
        if line.points
    ]
    if not series:
        return []
    return [policy_chart(quantity, series, lead=("run", "arm"), wide=quantity.key == "score")]


def _measure_charts(
    runs: Sequence[RunData], labels: Sequence[str], comparable: bool, scale: Scale
) -> tuple[list[Chart], list[str]]:
    """Charts of measures that two runs or more have, and why others are left out."""
    charts: list[Chart] = []
    excluded: list[str] = []
    every = [measure for run in runs for measure in run.measures]
    for name in dict.fromkeys(measure.measure for measure in every):
        own = [[measure for measure in run.measures if measure.measure == name] for run in runs]
        if sum(bool(measures) for measures in own) < 2 or (name in BY_JUDGE and not comparable):
            continue
        setups = [_setup(measures[0]) for measures in own if measures]
        if any(setup != setups[0] for setup in setups):
            excluded.append(
                f"{name} was measured in different ways (settings, judge or files differ), so it "
                "is not drawn side by side."
            )
            continue
        for quantity in _quantities(
            [measure for measures in own for measure in measures], name, scale
        ):
            figure = quantity.key.removeprefix("measure-")
            lines = [
                [arm_series(measures, figure, arm) for arm in run.recipe.arms]
                for run, measures in zip(runs, own, strict=True)
            ]
            charts += _chart(quantity, lines, labels)
    return charts, excluded


def _quantities(measured: Sequence[Measured], measure: str, scale: Scale) -> list[Quantity]:
    if measure == "probe":
        there = names_of(measured)
        return [
            Quantity(
                key=f"measure-probe_drop_{suffix}",
                title=f"What the response loses with {words}",
                caption="Score after its own thought minus score after the variant.",
                axis=f"loss, {scale.points}",
                scale=replace(scale, unit=""),
                even=0.0,
            )
            for suffix, words, *_ in VARIANTS[1:]
            if f"probe_drop_{suffix}" in there
        ]
    quantities = [quantity_of(name) for name in shown_names(measured)]
    if measure == "win_rate":
        own = " Each run's thought arm meets its own direct arm."
        return [replace(quantity, caption=quantity.caption + own) for quantity in quantities]
    return quantities


def _setup(measured: Measured) -> dict[str, Any]:
    """What a measure was asked to do and who judged, the policy apart."""
    config = read_object(measured.folder / "intent.json")["config"]
    return {key: config.get(key) for key in ("measure", "judge")}
