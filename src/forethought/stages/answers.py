"""Stages `selection` and `evaluation`: a policy answers held-out prompts and the judge scores them.

The `selection` of the warm start takes its last epoch, and asks only whether it has the format.

Selection does so for the checkpoint of every epoch and keeps the best as the next policy (Wu et
al. 2024, section 3); a tie takes the earlier epoch. An output without a response is sampled again
up to `attempts` times and then counts as the worst: the judge's floor, or, where the judge has
none, the lowest score of the stage. A stage in which nothing was scored has no mean (`null`).
"""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forethought.config import AnswersConfig
from forethought.evaluation.intervals import mean_result
from forethought.evaluation.scale import RAW
from forethought.judging.describe import identity, score_ends
from forethought.models import loading
from forethought.progress.reporter import Reporter
from forethought.runs.layout import StageRef
from forethought.stages.judged.joint_judging import prompt_scores, worst_score
from forethought.stages.judged.judged_answers import (
    JUDGED,
    JudgedAnswers,
    on_the_same_prompts,
)
from forethought.stages.policies.sample_until_parsed import answer_prompts
from forethought.stages.policies.sampled_policy import Policy, server_counts
from forethought.storage import left_out
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import (
    SCRATCH,
    Count,
    StageError,
    check_files,
    read_manifest,
    read_records,
)
from forethought.types import Answer, Prompt

POLICY = "policy"


def configure_selection(ref: StageRef) -> dict[str, Any]:
    """What decides the selection besides its inputs."""
    return _configure(ref, ref.recipe.selection)


def configure_evaluation(ref: StageRef) -> dict[str, Any]:
    """What decides the evaluation besides its inputs."""
    config = _configure(ref, ref.recipe.evaluation)
    if ref.policy_stage is None:
        config["model"] = loading.identity(ref.recipe.model.source)
    return config


def select(stage: Stage, ref: StageRef, reporter: Reporter) -> dict[str, Count]:
    """Answer with every epoch's checkpoint, judge, choose, keep the chosen one as `policy/`.

    With `selection.by: last` nothing is sampled.

    The judge sees a prompt's answers of all epochs at once, so that one which compares can choose.

    Raises: ValueError if the engine or the judge fails, or no prompt can be sampled.
    """
    epochs = range(1, ref.recipe.training.epochs + 1)
    if ref.recipe.selection.by == "last":
        return _take_last(stage, ref, epochs[-1])
    prompts = ref.prompts("validation")
    policy, draw = Policy.of(ref), ref.recipe.selection
    with reporter.task(ref.label, len(epochs), "epochs") as task:
        judged = JudgedAnswers(stage, ref, ref.recipe.judge)
        lists = {epoch: left_out.file_of(f"epoch_{epoch}") for epoch in epochs}
        if not all(stage.has(f"epoch_{epoch}", lists[epoch], *JUDGED) for epoch in epochs):
            for epoch in epochs:
                if not stage.has(f"{SCRATCH}/sampled_{epoch}", lists[epoch]):
                    training = ref.beside("training")
                    check_files(training, f"epoch_{epoch}/")
                    epoch_policy = policy.at(training / f"epoch_{epoch}")
                    answers = answer_prompts(
                        stage,
                        epoch_policy,
                        draw,
                        prompts,
                        part=f"epoch_{epoch}",
                        samples=draw.samples,
                        places=ref.prompt_places,
                    )
                    stage.write_records(f"{SCRATCH}/sampled_{epoch}", answers, Answer)
                task.advance()
            sampled = on_the_same_prompts(
                {k: stage.read_records(f"{SCRATCH}/sampled_{k}", Answer) for k in epochs}
            )
            for epoch, answers in judged.scored(sampled, prompts).items():
                stage.write_records(f"epoch_{epoch}", answers, Answer)
        answers = {k: stage.read_records(f"epoch_{k}", Answer) for k in epochs}
        worst = worst_score(judged.floor, [answer for each in answers.values() for answer in each])
        scores = {k: _mean_score(each, worst) for k, each in answers.items()}
        asked = len({answer.prompt_id for answer in answers[epochs[0]]})
        best = max(scores, key=lambda epoch: (_rank(scores[epoch]), -epoch))
        task.note = f"epoch {best} of {len(epochs)}, score {_shown(scores[best])}"
    _keep_policy(stage, ref.beside("training"), best)
    rows = [
        {"epoch": k, "score": scores[k], "parse_failures": _failures(answers[k])} for k in scores
    ]
    tied = [k for k in scores if scores[k] == scores[best] and k != best]
    what = "share of the other epochs' answers beaten" if judged.relative else "mean judge score"
    reason = f"highest {what} on {asked} validation prompts" + (
        f"; epoch {', '.join(map(str, tied))} ties and is later" if tied else ""
    )
    choice: dict[str, Count] = {"chosen_epoch": best, "scores": rows, "reason": reason}
    stage.write_json("choice.json", choice)
    tokens = sum(map(_tokens, answers.values()))
    left_out.say(stage, reporter)
    counts: dict[str, Count] = {"new_tokens": tokens, **left_out.counts(stage.folder)}
    return choice | counts | judged.counts() | server_counts(stage, policy)


def _take_last(stage: Stage, ref: StageRef, epoch: int) -> dict[str, Count]:
    _keep_policy(stage, ref.beside("training"), epoch)
    reason = "the last epoch, without a comparison (selection.by: last)"
    choice: dict[str, Count] = {"chosen_epoch": epoch, "scores": [], "reason": reason}
    stage.write_json("choice.json", choice)
    return choice


CHECKED = 100
"""Most prompts that the warm start's policy is looked at on."""


def configure_acceptance(ref: StageRef) -> dict[str, Any]:
    """What decides the warm start's selection besides its inputs."""
    config = _configure(ref, ref.recipe.selection)
    del config["judge"]
    return config


def accept(stage: Stage, ref: StageRef, reporter: Reporter) -> dict[str, Count]:
    """Keep the warm start's last epoch as `policy/`, where enough of its outputs have a response.

    They answer validation prompts, or training prompts that it was not trained on; one output each.

    Raises: StageError if too few have one; the answers are kept for another attempt.
    """
    recipe, warm = ref.recipe, ref.recipe.warm_start
    assert warm is not None
    training, epoch = ref.beside("training"), warm.epochs
    prompts = _unseen(ref)
    policy = Policy.of(ref).at(training / f"epoch_{epoch}")
    with reporter.task(ref.label, len(prompts), "prompts") as task:
        if not stage.has("answers", left_out.file_of("answers")):
            check_files(training, f"epoch_{epoch}/")
            draw = recipe.selection.model_copy(update={"attempts": 1})
            places, part = ref.prompt_places, "answers"
            answers = answer_prompts(
                stage, policy, draw, prompts, part=part, task=task, places=places
            )
            stage.write_records(part, answers, Answer)
        answers = stage.read_records("answers", Answer)
        share = _failures(answers)
        task.note = f"{share:.1%} without a response"
    if share > warm.max_unparsed:
        raise StageError(
            f"{ref.label}: after the warm start {share:.1%} of {len(answers)} outputs still have "
            f"no response, and warm_start.max_unparsed is {warm.max_unparsed:g}. Raise that to go "
            "on from here all the same; or start another run (run=…) with more warm_start.prompts, "
            "warm_start.epochs or a higher warm_start.learning_rate, or with a file of your own in "
            f"warm_start.demonstrations. The outputs are in {stage.folder / 'answers.parquet'}"
        )
    _keep_policy(stage, training, epoch)
    reason = f"the last epoch; {share:.1%} of {len(answers)} outputs have no response"
    choice: dict[str, Count] = {"chosen_epoch": epoch, "scores": [], "reason": reason}
    stage.write_json("choice.json", choice)
    left_out.say(stage, reporter)
    return {
        **choice,
        "parse_failures": share,
        "count": len(answers),
        "new_tokens": _tokens(answers),
        **left_out.counts(stage.folder),
        **server_counts(stage, policy),
    }


def _unseen(ref: StageRef) -> list[Prompt]:
    """Prompts that the warm start did not train on; where there are no others, those it did."""
    train = read_records(ref.beside("prompts"), Prompt, "train")
    others = train[ref.recipe.first_prompt :]
    return (ref.prompts("validation") or others or train)[:CHECKED]


def evaluate(stage: Stage, ref: StageRef, reporter: Reporter) -> dict[str, Count]:
    """Score one policy on the test prompts.

    With a judge that only compares, the score is the share of wins against the baseline: the seed
    with the direct format where the run has that arm, else the seed.

    Raises: ValueError if the engine or the judge fails, or no prompt can be sampled.
    """
    prompts = ref.prompts("test")
    policy, draw = Policy.of(ref), ref.recipe.evaluation
    with reporter.task(ref.label, len(prompts), "prompts") as task:
        judged = JudgedAnswers(stage, ref, ref.recipe.judge)
        gone = left_out.file_of("answers")
        if not stage.has("answers", gone, *JUDGED):
            if not stage.has(f"{SCRATCH}/sampled", gone):
                answers = answer_prompts(
                    stage,
                    policy,
                    draw,
                    prompts,
                    part="answers",
                    samples=draw.samples,
                    task=task,
                    places=ref.prompt_places,
                )
                stage.write_records(f"{SCRATCH}/sampled", answers, Answer)
            sampled = stage.read_records(f"{SCRATCH}/sampled", Answer)
            stage.write_records("answers", judged.of_policy(sampled, prompts), Answer)
        answers = stage.read_records("answers", Answer)
        scores = prompt_scores(answers, worst_score(judged.floor, answers))
        ends = score_ends(ref.recipe.judge, scores.values())
        result = mean_result("test_score", list(scores.values()), ends=ends) if scores else None
        task.note = f"test score {RAW.with_interval(result) if result else 'unknown'}"
    left_out.say(stage, reporter)
    statuses = Counter(str(answer.parsed.status) for answer in answers)
    return {
        "test_score": result.value if result else None,
        "interval": list(result.interval) if result and result.interval else None,
        "count": len(scores),
        "scores": dict(scores),
        "statuses": dict(sorted(statuses.items())),
        "parse_failures": _failures(answers),
        "with_thought": sum(bool(answer.parsed.thought) for answer in answers),
        **(_thinking(answers, prompts) if ref.arm == "hybrid" else {}),
        "thought_tokens": sum(answer.thought_tokens for answer in answers) / len(answers),
        "response_tokens": sum(answer.response_tokens for answer in answers) / len(answers),
        "attempts": sum(answer.attempts for answer in answers),
        "new_tokens": _tokens(answers),
        **left_out.counts(stage.folder),
        **judged.counts(),
        **server_counts(stage, policy),
    }


def _configure(ref: StageRef, answers: AnswersConfig) -> dict[str, Any]:
    recipe = ref.recipe
    sampling = recipe.sampling.identity()
    # How rollouts are drawn; answers have settings of their own.
    for field in ("samples", "temperature", "top_p", "part_size"):
        del sampling[field]
    return {
        "seed": recipe.seed,
        "answers": answers.identity(),
        "engine": sampling,
        "dtype": recipe.model.dtype,
        "template": ref.policy.template,
        "judge": identity(recipe.judge),
        "thought_format": ref.thought_format.model_dump(mode="json"),
    }


def _mean_score(answers: Sequence[Answer], worst: float | None) -> float | None:
    scores = prompt_scores(answers, worst)
    return sum(scores.values()) / len(scores) if scores else None


def _rank(score: float | None) -> float:
    return -math.inf if score is None else score


def _shown(score: float | None) -> str:
    return "unknown" if score is None else f"{score:.3f}"


def _failures(answers: Sequence[Answer]) -> float:
    """Share of prompts whose first output had no response, whatever later ones had."""
    return sum(answer.attempts > 1 or answer.parsed.response is None for answer in answers) / max(
        len(answers), 1
    )


def _thinking(answers: Sequence[Answer], prompts: Sequence[Prompt]) -> dict[str, Count]:
    """The share of answers that think, of all and of each category that prompts have."""
    thinks: dict[str | None, list[bool]] = {}
    category = {prompt.prompt_id: prompt.category for prompt in prompts}
    for answer in answers:
        thinks.setdefault(category[answer.prompt_id], []).append(answer.parsed.thought is not None)
    shares = {
        name: sum(own) / len(own)
        for name, own in sorted(thinks.items(), key=lambda entry: entry[0] or "")
        if name is not None
    }
    every = [each for own in thinks.values() for each in own]
    return {"thinks": sum(every) / len(every), "thinks_by_category": shares}


def _tokens(answers: Sequence[Answer]) -> int:
    return sum(answer.spent_tokens for answer in answers)


def _keep_policy(stage: Stage, training: Path, epoch: int) -> None:
    """The chosen checkpoint under a fixed name: hard links where the disk can, else copies."""
    below = f"epoch_{epoch}/"
    check_files(training, below)
    stage.remove(POLICY)
    kept: list[str] = []
    for part in read_manifest(training).parts:
        if part.name.startswith(below):
            kept.append(f"{POLICY}/{part.name.removeprefix(below)}")
            target = stage.folder / kept[-1]
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(training / part.name, target)
            except OSError:
                shutil.copy2(training / part.name, target)
    stage.note(*kept)
