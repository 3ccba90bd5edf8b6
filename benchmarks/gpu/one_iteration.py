"""A whole small iteration on one GPU: sample, judge, pair, train with LoRA, select.

    python benchmarks/gpu/one_iteration.py --output iteration.json
    python benchmarks/gpu/one_iteration.py --tiny

Random weights at 8B for policy and judge, the direct format (a random model keeps no other), the
embedded engine, a process per stage so that each has the whole GPU. Each stage's seconds stand
beside what `forethought plan` predicts at the lengths that were drawn.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import workload
from rich.console import Console
from workload import SAMPLES, Bench

from forethought.config import Recipe
from forethought.config.recipe_files import dump
from forethought.pipeline.launch import launch
from forethought.planning.costs import recipe_costs
from forethought.planning.devices import find_device
from forethought.progress.reporter import Reporter
from forethought.runs.schedule import stage_refs
from forethought.storage.files import write_json
from forethought.storage.sealed_stage import read_manifest


def make_recipe(bench: Bench) -> Recipe:
    """One iteration of one arm."""
    given = bench.arguments
    file = bench.folder / "prompts.jsonl"
    held_out = max(4, given.prompts // 8)
    texts = workload.texts(bench.size.prompt, given.prompts + held_out, 7)
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    limit = bench.size.limit if bench.tiny else 512
    fields: dict[str, Any] = {
        "run": str(given.run or bench.folder / f"run_{time.strftime('%H%M%S')}"),
        "model": {"path": workload.make_policy(bench)},
        "arms": ["direct"],
        "iterations": 1,
        "prompts_per_iteration": given.prompts,
        "prompts": {
            "train": [{"type": "file", "path": str(file)}],
            "validation": {"count": held_out},
        },
        "sampling": {
            "type": "transformers",
            "samples": SAMPLES,
            "max_new_tokens": limit,
            "rows": given.rows,
        },
        "judge": {"type": "armorm", "path": workload.make_armorm(bench)},
        "training": {
            "epochs": 1,
            "batch_size": 16,
            "lora": {"rank": 16},
            "learning_rate": 5e-6,
            "gradient_checkpointing": True,
        },
        "launch": {"process_per_stage": not bench.tiny},
    }
    return Recipe.model_validate(fields)


def run(recipe: Recipe) -> list[dict[str, Any]]:
    """Run every stage; returns its seconds, the start of its process included, and its counts."""
    Path(recipe.run).mkdir(parents=True, exist_ok=True)
    write_json(recipe.run / "config.json", dump(recipe))
    reporter = Reporter(Console(stderr=True))
    found = []
    for ref in stage_refs(recipe):
        start = workload.now()
        launch(ref, reporter)
        seconds = workload.now() - start
        counts = read_manifest(ref.folder).counts
        brief = {name: count for name, count in counts.items() if isinstance(count, int | float)}
        found.append({"stage": ref.stage, "seconds": seconds, "counts": brief})
    return found


def main() -> None:
    """Run once, predict, report."""
    parser = argparse.ArgumentParser(description="A whole iteration, stage by stage")
    parser.add_argument("--prompts", type=int, default=64, help="prompts of the iteration")
    parser.add_argument("--rows", type=int, default=256, help="outputs decoded at a time")
    parser.add_argument("--run", type=Path, help="the run directory, to keep or resume it")
    parser.add_argument("--gpu", default="h200", help="the device of the prediction")
    with workload.opened(parser, rounds=1) as bench:
        recipe = make_recipe(bench)
        stages = run(recipe)
        device = find_device("cpu" if bench.tiny else bench.arguments.gpu)
        costs = recipe_costs(recipe, device, 1, like=recipe.run)
        predicted = {stage.stage: stage.effort for stage in costs.stages}
        for stage in stages:
            stage["predicted"] = predicted[stage["stage"]].seconds
            stage["predicted_gigabytes"] = predicted[stage["stage"]].memory / 1e9
        workload.report(
            bench,
            what="one iteration",
            prompts=bench.arguments.prompts,
            stages=stages,
            seconds=sum(stage["seconds"] for stage in stages),
            predicted=costs.seconds,
        )


if __name__ == "__main__":
    main()
