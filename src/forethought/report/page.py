"""`report.html`: everything about a run on one page that needs no network.

The page carries its style, script, chart library and data. A content security policy forbids it
to load anything; text from models and prompts reaches the document as text alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from forethought.judging.describe import is_relative, score_of, title
from forethought.report.charts import result_charts, scale_of
from forethought.report.collect import Run, collect
from forethought.report.embed import script_json
from forethought.report.figures import ARM_NAMES, Chart
from forethought.report.headline import headline
from forethought.report.progress_charts import cost_charts, selection_chart, training_charts
from forethought.report.samples import collect_samples, samples_json
from forethought.store import read_json, write_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading with its charts.

    Example: `Section(key="results", title="Results", charts=(Chart(…),), views=())`
    """

    key: str
    title: str
    charts: tuple[Chart, ...]
    views: tuple[str, ...]
    """Labels of the iteration selector; empty where charts have one view."""


def write_report(run: Path, target: Path | None = None) -> Path:
    """Write the page of a run, finished or not; returns where it is.

    Raises: ValueError if `run` is not a run directory, StageError if a sealed stage is damaged.
    """
    data = collect(run)
    page = render(data)
    path = target if target is not None else run / "report.html"
    write_bytes(path, page.encode("utf-8"))
    return path


def render(run: Run) -> str:
    """The page as HTML."""
    scale = scale_of(run)
    sections = _sections(run)
    samples = collect_samples(run.folder, run.recipe)
    charts = {chart.key: _chart_json(chart) for one in sections for chart in one.charts}
    environment = Environment(
        loader=PackageLoader("forethought.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        name=run.folder.resolve().name,
        headline=headline(run, scale),
        facts=_facts(run),
        missing=run.missing,
        sections=sections,
        samples=samples,
        arms=[(arm.arm, ARM_NAMES[arm.arm]) for arm in run.arms],
        recipe=_recipe_text(run),
        provenance=_provenance(run),
        plotly=_script(get_plotlyjs()),
        chart_json=Markup(script_json(charts)),
        samples_json=Markup(samples_json(samples)),
    )


def _sections(run: Run) -> list[Section]:
    scale = scale_of(run)
    results = {chart.key: chart for chart in result_charts(run, scale)}
    selection = selection_chart(run, scale)
    training = [*training_charts(run), *([selection] if selection is not None else [])]
    layout = [
        ("results", "Results", ["score", "thought-length", "response-length", "categories"]),
        ("pairs", "Samples and pairs", ["failures", "pair-lengths", "outcomes"]),
    ]
    found = [
        (key, title, [results[name] for name in names if name in results])
        for key, title, names in layout
    ]
    found += [("training", "Training", training), ("cost", "Time and tokens", cost_charts(run))]
    return [
        Section(key=key, title=title, charts=tuple(charts), views=_view_labels(charts))
        for key, title, charts in found
        if charts
    ]


def _view_labels(charts: list[Chart]) -> tuple[str, ...]:
    labels = dict.fromkeys(view.label for chart in charts for view in chart.views if view.label)
    return tuple(labels) if len(labels) > 1 else ()


def _chart_json(chart: Chart) -> dict[str, Any]:
    return {
        "title": chart.title,
        "views": [
            {
                "label": view.label,
                "data": view.traces,
                "layout": view.layout,
                "columns": [asdict(column) for column in view.table.columns],
                "rows": view.table.rows,
            }
            for view in chart.views
        ],
    }


def _facts(run: Run) -> list[tuple[str, str]]:
    recipe = run.recipe
    facts = [
        ("model", recipe.model.path),
        ("judge", title(recipe.judge)),
        ("thought format", recipe.thought_format),
        ("iterations", str(recipe.iterations)),
        ("prompts per iteration", f"{recipe.prompts_per_iteration:,}"),
        ("samples per prompt", str(recipe.sampling.samples)),
    ]
    if is_relative(recipe.judge):
        facts.append(("score", score_of(recipe)))
    if run.seconds is not None:
        label = "time so far" if run.missing else "run time"
        facts.append((label, _duration(run.seconds)))
    return facts


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def _recipe_text(run: Run) -> str:
    fields = read_json(run.folder / "config.json")
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=96)


def _provenance(run: Run) -> list[tuple[str, str]]:
    """Of the latest attempt; how many there were stands below it."""
    attempts = run.provenance.get("attempts", [])
    if not attempts:
        return []
    rows = _flat({key: item for key, item in attempts[-1].items() if key != "seconds"})
    together = sum(one["seconds"] for one in attempts)
    return [*rows, ("attempts", f"{len(attempts)}, together {_duration(together)}")]


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            rows += _flat(item, f"{name}.")
        else:
            rows.append((name, "unknown" if item is None else str(item)))
    return rows


def _script(source: str) -> Markup:
    """A script's text; the chart library holds no end tag, and must not come to."""
    assert "</script" not in source.lower()
    return Markup(source)
