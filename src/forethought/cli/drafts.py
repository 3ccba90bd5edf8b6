"""The commands that need no recipe: they make one of a model, a file of prompts and a judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from forethought.cli.errors import clear_errors
from forethought.cli.evaluate import results_table
from forethought.cli.running import run_and_show
from forethought.progress.reporter import Reporter

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model folder or hub name, or microworld")
]
Prompts = Annotated[
    str, typer.Argument(metavar="PROMPTS", help="A .jsonl, .csv or Parquet file of prompts")
]
JudgeWord = Annotated[
    str | None,
    typer.Option(
        "--judge",
        help="A verifier (gsm8k, package.module:function), armorm, a reward model, or a server's "
        "http://…/v1; gsm8k by default where every prompt has a number as reference",
    ),
]


def init(
    model: Model,
    prompts: Prompts,
    target: Annotated[Path, typer.Argument(metavar="[RECIPE]", help="The file to write")] = Path(
        "recipe.yaml"
    ),
    judge: JudgeWord = None,
) -> None:
    """Write a recipe for a model and a file of prompts, each choice explained in a comment."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        from forethought.drafting.first_recipe import write_first_recipe

        judged = write_first_recipe(model, prompts, judge, target)
        reporter.say(f"recipe: {target}")
        if judged:
            reporter.say(f"next: forethought plan {target}, then forethought run {target}")
        else:
            reporter.say("next: fill in its judge; the file has examples, --judge names one")


def compare(
    model: Model,
    prompts: Prompts,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE...] [KEY=VALUE...]",
            help="Recipe files and overrides, such as prompts.test.count=100 or run=runs/mine",
        ),
    ] = None,
    judge: JudgeWord = None,
) -> None:
    """Does thinking help this model now? Nothing is trained; the same command resumes."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        from forethought.drafting.comparison import draft_comparison
        from forethought.drafting.warm_start import warm_start_advice
        from forethought.runs.schedule import measure_refs
        from forethought.storage.sealed_stage import read_manifest

        drafted = draft_comparison(model, prompts, judge, words or [])
        for reason in drafted.reasons:
            reporter.say(reason)
        run_and_show(drafted.recipe, reporter)
        for ref in measure_refs(drafted.recipe):
            reporter.say(f"{ref.stage}, the {ref.arm} arm's policy {ref.index}:")
            counts: Any = read_manifest(ref.folder).counts
            reporter.console.print(results_table(counts["results"]))
        reporter.say("The page has every prompt with both answers and their scores.")
        if (advice := warm_start_advice(drafted.recipe, model, prompts)) is not None:
            reporter.say(advice)
