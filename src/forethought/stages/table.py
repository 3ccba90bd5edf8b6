"""All stages in one table: what each is called, what decides it, what it reads, what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forethought.config import JudgeConfig
from forethought.progress.reporter import Reporter
from forethought.runs.layout import (
    ITERATION_STAGES,
    MEASURES,
    WARM_START,
    WARM_START_STAGES,
    StageRef,
)
from forethought.runs.schedule import iteration_refs, warm_start_refs
from forethought.stages import (
    answers,
    examples,
    judgements,
    measured,
    pairs,
    prompts,
    rollouts,
    training,
    vocabulary,
)
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import Count


@dataclass(frozen=True, slots=True, kw_only=True)
class StageKind:
    """How one stage is opened and done.

    Example: `StageKind(version=1, configure=pairs.configure, reads=("rollouts",), work=pairs.work)`
    """

    version: int
    """Moves when the meaning of the stage's content changes."""
    configure: Callable[[StageRef], dict[str, Any]]
    reads: tuple[str, ...]
    """Stages beside it whose digests are inputs; `policy` is the selection before it, `baseline`
    the evaluation that a judge without a scale compares with, `evaluations` those of both arms,
    `choice` the selection whose epochs another judge scores."""
    work: Callable[[Stage, StageRef, Reporter], dict[str, Count]]


STAGES = {
    "prompts": StageKind(version=3, configure=prompts.configure, reads=(), work=prompts.work),
    "rollouts": StageKind(
        version=2, configure=rollouts.configure, reads=("prompts", "policy"), work=rollouts.work
    ),
    "judgements": StageKind(
        version=2,
        configure=judgements.configure,
        reads=("prompts", "rollouts"),
        work=judgements.work,
    ),
    "pairs": StageKind(
        version=1, configure=pairs.configure, reads=("rollouts", "judgements"), work=pairs.work
    ),
    "reference": StageKind(
        version=1,
        configure=training.configure_reference,
        reads=("pairs", "policy"),
        work=training.compute_reference,
    ),
    "training": StageKind(
        version=2,
        configure=training.configure_training,
        reads=("pairs", "reference", "policy"),
        work=training.run_training,
    ),
    "selection": StageKind(
        version=4,
        configure=answers.configure_selection,
        reads=("prompts", "training"),
        work=answers.select,
    ),
    "evaluation": StageKind(
        version=4,
        configure=answers.configure_evaluation,
        reads=("prompts", "policy", "baseline"),
        work=answers.evaluate,
    ),
} | {
    name: StageKind(
        version=3, configure=measured.configure, reads=measured.READS[name], work=measured.measure
    )
    for name in MEASURES
}

OF_WARM_START = {
    "vocabulary": StageKind(
        version=1, configure=vocabulary.configure, reads=(), work=vocabulary.work
    ),
    "examples": StageKind(
        version=1,
        configure=examples.configure,
        reads=("prompts", "rollouts", "judgements", "policy"),
        work=examples.work,
    ),
    "training": StageKind(
        version=1,
        configure=training.configure_fine_tuning,
        reads=("examples", "policy"),
        work=training.run_fine_tuning,
    ),
    "selection": StageKind(
        version=1,
        configure=answers.configure_acceptance,
        reads=("prompts", "training"),
        work=answers.accept,
    ),
}
"""Those that the warm start has alone, or does in a way of its own."""


def kind_of(ref: StageRef) -> StageKind:
    """How a stage is opened and done."""
    if ref.index == WARM_START and ref.stage in OF_WARM_START:
        return OF_WARM_START[ref.stage]
    return STAGES[ref.stage]


def _judges_of(ref: StageRef) -> tuple[JudgeConfig, ...]:
    """The judges that a stage asks: the run's, but for the second's measure, which may ask both."""
    second = ref.recipe.measures.second_judge
    if ref.stage != "second_judge" or second is None:
        return (ref.recipe.judge,)
    return (second.judge, ref.recipe.judge) if second.again else (second.judge,)


def inputs(ref: StageRef) -> list[Path]:
    """Folders of the sealed stages that a stage reads."""
    folders = []
    recipe, arm = ref.recipe, ref.arm
    if ref.index == WARM_START:
        # The judge may not be asked in a warm start, and nothing be sampled.
        skipped = set(WARM_START_STAGES) - {e.stage for e in warm_start_refs(recipe, arm)}
    else:
        skipped = set(ITERATION_STAGES) - {e.stage for e in iteration_refs(recipe, arm, ref.index)}
    for name in kind_of(ref).reads:
        if name in skipped:
            continue
        if name == "baseline":
            relative = any(judge.is_relative for judge in _judges_of(ref))
            if relative and ref.baseline != replace(ref, stage="evaluation"):
                folders.append(ref.baseline.folder)
        elif name == "evaluations":
            folders += [each.folder for each in ref.evaluations]
        elif name == "choice":
            folders += [ref.choice] if ref.choice else []
        elif name != "policy":
            folders.append(ref.beside(name))
        elif ref.policy_stage is not None:
            folders.append(ref.policy_stage)
    return folders


def run_stage(ref: StageRef, reporter: Reporter) -> None:
    """Do what the stage owes and seal it; a sealed one returns at once.

    Raises: StageError if its folder holds other work or an input is not sealed.
    """
    kind = kind_of(ref)
    if "policy" in kind.reads:
        ref.check_policy()
    stage = Stage(
        ref.folder,
        name=ref.stage,
        version=kind.version,
        config=kind.configure(ref),
        inputs=inputs(ref),
    )
    stage.complete(lambda: kind.work(stage, ref, reporter))
