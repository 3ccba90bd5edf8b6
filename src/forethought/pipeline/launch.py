"""Run one stage: here, or in a process of its own that returns its memory by ending.

The child is `python -m forethought.pipeline.launch RUN STAGE ARM INDEX`; it reads the resolved
recipe from the run directory. The parent holds the run's lock. Engines that are tried before
anything is sampled have processes of their own in the same way. The stages that train start
processes of their own where the recipe names a launcher.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from forethought.config import Recipe
from forethought.config.base import ARMS
from forethought.config.recipe_files import load_run
from forethought.models.loading import pick_device
from forethought.progress.reporter import Reporter
from forethought.runs.layout import StageRef
from forethought.stages.checks.open_engines import open_engine
from forethought.stages.table import run_stage
from forethought.storage.sealed_stage import ArmStoppedError, StageError
from forethought.workers.cluster import connect
from forethought.workers.ray_executor import give_back_gpus
from forethought.workers.threads import use_threads

CHILD = (sys.executable, "-m", "forethought.pipeline.launch")
ARM_STOPPED = 3
"""Exit status of a child whose arm has nothing more to learn from."""
OPENING = "opening"
"""In a stage's place: the child opens an engine."""


def launch(ref: StageRef, reporter: Reporter) -> None:
    """Run a stage as the recipe's `launch` section says.

    Raises: StageError if a stage in a process of its own fails, and ArmStoppedError if its arm has
    nothing more to learn from; it has said why. ValueError if this machine has not what the
    recipe's training needs.
    """
    recipe = ref.recipe
    _refuse_what_is_missing(recipe)
    if ref.stage in ("reference", "training"):
        give_back_gpus()
    if not recipe.launch.process_per_stage:
        use_threads(recipe.launch.threads)
        run_stage(ref, reporter)
        return
    words = [str(recipe.run), ref.stage, ref.arm, str(ref.index)]
    child = subprocess.run([*CHILD, *words], check=False)
    if child.returncode == ARM_STOPPED:
        raise ArmStoppedError(f"{ref.label} ended its arm; see above")
    if child.returncode != 0:
        raise StageError(f"{ref.label} ended with status {child.returncode}; see above")


def try_engine(recipe: Recipe, name: str) -> None:
    """Open an engine of the recipe (stages/checks/open_engines.py) where the recipe's stages would.

    Raises: ValueError that says what is wrong with it.
    """
    _refuse_what_is_missing(recipe)
    if name == "training":
        give_back_gpus()
    if not recipe.launch.process_per_stage:
        use_threads(recipe.launch.threads)
        open_engine(recipe, name)
        return
    with tempfile.TemporaryDirectory() as folder:
        # The child's own words are the parent's one message.
        reason_file = Path(folder) / "reason"
        words = [str(recipe.run), OPENING, name, str(reason_file)]
        child = subprocess.run([*CHILD, *words], check=False)
        if child.returncode == 0:
            return
        if reason_file.is_file():
            raise ValueError(reason_file.read_text(encoding="utf-8"))
    raise ValueError(
        f"{name}: a process that tried it ended with status {child.returncode}; see above. If it "
        "was killed for memory, give it more or take a smaller model"
    )


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
        # Then the other words are the engine's name and the file for what is wrong with it.
        if stage == OPENING:
            return _open(recipe, arm, Path(index))
        assert arm in ARMS
        use_threads(recipe.launch.threads)
        run_stage(StageRef(recipe=recipe, stage=stage, arm=arm, index=int(index)), reporter)
    except (ValueError, OSError) as error:
        reporter.say(f"error: {error}")
        return ARM_STOPPED if isinstance(error, ArmStoppedError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


def _open(recipe: Recipe, name: str, reason_file: Path) -> int:
    use_threads(recipe.launch.threads)
    try:
        open_engine(recipe, name)
    except (ValueError, OSError) as error:
        reason_file.write_text(str(error), encoding="utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
