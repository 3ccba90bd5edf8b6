"""AlpacaEval 2: a policy answers the evaluation set, a judge compares with a baseline's outputs.

Written are `model_outputs.json` and `annotations.json` as the `alpaca_eval` package writes them,
thoughts cut off, so that either can be taken further there; `score.json` with all figures; the
answers as they were sampled, thoughts included, as a part. The counts hold the win rate and the
length-controlled one in percent, as the leaderboard prints them, and their intervals.

An output without a response is sampled again up to `attempts` times and then loses unseen. An
annotation that failed has no part in the win rate and is listed under `missing`; nor has an
instruction that the policy cannot be asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forethought.config import AlpacaEvalMeasure
from forethought.evaluation.alpaca_eval.alpaca_files import read_difficulty, read_gamed
from forethought.evaluation.alpaca_eval.alpaca_outputs import (
    LOST,
    UNASKED,
    Instruction,
    Outputs,
    annotation_records,
    as_annotations,
    comparisons,
    output_records,
    read_instructions,
    read_outputs,
)
from forethought.evaluation.alpaca_eval.annotator import Annotation, Annotator
from forethought.evaluation.alpaca_eval.length_control import FOLDS, GamedRows
from forethought.evaluation.alpaca_eval.weighted_preference import OutputPair
from forethought.evaluation.alpaca_eval.win_rates import as_json, as_results, score
from forethought.progress.reporter import Reporter
from forethought.prompts import prompt_id_of
from forethought.stages.measures.base import Subject, as_counts
from forethought.stages.policies.sample_until_parsed import answer_prompts
from forethought.stages.policies.sampled_policy import server_counts
from forethought.storage import left_out
from forethought.storage.open_stage import Stage
from forethought.storage.reply_cache import Cache
from forethought.storage.sealed_stage import SCRATCH, Count
from forethought.types import Answer, Message, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class AlpacaEvalFiles:
    """What the measure's files hold.

    Example: `read_files(AlpacaEvalMeasure(instructions=…, baseline=…, annotator=…))`
    """

    instructions: list[Instruction]
    baseline: Outputs
    difficulty: dict[int, float] | None
    gamed: GamedRows | None


def measure(
    stage: Stage, subject: Subject, config: AlpacaEvalMeasure, reporter: Reporter
) -> dict[str, Count]:
    """Answer, annotate, score.

    Raises: ValueError if a file cannot be used, the policy's engine or the judge fails.
    """
    files = read_files(config)
    instructions, baseline = files.instructions, files.baseline
    answers = _answers(stage, subject, config, instructions, reporter)
    model = Outputs(
        generator=subject.policy.name,
        texts=tuple(answer and answer.parsed.response for answer in answers),
    )
    stage.write_json("model_outputs.json", output_records(instructions, model))
    cache_file = subject.cache or stage.folder / SCRATCH / "judge.sqlite"
    with Cache(cache_file, account=subject.account) as replies:
        with Annotator(config.annotator, replies) as annotator:
            annotations = _annotations(
                annotator, comparisons(instructions, baseline, model), subject, reporter
            )
            # So far lost: an instruction without an output, whether or not the policy was asked.
            annotations = [
                UNASKED if answer is None else annotation
                for answer, annotation in zip(answers, annotations, strict=True)
            ]
            name = f"weighted_alpaca_eval:{annotator.model}"
        spent = replies.counts()
    records = annotation_records(instructions, baseline, model, annotations, annotator=name)
    stage.write_json("annotations.json", records)
    annotated = as_annotations(instructions, baseline, model, annotations)
    scored = score(annotated, difficulty=files.difficulty, gamed=files.gamed)
    stage.write_json("score.json", as_json(scored))
    missing: list[Count] = [
        {"index": place, "reason": annotation.reason}
        for place, annotation in enumerate(annotations)
        if annotation.preference is None
    ]
    given = [answer for answer in answers if answer is not None]
    return {
        "results": as_counts(as_results(annotated, scored)),
        "glm": scored.glm,
        "C": scored.C,
        "baseline": baseline.generator,
        "annotator": name,
        "avg_length": scored.avg_length,
        "missing": missing,
        "without_response": sum(answer.parsed.response is None for answer in given),
        "thought_tokens": sum(answer.thought_tokens for answer in given) / len(given),
        "response_tokens": sum(answer.response_tokens for answer in given) / len(given),
        **left_out.counts(stage.folder),
        "judge_calls": spent,
        **server_counts(stage, subject.policy),
    }


def read_files(config: AlpacaEvalMeasure) -> AlpacaEvalFiles:
    """Everything that the measure reads.

    Raises: ValueError if a file cannot be read, or does not belong to the others.
    """
    instructions = read_instructions(config.instructions)
    baseline = read_outputs(config.baseline, instructions)
    table = None if config.difficulty is None else read_difficulty(config.difficulty)
    gamed = None if config.gamed is None else read_gamed(config.gamed, difficulty=table is not None)
    _check(config, len(instructions), table)
    return AlpacaEvalFiles(
        instructions=instructions, baseline=baseline, difficulty=table, gamed=gamed
    )


def _check(config: AlpacaEvalMeasure, count: int, table: Mapping[int, float] | None) -> None:
    """Raises: ValueError for what would only be found after all has been paid for."""
    if count < FOLDS:
        raise ValueError(
            f"instructions: {config.instructions} has {count} of them; length control needs "
            f"{FOLDS} at least"
        )
    if table is not None and (absent := [place for place in range(count) if place not in table]):
        raise ValueError(
            f"difficulty: {config.difficulty} has no index {absent[0]}, while {config.instructions}"
            f" has {count} instructions; give the difficulties of this evaluation set, or none"
        )


def _answers(
    stage: Stage,
    subject: Subject,
    config: AlpacaEvalMeasure,
    instructions: Sequence[Instruction],
    reporter: Reporter,
) -> list[Answer | None]:
    """In the order of the evaluation set; `None` where the policy cannot be asked."""
    prompts = [_prompt(instruction) for instruction in instructions]
    if not stage.has("answers", left_out.file_of("answers")):
        with reporter.task(f"{subject.policy.name} alpaca_eval", len(prompts), "answers") as task:
            answers = answer_prompts(
                stage,
                subject.policy,
                config,
                prompts,
                part="answers",
                task=task,
                places=lambda: {
                    prompt.prompt_id: f"{config.instructions}, record {number}"
                    for number, prompt in enumerate(prompts, start=1)
                },
            )
        stage.write_records("answers", answers, Answer)
    by_id = {record.prompt_id: record for record in stage.read_records("answers", Answer)}
    return [by_id.get(prompt.prompt_id) for prompt in prompts]


def _prompt(instruction: Instruction) -> Prompt:
    messages = (Message(role="user", content=instruction.text),)
    return Prompt(
        prompt_id=prompt_id_of(messages),
        messages=messages,
        category=instruction.dataset,
        source="alpaca_eval",
        reference=None,
    )


def _annotations(
    annotator: Annotator,
    asked: Sequence[OutputPair | None],
    subject: Subject,
    reporter: Reporter,
) -> list[Annotation]:
    """One per instruction; without an output there is nothing to ask."""
    with reporter.task(f"{subject.policy.name} annotations", len(asked), "annotations") as task:
        found = iter(annotator.annotate([pair for pair in asked if pair is not None], task.advance))
        task.advance(sum(pair is None for pair in asked))
    return [LOST if pair is None else next(found) for pair in asked]
