"""Many small iterations against few large ones, and what a small iteration costs beside its work.

    OMP_NUM_THREADS=2 python benchmarks/near_online.py --seeds 0 1 2
    OMP_NUM_THREADS=2 python benchmarks/near_online.py --overhead

The first runs recipes/quickstart.yaml (4 iterations of 640 prompts) and recipes/near-online.yaml
(40 of 64) with several seeds, both arms: equal numbers of samples, the same seed model, settings
and test prompts. The second times iterations of 64 prompts with `launch.keep_engines` on and off,
in turn: what passes outside sampling, judging, the reference pass and the steps of training is
overhead.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from thinking import ROOT, run_seed, scores

from forethought.config.recipe_files import load_recipe
from forethought.evaluation.intervals import mean_result
from forethought.judging import executor
from forethought.pipeline.loop import run_recipe
from forethought.progress.reporter import Reporter
from forethought.sampling.transformers import TransformersSampler
from forethought.stages import training
from forethought.storage.sealed_stage import read_json
from forethought.training import train

RECIPES = {"offline": "quickstart.yaml", "near-online": "near-online.yaml"}
SAMPLES_PER_PROMPT = 8


def compare(folder: Path, seeds: list[int]) -> None:
    """Run both recipes with every seed and print the last policies' scores."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in seeds:
        for name, recipe in RECIPES.items():
            words = run_seed(str(ROOT / "recipes" / recipe), folder / name, seed)
            resolved = load_recipe(words)
            samples = resolved.iterations * resolved.prompts_per_iteration * SAMPLES_PER_PROMPT
            summary = read_json(resolved.run / "summary.json")
            for arm, rows in summary["arms"].items():
                last = rows[-1]["iteration"]
                found.setdefault((name, arm), []).append(scores(words, arm, last))
                course = " ".join(f"{row['iteration']}: {row['test_score']:.3f}" for row in rows)
                print(f"seed {seed} {name:<12} {arm:<8} {samples:,} samples   {course}", flush=True)
            print(f"seed {seed} {name:<12} {summary['seconds']} s")
    for (name, arm), by_seed in found.items():
        mean = mean_result(
            "mean", [sum(by_prompt.values()) / len(by_prompt) for by_prompt in by_seed]
        )
        print(f"{name:<12} {arm:<8} mean of {len(by_seed)} seeds {mean.value:.3f}")
    for what, ours, theirs in (
        ("near-online - offline, thought", ("near-online", "thought"), ("offline", "thought")),
        ("near-online - offline, direct", ("near-online", "direct"), ("offline", "direct")),
        ("near-online: thought - direct", ("near-online", "thought"), ("near-online", "direct")),
        ("offline: thought - direct", ("offline", "thought"), ("offline", "direct")),
    ):
        print(_difference(what, found[ours], found[theirs]))


def _difference(what: str, ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> str:
    """In points, paired by prompt and averaged over seeds; Student's intervals."""
    by_seed = [
        {prompt: a[prompt] - b[prompt] for prompt in a} for a, b in zip(ours, theirs, strict=True)
    ]
    pooled = [
        sum(by_prompt[prompt] for by_prompt in by_seed) / len(by_seed) for prompt in by_seed[0]
    ]
    prompts = mean_result("prompts", pooled)
    seeds = mean_result(
        "seeds", [sum(by_prompt.values()) / len(by_prompt) for by_prompt in by_seed]
    )
    shown = "; ".join(
        f"over {result.name} {100 * low:+.1f} to {100 * high:+.1f}"
        for result in (prompts, seeds)
        for low, high in [result.interval or (math.nan, math.nan)]
    )
    return f"{what}: {100 * prompts.value:+.1f} points (95 % {shown})"


class Clock:
    """Seconds inside the functions that do an iteration's work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted under a name."""

        def call(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent = time.perf_counter() - started
                self.seconds[name] = self.seconds.get(name, 0.0) + spent

        return call


@contextmanager
def timing() -> Iterator[Clock]:
    """Count sampling, judging, the reference pass and training's steps."""
    clock = Clock()
    places: list[tuple[Any, str, str]] = [
        (TransformersSampler, "sample", "sampling"),
        (executor, "checked", "judging"),
        (training, "reference_logprobs", "reference"),
        (train._TrainingRun, "one_step", "training"),
    ]
    before = [getattr(owner, name) for owner, name, _ in places]
    for (owner, name, what), function in zip(places, before, strict=True):
        # A generator works only while it is read.
        whole = function if name != "checked" else lambda *a, f=function: list(f(*a))
        setattr(owner, name, clock.timed(what, whole))
    try:
        yield clock
    finally:
        for (owner, name, _), function in zip(places, before, strict=True):
            setattr(owner, name, function)


def overhead(iterations: int, turns: int) -> None:
    """Print the share of an iteration that is not its work, with engines kept and not."""
    shares: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(turns):
        for keep in (True, False):
            shares[keep].append(_one_run(keep, iterations))
    for keep, found in shares.items():
        shown = " / ".join(f"{100 * share:.1f}" for share in found)
        print(
            f"keep_engines {keep}: overhead {shown} %, median {100 * statistics.median(found):.1f}"
        )


def _one_run(keep: bool, iterations: int) -> float:
    """Overhead as a share of the time of all iterations but the first."""
    folder = Path(tempfile.mkdtemp())
    words = [
        str(ROOT / "recipes" / "near-online.yaml"),
        f"run={folder / 'run'}",
        "arms=[thought]",
        "prompts.test=null",
        "measures.win_rate=null",
        "measures.probe=null",
        f"launch.keep_engines={str(keep).lower()}",
    ]
    try:
        run_recipe(load_recipe([*words, "iterations=1"]), Reporter(Console(quiet=True)))
        # With the first iteration done, what is loaded once is loaded in the second.
        recipe = load_recipe([*words, f"iterations={iterations}"])
        with timing() as clock:
            started = time.perf_counter()
            run_recipe(recipe, Reporter(Console(quiet=True)))
            whole = time.perf_counter() - started
    finally:
        shutil.rmtree(folder)
    work = sum(clock.seconds.values())
    parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in clock.seconds.items())
    per_iteration = whole / (iterations - 1)
    print(
        f"keep_engines {keep}: {per_iteration:.2f} s an iteration; of {whole:.1f} s {parts}",
        flush=True,
    )
    return 1 - work / whole


def main() -> None:
    """Compare, or time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "near-online")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.overhead:
        overhead(arguments.iterations, arguments.turns)
    else:
        compare(arguments.folder, arguments.seeds)


if __name__ == "__main__":
    main()
