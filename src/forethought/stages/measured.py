"""Stages of the measures: those a recipe's `measures` section asks for, on a run's policies.

`win_rate` compares the two arms and stands in the thought arm's folder; it uses the answers that
the evaluations have sealed.
"""

from __future__ import annotations

from typing import Any

from forethought import models
from forethought.config import JudgeConfig
from forethought.progress import Reporter
from forethought.runs.layout import Place
from forethought.runs.schedule import OWN_QUESTIONS
from forethought.stages.measures import win_rate
from forethought.stages.measures.base import Subject, settings_identity
from forethought.stages.policy import Policy
from forethought.stages.verdict_cache import verdict_cache_file
from forethought.store import Count, Stage, read_records
from forethought.types import Answer, Prompt

READS = {
    "win_rate": ("prompts", "evaluations"),
    "probe": ("prompts", "policy"),
    "gsm8k": ("policy",),
    "alpaca_eval": ("policy",),
    "arena_hard": ("policy",),
}
"""What each reads, in the words of the stages' table."""


def configure(place: Place) -> dict[str, Any]:
    """What decides this stage's content besides its inputs."""
    config = settings_identity(_config(place), _judge(place), [Policy.of(place)])
    if place.policy_stage is None:
        config["model"] = models.identity(place.recipe.model.source)
    return config


def measure(stage: Stage, place: Place, reporter: Reporter) -> dict[str, Count]:
    """Do what the place's measure asks for."""
    own = place.stage in OWN_QUESTIONS
    subject = _subject(place, () if own else tuple(place.prompts("test")))
    config = _config(place)
    if place.stage != "win_rate":
        return measure_policy(place.stage, stage, subject, config, reporter)
    sides = {}
    for other in place.evaluations:
        arm = other.arm
        sides[arm] = win_rate.Contender(
            name=f"{arm} policy {place.index}",
            policy=Policy.of(other),
            answers=tuple(read_records(other.folder, Answer, "answers")),
        )
    match = win_rate.Match(
        first=sides["thought"],
        second=sides["direct"],
        judge=place.recipe.judge,
        cache=subject.cache,
        account=subject.account,
        prompts=subject.prompts,
        launch=place.recipe.launch,
        places=place.prompt_places,
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


def _config(place: Place) -> Any:
    config = dict(place.recipe.measures)[place.stage]
    assert config is not None, "a measure that is not asked for has no place"
    return config


def _judge(place: Place) -> JudgeConfig | None:
    return None if place.stage in OWN_QUESTIONS else place.recipe.judge


def _subject(place: Place, prompts: tuple[Prompt, ...]) -> Subject:
    return Subject(
        policy=Policy.of(place),
        judge=_judge(place),
        cache=verdict_cache_file(place.recipe),
        account=f"{place.recipe.run.resolve()} {place.label}",
        prompts=prompts,
        places=place.prompt_places,
    )
