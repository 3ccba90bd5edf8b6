"""Several seeds of one recipe: each is a run of its own below the recipe's folder.

A seed moves the slices of prompts, the samples and the batches. What differs between seeds is what
chance alone does to a run, which an interval over test prompts cannot show; the interval over seeds
can. The paper trained one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from forethought.config import Recipe
from forethought.evaluation.intervals import mean_result
from forethought.evaluation.scale import Scale
from forethought.runs.comparison import claim_of
from forethought.runs.policies import is_run
from forethought.runs.summary import last_in_all_arms, summarise
from forethought.types import Arm, EvaluationResult

FOLDER = "seed_"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedScores:
    """The last policies of one seed's run.

    Example: `SeedScores(seed=1, scores={"thought": 0.88, "direct": 0.66}, difference=0.22)`
    """

    seed: int
    scores: Mapping[Arm, float]
    """Mean test score by arm, of the last policy that all arms have."""
    difference: float | None
    """Thought arm minus direct arm; `None` where the run lacks one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverSeeds:
    """What several seeds came to.

    Example: `OverSeeds(seeds=(SeedScores(…), SeedScores(…)), means={"thought":
    EvaluationResult(…)}, difference=EvaluationResult(…), scale=PERCENT)`
    """

    seeds: tuple[SeedScores, ...]
    means: Mapping[Arm, EvaluationResult]
    """The mean over seeds, with Student's interval over them; `None` where they are all equal."""
    difference: EvaluationResult | None
    scale: Scale
    """What differences are counted in."""


def seed_recipes(recipe: Recipe) -> list[Recipe]:
    """A recipe for each of its `seeds`; the recipe itself where it names none.

    Raises: ValueError if the folder of several seeds is already a run of one.
    """
    if not recipe.seeds:
        return [recipe]
    if is_run(recipe.run):
        raise ValueError(
            f"run: {recipe.run} is a run of one seed, and the runs of {len(recipe.seeds)} would "
            "stand in it; name another folder (run=…)"
        )
    return [
        recipe.model_copy(update={"run": recipe.run / f"{FOLDER}{seed}", "seed": seed, "seeds": ()})
        for seed in recipe.seeds
    ]


def runs_below(folder: Path) -> list[Path]:
    """The runs of a recipe with several seeds, by seed; the folder itself where it has none."""
    found = [path for path in folder.glob(f"{FOLDER}*") if is_run(path)]
    if is_run(folder) or not found:
        return [folder]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def differ_by_seed(recipes: Sequence[Recipe]) -> bool:
    """Whether runs are those of one recipe with several seeds."""
    alike = [recipe.model_copy(update={"run": Path(), "seed": 0}) for recipe in recipes]
    seeds = {recipe.seed for recipe in recipes}
    return len(seeds) == len(recipes) > 1 and all(each == alike[0] for each in alike)


def over_seeds(recipes: Sequence[Recipe]) -> OverSeeds | None:
    """Scores of the last policies by seed, and their means; `None` before any two have some.

    Raises: StageError if a sealed stage is damaged.
    """
    seeds = [scores for recipe in recipes if (scores := _scores(recipe)).scores]
    if len(seeds) < 2:
        return None
    arms: list[Arm] = [
        arm for arm in recipes[0].arms if all(arm in scores.scores for scores in seeds)
    ]
    differences = [scores.difference for scores in seeds if scores.difference is not None]
    return OverSeeds(
        seeds=tuple(seeds),
        means={arm: mean_result(arm, [scores.scores[arm] for scores in seeds]) for arm in arms},
        difference=mean_result("thought - direct", differences) if len(differences) > 1 else None,
        scale=claim_of(recipes[0]).scale,
    )


def _scores(recipe: Recipe) -> SeedScores:
    summary = summarise(recipe)
    last = last_in_all_arms(summary)
    found: dict[Arm, float | None] = {} if last is None else last[1]
    scores: dict[Arm, float] = {arm: score for arm, score in found.items() if score is not None}
    difference = summary["difference"]
    return SeedScores(
        seed=recipe.seed,
        scores=scores,
        difference=None if difference is None else difference["value"],
    )


def seeds_table(found: OverSeeds) -> Table:
    """A row for each seed and one for the mean; it fits 80 columns."""
    count = len(found.seeds)
    table = Table(title=f"Last policies of {count} seeds", title_justify="left")
    table.add_column("seed", justify="right")
    for arm in found.means:
        table.add_column(arm, justify="right")
    table.add_column("thought - direct", justify="right")

    def change(value: float | None) -> str:
        return "" if value is None else found.scale.change(value)

    for scores in found.seeds:
        own = [f"{scores.scores[arm]:.3f}" for arm in found.means]
        table.add_row(str(scores.seed), *own, change(scores.difference))
    table.add_section()
    mean = found.difference
    table.add_row(
        "mean",
        *(f"{result.value:.3f}" for result in found.means.values()),
        change(None if mean is None else mean.value),
    )
    table.add_row(
        "95 %",
        *(_ends(result, "{:.3f}".format) for result in found.means.values()),
        "" if mean is None else _ends(mean, change),
    )
    table.caption = f"intervals are over seeds (Student's t, n = {count}); thought - direct in "
    table.caption += found.scale.points
    table.caption_justify = "left"
    return table


def _ends(result: EvaluationResult, shown: Callable[[float], str]) -> str:
    """An interval; none where all seeds have the same figure, which tells nothing of others."""
    return "" if result.interval is None else "[{}, {}]".format(*map(shown, result.interval))
