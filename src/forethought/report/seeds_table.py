"""What several seeds of one recipe came to, on the page of their runs."""

from __future__ import annotations

from forethought.report.charts.figures import Cell, Chart, Column, Scale, view
from forethought.runs.seeds import OverSeeds
from forethought.types import EvaluationResult


def over_seeds_table(found: OverSeeds, scale: Scale) -> Chart:
    """A row for each figure: its value by seed, the mean, and the interval over seeds."""
    rows: list[tuple[Cell, ...]] = []
    for arm, result in found.means.items():
        values = [scores.scores[arm] for scores in found.seeds]
        rows.append(_row(f"{arm} arm", values, result, scale))
    if found.difference is not None:
        differences = [scores.difference for scores in found.seeds]
        rows.append(_row("thought minus direct", differences, found.difference, scale))
    by_seed = (Column(name=f"seed {scores.seed}", digits=scale.digits) for scores in found.seeds)
    columns = (
        Column(name=f"score{scale.suffix}"),
        *by_seed,
        Column(name="mean", digits=scale.digits),
        Column(name="95 % low", digits=scale.digits),
        Column(name="95 % high", digits=scale.digits),
    )
    return Chart(
        key="over-seeds",
        title="Over seeds",
        caption="The last policy that all arms of a run have. The interval is Student's over the "
        f"{len(found.seeds)} seeds: what another seed would do. Intervals elsewhere on this page "
        "are over test prompts.",
        views=(view([], {}, columns, rows),),
        height=0,
        wide=True,
    )


def _row(
    name: str, values: list[float] | list[float | None], result: EvaluationResult, scale: Scale
) -> tuple[Cell, ...]:
    figures = [*values, result.value, *(result.interval or (None, None))]
    return (name, *(None if value is None else value * scale.factor for value in figures))
