"""Does the quickstart's thought arm overtake its direct arm? Runs a recipe with several seeds.

    OMP_NUM_THREADS=2 python benchmarks/thinking.py --seeds 0 1 2

Each seed is a run of its own (`runs/thinking/seed_N`; finished ones are read again). All share the
seed model and the test prompts. The difference of the arms is averaged over seeds for each test
prompt and its 95 % interval is Student's t over prompts; the same over seeds stands below it.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from pathlib import Path

from forethought.config.recipe_files import load_recipe
from forethought.evaluation.intervals import mean_result
from forethought.runs.layout import StageRef
from forethought.storage.sealed_stage import read_json, read_manifest

ROOT = Path(__file__).parent.parent


def scores(words: list[str], arm: str, policy: int) -> dict[str, float]:
    """Test score of each prompt for one policy of a finished run."""
    assert arm in ("thought", "direct")
    ref = StageRef(recipe=load_recipe(words), stage="evaluation", arm=arm, index=policy)
    found = read_manifest(ref.folder).counts["scores"]
    assert isinstance(found, dict)
    return found


def run_seed(recipe: str, folder: Path, seed: int) -> list[str]:
    """Bring one seed's run to its end in a process of its own; returns the words of its recipe."""
    words = [recipe, f"run={folder / f'seed_{seed}'}", f"seed={seed}"]
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "forethought.cli", "run", *words], check=True)
    print(f"seed {seed}: {time.monotonic() - started:.0f} s in this process", flush=True)
    return words


def show_policies(runs: list[list[str]]) -> int:
    """Print the scores of every policy by seed; returns the last policy's number."""
    last = 0
    for words in runs:
        run = load_recipe(words).run
        summary = read_json(run / "summary.json")
        for arm, rows in summary["arms"].items():
            shown = " ".join(f"{row['test_score']:.3f}" for row in rows)
            thoughts = " ".join(f"{row['thought_tokens']:.1f}" for row in rows)
            print(f"{run.name} {arm:<8} score {shown}   thought tokens {thoughts}")
            last = rows[-1]["iteration"]
        print(f"{run.name} seconds {summary['seconds']}")
    return last


def show_difference(runs: list[list[str]], policy: int) -> None:
    """Print thought minus direct with both intervals."""
    by_seed = []
    for words in runs:
        thought, direct = scores(words, "thought", policy), scores(words, "direct", policy)
        by_seed.append({prompt: thought[prompt] - direct[prompt] for prompt in thought})
    pooled = [sum(by_prompt[p] for by_prompt in by_seed) / len(by_seed) for p in by_seed[0]]
    over_prompts = mean_result("over prompts", pooled)
    over_seeds = mean_result(
        "over seeds", [sum(by_prompt.values()) / len(by_prompt) for by_prompt in by_seed]
    )
    for result in (over_prompts, over_seeds):
        low, high = (100 * bound for bound in result.interval or (math.nan, math.nan))
        print(
            f"policy {policy}: thought - direct {100 * result.value:+.1f} points, 95 % interval "
            f"{result.name} {low:+.1f} to {high:+.1f}, n = {result.count}"
        )


def main() -> None:
    """Run the seeds and print what they show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default=str(ROOT / "recipes" / "quickstart.yaml"))
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "thinking")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    runs = [run_seed(arguments.recipe, arguments.folder, seed) for seed in arguments.seeds]
    last = show_policies(runs)
    for policy in (0, last):
        show_difference(runs, policy)


if __name__ == "__main__":
    main()
