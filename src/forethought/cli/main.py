"""The commands on runs and files; `evaluate` has a module of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from forethought.cli.errors import clear_errors
from forethought.cli.evaluate import evaluate
from forethought.config import JudgePart, Recipe, SamplePart
from forethought.progress import Reporter
from forethought.recipe import dump, load_part, load_recipe, load_run

app = typer.Typer(
    help="Train a chat model to think before it answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(evaluate, name="evaluate")
Words = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE... [KEY=VALUE...]",
        help="Recipe files, merged left to right, then overrides such as pairs.rho=0.2",
    ),
]
Parts = Annotated[
    list[str],
    typer.Argument(
        metavar="[RECIPE...] [KEY=VALUE...]",
        help="Recipe files and overrides; only the sections this command needs are read",
    ),
]
Source = Annotated[Path, typer.Argument(metavar="INPUT", help="A JSONL file")]
Target = Annotated[Path, typer.Argument(metavar="OUTPUT", help="The JSONL file to write")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory")]


@app.command()
def run(words: Words) -> None:
    """Start a run, or resume it: the same command again goes on where it stopped."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        recipe = load_recipe(words)
        _run(recipe, reporter)


@app.command()
def status(run: RunFolder) -> None:
    """Show every stage of a run: done, begun or owed."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        from forethought.status import status_table

        reporter.console.print(status_table(load_run(run)))


@app.command()
def plan(words: Words) -> None:
    """Show what a recipe will do: prompts, outputs, tokens, steps, disk."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        from forethought.plan import plan as make_plan
        from forethought.plan import plan_table

        reporter.console.print(plan_table(make_plan(load_recipe(words))))


@app.command()
def config(words: Words) -> None:
    """Print the resolved recipe, every default filled in, and stop."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        import yaml

        text = yaml.safe_dump(dump(load_recipe(words)), sort_keys=False, allow_unicode=True)
        typer.echo(text, nl=False)


@app.command()
def report(run: RunFolder) -> None:
    """Write RUN/report.html: one page that works offline."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        from forethought.report.page import write_report

        load_run(run)
        reporter.say(f"report: {write_report(run)}")


@app.command()
def sample(prompts: Source, output: Target, words: Parts) -> None:
    """Sample outputs for a file of prompts: JSONL in, JSONL out."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        from forethought.files import sample_file

        sample_file(load_part(SamplePart, words), prompts, output, reporter)


@app.command()
def judge(
    responses: Source,
    output: Target,
    words: Parts,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print what the judge keeps for a reader")
    ] = False,
) -> None:
    """Score a file of responses: JSONL in, JSONL out."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        from forethought.files import judge_file

        judge_file(load_part(JudgePart, words), responses, output, reporter, explain=explain)


def _run(recipe: Recipe, reporter: Reporter) -> None:
    from forethought.pipeline import run_recipe
    from forethought.report.page import write_report
    from forethought.store import read_json
    from forethought.summary import difference_line, summary_table

    run_recipe(recipe, reporter)
    summary = read_json(recipe.run / "summary.json")
    if recipe.prompts.test is not None:
        reporter.console.print(summary_table(summary))
        reporter.say(difference_line(summary))
    reporter.say(f"report: {write_report(recipe.run)}")


def main() -> None:
    """Entry point of the `forethought` command."""
    app()
