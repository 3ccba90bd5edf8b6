"""A run on the terminal: from its recipe to the table at the end."""

from __future__ import annotations

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
    from forethought.storage.sealed_stage import ArmStoppedError, read_json

    def show() -> None:
        summary = read_json(recipe.run / "summary.json")
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
