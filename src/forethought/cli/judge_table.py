"""The table of `forethought evaluate judge`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.markup import escape
from rich.table import Table

from forethought.progress.harmless import harmless
from forethought.progress.reporter import Reporter


def show_judge(counts: dict[str, Any], reporter: Reporter) -> None:
    """Every figure with its interval, its prompts, and what the judge refused."""
    table = Table(title=escape(harmless(counts["judge"])), title_justify="left")
    table.add_column("figure", overflow="fold")
    for column in ("value", "95 % interval", "n", "refused"):
        table.add_column(column, justify="right", no_wrap=True)
    notes: list[str] = []
    for row in counts["results"]:
        name = row["name"] if row["category"] is None else f"  {row['category']}"
        if row["value"] is None:
            notes.append(
                f"{row['name'] if row['category'] is None else row['category']}: {row['note']}"
            )
        table.add_row(
            name,
            "none" if row["value"] is None else f"{row['value']:.3f}",
            _interval(row),
            str(row["count"]),
            str(row["refused"]),
        )
    reporter.console.print(table)
    for note in dict.fromkeys(notes):
        reporter.say(note)
    refused = counts["refused"]
    if refused:
        by_set = Counter(one["set"] for one in refused)
        where = ", ".join(f"{number} of {name}" for name, number in by_set.items())
        reporter.say(f"refused: {where}; the first: {refused[0]['reason']}")
    if counts["without_response"]:
        reporter.say(f"without a response: {counts['without_response']} lines")
    if counts["judge_calls"]:
        spent = counts["judge_calls"]
        cost = f", cost {spent['cost']:.4f}" if spent["cost"] else ""
        reporter.say(f"judge: {spent['calls']} calls, {spent['hits']} found in the cache{cost}")


def _interval(row: dict[str, Any]) -> str:
    if row["interval"] is not None:
        low, high = row["interval"]
        return f"[{low:.3f}, {high:.3f}]"
    return "unknown" if row["value"] is not None else "not measured"
