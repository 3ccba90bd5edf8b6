"""All checks of a recipe: run what is owed, read it, hold it against the limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forethought.config import Recipe
from forethought.doctor.check import Check, Verdict, gravest
from forethought.doctor.evidence import ArmEvidence, read_arm, read_prompts
from forethought.doctor.judge_checks import judge_checks
from forethought.doctor.output_checks import output_checks
from forethought.doctor.run_checks import (
    gravely,
    length_check,
    pair_check,
    prompt_checks,
    speed_check,
)
from forethought.doctor.run_length import run_length
from forethought.doctor.trial import Trial, finish, held_folder, run_trial, small_trial
from forethought.progress.reporter import Reporter


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What doctor has found.

    Example: `Examination(folder=Path("runs/mine-doctor"), prompts=16, samples=8, warm=False,
    checks=(Check(…),), stopped=())`
    """

    folder: Path
    prompts: int
    """That were asked."""
    samples: int
    """Outputs of each, in each arm."""
    warm: bool
    """Whether they were shown demonstrations, as the warm start shows them."""
    checks: tuple[Check, ...]
    stopped: tuple[str, ...]
    """What stages said of arms that had nothing to go on with."""

    @property
    def verdict(self) -> Verdict:
        """The gravest of all checks."""
        return gravest(check.verdict for check in self.checks)

    def named(self, verdict: Verdict) -> list[str]:
        """Names of the checks that say so, each once."""
        return list(dict.fromkeys(c.name for c in self.checks if c.verdict == verdict))

    def as_json(self) -> dict[str, Any]:
        """Every figure, for machines."""
        return {
            "folder": str(self.folder),
            "prompts": self.prompts,
            "samples": self.samples,
            "warm_start": self.warm,
            "verdict": self.verdict,
            "stop": self.named("stop"),
            "look": self.named("look"),
            "checks": [asdict(check) for check in self.checks],
            "stopped": list(self.stopped),
        }


def examine(recipe: Recipe, prompts: int, reporter: Reporter) -> Examination:
    """Run a recipe's first stages on so many prompts in each arm and check what comes of it.

    Raises: ValueError for whatever is wrong with the recipe, its files, engines or judge.
    """
    trial = small_trial(recipe, prompts)
    with held_folder(trial):
        stopped = run_trial(trial, reporter)
        arms = [read_arm(trial, arm) for arm in trial.small.arms]
        found = Examination(
            folder=trial.folder,
            prompts=len({rollout.prompt_id for rollout in arms[0].rollouts}),
            samples=len(arms[0].rollouts) // max(len(arms[0].by_prompt), 1),
            warm=trial.warm,
            checks=tuple(_checks(trial, arms)),
            stopped=tuple(stopped.values()),
        )
        finish(trial, found.as_json())
    return found


def _checks(trial: Trial, arms: Sequence[ArmEvidence]) -> list[Check]:
    """Those of the outputs first, then of the judge, then of the run."""
    recipe, prompts = trial.recipe, read_prompts(trial)
    spare = prompts.there - recipe.iterations * recipe.prompts_per_iteration
    found: list[Check] = []
    for arm in arms:
        own = [
            *output_checks(arm, recipe, spare=spare, warm=trial.warm, before=trial.before_training),
            *judge_checks(arm, recipe),
        ]
        found += [*own, pair_check(recipe, arm, explained=gravely(own)), speed_check(arm)]
    found += prompt_checks(recipe, prompts)
    found.append(length_check(recipe, run_length(trial, arms)))
    return found
