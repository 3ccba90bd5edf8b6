"""`forethought check`: whether all that a run has sealed is as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from forethought.cli.errors import clear_errors
from forethought.config.recipe_files import load_run
from forethought.progress.reporter import Reporter

SHOWN = 5
"""Damaged files of a stage that are named."""


def check(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory")],
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Move what is damaged aside, so that it is made again"),
    ] = False,
) -> None:
    """Compare every sealed file of a run with its seal; exit status 1 if one is damaged."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        from forethought.runs.seeds import runs_below

        whole = [_check(each, repair, reporter) for each in runs_below(run)]
        if not all(whole):
            raise ValueError(
                f"{run} is damaged; `forethought check {run} --repair` moves what is named above "
                "aside, and the run's own command makes it again"
            )


def _check(run: Path, repair: bool, reporter: Reporter) -> bool:
    """Say what is damaged; whether the run is whole, or what is not was moved aside."""
    from forethought.runs.check import check_run, move_damages_aside

    recipe = load_run(run)
    found = check_run(recipe)
    if not found.damages:
        reporter.say(f"{run}: {found.files} files of {found.stages} stages are as sealed")
        return True
    for damage in found.damages:
        names = ", ".join(damage.files[:SHOWN])
        more = f" and {len(damage.files) - SHOWN} more" if len(damage.files) > SHOWN else ""
        took = "" if damage.seconds is None else f" (took {damage.seconds:.1f} s)"
        reporter.say(f"damaged: {damage.path}{took}: {names}{more}")
    if repair:
        for path in move_damages_aside(recipe, found.damages):
            reporter.say(f"moved aside: {path}")
        reporter.say("the run's own command makes them again, and nothing else")
    return repair
