"""The loop: every stage of a run (runs/schedule.py), one after the other.

Running the same recipe again resumes: sealed stages return at once.
"""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from forethought.config import Recipe
from forethought.config.recipe_files import dump
from forethought.heap import trim_heap
from forethought.models.model_cache import model_cache
from forethought.pipeline.launch import launch, try_engine
from forethought.progress.reporter import Reporter
from forethought.runs.layout import StageRef
from forethought.runs.lock import run_lock
from forethought.runs.retention import drop_weights
from forethought.runs.schedule import stage_refs, warm_start_refs
from forethought.runs.summary import write_summary
from forethought.stages.checks.arm_templates import refuse_dishonest_templates
from forethought.stages.checks.first_look import look_first
from forethought.stages.checks.open_engines import ONLY_LOOKED_AT, owed_engines
from forethought.stages.policies.demonstrated import look_at_demonstrations
from forethought.stages.prompts import changed_sources
from forethought.stages.table import inputs, kind_of
from forethought.storage.files import write_json
from forethought.storage.open_stage import refuse_changed_config
from forethought.storage.sealed_stage import (
    ArmStoppedError,
    StageError,
    is_sealed,
    read_manifest,
    read_object,
)
from forethought.trackers.follow import Trackers
from forethought.types import Arm

PACKAGES = ("forethought", "torch", "transformers", "tokenizers", "peft", "pyarrow", "numpy")
"""Recorded as provenance."""


def run_recipe(recipe: Recipe, reporter: Reporter) -> None:
    """Start or resume a run and bring it to its end.

    Raises: StageError if another process holds the run, or it holds the work of another recipe;
    ArmStoppedError if an arm had nothing more to learn from, after all that does not build on it;
    ValueError for whatever is wrong with prompts, model or judge.
    """
    look_before_work(recipe)
    with run_lock(recipe.run):
        refuse_changed_recipe(recipe)
        write_json(recipe.run / "config.json", dump(recipe))
        attempt = _Attempt(recipe.run)
        reporter.log_to(recipe.run / "log" / f"attempt_{attempt.number}.log")
        trackers = Trackers(recipe, reporter)
        try:
            _run_places(recipe, reporter, attempt, trackers)
        finally:
            attempt.end()
            trackers.close()
        write_summary(recipe)


def _run_places(recipe: Recipe, reporter: Reporter, attempt: _Attempt, trackers: Trackers) -> None:
    stopped: dict[Arm, ArmStoppedError] = {}
    with model_cache() if recipe.launch.keep_engines else nullcontext():
        for ref in stage_refs(recipe):
            if stopped and not all(is_sealed(folder) for folder in inputs(ref)):
                continue
            if not ref.sealed:
                if ref.stage != "prompts" and not attempt.tried:
                    attempt.tried = True
                    try_engines(recipe, reporter)
                attempt.worked = True
                try:
                    launch(ref, reporter)
                except ArmStoppedError as error:
                    stopped[ref.arm] = error
                    others = set(recipe.arms) - stopped.keys()
                    if others:
                        reporter.say(f"error: {error}")
                        rest = "the other one goes on" if len(others) == 1 else "the others go on"
                        reporter.say(f"the {ref.arm} arm ends here; {rest}")
                    continue
                trim_heap()
                if ref.stage == "evaluation":
                    write_summary(recipe)
                if ref.stage == "selection":
                    drop_weights(recipe)
                trackers.look()
            elif ref.stage == "prompts":
                _say_changed_sources(ref, reporter)
            if ref.stage == "prompts":
                _refuse_too_few_prompts(recipe, ref)
    drop_weights(recipe)
    if stopped:
        # An earlier one was said when it came.
        raise list(stopped.values())[-1]


def look_before_work(recipe: Recipe) -> None:
    """Look for all that the recipe names, before any work.

    Raises: ValueError naming what is not there, or cannot be used.
    """
    every = list(stage_refs(recipe))
    with _unpaid(every):
        if lacking := look_first(recipe):
            raise ValueError("\n".join(lacking))
        for ref in warm_start_refs(recipe, recipe.arms[0]):
            if ref.stage in ("rollouts", "examples") and not ref.sealed:
                look_at_demonstrations(recipe)
                break
    # The last, since it loads a tokenizer.
    if {ref.stage for ref in every if not ref.sealed} & {"rollouts", "evaluation"}:
        refuse_dishonest_templates(recipe)


def try_engines(recipe: Recipe, reporter: Reporter) -> None:
    """Find out before anything is sampled which engine could not be used.

    Raises: ValueError that names it.
    """
    every = list(stage_refs(recipe))
    names = [name for name in owed_engines(every) if name not in ONLY_LOOKED_AT]
    if not names:
        return
    reporter.say(f"trying before anything is sampled: {', '.join(names)}")
    with _unpaid(every):
        for name in names:
            try_engine(recipe, name)


@contextmanager
def _unpaid(refs: Sequence[StageRef]) -> Iterator[None]:
    """Raises: ValueError for one within, saying so where nothing was sampled yet."""
    try:
        yield
    except ValueError as error:
        if {ref.stage for ref in refs if ref.begun} - {"prompts"}:
            raise
        raise ValueError(f"{error}; nothing was sampled yet") from error


def refuse_changed_recipe(recipe: Recipe) -> None:
    """Raises: StageError naming the first stage already begun with other settings."""
    for ref in stage_refs(recipe):
        if ref.begun or ref.sealed:
            kind = kind_of(ref)
            config = kind.configure(ref)
            refuse_changed_config(ref.folder, version=kind.version, config=config)


def _say_changed_sources(ref: StageRef, reporter: Reporter) -> None:
    for name in changed_sources(ref):
        reporter.say(
            f"prompts: {name} has changed since this run read it; the run goes on with the prompts "
            f"it has, in {ref.folder}. To use the file as it is now, give another run=…"
        )


def _refuse_too_few_prompts(recipe: Recipe, ref: StageRef) -> None:
    there = read_manifest(ref.folder).counts["train"]
    assert isinstance(there, int)
    first = recipe.first_prompt
    wanted = first + recipe.iterations * recipe.prompts_per_iteration
    if wanted > there:
        warm = f"a warm start of {first} and " if first else ""
        lower = "warm_start.prompts, iterations" if first else "iterations"
        raise StageError(
            f"prompts: there are {there} training prompts, and {warm}{recipe.iterations} "
            f"iterations of {recipe.prompts_per_iteration} need {wanted}; lower {lower} or "
            "prompts_per_iteration, or give more sources in prompts.train"
        )


class _Attempt:
    """One process's work on a run, recorded in `run.json`."""

    def __init__(self, run: Path) -> None:
        self.worked = False
        self.tried = False
        """Whether the engines were opened for a trial."""
        self._path = run / "run.json"
        self._started = time.monotonic()
        record = read_object(self._path) if self._path.is_file() else {"attempts": []}
        self.number = len(record["attempts"]) + 1
        record["attempts"].append(_provenance())
        self._record = record
        (run / "log").mkdir(exist_ok=True)
        write_json(self._path, record)

    def end(self) -> None:
        """Note how long it took; an attempt that found nothing to do counts no time."""
        seconds = time.monotonic() - self._started if self.worked else 0.0
        self._record["attempts"][-1]["seconds"] = round(seconds, 1)
        write_json(self._path, self._record)


def _provenance() -> dict[str, Any]:
    import torch

    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": " ".join(["forethought", *sys.argv[1:]]),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git_commit": _git_commit(),
        "threads": torch.get_num_threads(),
        "seconds": 0.0,
    }


def _git_commit() -> str | None:
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() if found.returncode == 0 else None
