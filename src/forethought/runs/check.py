"""Whether all that a run has sealed is still as it was, and what it would take to mend.

Nothing is deleted: a damaged stage is moved aside, whole, and the same command makes it again. At
equal threads on the same kind of machine it comes out with the same digest, so that what was made
from it stays valid; where it does not, the first stage that read the old content says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from forethought.config import Recipe
from forethought.runs.layout import StageRef
from forethought.runs.lock import run_lock
from forethought.runs.schedule import sealed_measures, stage_refs
from forethought.storage.sealed_stage import (
    StageError,
    check_part,
    read_manifest,
    read_object,
)

RECORDS = ("run.json", "summary.json")
"""Of the run itself; they are written anew."""
ASIDE = "damaged"
"""Folder of a run for what was moved out of the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A stage, or a record of the run, that is not as it was written.

    Example: `Damage(path=Path("runs/a/thought/iteration_0/pairs"), files=("pairs.parquet",),
    seconds=2.4)`
    """

    path: Path
    """What would be moved aside: the stage's folder, or the record."""
    files: tuple[str, ...]
    """Which of its files are damaged or missing."""
    seconds: float | None
    """What the stage took; `None` where its manifest cannot be read, 0 for a record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was looked at.

    Example: `Checked(stages=18, files=96, damages=())`
    """

    stages: int
    files: int
    damages: tuple[Damage, ...]


def check_run(recipe: Recipe) -> Checked:
    """Read every sealed file of a run and compare it with its seal.

    Weights that `keep` has dropped are no damage.
    """
    refs = {ref.folder: ref for ref in (*stage_refs(recipe), *sealed_measures(recipe))}
    stages, files = 0, 0
    damages: list[Damage] = []
    for ref in refs.values():
        if ref.sealed:
            stages += 1
            read, damage = _check_stage(ref)
            files += read
            damages += [] if damage is None else [damage]
    damages += _records(recipe.run)
    return Checked(stages=stages, files=files, damages=tuple(damages))


def move_damages_aside(recipe: Recipe, damages: tuple[Damage, ...]) -> list[Path]:
    """Move what is damaged into the run's folder `damaged`; returns where it is now.

    Raises: StageError if a process works on the run.
    """
    moved: list[Path] = []
    with run_lock(recipe.run):
        for damage in damages:
            flat = damage.path.relative_to(recipe.run).as_posix().replace("/", "_")
            named = (recipe.run / ASIDE / f"{flat}.{number}" for number in count(1))
            target = next(path for path in named if not path.exists())
            target.parent.mkdir(exist_ok=True)
            os.rename(damage.path, target)
            moved.append(target)
    return moved


def _check_stage(ref: StageRef) -> tuple[int, Damage | None]:
    try:
        manifest = read_manifest(ref.folder)
    except StageError:
        return 0, Damage(path=ref.folder, files=("manifest.json",), seconds=None)
    broken: list[str] = []
    try:
        read_object(ref.folder / "intent.json")
    except (StageError, OSError):
        broken.append("intent.json")
    parts = [part for part in manifest.parts if not _dropped(ref, part.name)]
    for part in parts:
        try:
            check_part(ref.folder, part)
        except StageError:
            broken.append(part.name)
    if not broken:
        return len(parts), None
    return len(parts), Damage(path=ref.folder, files=tuple(broken), seconds=manifest.seconds)


def _dropped(ref: StageRef, name: str) -> bool:
    """Whether a file belonged to weights that `keep` does not keep: their folder is gone, whole."""
    folder = name.split("/")[0]
    weights = folder == "policy" or folder.startswith("epoch_")
    return "/" in name and weights and not (ref.folder / folder).exists()


def _records(run: Path) -> Iterator[Damage]:
    for name in RECORDS:
        if (run / name).is_file():
            try:
                read_object(run / name)
            except StageError:
                yield Damage(path=run / name, files=(name,), seconds=0.0)
