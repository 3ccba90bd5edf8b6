"""Several policies' answers to the same prompts, judged together.

All answers to a prompt stand before the judge at once, so that one which only compares can score
them; its scores become the share of other policies' answers that each beats. The judge is shown
responses only. Prompts are judged in parts of a fixed size, so that workers share them and the
batches are the same without any.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Generic, TypeVar

from forethought.config import JudgeConfig, LaunchConfig
from forethought.evaluation.win_share import win_shares
from forethought.judging.executor import judging_executor
from forethought.stages.judged.judge_inputs import response_groups
from forethought.storage.reply_cache import Cache
from forethought.types import Answer, ParseStatus, Prompt, Unjudged

PART = 512
"""Most prompts of a part: what one worker judges at a time."""
PART_RESPONSES = 1024
"""Responses of a part where prompts have several: ten epochs' answers are ten times the work."""

Side = TypeVar("Side", bound=Hashable)


def judged_part(responses: int) -> int:
    """Prompts of a part where each has so many responses."""
    return max(1, min(PART, PART_RESPONSES // max(responses, 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedSides(Generic[Side]):
    """What a judge said of several policies' answers.

    Example: `JudgedSides(answers={"A": [Answer(…)], "B": [Answer(…)]}, floor=0.0, missing=[],
    unread=0, spent={"calls": 80})`
    """

    answers: dict[Side, list[Answer]]
    """The answers given, with scores where the judge gave one."""
    floor: float | None
    """What an answer without a response is worth; `None` if the judge's scale has no end."""
    missing: list[dict[str, str]]
    """Prompts the judge could not score, or not all answers of: `prompt_id` and `reason`."""
    unread: int
    """Verdicts that could not be read, of prompts that were scored from the others."""
    spent: dict[str, Any] | None
    """Calls, tokens and money; `None` for a judge that asks no model."""


def judge_sides(
    config: JudgeConfig,
    cache: Cache,
    sides: Mapping[Side, Sequence[Answer]],
    prompts: Sequence[Prompt],
    launch: LaunchConfig,
) -> JudgedSides[Side]:
    """Judge all sides' answers, prompt by prompt; `launch` says where the judge's workers are.

    Raises: ValueError if the judge cannot be opened.
    """
    by_prompt: dict[str, dict[tuple[Side, int], Answer]] = {}
    for side, answers in sides.items():
        for answer in answers:
            by_prompt.setdefault(answer.prompt_id, {})[side, answer.sample_index] = answer
    keys, groups = response_groups(
        [
            (prompt, {key: answer.parsed.response for key, answer in group.items()})
            for prompt in prompts
            if (group := by_prompt.get(prompt.prompt_id))
        ]
    )
    # Without any group, too, the judge is asked for its floor.
    part = judged_part(max((len(group) for group in by_prompt.values()), default=1))
    starts = range(0, max(len(groups), 1), part)
    with judging_executor(config, cache, launch) as executor:
        by_start = dict(executor.each(starts, lambda start: groups[start : start + part]))
    floor = 0.0 if config.is_relative else by_start[0].floor
    verdicts = zip(
        keys, chain.from_iterable(by_start[start].answers for start in starts), strict=True
    )
    missing: list[dict[str, str]] = []
    unread = 0
    scores: dict[tuple[str, tuple[Side, int]], float | None] = {}
    for shown, verdict in verdicts:
        if isinstance(verdict, Unjudged):
            missing.append({"prompt_id": verdict.prompt_id, "reason": verdict.reason})
            continue
        given = dict(zip(shown, verdict.scores, strict=True))
        unread += verdict.missing
        unscored = {key for key, score in given.items() if score is None}
        if unscored:
            reason = f"{len(unscored)} of {len(shown)} answers have too few verdicts"
            missing.append({"prompt_id": verdict.prompt_id, "reason": reason})
        # Unlike an output without a response, what could not be scored has not lost.
        group = [key for key in by_prompt[verdict.prompt_id] if key not in unscored]
        values = [given.get(key) for key in group]
        if config.is_relative:
            values = win_shares(values, [side for side, _ in group])
        scores |= {(verdict.prompt_id, k): v for k, v in zip(group, values, strict=True)}
    judged = {
        side: [
            replace(answer, score=scores.get((answer.prompt_id, (side, answer.sample_index))))
            if answer.parsed.response is not None
            else answer
            for answer in answers
        ]
        for side, answers in sides.items()
    }
    spent = cache.counts() if config.asks_a_model else None
    return JudgedSides(answers=judged, floor=floor, missing=missing, unread=unread, spent=spent)


def worst_score(floor: float | None, answers: Sequence[Answer]) -> float | None:
    """What an answer without a response is worth; `None` if no scale is known at all."""
    scores = [answer.score for answer in answers if answer.score is not None]
    return floor if floor is not None else min(scores, default=None)


def prompt_scores(answers: Sequence[Answer], worst: float | None) -> dict[str, float]:
    """Mean score of each prompt's answers, `worst` standing for an answer without a response.

    A response that the judge could not score says nothing: it is left out.
    """
    by_prompt: dict[str, list[float]] = {}
    if worst is None:
        return {}
    for answer in answers:
        if answer.parsed.status is not ParseStatus.COMPLETE:
            by_prompt.setdefault(answer.prompt_id, []).append(worst)
        elif answer.score is not None:
            by_prompt.setdefault(answer.prompt_id, []).append(answer.score)
    return {prompt_id: sum(each) / len(each) for prompt_id, each in by_prompt.items()}
