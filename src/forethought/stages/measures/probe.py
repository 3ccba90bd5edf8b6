"""Measure `probe`: the same prompts answered after other thoughts (evaluation/probe_openings.py).

One output per test prompt is drawn first. Where it has a response, the response is drawn again
after each variant of the thought, with the same seed, and the judge sees a prompt's four responses
at once. `probe_drop_X` is the mean, over prompts, of the score after the own thought minus the
score after X. With a judge that only compares, a score is the share of the other three beaten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from forethought.config import JudgeConfig, ProbeMeasure
from forethought.decoding.request import SamplingParams
from forethought.evaluation.intervals import mean_result, paired_difference, share_result
from forethought.evaluation.probe_openings import VARIANTS, Variant, frame, habits
from forethought.evaluation.scale import RAW, rests_on
from forethought.judging.describe import difference_ends, score_ends
from forethought.models.loading import load_tokenizer
from forethought.models.rendering import decode
from forethought.progress.reporter import Reporter, Task
from forethought.stages.judged.joint_judging import judge_sides, worst_score
from forethought.stages.measures.base import Subject, as_counts
from forethought.stages.policies.sample_until_parsed import answer_prompts
from forethought.stages.policies.sampled_policy import Policy, policy_executor, server_counts
from forethought.storage import left_out
from forethought.storage.open_stage import Stage
from forethought.storage.reply_cache import Cache
from forethought.storage.sealed_stage import SCRATCH, Count, read_json
from forethought.types import (
    Answer,
    EvaluationResult,
    Prompt,
    Rollout,
    SampleRequest,
    Unsampled,
)

UNREAD = "unread.json"
"""Verdicts that could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opening:
    text: str
    ids: tuple[int, ...]


def measure(
    stage: Stage, subject: Subject, config: ProbeMeasure, reporter: Reporter
) -> dict[str, Count]:
    """Probe a policy that thinks.

    Raises: ValueError if it does not think, none of its outputs has a response, or the engine
    cannot go on from a given beginning.
    """
    policy = subject.policy
    if not policy.thought_format.thinks:
        raise ValueError(
            f"{policy.name} has the format {policy.thought_format.name!r}, which has no thoughts "
            "to probe; probe the thought arm's policy"
        )
    judge = subject.needed_judge
    prompts = sorted(subject.prompts, key=lambda prompt: prompt.prompt_id)[: config.prompts]
    single = config.model_copy(update={"attempts": 1})
    with reporter.task(f"{policy.name} {stage.name}", 1 + len(VARIANTS), "rounds") as task:
        if not stage.has("answers", left_out.file_of("answers")):
            answers = answer_prompts(
                stage, policy, single, prompts, part="answers", places=subject.places
            )
            stage.write_records("answers", answers, Answer)
        answers = stage.read_records("answers", Answer)
        task.advance(tokens=sum(answer.spent_tokens for answer in answers))
        # The last variant that is written stands for all.
        lists = (left_out.file_of(variant) for variant in VARIANTS)
        parts = (f"{variant}.parquet" for variant in VARIANTS)
        scored = stage.has("half", UNREAD, *lists, *parts)
        if scored:
            task.advance(len(VARIANTS))
        else:
            _draw_variants(stage, subject, config, prompts, answers, task)
            sides = {
                variant: stage.read_records(f"{SCRATCH}/{variant}", Answer) for variant in VARIANTS
            }
            with Cache(subject.cache, account=subject.account) as cache:
                judged = judge_sides(judge, cache, sides, prompts, policy.launch)
            stage.write_json(UNREAD, judged.unread)
            worst = worst_score(judged.floor, [a for each in judged.answers.values() for a in each])
            for variant in VARIANTS:
                answered = _with_worst(judged.answers[variant], worst)
                stage.write_records(variant, answered, Answer)
        sides: dict[Variant, list[Answer]] = {
            variant: stage.read_records(variant, Answer) for variant in VARIANTS
        }
        results = _results(policy, prompts, answers, sides, judge)
        task.note = _note(results)
    probed = len(sides["own"])
    counts: dict[str, Count] = {
        "results": as_counts(results),
        "prompts": len(prompts),
        "probed": probed,
        "without_response": sum(answer.parsed.response is None for answer in answers),
        **left_out.counts(stage.folder),
        "unread_verdicts": read_json(stage.folder / UNREAD),
        "new_tokens": sum(
            answer.spent_tokens for each in (answers, *sides.values()) for answer in each
        ),
    }
    return counts | server_counts(stage, policy)


def _draw_variants(
    stage: Stage,
    subject: Subject,
    config: ProbeMeasure,
    prompts: Sequence[Prompt],
    answers: Sequence[Answer],
    task: Task,
) -> None:
    policy, openings = subject.policy, None
    for variant in VARIANTS:
        if not stage.has(f"{SCRATCH}/{variant}", left_out.file_of(variant)):
            openings = openings or _openings(policy, answers)
            drawn, gone = _after_openings(stage, policy, config, prompts, openings[variant])
            left_out.note(stage, variant, left_out.placed(gone, prompts, subject.places))
            stage.write_records(f"{SCRATCH}/{variant}", drawn, Answer)
        task.advance()


def _openings(policy: Policy, answers: Sequence[Answer]) -> dict[Variant, dict[str, _Opening]]:
    """For each variant and prompt what stands before the response.

    Raises: ValueError if no output has a response, or only one, which leaves no other's thought.
    """
    tokenizer = load_tokenizer(policy.model.source)
    frames = {}
    for answer in answers:
        if answer.parsed.response is not None and answer.parsed.thought is not None:
            prefix = decode(
                tokenizer,
                answer.completion.token_ids[: answer.thought_tokens],
                policy.thought_format.markers,
            )
            frames[answer.prompt_id] = frame(prefix, answer.parsed.thought)
    if len(frames) < 2:
        raise ValueError(
            f"{policy.name}: {len(frames)} of {len(answers)} outputs have a response, and the "
            "probe needs two at least; give it more prompts (measures.probe.prompts), or a policy "
            "that keeps its format"
        )
    ids = list(frames)
    # A ring: each prompt gets another's thought, and no thought is used twice.
    neighbour = dict(pairwise([*ids, ids[0]]))
    openings: dict[Variant, dict[str, _Opening]] = {variant: {} for variant in VARIANTS}
    for prompt_id, own in frames.items():
        other = frames[neighbour[prompt_id]].thought
        for variant in VARIANTS:
            text = own.opening(variant, other)
            tokens: list[int] = tokenizer.encode(text, add_special_tokens=False)
            openings[variant][prompt_id] = _Opening(text=text, ids=tuple(tokens))
    return openings


def _after_openings(
    stage: Stage,
    policy: Policy,
    config: ProbeMeasure,
    prompts: Sequence[Prompt],
    openings: Mapping[str, _Opening],
) -> tuple[list[Answer], list[Unsampled]]:
    """One response per prompt that goes on from its opening, drawn again where none came, and the
    prompts that cannot be sampled so."""
    params = SamplingParams(
        temperature=config.temperature,
        top_p=config.top_p,
        max_new_tokens=policy.sampling.max_new_tokens,
    )
    messages = {
        prompt.prompt_id: policy.thought_format.apply(prompt.messages) for prompt in prompts
    }
    latest: dict[str, Answer] = {}
    refused: dict[str, Unsampled] = {}
    owed = list(openings)
    with policy_executor(stage, policy, params) as executor:
        for attempt in range(config.attempts):
            requests = [
                SampleRequest(
                    prompt_id=prompt_id,
                    messages=messages[prompt_id],
                    seeds=(policy.draw_seed(prompt_id, 0, attempt),),
                    opening_ids=openings[prompt_id].ids,
                )
                for prompt_id in owed
            ]
            # All of a round is one part, numbered 0.
            [(_, drawn)] = executor.each([0], [requests].__getitem__)
            for result in drawn:
                if isinstance(result, Unsampled):
                    refused[result.prompt_id] = result
                    continue
                [rollout] = result
                opening = openings[rollout.prompt_id]
                latest[rollout.prompt_id] = _answer(policy, rollout, opening, attempt + 1)
            owed = [
                prompt_id
                for prompt_id in owed
                if prompt_id not in refused and latest[prompt_id].parsed.response is None
            ]
            if not owed:
                break
    gone = [refusal for refusal in refused.values() if refusal.prompt_id not in latest]
    return [latest[prompt_id] for prompt_id in sorted(latest)], gone


def _answer(policy: Policy, rollout: Rollout, opening: _Opening, attempts: int) -> Answer:
    completion = rollout.completion
    # The split of the rollout knows nothing of its opening.
    parsed = policy.splitter.parse(opening.text + completion.text, completion.finish_reason)
    return Answer(
        prompt_id=rollout.prompt_id,
        sample_index=0,
        attempts=attempts,
        completion=completion,
        parsed=parsed,
        thought_tokens=len(opening.ids),
        response_tokens=len(completion.token_ids) - (completion.finish_reason == "stop"),
        score=None,
    )


def _with_worst(answers: Sequence[Answer], worst: float | None) -> list[Answer]:
    """Answers without a response have the worst score; those that could not be judged none."""
    return [
        replace(answer, score=worst) if answer.parsed.response is None else answer
        for answer in answers
    ]


def _results(
    policy: Policy,
    prompts: Sequence[Prompt],
    answers: Sequence[Answer],
    sides: Mapping[Variant, Sequence[Answer]],
    judge: JudgeConfig,
) -> list[EvaluationResult]:
    scores = {
        variant: {answer.prompt_id: answer.score for answer in each if answer.score is not None}
        for variant, each in sides.items()
    }
    every = [score for each in scores.values() for score in each.values()]
    ends, apart = score_ends(judge, every), difference_ends(judge, every)
    category = {prompt.prompt_id: prompt.category for prompt in prompts}
    results = [
        mean_result(f"probe_{variant}", list(each.values()), ends=ends)
        for variant, each in scores.items()
        if each
    ]
    for variant in VARIANTS[1:]:
        name = f"probe_drop_{variant}"
        if not scores["own"].keys() & scores[variant].keys():
            continue
        results.append(paired_difference(name, scores["own"], scores[variant], ends=apart))
        for label in sorted({category[prompt_id] or "" for prompt_id in scores["own"]} - {""}):
            own = {k: v for k, v in scores["own"].items() if category[k] == label}
            if own.keys() & scores[variant].keys():
                rest = scores[variant]
                results.append(paired_difference(name, own, rest, category=label, ends=apart))
    found = habits(answers, policy.thought_format)
    for name, values in (
        ("probe_draft_copied", found.draft_copied),
        ("probe_mentions_format", found.mentions_format),
        ("probe_empty_thoughts", found.empty),
        ("probe_runaway_thoughts", found.runaway),
    ):
        if values:
            results.append(share_result(name, values))
    return results


def _note(results: Sequence[EvaluationResult]) -> str:
    drop = next((result for result in results if result.name == "probe_drop_none"), None)
    if drop is None:
        return "nothing could be judged"
    return f"loss without the thought {RAW.change(drop.value)} ({rests_on(RAW.change, drop)})"
