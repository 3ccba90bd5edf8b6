"""A run on the microworld with a warm start, which takes seconds."""

import json
from pathlib import Path
from typing import Any

from small_run import small_recipe

from forethought.config import Recipe
from forethought.microworld.tasks import generate

WARM = {
    "prompts": 8,
    "samples": 4,
    "keep": 2,
    "epochs": 2,
    "learning_rate": 1e-4,
    "batch_size": 4,
}


def demonstrations(path: Path, count: int = 3) -> Path:
    """Right answers to microworld prompts, each with a thought that works them out."""
    records = [
        {
            "prompt": task.query,
            "thought": f"Step by step: {'. '.join(task.steps)}.",
            "response": task.reference,
        }
        for task in generate("validation", count, 5)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def warm_recipe(folder: Path, *words: str, **warm: Any) -> Recipe:
    """`folder/run` with both arms and one iteration; `warm` goes over `WARM`."""
    given = {"demonstrations": str(demonstrations(folder / "shown.jsonl")), **WARM, **warm}
    return small_recipe(
        folder / "run",
        "iterations=1",
        "training.save_every=1",
        "sampling.part_size=4",
        f"warm_start={json.dumps(given)}",
        *words,
    )
