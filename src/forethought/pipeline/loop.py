"""The loop: every stage of a run (runs/schedule.py), one after the other.

Running the same recipe again resumes: sealed stages return at once.
"""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from forethought.config import FilePrompts, PromptSource, Recipe
from forethought.config.recipe_files import dump
from forethought.judging.describe import refuse_missing_models
from forethought.models.model_cache import model_cache
from forethought.pipeline.launch import launch, try_engine
from forethought.progress.reporter import Reporter
from forethought.runs.layout import StageRef
from forethought.runs.lock import run_lock
from forethought.runs.retention import drop_weights
from forethought.runs.schedule import stage_refs
from forethought.runs.summary import write_summary
from forethought.stages.checks.arm_templates import refuse_dishonest_templates
from forethought.stages.checks.open_engines import owed_engines
from forethought.stages.prompts import changed_sources
from forethought.stages.table import STAGES, inputs
from forethought.storage.sealed_stage import (
    ArmStoppedError,
    StageError,
    is_sealed,
    read_json,
    read_manifest,
    refuse_changed_config,
    write_json,
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
    refuse_missing_files(recipe)
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
                    _try_engines(recipe, reporter)
                attempt.worked = True
                try:
                    launch(ref, reporter)
                except ArmStoppedError as error:
                    stopped[ref.arm] = error
                    others = set(recipe.arms) - stopped.keys()
                    if others:
                        reporter.say(f"error: {error}")
                        reporter.say(f"the {ref.arm} arm ends here; the other one goes on")
                    continue
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


def refuse_missing_files(recipe: Recipe) -> None:
    """Look for every file that the recipe names and a stage still needs, before any work.

    Raises: ValueError naming the first that is not there or cannot be read.
    """
    owed = [ref for ref in stage_refs(recipe) if not ref.sealed]
    first = {(ref.stage, ref.arm): ref for ref in reversed(owed)}
    for ref in reversed(first.values()):
        STAGES[ref.stage].configure(ref)
    stages = {ref.stage for ref in owed}
    for field, stage, sources in _sources(recipe):
        for index, source in enumerate(sources if stage in stages else ()):
            path = source.path if isinstance(source, FilePrompts) else None
            if isinstance(path, Path) and not path.is_file():
                raise ValueError(f"{field}.{index}.path: {path} does not exist; correct it")
    if stages & {"judgements", "selection", "evaluation"}:
        refuse_missing_models(recipe.judge)
    # The last, since it loads a tokenizer.
    if stages & {"rollouts", "evaluation"}:
        refuse_dishonest_templates(recipe)


def _sources(recipe: Recipe) -> Iterator[tuple[str, str, tuple[PromptSource, ...]]]:
    """Sources of prompts with their place in the recipe and the stage that reads them."""
    prompts, gsm8k = recipe.prompts, recipe.measures.gsm8k
    yield "prompts.train", "prompts", prompts.train
    yield "prompts.validation.sources", "prompts", prompts.validation.sources
    if prompts.test is not None:
        yield "prompts.test.sources", "prompts", prompts.test.sources
    if gsm8k is not None:
        yield "measures.gsm8k.sources", "gsm8k", gsm8k.sources


def _try_engines(recipe: Recipe, reporter: Reporter) -> None:
    """Find out before anything is sampled which engine could not be used.

    Raises: ValueError that names it.
    """
    every = list(stage_refs(recipe))
    if not (names := owed_engines(every)):
        return
    reporter.say(f"trying before anything is sampled: {', '.join(names)}")
    try:
        for name in names:
            try_engine(recipe, name)
    except ValueError as error:
        begun = {ref.stage for ref in every if ref.begun}
        if begun - {"prompts"}:
            raise
        raise ValueError(f"{error}; nothing was sampled yet") from error


def refuse_changed_recipe(recipe: Recipe) -> None:
    """Raises: StageError naming the first stage already begun with other settings."""
    for ref in stage_refs(recipe):
        if ref.begun:
            kind = STAGES[ref.stage]
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
    wanted = recipe.iterations * recipe.prompts_per_iteration
    if wanted > there:
        raise StageError(
            f"prompts: there are {there} training prompts, and {recipe.iterations} iterations of "
            f"{recipe.prompts_per_iteration} need {wanted}; lower iterations or "
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
        record = read_json(self._path) if self._path.is_file() else {"attempts": []}
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
