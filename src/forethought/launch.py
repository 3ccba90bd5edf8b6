"""Run one stage: here, or in a process of its own that returns its memory by ending.

The child is `python -m forethought.launch RUN STAGE ARM INDEX`; it reads the resolved recipe from
the run directory. The parent holds the run's lock. The stages that train start processes of their
own where the recipe names a launcher.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rich.console import Console

from forethought.config import Recipe
from forethought.models import pick_device
from forethought.progress import Reporter
from forethought.recipe import load_run
from forethought.stages.place import Place
from forethought.stages.table import run_stage
from forethought.store import StageError
from forethought.threads import use_threads
from forethought.workers.cluster import connect
from forethought.workers.pool import give_back_gpus


def launch(place: Place, reporter: Reporter) -> None:
    """Run a stage as the recipe's `launch` section says.

    Raises: StageError if a stage in a process of its own fails; it has said why. ValueError if
    this machine has not what the recipe's training needs.
    """
    recipe = place.recipe
    _refuse_what_is_missing(recipe)
    if place.stage in ("reference", "training"):
        give_back_gpus()
    if not recipe.launch.process_per_stage:
        use_threads(recipe.launch.threads)
        run_stage(place, reporter)
        return
    words = [str(recipe.run), place.stage, place.arm, str(place.index)]
    child = subprocess.run([sys.executable, "-m", "forethought.launch", *words], check=False)
    if child.returncode != 0:
        raise StageError(f"{place.label} ended with status {child.returncode}; see above")


def _refuse_what_is_missing(recipe: Recipe) -> None:
    """Say at the first stage, not after hours of sampling, what training could not do here."""
    launch = recipe.launch
    if launch.type == "ray":
        if not launch.process_per_stage:
            # One connection for all stages; those in processes of their own have each theirs.
            connect(launch.ray)
        return
    import torch

    from forethought.training.optimizer import require_8bit

    device = pick_device(recipe.model.device).type
    require_8bit(recipe.training, device)
    there = torch.cuda.device_count()
    if device == "cuda" and launch.processes is not None and launch.processes > there:
        raise ValueError(
            f"launch.processes: {launch.processes} processes need a GPU each and this machine has "
            f"{there}; give at most {there}, or launch.type ray with a cluster that has more"
        )


def main(arguments: list[str]) -> int:
    """The child process of one stage."""
    run, stage, arm, index = arguments
    reporter = Reporter(Console())
    try:
        recipe = load_run(Path(run))
        assert arm in ("thought", "direct")
        use_threads(recipe.launch.threads)
        run_stage(Place(recipe=recipe, stage=stage, arm=arm, index=int(index)), reporter)
    except (ValueError, OSError) as error:
        reporter.say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
