"""`forethought doctor`: a recipe's first minutes, and what would go wrong in its hours."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from forethought.cli.errors import clear_errors
from forethought.config.recipe_files import load_recipe
from forethought.progress.reporter import Reporter

if TYPE_CHECKING:
    from forethought.doctor.check import Check, Verdict
    from forethought.doctor.examination import Examination

CHANGE = 25
"""Columns for the change: the longest field alone."""
COLOURS = {"unknown": "dim", "ok": "green", "look": "yellow", "stop": "bold red"}


def doctor(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE... [KEY=VALUE...]",
            help="Recipe files, merged left to right, then overrides such as pairs.rho=0.2",
        ),
    ],
    prompts: Annotated[
        int,
        typer.Option("--prompts", min=2, max=512, help="How many are asked, in each arm"),
    ] = 16,
    as_json: Annotated[
        bool, typer.Option("--json", help="Every figure, for machines; progress to stderr")
    ] = False,
) -> None:
    """Try a recipe on a few prompts: what would go wrong, and the field to change. Trains nothing.

    Exit status 1 if a check says stop.
    """
    reporter = Reporter(Console(stderr=as_json))
    with clear_errors(reporter):
        recipe = load_recipe(words)
        from forethought.doctor.examination import examine
        from forethought.runs.policies import at_run_policy

        recipe = recipe.model_copy(update={"model": at_run_policy(recipe.model)})
        found = examine(recipe, prompts, reporter)
        if as_json:
            typer.echo(json.dumps(found.as_json(), indent=2, ensure_ascii=False))
        else:
            _show(found, reporter)
    if found.verdict == "stop":
        sys.exit(1)


def _show(found: Examination, reporter: Reporter) -> None:
    """The table, then a sentence for each check that wants one."""
    reporter.console.print(doctor_table(found))
    for check in found.checks:
        if check.verdict in ("look", "stop"):
            reporter.say(f"{check.verdict}: {check.name}: {check.words}")
    for reason in found.stopped:
        reporter.say(f"the run would end here: {reason}")
    stops, looks = found.named("stop"), found.named("look")
    if stops:
        reporter.say(f"Change this before a run: {', '.join(stops)}.")
    elif looks:
        reporter.say(f"Nothing stops a run; worth a look: {', '.join(looks)}.")
    else:
        reporter.say("Nothing was found that would go wrong.")
    reporter.say(f"the outputs: forethought report {found.folder}")


def doctor_table(found: Examination) -> Table:
    """One row per check, both arms in it; it fits 80 columns."""
    shown = ", shown demonstrations" if found.warm else ""
    table = Table(
        title=f"{found.prompts} prompts x {found.samples} outputs in each arm{shown}",
        title_justify="left",
    )
    table.add_column("check", no_wrap=True)
    table.add_column("figure")
    table.add_column("says", no_wrap=True)
    table.add_column("to change", no_wrap=True)
    for name in dict.fromkeys(check.name for check in found.checks):
        rows = [check for check in found.checks if check.name == name]
        gravest = _gravest(rows)
        says: Verdict = gravest.verdict
        table.add_row(
            name,
            escape(", ".join(_figure(check) for check in rows)),
            f"[{COLOURS[says]}]{'-' if says == 'unknown' else says}[/]",
            escape(_change(gravest)),
        )
    return table


def _gravest(rows: list[Check]) -> Check:
    from forethought.doctor.check import GRAVITY

    return max(rows, key=lambda check: GRAVITY.index(check.verdict))


def _change(check: Check) -> str:
    """The field with its value, which stands in a line of its own where both are too long."""
    remedy = check.remedy
    if remedy is None or remedy.value is None or len(str(remedy)) <= CHANGE:
        return str(remedy or "")
    return f"{remedy.field}\n={remedy.value}"


def _figure(check: Check) -> str:
    return check.shown if check.arm is None else f"{check.arm} {check.shown}"
