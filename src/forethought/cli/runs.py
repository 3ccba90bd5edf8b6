"""The runs below a folder: how far each is, and what its last policies score."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from forethought.config.base import ARMS
from forethought.config.recipe_files import load_run
from forethought.runs.lock import holder
from forethought.runs.policies import is_run
from forethought.runs.schedule import stage_refs
from forethought.runs.summary import last_in_all_arms
from forethought.storage.sealed_stage import read_object

DEPTH = 3
"""Folders below the one that is named in which runs are looked for."""


def find_runs(folder: Path) -> list[Path]:
    """Run directories in a folder and below it, the one that was worked on last coming first.

    Raises: ValueError if the folder is not there.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; name the one that holds your runs")
    found: list[Path] = []
    for path, folders, _ in os.walk(folder):
        inside = Path(path)
        depth = len(inside.relative_to(folder).parts)
        if is_run(inside):
            found.append(inside)
            folders.clear()
        elif depth == DEPTH:
            folders.clear()
    return sorted(found, key=_touched, reverse=True)


def runs_table(folder: Path, runs: Sequence[Path]) -> Table:
    """A row for each run; `forethought check` says what is wrong with one that is damaged."""
    table = Table(title=f"Runs in {folder}", title_justify="left")
    table.add_column("run", overflow="fold")
    table.add_column("state", no_wrap=True)
    for column in ("policy", *ARMS, "last work"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        when = time.strftime("%m-%d %H:%M", time.localtime(_touched(run)))
        name = str(run.relative_to(folder)) if run != folder else run.name
        table.add_row(escape(name), *_cells(run), when)
    table.caption = "state: stages that are done; scores: of the last policy that all arms have"
    table.caption_justify = "left"
    return table


def _cells(run: Path) -> list[str]:
    try:
        recipe = load_run(run)
        refs = list(stage_refs(recipe))
        done = sum(ref.sealed for ref in refs)
        written = run / "summary.json"
        last = last_in_all_arms(read_object(written)) if written.is_file() else None
    except ValueError:
        return ["[red]damaged[/red]", "", "", ""]
    state = f"{done}/{len(refs)}"
    if holder(run) is not None:
        state = f"[yellow]at work {state}[/yellow]"
    elif done == len(refs):
        state = "[green]done[/green]"
    if last is None:
        return [state, "", "", ""]
    scores = (last[1].get(arm) for arm in ARMS)
    return [state, str(last[0]), *("" if score is None else f"{score:.3f}" for score in scores)]


def _touched(run: Path) -> float:
    """When a process last wrote to the run: its record changes at each attempt's ends."""
    record = run / "run.json"
    return (record if record.is_file() else run).stat().st_mtime
