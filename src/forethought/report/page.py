"""`report.html`: everything about a run, or about several side by side, on one page.

The page needs no network: it carries its style, scripts, chart library and data. A content security
policy forbids it to load anything; text from models and prompts reaches the document as text alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from forethought.judging.describe import score_of
from forethought.report.charts.cost_charts import cost_charts
from forethought.report.charts.figures import Chart, arranged
from forethought.report.charts.margin_charts import kept_chart, kept_warning
from forethought.report.charts.measure_charts import measure_charts
from forethought.report.charts.pair_charts import pair_charts
from forethought.report.charts.probe_charts import probe_charts
from forethought.report.charts.score_charts import score_charts
from forethought.report.charts.training_charts import selection_chart, training_charts
from forethought.report.charts.warm_start_chart import warm_start_chart
from forethought.report.compare import RunComparison, compare, run_labels
from forethought.report.data.collect import RunData, collect
from forethought.report.data.samples import (
    BYTE_LIMIT,
    OUTPUT_LIMIT,
    Samples,
    collect_samples,
    samples_json_of_runs,
)
from forethought.report.embed import script_json
from forethought.report.headline import Headline, headline
from forethought.report.provenance import (
    duration,
    hashes_table,
    provenance_rows,
    recipe_text,
)
from forethought.runs.cautions import cautions
from forethought.storage.files import write_bytes
from forethought.types import LeftOut

LEFT_OUT_SHOWN = 20
"""Prompts that a stage goes without and that the page names; the stage's folder names all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading with its charts.

    Example: `Section(key="results", title="Results", charts=(Chart(…),), views=(), warning=None)`
    """

    key: str
    title: str
    charts: tuple[Chart, ...]
    views: tuple[str, ...]
    """Labels of the iteration selector; empty where charts have one view."""
    warning: str | None
    """Stands above the charts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutOf:
    """Prompts that a stage went on without.

    Example: `LeftOutOf(stage="prompts", count=2, first=(LeftOut(…), LeftOut(…)))`
    """

    stage: str
    count: int
    first: tuple[LeftOut, ...]
    """Not all of them, where they are many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """All of one run that stands on the page, its samples apart.

    Example: `RunPage(label="quickstart", prefix="", headline=Headline(…), facts=(…,), missing=(),
    left_out=(), cautions=(), sections=(Section(…),), hashes=None, provenance=(…,),
    recipe="run: …")`
    """

    label: str
    prefix: str
    """Before every element's id, so that several runs may stand on a page."""
    headline: Headline
    facts: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    left_out: tuple[LeftOutOf, ...]
    cautions: tuple[str, ...]
    """What weakens the figures, in whole sentences."""
    sections: tuple[Section, ...]
    hashes: Chart | None
    provenance: tuple[tuple[str, str], ...]
    recipe: str

    @property
    def charts(self) -> tuple[Chart, ...]:
        """Every chart of the run."""
        own = [chart for section in self.sections for chart in section.charts]
        return (*own, self.hashes) if self.hashes is not None else tuple(own)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSamples:
    """What the sample browser says of itself above the list.

    Example: `ShownSamples(cases=640, shown=5120, total=5120, limit="")`
    """

    cases: int
    shown: int
    total: int
    limit: str


def write_report(runs: Path | Sequence[Path], target: Path | None = None) -> Path:
    """Write the page of a run, or of several side by side; returns where it is.

    A single run's page is its `report.html` unless `target` says otherwise; several need a target.

    Raises: ValueError if one is not a run directory, or is named twice, or several have no target;
    StageError if a sealed stage is damaged.
    """
    folders = [runs] if isinstance(runs, Path) else list(runs)
    if not folders:
        raise ValueError("run: no run directory is given; for example: runs/quickstart")
    labels = run_labels(folders)
    if target is None:
        if len(folders) > 1:
            raise ValueError(
                f"output: {len(folders)} runs share a page that belongs to none of them; say where "
                "it goes, for example --output comparison.html"
            )
        target = folders[0] / "report.html"
    if target.is_dir():
        raise ValueError(f"output: {target} is a folder; name a file, such as {target}/report.html")
    page = render([collect(folder) for folder in folders], labels)
    write_bytes(target, page.encode("utf-8"))
    return target


def render(runs: Sequence[RunData], labels: Sequence[str]) -> str:
    """The page of one run, or of several side by side, as HTML; `labels` has a name for each.

    Raises: StageError if a sealed stage is damaged.
    """
    several = len(runs) > 1
    pages = [
        _run_page(run, label, f"run-{number}-" if several else "")
        for number, (run, label) in enumerate(zip(runs, labels, strict=True), start=1)
    ]
    comparison = compare(runs, labels) if several else None
    # The limits are a page's, so its runs share them.
    samples = {
        label: collect_samples(run.recipe, OUTPUT_LIMIT // len(runs), BYTE_LIMIT // len(runs))
        for run, label in zip(runs, labels, strict=True)
    }
    environment = Environment(
        loader=PackageLoader("forethought.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        name=", ".join(labels),
        runs=pages,
        comparison=comparison,
        samples=_shown(list(samples.values())),
        plotly=_script(get_plotlyjs()),
        chart_json=Markup(script_json(_charts(pages, comparison))),
        samples_json=Markup(samples_json_of_runs(samples if several else {"": samples[labels[0]]})),
    )


def _run_page(run: RunData, label: str, prefix: str) -> RunPage:
    scale = run.claim.scale
    results = {chart.key: chart for chart in score_charts(run, scale)}
    # Beside the same failures in training, not among the scores.
    late = [results.pop("first-failures")] if "first-failures" in results else []
    chosen = [
        chart for chart in (selection_chart(run, scale), kept_chart(run)) if chart is not None
    ]
    warmed = warm_start_chart(run)
    layout: list[tuple[str, str, list[Chart]]] = [
        ("results", "Results", list(results.values())),
        ("warm-start", "Warm start", [] if warmed is None else [warmed]),
        ("measures", "Measures", measure_charts(run)),
        ("probes", "Is the thought used?", probe_charts(run, scale)),
        ("pairs", "Samples and pairs", [*pair_charts(run, scale), *late]),
        ("training", "Training", [*training_charts(run), *chosen]),
        ("cost", "Cost", cost_charts(run)),
    ]
    return RunPage(
        label=label,
        prefix=prefix,
        headline=headline(run),
        facts=tuple(_facts(run)),
        missing=run.missing,
        left_out=tuple(
            LeftOutOf(stage=stage, count=len(gone), first=tuple(gone[:LEFT_OUT_SHOWN]))
            for stage, gone in run.left_out.items()
        ),
        cautions=tuple(cautions(run.recipe)),
        sections=tuple(
            Section(
                key=key,
                title=name,
                charts=arranged(charts),
                views=_view_labels(charts),
                warning=kept_warning(run) if key == "training" else None,
            )
            for key, name, charts in layout
            if charts
        ),
        hashes=hashes_table(run),
        provenance=tuple(provenance_rows(run)),
        recipe=recipe_text(run),
    )


def _charts(pages: Sequence[RunPage], comparison: RunComparison | None) -> dict[str, Any]:
    """Every chart of the page by its figure's key."""
    charts: dict[str, Any] = {}
    if comparison is not None:
        for chart in comparison.charts:
            charts[f"all-{chart.key}"] = _chart_json(chart, chart.key)
    for page in pages:
        for chart in page.charts:
            # A file of one of several runs should say whose it is.
            name = chart.key if comparison is None else f"{page.label} {chart.key}"
            charts[page.prefix + chart.key] = _chart_json(chart, name.replace("/", " "))
    return charts


def _view_labels(charts: Sequence[Chart]) -> tuple[str, ...]:
    labels = dict.fromkeys(view.label for chart in charts for view in chart.views if view.label)
    return tuple(labels) if len(labels) > 1 else ()


def _chart_json(chart: Chart, file: str) -> dict[str, Any]:
    return {
        "title": chart.title,
        "file": file,
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


def _shown(samples: Sequence[Samples]) -> ShownSamples:
    limit = next((sample.limit for sample in samples if sample.limit), "")
    return ShownSamples(
        cases=sum(len(sample.cases) for sample in samples),
        shown=sum(sample.shown for sample in samples),
        total=sum(sample.total for sample in samples),
        limit=f"{limit} of each run" if limit and len(samples) > 1 else limit,
    )


def _facts(run: RunData) -> list[tuple[str, str]]:
    recipe = run.recipe
    facts = [
        ("model", recipe.model.path),
        ("judge", recipe.judge.title),
        ("thought format", recipe.thought_format),
        ("iterations", str(recipe.iterations)),
    ]
    if recipe.iterations:
        facts += [
            ("prompts per iteration", f"{recipe.prompts_per_iteration:,}"),
            ("samples per prompt", str(recipe.sampling.samples)),
        ]
    if recipe.judge.is_relative:
        facts.append(("score", score_of(recipe)))
    if run.missing:
        # An attempt's time is known when it ends, a stage's when the stage does.
        spent = max(run.seconds or 0.0, sum(cost.seconds for cost in run.costs))
        facts += [("time so far", duration(spent))] if spent else []
    elif run.seconds is not None:
        facts.append(("run time", duration(run.seconds)))
    if run.costs:
        facts.append(("device time", duration(sum(cost.device_seconds for cost in run.costs))))
    unjudged, unread = (
        sum(cost.unjudged for cost in run.costs),
        sum(cost.unread for cost in run.costs),
    )
    if unjudged:
        facts.append(("prompts the judge could not score", f"{unjudged:,}"))
    if unread:
        facts.append(("verdicts that could not be read", f"{unread:,}"))
    return facts


def _script(source: str) -> Markup:
    """A script's text; the chart library holds no end tag, and must not come to."""
    assert "</script" not in source.lower()
    return Markup(source)
