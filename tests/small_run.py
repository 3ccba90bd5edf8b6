"""A whole run on the microworld that takes seconds: for what reads finished runs."""

import os
from pathlib import Path
from typing import Any

from rich.console import Console

from forethought.config import Recipe
from forethought.config.recipe_files import load_recipe
from forethought.pipeline.loop import run_recipe
from forethought.progress.reporter import Reporter
from forethought.storage.sealed_stage import Manifest, read_manifest
from forethought.storage.written import Written

ROOT = Path(__file__).parent.parent
SMALL = [
    "iterations=2",
    "prompts_per_iteration=24",
    "prompts.train=[{type: microworld, split: train, count: 60}]",
    "prompts.validation={count: 8, sources: [{type: microworld, split: validation, count: 8}]}",
    "prompts.test={count: 8, sources: [{type: microworld, split: test, count: 8}]}",
    "sampling.samples=4",
    "sampling.max_new_tokens=48",
    "training.epochs=2",
    "training.batch_size=4",
    "launch.threads=1",
    "measures.win_rate=null",
    "measures.probe=null",
]


def small_recipe(run: Path, *overrides: str) -> Recipe:
    """The quickstart's recipe, much smaller."""
    recipe = ROOT / "recipes" / "quickstart.yaml"
    return load_recipe([str(recipe), f"run={run}", *SMALL, *overrides])


def small_run(run: Path, *overrides: str, console: Any = None) -> Recipe:
    """Run it to its end."""
    recipe = small_recipe(run, *overrides)
    run_recipe(recipe, Reporter(console or Console(quiet=True)))
    return recipe


def start(recipe: Recipe) -> int:
    """A child process that runs the recipe; its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with open(os.devnull, "w") as silence:
                run_recipe(recipe, Reporter(Console(file=silence)))
            status = 0
        finally:
            os._exit(status)
    return pid


def unseal(folder: Path) -> Manifest:
    """What a kill right before the seal leaves; returns the seal."""
    manifest = read_manifest(folder)
    (folder / "manifest.json").unlink()
    Written(folder).note("intent.json", *(part.name for part in manifest.parts))
    return manifest
