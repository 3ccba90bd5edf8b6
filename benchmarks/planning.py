"""What `forethought plan --gpu cpu` predicts of each stage, beside what the stage takes.

One iteration of the quickstart by default; give recipes and overrides for another. Lengths are the
plan's own. Stages are timed in processor seconds, since neighbours of a shared machine lengthen the
clock's; the plan measures the machine before and after the run and its faster figures count.

    OMP_NUM_THREADS=1 python benchmarks/planning.py
    OMP_NUM_THREADS=1 python benchmarks/planning.py iterations=1 prompts_per_iteration=300
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

from forethought.config import Recipe
from forethought.config.recipe_files import load_recipe
from forethought.pipeline.launch import launch
from forethought.planning.costs import Costs, recipe_costs
from forethought.planning.devices import find_device
from forethought.progress.reporter import Reporter
from forethought.runs.schedule import stage_refs

QUICKSTART = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"
NEAR = 0.25
"""The aim, as a share of what was measured."""


def measure(recipe: Recipe) -> dict[tuple[str, str | None], float]:
    """Mean processor seconds of each kind of stage."""
    reporter = Reporter(Console(quiet=True))
    found: dict[tuple[str, str | None], list[float]] = {}
    for ref in stage_refs(recipe):
        start = time.process_time()
        launch(ref, reporter)
        arm = None if ref.stage == "prompts" else ref.arm
        found.setdefault((ref.stage, arm), []).append(time.process_time() - start)
    return {key: statistics.mean(seconds) for key, seconds in found.items()}


def predict(recipe: Recipe) -> Costs:
    """The costs of the recipe on this machine, which is measured for it."""
    return recipe_costs(recipe, find_device("cpu"), 1)


def main() -> None:
    """Predict, run, predict again, compare."""
    parser = argparse.ArgumentParser(description="The plan against a run, stage by stage")
    parser.add_argument("words", nargs="*", default=[str(QUICKSTART), "iterations=1"])
    words = parser.parse_args().words
    if not any(word.endswith(".yaml") for word in words):
        words = [str(QUICKSTART), *words]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe([*words, f"run={folder}/run", "launch.threads=1"])
        before = predict(recipe)
        measured = measure(recipe)
        costs = min(before, predict(recipe), key=lambda plan: plan.seconds)
    rate = costs.setting.cluster.device.flops / 1e9
    print(f"torch {torch.__version__}, 1 thread, {rate:.0f} GFLOP/s, processor seconds")
    whole = near = 0.0
    for stage in costs.stages:
        seconds = measured[stage.stage, stage.arm]
        ratio = stage.effort.seconds / seconds
        whole += stage.times * seconds
        near += stage.times * seconds * (abs(ratio - 1) <= NEAR)
        name = " ".join(filter(None, [stage.arm, stage.stage]))
        print(
            f"{name:20s} predicted {stage.effort.seconds:7.2f} s  measured {seconds:7.2f} s  ",
            end="",
        )
        print(f"{ratio:5.2f}")
    print(
        f"in all               predicted {costs.seconds:7.2f} s  measured {whole:7.2f} s  ", end=""
    )
    print(f"{costs.seconds / whole:5.2f}; {near / whole:.0%} of the time is within {NEAR:.0%}")


if __name__ == "__main__":
    main()
