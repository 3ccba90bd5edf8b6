"""How many test prompts an interval of so many points needs, from the spread that a run has.

The run's differences, thought minus direct prompt by prompt, are drawn again with replacement to
files of other sizes, and each of these gets the package's own interval of a paired difference. Half
its width is shown: the median of the draws. The spread hardly changes with the policy, so a run of
no iterations (`forethought compare`) tells it before anything is trained.

    python benchmarks/how_many_prompts.py runs/quickstart
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from forethought.config.recipe_files import load_run
from forethought.evaluation.intervals import mean_result
from forethought.judging.describe import difference_ends
from forethought.runs.comparison import evaluations
from forethought.share_interval import Ends

SIZES = (50, 100, 200, 500, 1000, 2000, 4000)
TARGETS = (10, 5, 3, 2)
"""Half widths in points, of a score between 0 and 1."""
DRAWS = 100
MOST = 100_000


def half_width(values: np.ndarray, size: int, ends: Ends | None) -> float:
    """The median half width at so many prompts, drawn from the differences of a run."""
    rng = np.random.default_rng(0)
    halves = []
    for _ in range(DRAWS):
        drawn = mean_result("difference", rng.choice(values, size).tolist(), ends=ends)
        assert drawn.interval is not None
        halves.append((drawn.interval[1] - drawn.interval[0]) / 2)
    return float(np.median(halves))


def prompts_for(values: np.ndarray, half: float, ends: Ends | None) -> int | None:
    """The fewest prompts, to a hundredth, with so narrow an interval; `None` above `MOST`."""
    low, high = 2, MOST
    if half_width(values, high, ends) > half:
        return None
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if half_width(values, middle, ends) <= half else (middle, high)
    return high


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory with both arms evaluated")
    parser.add_argument("--policy", type=int, help="the last one of both arms by default")
    given = parser.parse_args()
    recipe = load_run(given.run)
    by_arm = evaluations(recipe)
    thought, direct = by_arm["thought"], by_arm["direct"]
    policy = max(thought.keys() & direct.keys()) if given.policy is None else given.policy
    ours, theirs = thought[policy]["scores"], direct[policy]["scores"]
    shared = sorted(ours.keys() & theirs.keys())
    values = np.array([ours[prompt] - theirs[prompt] for prompt in shared])
    ends = difference_ends(recipe.judge, [*ours.values(), *theirs.values()])
    print(
        f"policy {policy}: {len(values)} prompts, thought minus direct {100 * values.mean():+.1f} "
        f"points, standard deviation {100 * values.std(ddof=1):.1f}, "
        f"equal on {np.mean(values == 0):.0%}"
    )
    print("prompts  interval, points")
    for size in SIZES:
        print(f"{size:7,}  ±{100 * half_width(values, size, ends):.1f}")
    print("interval, points  prompts")
    for points in TARGETS:
        needed = prompts_for(values, points / 100, ends)
        print(
            f"{f'±{points}':>16}  {'more than ' + str(MOST) if needed is None else f'{needed:,}'}"
        )


if __name__ == "__main__":
    main()
