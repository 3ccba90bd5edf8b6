"""Stage `prompts`: load, deduplicate and split the prompts once for a whole run."""

from __future__ import annotations

from typing import Any

from forethought.progress import Reporter
from forethought.prompts import split_prompts
from forethought.stages.place import Place
from forethought.store import Count, Stage
from forethought.thoughts import load_format
from forethought.types import Prompt


def configure(place: Place) -> dict[str, Any]:
    """What decides this stage's content.

    The number of iterations and the size of their slices are not in it: the training prompts are
    kept in one fixed order, so that a run can be continued with more iterations.
    """
    recipe = place.recipe
    return {
        "seed": recipe.seed,
        "prompts": recipe.prompts.model_dump(mode="json"),
        # Both arms share these prompts: histories lose the thoughts of the arm that has any.
        "thought_format": load_format(recipe.thought_format).model_dump(mode="json"),
    }


def work(stage: Stage, place: Place, reporter: Reporter) -> dict[str, Count]:
    """Write all training prompts in slice order, the validation and the test prompts."""
    recipe = place.recipe
    with reporter.task(place.label, 1, "sets") as task:
        split = split_prompts(
            recipe.prompts,
            seed=recipe.seed,
            strip_thought=load_format(recipe.thought_format).strip_thought,
        )
        stage.write_records("test", split.test, Prompt)
        stage.write_records("validation", split.validation, Prompt)
        stage.write_records("train", split.train, Prompt)
        task.advance(note=f"{len(split.train)} to train on, {split.duplicates} duplicates dropped")
    return {
        "train": len(split.train),
        "validation": len(split.validation),
        "test": len(split.test),
        "duplicates": split.duplicates,
        "overlap": split.overlap,
    }
