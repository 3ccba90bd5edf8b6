"""Measure `gsm8k`: the share of right final answers, as the capability canary beside a win rate.

Each question is asked twice: as it is, and with a line that asks for the bare answer. The published
method lost accuracy in the second way (Wu et al. 2024), whose exact words are not published; ours
are `measures.gsm8k.answer_only`. The verifier sees the response only. An output without a response
after all attempts is a wrong answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from forethought.config import AccuracyMeasure, VerifierJudge
from forethought.evaluation.intervals import share_result
from forethought.evaluation.scale import PERCENT
from forethought.judging.base import checked
from forethought.judging.open import open_judge
from forethought.progress.reporter import Reporter
from forethought.prompts import Loaded, StripThought, load_prompts
from forethought.stages.measures.base import Subject, as_counts
from forethought.stages.policies.sample_until_parsed import answer_prompts
from forethought.stages.policies.sampled_policy import server_counts
from forethought.storage import left_out
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import Count
from forethought.types import (
    Answer,
    EvaluationResult,
    Message,
    Prompt,
    ResponseGroup,
    Unjudged,
)

RIGHT = 1.0
"""A verifier's score of a right answer."""


def questions(config: AccuracyMeasure, strip_thought: StripThought) -> Loaded:
    """The questions, without doubles.

    Raises: ValueError if a source cannot be read, or a question has no reference.
    """
    loaded = load_prompts(config.sources, strip_thought)
    for prompt in loaded.prompts:
        if prompt.reference is None:
            raise ValueError(
                f"measures.gsm8k.sources: question {prompt.messages[-1].content!r:.80} of "
                f"{prompt.source} has no reference; name its column in columns.reference"
            )
    return loaded


def measure(
    stage: Stage, subject: Subject, config: AccuracyMeasure, reporter: Reporter
) -> dict[str, Count]:
    """Ask every question in both ways and grade the final answers.

    Raises: ValueError if the questions cannot be used, the engine fails or the verifier does.
    """
    loaded = questions(config, subject.policy.thought_format.strip_thought)
    asked = loaded.prompts
    rounds = {
        "gsm8k": asked,
        "gsm8k_answer_only": [_answer_only(prompt, config.answer_only) for prompt in asked],
    }
    results: list[EvaluationResult] = []
    without_response: dict[str, Count] = {}
    tokens = 0
    label = f"{subject.policy.name} {stage.name}"
    with reporter.task(label, len(rounds) * len(asked), "questions") as task:
        for name, prompts in rounds.items():
            if not stage.has(name, left_out.file_of(name)):
                answers = answer_prompts(
                    stage,
                    subject.policy,
                    config,
                    prompts,
                    part=name,
                    task=task,
                    places=partial(_places, loaded, asked, prompts),
                )
                stage.write_records(name, _graded(answers, prompts, config), Answer)
            answers = stage.read_records(name, Answer)
            results += _results(name, answers, prompts)
            without_response[name] = sum(answer.parsed.response is None for answer in answers)
            tokens += sum(answer.spent_tokens for answer in answers)
        shown = [
            f"{result.name} {PERCENT.with_interval(result)}"
            for result in results
            if result.category is None
        ]
        task.note = ", ".join(shown)
    counts: dict[str, Count] = {
        "results": as_counts(results),
        "without_response": without_response,
        "new_tokens": tokens,
        **left_out.counts(stage.folder),
    }
    return counts | server_counts(stage, subject.policy)


def _places(loaded: Loaded, asked: Sequence[Prompt], prompts: Sequence[Prompt]) -> dict[str, str]:
    """Where each question of a round stands; the bare answer's question has an id of its own."""
    return {
        prompt.prompt_id: loaded.places[question.prompt_id]
        for question, prompt in zip(asked, prompts, strict=True)
    }


def _answer_only(prompt: Prompt, line: str) -> Prompt:
    last = prompt.messages[-1]
    message = Message(role=last.role, content=f"{last.content}\n\n{line}")
    return replace(prompt, messages=(*prompt.messages[:-1], message))


def _graded(
    answers: Sequence[Answer], prompts: Sequence[Prompt], config: AccuracyMeasure
) -> list[Answer]:
    """Raises: ValueError if the verifier fails on a response; a failure is no wrong answer."""
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    with open_judge(VerifierJudge(function=config.verifier)) as judge:
        parsed = [answer for answer in answers if answer.parsed.response is not None]
        groups = [
            ResponseGroup(prompt=by_id[answer.prompt_id], responses=(answer.parsed.response or "",))
            for answer in parsed
        ]
        scores: dict[str, float] = {}
        for answer, verdict in zip(parsed, checked(judge, groups), strict=True):
            if isinstance(verdict, Unjudged):
                raise ValueError(
                    f"measures.gsm8k.verifier {config.verifier} failed on question "
                    f"{answer.prompt_id}: {verdict.reason}"
                )
            (scores[answer.prompt_id],) = verdict.all_scores
    return [replace(answer, score=scores.get(answer.prompt_id, 0.0)) for answer in answers]


def _results(
    name: str, answers: Sequence[Answer], prompts: Sequence[Prompt]
) -> list[EvaluationResult]:
    right = {answer.prompt_id: answer.score == RIGHT for answer in answers}
    categories = sorted({prompt.category for prompt in prompts if prompt.category is not None})
    found = [share_result(name, list(right.values()))]
    for category in categories:
        own = [
            right[prompt.prompt_id]
            for prompt in prompts
            if prompt.category == category and prompt.prompt_id in right
        ]
        if own:
            found.append(share_result(name, own, category=category))
    return found
