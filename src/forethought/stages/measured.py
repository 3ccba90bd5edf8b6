"""Stages of the measures: those a recipe's `measures` section asks for, on a run's policies.

`win_rate` compares the two arms and stands in the thought arm's folder; it uses the answers that
the evaluations have sealed.
"""

from __future__ import annotations

from typing import Any

from forethought.config import JudgeConfig, SecondJudgeMeasure
from forethought.judging.describe import identity
from forethought.models import loading
from forethought.progress.reporter import Reporter
from forethought.runs.layout import StageRef
from forethought.runs.schedule import OWN_QUESTIONS
from forethought.stages.judged.verdict_cache import verdict_cache_file
from forethought.stages.measures import second_judge, win_rate
from forethought.stages.measures.base import Subject, settings_identity
from forethought.stages.policies.sampled_policy import Policy
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import Count, read_records
from forethought.types import Answer, Prompt

READS = {
    "win_rate": ("prompts", "evaluations"),
    "second_judge": ("prompts", "evaluation", "baseline", "choice"),
    "probe": ("prompts", "policy"),
    "gsm8k": ("policy",),
    "alpaca_eval": ("policy",),
    "arena_hard": ("policy",),
}
"""What each reads, in the words of the stages' table."""


def configure(ref: StageRef) -> dict[str, Any]:
    """What decides this stage's content besides its inputs."""
    if (second := _second_judge(ref)) is not None:
        return (
            {"judge": identity(second.judge)}
            | ({"epochs": True} if second.epochs else {})
            | ({"again": identity(ref.recipe.judge)} if second.again else {})
        )
    config = settings_identity(ref.stage, _config(ref), _judge(ref), [Policy.of(ref)])
    if ref.policy_stage is None:
        config["model"] = loading.identity(ref.recipe.model.source)
    return config


def measure(stage: Stage, ref: StageRef, reporter: Reporter) -> dict[str, Count]:
    """Do what the stage's measure asks for."""
    if (second := _second_judge(ref)) is not None:
        return second_judge.measure(stage, ref, second, reporter)
    own = ref.stage in OWN_QUESTIONS
    subject = _subject(ref, () if own else tuple(ref.prompts("test")))
    config = _config(ref)
    if ref.stage != "win_rate":
        return measure_policy(ref.stage, stage, subject, config, reporter)
    sides = {}
    for other in ref.evaluations:
        arm = other.arm
        sides[arm] = win_rate.Contender(
            name=f"{arm} policy {ref.index}",
            policy=Policy.of(other),
            answers=tuple(read_records(other.folder, Answer, "answers")),
        )
    match = win_rate.WinRateSetup(
        first=sides["thought"],
        second=sides["direct"],
        judge=ref.recipe.judge,
        cache=subject.cache,
        account=subject.account,
        prompts=subject.prompts,
        launch=ref.recipe.launch,
        places=ref.prompt_places,
    )
    return win_rate.compare(stage, match, config, reporter)


def measure_policy(
    name: str, stage: Stage, subject: Subject, config: Any, reporter: Reporter
) -> dict[str, Count]:
    """A measure of one policy, by its name; `config` is its section."""
    match name:
        case "gsm8k":
            from forethought.stages.measures import accuracy

            return accuracy.measure(stage, subject, config, reporter)
        case "probe":
            from forethought.stages.measures import probe

            return probe.measure(stage, subject, config, reporter)
        case "alpaca_eval":
            from forethought.stages.measures import alpaca_eval

            return alpaca_eval.measure(stage, subject, config, reporter)
        case "arena_hard":
            from forethought.stages.measures import arena_hard

            return arena_hard.measure(stage, subject, config, reporter)
        case _:
            raise AssertionError(name)


def _config(ref: StageRef) -> Any:
    config = dict(ref.recipe.measures)[ref.stage]
    assert config is not None, "a measure that is not asked for has no stage"
    return config


def _second_judge(ref: StageRef) -> SecondJudgeMeasure | None:
    return ref.recipe.measures.second_judge if ref.stage == "second_judge" else None


def _judge(ref: StageRef) -> JudgeConfig | None:
    return None if ref.stage in OWN_QUESTIONS else ref.recipe.judge


def _subject(ref: StageRef, prompts: tuple[Prompt, ...]) -> Subject:
    return Subject(
        policy=Policy.of(ref),
        judge=_judge(ref),
        cache=verdict_cache_file(ref.recipe),
        account=f"{ref.recipe.run.resolve()} {ref.label}",
        prompts=prompts,
        places=ref.prompt_places,
    )
