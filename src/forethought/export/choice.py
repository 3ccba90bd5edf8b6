"""Which policy of a run is meant, and where its files stand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from forethought.config import Recipe
from forethought.recipe import load_run
from forethought.stages.place import Place
from forethought.store import read_manifest
from forethought.types import Arm

Which = int | Literal["best", "last"]
"""A policy's number (0 is the seed), the best by test score among the trained, or the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A policy of a run.

    Example: `Chosen(recipe=Recipe(…), arm="thought", policy=4, which="last")`
    """

    recipe: Recipe
    arm: Arm
    policy: int
    which: Which
    """What was asked for; the best of several by one measurement is a selected figure."""

    @property
    def place(self) -> Place:
        """Its evaluation: the place that knows its files and format."""
        return Place(recipe=self.recipe, stage="evaluation", arm=self.arm, index=self.policy)


def choose(run: Path, *, arm: Arm, which: Which) -> Chosen:
    """The policy that is meant.

    Raises: ValueError if the run has no such arm or policy; the message names what is there.
    """
    recipe = load_run(run)
    if arm not in recipe.arms:
        raise ValueError(f"arm: {run} has no arm {arm!r}; it has {', '.join(recipe.arms)}")
    there = [i for i in range(recipe.iterations + 1) if _is_there(recipe, arm, i)]
    trained = [i for i in there if i > 0]
    if isinstance(which, int):
        if which not in there:
            raise _absent(f"no policy {which}", run, recipe, arm, there)
        return Chosen(recipe=recipe, arm=arm, policy=which, which=which)
    if not trained:
        raise _absent("no trained policy yet", run, recipe, arm, there)
    policy = trained[-1] if which == "last" else _best(run, recipe, arm, trained)
    return Chosen(recipe=recipe, arm=arm, policy=policy, which=which)


def _is_there(recipe: Recipe, arm: Arm, policy: int) -> bool:
    stage = Place(recipe=recipe, stage="evaluation", arm=arm, index=policy).policy_stage
    return stage is None or (stage / "manifest.json").is_file()


def _absent(what: str, run: Path, recipe: Recipe, arm: Arm, there: list[int]) -> ValueError:
    names = ", ".join(f"{i} (the seed)" if i == 0 else str(i) for i in there)
    return ValueError(
        f"policy: {run} has {what} in its {arm} arm; there: {names}, of "
        f"{recipe.iterations} iterations. `forethought run` with the same recipe goes on"
    )


def _best(run: Path, recipe: Recipe, arm: Arm, trained: list[int]) -> int:
    scores: dict[int, float] = {}
    for policy in trained:
        folder = Place(recipe=recipe, stage="evaluation", arm=arm, index=policy).folder
        if (folder / "manifest.json").is_file():
            score = read_manifest(folder).counts["test_score"]
            if isinstance(score, float):
                scores[policy] = score
    if not scores:
        raise ValueError(
            f"policy: no trained policy of {run} has a test score in its {arm} arm, so none is the "
            f"best; ask for last or for a number, there: {', '.join(map(str, trained))}"
        )
    # Of equal ones the earlier.
    return max(scores, key=lambda policy: (scores[policy], -policy))
