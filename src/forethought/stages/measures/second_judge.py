"""Measure `second_judge`: the evaluation's answers, scored by a judge that trains nothing.

A policy learns what its judge likes, and not all of that is better (Gao et al. 2023, "Scaling Laws
for Reward Model Overoptimization"). Nothing is sampled here: the sealed answers of the evaluation
stand before another judge, bare as before any. With one that only compares, a score is the share of
wins against the baseline's answers. What both judges say is set side by side where a run is read
(runs/second_opinion.py).

With `epochs` the judge scores the selection's answers to validation prompts, too: all epochs' at
once, as the judge of training did. With `again` the judge of training scores the evaluation's
answers once more, by its next seeds: that is its noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from statistics import fmean
from typing import Any

from forethought.config import SecondJudgeMeasure
from forethought.evaluation.intervals import mean_result
from forethought.evaluation.scale import RAW
from forethought.judging.describe import score_ends
from forethought.progress.reporter import Reporter
from forethought.runs.layout import StageRef
from forethought.stages.judged.joint_judging import prompt_scores, worst_score
from forethought.stages.judged.judged_answers import JUDGED, JudgedAnswers
from forethought.stages.measures.base import as_counts
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import Count, read_json, read_manifest, read_records
from forethought.types import Answer, Prompt

EPOCHS_JUDGED = ("epochs_judge.json", "epochs_spent.jsonl")
"""`JUDGED` of the epochs' answers."""
AGAIN_JUDGED = ("again_judge.json", "again_spent.jsonl")
"""`JUDGED` of the answers that the judge of training scored once more."""


def measure(
    stage: Stage, ref: StageRef, config: SecondJudgeMeasure, reporter: Reporter
) -> dict[str, Count]:
    """Score one policy's sealed answers to the test prompts.

    Raises: ValueError if the judge fails; StageError if it only compares, and the baseline has
    answered none of the same prompts.
    """
    prompts = ref.prompts("test")
    with reporter.task(ref.label, 1, "policies") as task:
        judged = JudgedAnswers(stage, ref, config.judge)
        if not stage.has("answers", *JUDGED):
            stage.write_records("answers", judged.of_policy(_bare(ref), prompts), Answer)
        answers = stage.read_records("answers", Answer)
        epochs = _epochs(stage, ref, config)
        again = _again(stage, ref, prompts) if config.again else {}
        task.advance()
        scores = prompt_scores(answers, worst_score(judged.floor, answers))
        ends = score_ends(config.judge, scores.values())
        results = [mean_result("second_judge", list(scores.values()), ends=ends)] if scores else []
        task.note = f"score {RAW.with_interval(results[0]) if results else 'unknown'}"
    by_category: dict[str, list[float]] = {}
    for prompt in prompts:
        if prompt.category and prompt.prompt_id in scores:
            by_category.setdefault(prompt.category, []).append(scores[prompt.prompt_id])
    results += [
        replace(mean_result("second_judge", each, ends=ends), category=category)
        for category, each in sorted(by_category.items())
    ]
    return {
        "results": as_counts(results),
        "scores": dict(scores),
        **judged.counts(),
        **epochs,
        **again,
        "judge_calls": _spent(stage),
    }


def _spent(stage: Stage) -> Count:
    """The calls of the whole stage: those noted last, by a judge that asks a model."""
    noted = [
        read_json(stage.folder / spent)
        for _, spent in (AGAIN_JUDGED, EPOCHS_JUDGED, JUDGED)
        if (stage.folder / spent).is_file()
    ]
    return next((calls for calls in noted if calls is not None), None)


def _bare(ref: StageRef) -> list[Answer]:
    """The evaluation's answers without their scores."""
    sealed = read_records(ref.beside("evaluation"), Answer, "answers")
    return [replace(answer, score=None) for answer in sealed]


def _again(stage: Stage, ref: StageRef, prompts: Sequence[Prompt]) -> dict[str, Count]:
    """The score of each prompt's answers by the judge of training, asked once more."""
    judged = JudgedAnswers(stage, ref, ref.recipe.judge.asked_again, AGAIN_JUDGED)
    if not stage.has("again", *AGAIN_JUDGED):
        stage.write_records("again", judged.of_policy(_bare(ref), prompts), Answer)
    answers = stage.read_records("again", Answer)
    scores = prompt_scores(answers, worst_score(judged.floor, answers))
    return {"again": dict(scores)}


def _epochs(stage: Stage, ref: StageRef, config: SecondJudgeMeasure) -> dict[str, Count]:
    """Mean score of each epoch's sealed validation answers; nothing where none is asked for."""
    if ref.choice is None:
        return {}
    first: Any = read_manifest(ref.choice).counts
    judged = JudgedAnswers(stage, ref, config.judge, EPOCHS_JUDGED)
    numbers = [row["epoch"] for row in first["scores"]]
    if not all(stage.has(f"epoch_{number}", *EPOCHS_JUDGED) for number in numbers):
        bare = {
            number: [
                replace(answer, score=None)
                for answer in read_records(ref.choice, Answer, f"epoch_{number}")
            ]
            for number in numbers
        }
        for number, answers in judged.scored(bare, ref.prompts("validation")).items():
            stage.write_records(f"epoch_{number}", answers, Answer)
    answers = {number: stage.read_records(f"epoch_{number}", Answer) for number in numbers}
    worst = worst_score(judged.floor, list(chain.from_iterable(answers.values())))
    means = {
        number: fmean(scores.values())
        for number, each in answers.items()
        if (scores := prompt_scores(each, worst))
    }
    if not means:
        return {}
    return {
        "epochs": {
            "chosen": first["chosen_epoch"],
            # As in the selection, a tie takes the earlier one.
            "second": max(means, key=lambda number: (means[number], -number)),
            "scores": [{"epoch": number, "score": mean} for number, mean in means.items()],
        }
    }
