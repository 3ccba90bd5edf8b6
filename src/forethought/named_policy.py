"""How a policy is named on a command line.

As `RUN/ARM/NUMBER` (0 is the seed; without a number the last), as a model folder or hub name, or as
`microworld`. A folder brings its own `thought_format.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forethought import models
from forethought.config import ModelSource, Recipe
from forethought.recipe import load_run
from forethought.stages.place import Place
from forethought.thoughts import FORMAT_FILE, ThoughtFormat, load_format
from forethought.types import Arm


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPolicy:
    """A policy of a run.

    Example: `RunPolicy(run=Path("runs/quickstart"), arm="thought", index=4)`
    """

    run: Path
    arm: Arm
    index: int


def is_run(path: Path) -> bool:
    """Whether a folder is a run directory."""
    config = path / "config.json"
    if not config.is_file():
        return False
    # A model's folder has a config.json, too.
    return "prompts_per_iteration" in config.read_text(encoding="utf-8")


def find_run_policy(word: str) -> RunPolicy | None:
    """The run's policy that a word names, if it names one.

    Raises: ValueError if it names a run but no policy of it, or one that is not there yet.
    """
    path = Path(word)
    if is_run(path):
        raise ValueError(
            f"{word} is a run; name a policy of it as {path}/ARM/NUMBER, such as {path}/thought/1"
        )
    arm, number = (path, None) if is_run(path.parent) else (path.parent, path.name)
    run = arm.parent
    if not is_run(run) or arm.name not in ("thought", "direct"):
        return None
    recipe = load_run(run)
    there = _policies(recipe, arm.name)
    if number is None:
        number = str(there[-1]) if there else "0"
    if not number.isdigit() or int(number) not in there:
        raise ValueError(
            f"{word}: the {arm.name} arm of {run} has policies {there}, and {number!r} is none"
        )
    side: Arm = "direct" if arm.name == "direct" else "thought"
    return RunPolicy(run=run, arm=side, index=int(number))


def weights_and_format(
    model: ModelSource, found: RunPolicy | None, otherwise: str
) -> tuple[ModelSource, ThoughtFormat]:
    """What the weights are loaded by: those of the run's policy, if one was found, or the model's.

    With them their format; `otherwise` names that of a folder without.

    Raises: ValueError if a format cannot be read.
    """
    if found is not None:
        place = Place(
            recipe=load_run(found.run), stage="evaluation", arm=found.arm, index=found.index
        )
        place.refuse_dropped_policy()
        return place.policy.source, place.thought_format
    own = Path(models.resolve(model)) / FORMAT_FILE
    return model, load_format(str(own) if own.is_file() else otherwise)


def template_variables(found: RunPolicy | None) -> dict[str, Any]:
    """What a run's policy is rendered with; a folder's own are beside its weights."""
    if found is None:
        return {}
    return load_run(found.run).model.of_arm(found.arm).template


def _policies(recipe: Recipe, arm: str) -> list[int]:
    if arm not in recipe.arms:
        return []
    there = [0]
    for index in range(1, recipe.iterations + 1):
        selection = recipe.run / arm / f"iteration_{index - 1}" / "selection"
        if (selection / "manifest.json").is_file():
            there.append(index)
    return there
