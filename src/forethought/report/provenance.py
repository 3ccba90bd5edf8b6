"""What made a run: versions, commit, recipe, and hashes that name its content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from forethought.report.charts.figures import Cell, Chart, Column, view
from forethought.report.data.collect import RunData
from forethought.runs.layout import StageRef
from forethought.runs.schedule import prompts_ref
from forethought.storage.sealed_stage import read_manifest, read_object


def provenance_rows(run: RunData) -> list[tuple[str, str]]:
    """Names and values of the latest attempt, then how many there were and their time.

    Empty before the first attempt.
    """
    attempts = run.provenance.get("attempts", [])
    if not attempts:
        return []
    rows = flat({key: item for key, item in attempts[-1].items() if key != "seconds"})
    together = sum(attempt["seconds"] for attempt in attempts)
    return [*rows, ("attempts", f"{len(attempts)}, together {duration(together)}")]


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested fields as dotted names and text, in their order."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            rows += flat(item, f"{name}.")
        else:
            rows.append((name, "unknown" if item is None else str(item)))
    return rows


def recipe_text(run: RunData) -> str:
    """The resolved recipe as YAML, which `forethought run` reads."""
    fields = read_object(run.recipe.run / "config.json")
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=96)


def hashes_table(run: RunData) -> Chart | None:
    """Prompts and policies by hash; `None` before any of them is there."""
    rows: list[tuple[Cell, ...]] = []
    prompts = prompts_ref(run.recipe)
    if prompts.sealed:
        rows.append(("prompts", "stage", read_manifest(prompts.folder).digest))
    for arm in run.arms:
        for iteration in arm.iterations:
            ref = StageRef(
                recipe=run.recipe, stage="selection", arm=arm.arm, index=iteration.number
            )
            if not ref.sealed:
                continue
            name = f"{arm.arm} policy {iteration.number + 1}"
            manifest = read_manifest(ref.folder)
            rows.append((name, "stage", manifest.digest))
            rows += [
                (name, part.name.removeprefix("policy/"), part.sha256)
                for part in manifest.parts
                if part.name.startswith("policy/") and part.name.endswith((".safetensors", ".bin"))
            ]
    if not rows:
        return None
    columns = (Column(name="what"), Column(name="of"), Column(name="SHA-256"))
    return Chart(
        key="hashes",
        title="Hashes",
        caption="A stage's hash names its settings, its inputs and every file it wrote but logs; "
        "a weights file's is of its bytes, as sha256sum prints it.",
        views=(view([], {}, columns, rows),),
        height=0,
        wide=True,
        folded=True,
    )


def duration(seconds: float) -> str:
    """Seconds as a reader takes them in: `45 s`, `3.5 min`, `2.1 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
