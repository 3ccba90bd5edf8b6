"""Drop the weights that a run needs no more (`keep`); what was sampled, judged and paired stays.

A policy is needed until the next one of its arm is chosen: by then it has been evaluated, and what
is trained from it is trained. Folders are renamed before they are removed, so that a process killed
here leaves no half of a model under its name. The paper says nothing of it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from forethought.config import KeepEvery, Recipe
from forethought.runs.layout import WARM_START, StageRef
from forethought.runs.schedule import seed_refs, warm_start_refs
from forethought.storage.sealed_stage import read_manifest
from forethought.types import Arm

DROPPED = ".dropped"
"""End of the name of a folder that is being removed."""


def policies_that_stay(recipe: Recipe) -> list[int]:
    """Those of one arm at the end of a run, from 1; which one is best is not known beforehand."""
    every, last = recipe.iterations + 1, recipe.iterations
    match recipe.keep:
        case "all":
            every = 1
        case KeepEvery(every=given):
            every = given
        case _:
            pass
    named = set(range(every, last + 1, every)) | {last}
    return sorted(named | ({1} if recipe.keep == "best" else set()))


def drop_weights(recipe: Recipe) -> None:
    """Remove the weights that the recipe's `keep` does not name."""
    if recipe.keep == "all":
        return
    for arm in recipe.arms:
        chosen = [ref for ref in _selections(recipe, arm) if ref.sealed]
        wanted = _wanted(recipe, chosen)
        for ref in chosen:
            for epoch in range(1, _epochs(ref) + 1):
                _remove(ref.beside("training") / f"epoch_{epoch}")
            if ref.index not in wanted:
                _remove(ref.folder / "policy")
        grown = StageRef(recipe=recipe, stage="vocabulary", arm=arm, index=WARM_START)
        if grown.sealed and all(ref.sealed for ref in _started_from(recipe, grown)):
            _remove(grown.folder / "policy")


def _selections(recipe: Recipe, arm: Arm) -> list[StageRef]:
    first = 0 if recipe.warm_start is None else WARM_START
    return [
        StageRef(recipe=recipe, stage="selection", arm=arm, index=index)
        for index in range(first, recipe.iterations)
    ]


def _started_from(recipe: Recipe, grown: StageRef) -> list[StageRef]:
    """The stages that begin from the seed with new tokens."""
    seeds = [ref for ref in seed_refs(recipe) if ref.arm == grown.arm]
    return [*warm_start_refs(recipe, grown.arm), *seeds]


def _epochs(ref: StageRef) -> int:
    training = ref.recipe.training if ref.index != WARM_START else ref.recipe.warm_training
    return training.epochs


def _wanted(recipe: Recipe, chosen: list[StageRef]) -> set[int]:
    """Iterations whose policy stays."""
    if not chosen:
        return set()
    wanted = {chosen[-1].index}
    match recipe.keep:
        case KeepEvery(every=every):
            # A policy's number is one more than its iteration's; the warm start's is 0.
            numbers = {ref.index + 1 for ref in chosen} - {0}
            wanted |= {number - 1 for number in numbers if number % every == 0}
        case "best":
            scored = [(ref, _score(ref)) for ref in chosen]
            scores = [score for _, score in scored if score is not None]
            wanted |= {ref.index for ref, score in scored if scores and score == max(scores)}
        case _:
            pass
    return wanted


def _score(ref: StageRef) -> float | None:
    counts: Any = read_manifest(ref.folder).counts
    return next(
        (count["score"] for count in counts["scores"] if count["epoch"] == counts["chosen_epoch"]),
        None,
    )


def _remove(folder: Path) -> None:
    gone = folder.with_name(folder.name + DROPPED)
    if folder.is_dir():
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)
