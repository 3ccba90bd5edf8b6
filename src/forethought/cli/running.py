"""A run on the terminal: from its recipe to the table at the end; several, seed by seed."""

from __future__ import annotations

from collections.abc import Sequence

from forethought.config import Recipe
from forethought.progress.reporter import Reporter


def run_and_show(recipe: Recipe, reporter: Reporter) -> None:
    """Bring a run to its end, then print what it shows and write its page.

    Raises: ArmStoppedError as `run_recipe` does, after all that is there was shown; ValueError for
    whatever is wrong with prompts, model or judge.
    """
    from forethought.pipeline.loop import run_recipe
    from forethought.report.page import write_report
    from forethought.runs.cautions import cautions
    from forethought.runs.comparison import claim_of
    from forethought.runs.findings import findings
    from forethought.runs.summary import (
        left_out_lines,
        summary_table,
        write_summary,
    )
    from forethought.storage.sealed_stage import ArmStoppedError, read_object

    def show() -> None:
        summary = read_object(recipe.run / "summary.json")
        if any(summary["arms"].values()):
            reporter.console.print(summary_table(summary))
            claim = claim_of(recipe)
            reporter.say(claim.line())
            for finding in findings(recipe, claim):
                reporter.say(finding)
        for line in left_out_lines(summary):
            reporter.say(line)
        for caution in cautions(recipe):
            reporter.say(f"note: {caution}")
        reporter.say(f"report: {write_report(recipe.run)}")

    try:
        run_recipe(recipe, reporter)
    except ArmStoppedError:
        write_summary(recipe)
        show()
        raise
    show()


def run_seeds(recipe: Recipe, recipes: Sequence[Recipe], reporter: Reporter) -> None:
    """Run a recipe's seeds one after the other, then print and write what they came to.

    Raises: ArmStoppedError after all seeds, if an arm of one had nothing more to learn from;
    ValueError as `run_and_show` does.
    """
    from forethought.report.page import write_report
    from forethought.runs.seeds import over_seeds, seeds_table
    from forethought.storage.sealed_stage import ArmStoppedError

    stopped: list[ArmStoppedError] = []
    for each in recipes:
        reporter.say(f"seed {each.seed}: {each.run}")
        try:
            run_and_show(each, reporter)
        except ArmStoppedError as error:
            reporter.say(f"error: {error}")
            stopped.append(error)
    if (found := over_seeds(recipes)) is not None:
        reporter.console.print(seeds_table(found))
    if len(recipes) > 1:
        page = write_report([each.run for each in recipes], recipe.run / "report.html")
        reporter.say(f"report of all seeds: {page}")
    if stopped:
        raise stopped[0]


def move_all_aside(recipes: Sequence[Recipe], reporter: Reporter) -> None:
    """Rename the runs of these recipes where there are some, and say so.

    Raises: StageError if a process works on one; ValueError if a folder is no run.
    """
    from forethought.runs.aside import move_aside

    for recipe in recipes:
        if (moved := move_aside(recipe.run)) is not None:
            reporter.say(f"moved {recipe.run} aside, to {moved}")
