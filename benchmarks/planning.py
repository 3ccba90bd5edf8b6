"""What `forethought plan --gpu cpu` predicts of each stage, beside what the stage takes.

One iteration of the quickstart by default; give recipes and overrides for another. Lengths are the
plan's own. Stages are timed in processor seconds, since neighbours of a shared machine lengthen the
clock's; the plan measures the machine before and after the run and its faster figures count.

With --memory each stage has a process of its own, whose peak of resident memory stands beside the
plan's. Measure that of a model that is large beside torch itself:

    OMP_NUM_THREADS=1 python benchmarks/planning.py
    OMP_NUM_THREADS=1 python benchmarks/planning.py iterations=1 prompts_per_iteration=300
    python benchmarks/planning.py --memory iterations=1 "arms=[direct]" model.path=MODEL \
        prompts_per_iteration=16 sampling.samples=4 sampling.max_new_tokens=64 \
        prompts.validation.count=8 prompts.test.count=8 measures.win_rate=null measures.probe=null
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

from forethought.config import Recipe
from forethought.config.recipe_files import dump, load_recipe
from forethought.pipeline.launch import CHILD, launch
from forethought.planning.costs import Costs, recipe_costs
from forethought.planning.devices import find_device
from forethought.progress.reporter import Reporter
from forethought.runs.schedule import stage_refs
from forethought.storage.files import write_json

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


def peaks(recipe: Recipe) -> dict[tuple[str, str | None], float]:
    """Largest resident bytes of each kind of stage, each run in a process of its own."""
    recipe.run.mkdir(parents=True)
    write_json(recipe.run / "config.json", dump(recipe))
    found: dict[tuple[str, str | None], float] = {}
    for ref in stage_refs(recipe):
        words = [str(recipe.run), ref.stage, ref.arm, str(ref.index)]
        child = subprocess.Popen([*CHILD, *words], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        if status:
            raise SystemExit(f"{ref.label} ended with status {status}")
        key = (ref.stage, None if ref.stage == "prompts" else ref.arm)
        found[key] = max(found.get(key, 0), used.ru_maxrss * 1024)
    return found


def compare_memory(recipe: Recipe) -> None:
    """Peak by stage: predicted with the lengths that came out, and measured."""
    measured = peaks(recipe)
    for stage in predict(recipe, like=recipe.run).stages:
        if not stage.effort.memory:
            continue
        bytes_there = measured[stage.stage, stage.arm]
        ratio = stage.effort.memory / bytes_there
        name = " ".join(filter(None, [stage.arm, stage.stage]))
        print(
            f"{name:20s} predicted {stage.effort.memory / 1e9:6.2f} GB  "
            f"measured {bytes_there / 1e9:6.2f} GB  {ratio:5.2f}"
        )


def predict(recipe: Recipe, like: Path | None = None) -> Costs:
    """The costs of the recipe on this machine, which is measured for it; `like` is a run with the
    lengths."""
    return recipe_costs(recipe, find_device("cpu"), 1, like=like)


def main() -> None:
    """Predict, run, predict again, compare."""
    parser = argparse.ArgumentParser(description="The plan against a run, stage by stage")
    parser.add_argument("words", nargs="*", default=[str(QUICKSTART), "iterations=1"])
    parser.add_argument("--memory", action="store_true", help="Peaks of memory, not seconds")
    arguments = parser.parse_args()
    words = arguments.words
    if not any(word.endswith(".yaml") for word in words):
        words = [str(QUICKSTART), *words]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe([*words, f"run={folder}/run", "launch.threads=1"])
        if arguments.memory:
            compare_memory(recipe)
            return
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
