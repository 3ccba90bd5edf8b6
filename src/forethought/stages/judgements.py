"""Stage `judgements`: show the judge each prompt's bare responses and keep its scores.

Part *i* judges part *i* of `rollouts`. With `judge.workers` parts are done many at a time and
written as they arrive; what is written is the same.
"""

from __future__ import annotations

from array import array
from typing import Any

from forethought.judging.describe import identity
from forethought.judging.executor import judging_executor
from forethought.progress.reporter import Reporter
from forethought.runs.layout import StageRef
from forethought.stages.judged.judge_inputs import JudgeInputs
from forethought.stages.judged.no_pairs import why_nothing_parses
from forethought.stages.judged.verdict_cache import verdict_cache
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import (
    ArmStoppedError,
    Count,
    StageError,
    read_manifest,
    read_part,
    sealed_parts,
)
from forethought.types import Rollout, ScoredGroup, Unjudged


def configure(ref: StageRef) -> dict[str, Any]:
    """What decides this stage's content besides its inputs."""
    return {"judge": identity(ref.recipe.judge)}


def work(stage: Stage, ref: StageRef, reporter: Reporter) -> dict[str, Count]:
    """Judge what parts are owed; a group without scores is listed as missing.

    `unread_verdicts` counts those that could not be read in groups that were scored all the same.

    Raises: ArmStoppedError if no output of the iteration has a response; StageError if none could
    be judged.
    """
    rollouts = ref.beside("rollouts")
    _refuse_if_nothing_parses(ref)
    parts = sealed_parts(rollouts)
    owed = [i for i in range(len(parts)) if not _has(stage, i)]
    groups = unread = incomplete = 0
    scores = array("d")
    missing: list[Unjudged] = []
    with (
        reporter.task(ref.label, len(parts), "parts") as task,
        verdict_cache(ref, ref.recipe.judge) as cache,
    ):
        if owed:
            shown = JudgeInputs(rollouts, parts, ref.prompts("train"))
            with judging_executor(ref.recipe.judge, cache, ref.recipe.launch) as executor:
                for index, verdicts in executor.each(owed, shown.groups):
                    scored, unjudged = shown.records(index, verdicts.answers)
                    stage.write_records(f"scored_{index:05d}", scored, ScoredGroup)
                    # Written last: this part stands for both.
                    stage.write_records(f"unjudged_{index:05d}", unjudged, Unjudged)
                    task.advance()
        for index in range(len(parts)):
            for group in stage.read_records(f"scored_{index:05d}", ScoredGroup):
                groups += 1
                scores.extend(group.scores)
                unread += group.missing
                incomplete += group.missing > 0
            missing += stage.read_records(f"unjudged_{index:05d}", Unjudged)
        if not scores:
            raise StageError(
                f"{ref.label}: the judge scored none of {len(missing)} prompts, the first "
                f"because: {missing[0].reason}"
            )
        relative = ref.recipe.judge.is_relative
        mean = None if relative else sum(scores) / len(scores)
        notes = [] if mean is None else [f"mean score {mean:.3f}"]
        if unread:
            notes.append(f"{unread} verdicts of {incomplete} prompts could not be read")
        task.note = ", ".join(notes)
        spent = cache.counts() if ref.recipe.judge.asks_a_model else None
    return {
        "groups": groups,
        "responses": len(scores),
        "mean_score": mean,
        "judge_calls": spent,
        "unread_verdicts": unread,
        "groups_with_unread": incomplete,
        "missing": [{"prompt_id": group.prompt_id, "reason": group.reason} for group in missing],
    }


def _has(stage: Stage, index: int) -> bool:
    return stage.has(f"unjudged_{index:05d}", f"scored_{index:05d}.parquet")


def _refuse_if_nothing_parses(ref: StageRef) -> None:
    folder = ref.beside("rollouts")
    if read_manifest(folder).counts["parse_failures"] == 1:
        first = next(
            rollout for part in sealed_parts(folder) for rollout in read_part(folder, part, Rollout)
        )
        raise ArmStoppedError(
            f"{why_nothing_parses(ref)}. The first output is {first.completion.text!r:.300}"
        )
