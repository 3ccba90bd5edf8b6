"""How far a run is: every stage with its state, time and what it reports."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from rich.table import Table

from forethought.config import Recipe
from forethought.planning.bounds import SEPARATE
from forethought.runs.layout import StageRef
from forethought.runs.schedule import stage_refs
from forethought.storage.sealed_stage import Count, read_manifest

SHOWN = (
    "train",
    "parse_failures",
    "mean_score",
    "examples",
    "pairs",
    "steps",
    "chosen_epoch",
)
"""Counts worth a reader's glance, where a stage has them."""
PAID = ("judge_calls", "sampling_calls")
"""The same, of calls that cost something."""


def status_table(recipe: Recipe) -> Table:
    """One row per stage, in order; in long runs the done ones of a kind, but the last, share one.

    Raises: StageError if a sealed stage's manifest is damaged.
    """
    table = Table(title=str(recipe.run), title_justify="left")
    table.add_column("stage", no_wrap=True)
    table.add_column("state")
    table.add_column("seconds", justify="right")
    table.add_column("says")
    rows = [(ref, *_state(ref)) for ref in stage_refs(recipe)]
    long_ago = {
        (ref.stage, ref.arm): _done(rows, ref)
        for ref, *_ in rows
        if recipe.iterations > SEPARATE and ref.stage != "prompts" and ref.index >= 0
    }
    for ref, state, seconds, says in rows:
        done = long_ago.get((ref.stage, ref.arm), []) if ref.index >= 0 else []
        if ref.index not in done[:-1]:
            table.add_row(ref.label, state, seconds, says)
        elif ref.index == done[0]:
            numbers = f"{done[0]} to {done[-2]}" if len(done) > 2 else str(done[0])
            spent = sum(float(row[2]) for row in rows if row[0].label in _labels(ref, done[:-1]))
            table.add_row(ref.label_of(numbers), state, f"{spent:.1f}", "")
    return table


def _done(rows: Sequence[tuple[StageRef, str, str, str]], like: StageRef) -> list[int]:
    """The indices of a kind of stage that are sealed, up to the first that is not."""
    alike = [
        row
        for row in rows
        if (row[0].stage, row[0].arm) == (like.stage, like.arm) and row[0].index >= 0
    ]
    # Only a sealed stage has seconds.
    return [row[0].index for row in takewhile(lambda row: row[2], alike)]


def _labels(ref: StageRef, indices: Sequence[int]) -> set[str]:
    return {ref.label_of(str(index)) for index in indices}


def _state(ref: StageRef) -> tuple[str, str, str]:
    if ref.sealed:
        manifest = read_manifest(ref.folder)
        counts = manifest.counts
        says = [f"{key} {_short(counts[key])}" for key in SHOWN if counts.get(key) is not None]
        says += [_paid(key, counts[key]) for key in PAID if counts.get(key) is not None]
        if counts.get("test_score") is not None:
            says.append(_figure({"name": "test_score", "value": counts["test_score"]} | counts))
        says += [_figure(result) for result in _main_results(counts)]
        gone: Any = manifest.counts.get("left_out")
        if gone and gone["count"]:
            says.append(f"[yellow]{gone['count']} prompts left out[/yellow]")
        missing = manifest.counts.get("missing")
        if missing:
            assert isinstance(missing, list)
            says.append(f"[yellow]{len(missing)} groups without a score[/yellow]")
        return "[green]done[/green]", f"{manifest.seconds:.1f}", ", ".join(says)
    if ref.begun:
        parts = len(list(ref.folder.glob("*.parquet")))
        return "[yellow]begun[/yellow]", "", f"{parts} parts" if parts else ""
    return "[dim]owed[/dim]", "", ""


def _main_results(counts: dict[str, Any]) -> list[dict[str, Any]]:
    """The first figures of a measure; the others stand in the report."""
    whole = [result for result in counts.get("results", []) if result["category"] is None]
    drops = [result for result in whole if result["name"].startswith("probe_drop")]
    return (drops or whole)[:2]


def _figure(result: dict[str, Any]) -> str:
    shown = f"{result['name']} {_short(result['value'])}"
    if result["interval"] is None:
        return f"{shown} (n = {result['count']})"
    low, high = result["interval"]
    return f"{shown} ({_short(low)} to {_short(high)}, n = {result['count']})"


def _paid(what: str, counts: Count) -> str:
    """Calls of a model at a server or behind a judge, and what they cost if it has a price."""
    assert isinstance(counts, dict)
    cost = f", cost {counts['cost']:,.2f}" if counts["cost"] else ""
    return f"{what} {counts['calls']:,} ({counts['hits']:,} found in the cache{cost})"


def _short(value: Count) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
