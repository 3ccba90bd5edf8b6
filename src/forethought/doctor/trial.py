"""The first stages of a recipe, on a few of its prompts, in a run directory of their own.

They are the run's own stages: its first prompts, the same seeds, its engines, judge and workers.
Then the judge is shown the same responses once more. The folder stands beside the run's, as
`RUN-doctor`. It resumes when it was stopped on the way; a finished one, and one of another recipe,
is emptied first. Nothing in it is used by the run.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forethought.config import Recipe
from forethought.config.recipe_files import dump
from forethought.evaluation.judge_quality.cases import Case, CaseVerdict
from forethought.judging.describe import identity
from forethought.judging.executor import judging_executor
from forethought.models.model_cache import model_cache
from forethought.pipeline.launch import launch
from forethought.pipeline.loop import look_before_work, try_engines
from forethought.pipeline.measure_judge import case_verdicts
from forethought.progress.reporter import Reporter
from forethought.runs.layout import WARM_START, StageRef
from forethought.runs.lock import run_lock
from forethought.runs.schedule import iteration_refs, prompts_ref, warm_start_refs
from forethought.stages.policies.demonstrated import look_at_demonstrations
from forethought.storage.files import content_hash, write_json
from forethought.storage.open_stage import Stage
from forethought.storage.reply_cache import Cache
from forethought.storage.sealed_stage import (
    SCRATCH,
    ArmStoppedError,
    Count,
    StageError,
    read_object,
    read_records,
)
from forethought.thoughts import load_format
from forethought.types import Arm, Rollout
from forethought.workers.threads import use_threads

MARK = "doctor.json"
"""Says that a folder is doctor's; holds the figures once they are there."""
TRIED = ("vocabulary", "rollouts", "judgements", "pairs", "examples")
"""Stages that are run: nothing is trained."""
AGAIN = "judged_again"
"""The stage that shows the judge the same responses once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A recipe and the same one made small.

    Example: `Trial(recipe=Recipe(…), small=Recipe(…))`
    """

    recipe: Recipe
    small: Recipe
    """In a folder of its own, with few prompts and one iteration."""

    @property
    def folder(self) -> Path:
        """Its run directory."""
        return self.small.run

    @property
    def warm(self) -> bool:
        """Whether what is sampled is shown demonstrations, for the warm start."""
        return self.small.warm_start is not None

    @property
    def before_training(self) -> bool:
        """Whether what is sampled is a seed that the recipe trains on given thoughts first."""
        return self.recipe.warm_start is not None and not self.warm

    def ref(self, stage: str, arm: Arm) -> StageRef:
        """A stage of the trial."""
        index = WARM_START if self.warm else 0
        return StageRef(recipe=self.small, stage=stage, arm=arm, index=index)

    def refs(self, arm: Arm) -> Iterator[StageRef]:
        """The stages of an arm that are run, in order."""
        warm = warm_start_refs(self.small, arm)
        every = warm if self.warm else iteration_refs(self.small, arm, 0)
        return (ref for ref in every if ref.stage in TRIED)

    def again(self, arm: Arm) -> Path:
        """The folder of the second judging."""
        return self.folder / arm / AGAIN


def small_trial(recipe: Recipe, prompts: int) -> Trial:
    """The trial of a recipe on so many prompts; of several seeds it is the first one's.

    Raises: ValueError if the recipe trains nothing, or has nothing that can be sampled yet.
    """
    if recipe.iterations == 0 and recipe.warm_start is None:
        raise ValueError(
            "iterations: 0 trains nothing, so there is nothing to look at beforehand; `forethought "
            "run` itself shows how the model answers"
        )
    warm = recipe.warm_start
    if warm is not None and not warm.samples:
        _refuse_unknown_tokens(recipe)
    if warm is not None:
        few = {"prompts": prompts, "keep_by": "judge"}
        # Records of a file are trained on as they are, and nothing is sampled for them.
        warm = warm.model_copy(update=few) if warm.samples else None
    small = recipe.model_copy(
        update={
            "run": recipe.run.with_name(f"{recipe.run.name}-doctor"),
            "seed": (*recipe.seeds, recipe.seed)[0],
            "seeds": (),
            "iterations": 1,
            "prompts_per_iteration": prompts,
            "warm_start": warm,
            "trackers": (),
        }
    )
    return Trial(recipe=recipe, small=small)


def _refuse_unknown_tokens(recipe: Recipe) -> None:
    """Raises: ValueError where the seed, which is all there is, cannot write the markers."""
    if {"thought", "hybrid"} & set(recipe.arms) and load_format(
        recipe.thought_format
    ).markers_are_tokens:
        raise ValueError(
            f"thought_format: the markers of {recipe.thought_format} are tokens that the model "
            "gets in its warm start, and with warm_start.samples: 0 nothing is sampled before "
            "that; look at the other arm alone (arms=[direct]), or at another format "
            "(thought_format=generic)"
        )


@contextmanager
def held_folder(trial: Trial) -> Iterator[None]:
    """Hold the trial's folder, emptied unless the same trial was stopped in it on the way.

    Raises: ValueError if the recipe names what is not there, or the folder holds something else;
    StageError if another process works in it.
    """
    folder, mark = trial.folder, trial.folder / MARK
    begun = {"recipe": content_hash(dump(trial.small)), "done": False}
    if folder.exists():
        if not mark.is_file() and any(path.name != "lock" for path in folder.iterdir()):
            raise ValueError(
                f"run: doctor works in {folder}, which holds something else; move that away, or "
                "name another run=…"
            )
        with run_lock(folder):
            if not mark.is_file() or read_object(mark) != begun:
                _empty(folder)
    look_before_work(trial.small)
    if trial.before_training:
        look_at_demonstrations(trial.recipe)
    with run_lock(folder):
        write_json(mark, begun)
        write_json(folder / "config.json", dump(trial.small))
        yield


def _empty(folder: Path) -> None:
    """Remove all but the lock; the mark goes last, so that the folder is known until then."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == MARK):
        if path.name == "lock":
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def run_trial(trial: Trial, reporter: Reporter) -> dict[Arm, str]:
    """Run what the trial still owes.

    Returns: what was said of each arm that had nothing to go on with.

    Raises: ValueError for whatever is wrong with prompts, model, engine or judge.
    """
    reporter.log_to(trial.folder / "doctor.log")
    small = trial.small
    with model_cache() if small.launch.keep_engines else nullcontext():
        first = prompts_ref(small)
        launch(first, reporter)
        if not trial.ref("rollouts", small.arms[0]).prompts("train"):
            raise ValueError(
                "prompts: all of them are held out and none is left to train on; lower "
                "prompts.test.count or prompts.validation.count, or give more in prompts.train"
            )
        if not all(ref.sealed for arm in small.arms for ref in trial.refs(arm)):
            try_engines(small, reporter)
        said: dict[Arm, str | None] = {arm: _run_arm(trial, arm, reporter) for arm in small.arms}
    return {arm: why for arm, why in said.items() if why is not None}


def _run_arm(trial: Trial, arm: Arm, reporter: Reporter) -> str | None:
    """Why the arm has nothing to go on with, if it has not."""
    stopped: ArmStoppedError | None = None
    unjudged: StageError | None = None
    for ref in trial.refs(arm):
        try:
            launch(ref, reporter)
        except ArmStoppedError as error:
            stopped = error
            break
        except StageError as error:
            # A judge that scores nothing is found by the second judging, too.
            if ref.stage != "judgements":
                raise
            unjudged = error
            break
    scored = _judge_again(trial, arm, reporter)
    if unjudged is not None and scored:
        raise unjudged
    why = stopped or unjudged
    return None if why is None else str(why)


def cases_of(trial: Trial, arm: Arm) -> list[tuple[tuple[int, ...], Case]]:
    """What the judge is shown of an arm: whose outputs, and the responses, prompt by prompt."""
    ref = trial.ref("rollouts", arm)
    prompts = {prompt.prompt_id: prompt for prompt in ref.prompts("train")}
    found: dict[str, dict[int, str]] = {}
    for rollout in read_records(ref.folder, Rollout):
        if rollout.parsed.response is not None:
            of_prompt = found.setdefault(rollout.prompt_id, {})
            of_prompt[rollout.sample_index] = rollout.parsed.response
    return [
        (tuple(texts), Case(prompt=prompts[key], responses=tuple(texts.values())))
        for key, texts in found.items()
    ]


def _judge_again(trial: Trial, arm: Arm, reporter: Reporter) -> bool:
    """Show the judge the same responses, in reverse; whether it scored any."""
    judge, small = trial.small.judge.asked_again, trial.small
    cases = [case.turned for _, case in reversed(cases_of(trial, arm))]
    if not cases:
        return False
    folder = trial.again(arm)
    stage = Stage(
        folder,
        name=AGAIN,
        version=1,
        config={"judge": identity(judge)},
        inputs=[trial.ref("rollouts", arm).folder],
    )

    def work() -> dict[str, Count]:
        use_threads(small.launch.threads)
        path = folder / SCRATCH / "cache.sqlite" if judge.asks_a_model else None
        with (
            reporter.task(f"{arm} judged again", len(cases), "prompts") as task,
            Cache(path) as cache,
            judging_executor(judge, cache, small.launch) as executor,
        ):
            started = time.monotonic()
            verdicts = case_verdicts(executor, cases, task)
            seconds = time.monotonic() - started
        stage.write_records(AGAIN, verdicts, CaseVerdict)
        return {"judging_seconds": seconds, "responses": sum(len(c.responses) for c in cases)}

    stage.complete(work)
    return any(verdict.scores for verdict in read_records(folder, CaseVerdict))


def finish(trial: Trial, figures: dict[str, Any]) -> None:
    """Write the figures; the folder's next trial begins anew."""
    write_json(trial.folder / MARK, figures)
