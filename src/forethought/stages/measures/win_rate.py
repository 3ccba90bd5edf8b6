"""Measure `win_rate`: two contenders on the same prompts, raw, length-controlled, at equal tokens.

There is no length-controlled figure where the lengths hardly overlap.

The judge sees a prompt's responses of both, and nothing else. An output without a response was
sampled again up to the limit and then loses; two of them tie.

Thinking costs tokens, so a direct policy may spend as many: on the best of n answers, n being the
smallest number whose mean tokens reach the first contender's, and on one longer answer, asked for
in words. Spent is what was drawn, outputs without a response that had to be sampled again included.
The best is chosen by the judge that then compares, which favours it: a thinking policy that wins
all the same has earned it. Or it is chosen without the judge (best_of_n.py), and then its figures
and files are called so.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from forethought.config import JudgeConfig, LaunchConfig, WinRateMeasure
from forethought.evaluation.paired_win_rate import (
    ComparedAnswers,
    category_win_rates,
    length_controlled_win_rate,
    length_overlap,
    win_rate,
)
from forethought.evaluation.scale import PERCENT
from forethought.evaluation.win_share import win_shares
from forethought.progress.reporter import Reporter, Task
from forethought.stages.judged.joint_judging import JudgedSides, judge_sides
from forethought.stages.measures.base import as_counts
from forethought.stages.measures.best_of_n import (
    by_likelihood,
    by_vote,
    first_best,
    rival_name,
)
from forethought.stages.policies.sample_until_parsed import answer_prompts
from forethought.stages.policies.sampled_policy import Policy
from forethought.storage import left_out
from forethought.storage.left_out import Places
from forethought.storage.open_stage import Stage
from forethought.storage.reply_cache import Cache
from forethought.storage.sealed_stage import Count, read_json
from forethought.thoughts import ThoughtFormat
from forethought.types import Answer, EvaluationResult, Prompt

MOST_ANSWERS = 16
"""Best of n is not taken further; the tokens spent are stated either way."""

Side = TypeVar("Side", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One side of the comparison: a policy, answers that are there already, or both.

    Example: `Contender(name="runs/quickstart/thought/4", policy=Policy(…), answers=None)`
    """

    name: str
    policy: Policy | None
    answers: tuple[Answer, ...] | None
    """Of the prompts compared on; `None`: the policy is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRateSetup:
    """Who is compared, and what comparing may use.

    Example: `WinRateSetup(first=Contender(…), second=Contender(…), judge=…, cache=None,
    account="policy 4 win_rate", prompts=(Prompt(…),), launch=LaunchConfig())`
    """

    first: Contender
    second: Contender
    judge: JudgeConfig
    cache: Path | None
    account: str
    prompts: tuple[Prompt, ...]
    launch: LaunchConfig
    """Where the judge's workers are."""
    places: Places = dict
    """Where the prompts came from."""


def compare(
    stage: Stage, match: WinRateSetup, config: WinRateMeasure, reporter: Reporter
) -> dict[str, Count]:
    """The first contender's win rates against the second.

    Raises: ValueError if no prompt could be judged.
    """
    results: list[EvaluationResult] = []
    tokens: dict[str, Count] = {}
    lengths: dict[str, Count] = {}
    missing: list[Count] = []
    with reporter.task(f"{match.first.name} {stage.name}", 2, "sides") as task:
        sides = {
            "first": _answers(stage, "first", match.first, match, config, task),
            "second": _answers(stage, "second", match.second, match, config, task),
        }
        rivals = {"": sides["second"]}
        if config.equal_tokens and _may_spend(match.second, sides):
            rivals |= _at_equal_tokens(stage, match, config, sides, task)
        for name, answers in rivals.items():
            comparisons, lost = _compared(stage, name or "plain", sides["first"], answers, match)
            missing += lost
            if not comparisons:
                raise ValueError(
                    f"{match.first.name} {stage.name}: the judge could compare on none of "
                    f"{len(match.prompts)} prompts; the first: {lost[:1]}"
                )
            suffix = f"_{name}" if name else ""
            results.append(win_rate(comparisons, name=f"win_rate{suffix}"))
            overlap = length_overlap(comparisons)
            lengths[name or "second"] = asdict(overlap)
            controlled = f"length_controlled_win_rate{suffix}"
            if overlap.suffices:
                results.append(length_controlled_win_rate(comparisons, name=controlled))
            if not name:
                results += category_win_rates(comparisons)
            several = name == rival_name(config.pick)
            drawn = stage.read_records("drawn", Answer) if several else answers
            tokens[name or "second"] = _mean_tokens(drawn)
        tokens["first"] = _mean_tokens(sides["first"])
        task.note = _note(results)
    return {
        "first": match.first.name,
        "second": match.second.name,
        "results": as_counts(results),
        "tokens_per_prompt": tokens,
        "lengths": lengths,
        "draws": {side: sum(answer.attempts for answer in each) for side, each in sides.items()},
        "without_response": {side: _unparsed(each) for side, each in sides.items()},
        "unread_verdicts": sum(read_json(stage.folder / _unread(n or "plain")) for n in rivals),
        "missing": missing,
        **left_out.counts(stage.folder),
    }


def _note(results: Sequence[EvaluationResult]) -> str:
    shown = {result.name: result for result in results if result.category is None}
    controlled = shown.get("length_controlled_win_rate")
    at_equal = (
        "lengths hardly overlap"
        if controlled is None
        else f"at equal lengths {PERCENT.with_interval(controlled)}"
    )
    return f"win rate {PERCENT.with_interval(shown['win_rate'])}, {at_equal}"


def _answers(
    stage: Stage,
    side: str,
    contender: Contender,
    match: WinRateSetup,
    config: WinRateMeasure,
    task: Task,
) -> list[Answer]:
    if contender.answers is not None:
        answers = list(contender.answers)
    elif stage.has(side, left_out.file_of(side)):
        answers = stage.read_records(side, Answer)
    else:
        assert contender.policy is not None, "a contender without answers is a policy"
        answers = answer_prompts(
            stage, contender.policy, config, match.prompts, part=side, places=match.places
        )
        stage.write_records(side, answers, Answer)
    task.advance(tokens=sum(answer.spent_tokens for answer in answers))
    return answers


def _may_spend(second: Contender, sides: Mapping[str, Sequence[Answer]]) -> bool:
    """Whether there is a direct policy that spends fewer tokens than the first contender."""
    if second.policy is None or second.policy.thought_format.thinks:
        return False
    return 0 < _mean_tokens(sides["second"]) < _mean_tokens(sides["first"])


def _at_equal_tokens(
    stage: Stage,
    setup: WinRateSetup,
    config: WinRateMeasure,
    sides: Mapping[str, Sequence[Answer]],
    task: Task,
) -> dict[str, list[Answer]]:
    """What the direct policy makes of the tokens: the best of several, and `longer`."""
    policy, best = setup.second.policy, rival_name(config.pick)
    assert policy is not None
    wanted = math.ceil(_mean_tokens(sides["first"]) / _mean_tokens(sides["second"]))
    count = min(wanted, MOST_ANSWERS)
    task.total += 2
    if not stage.has("drawn", left_out.file_of("drawn")):
        drawn = answer_prompts(
            stage,
            policy,
            config,
            setup.prompts,
            part="drawn",
            samples=count,
            places=setup.places,
        )
        stage.write_records("drawn", drawn, Answer)
    if not stage.has(best):
        drawn = stage.read_records("drawn", Answer)
        match config.pick:
            case "judge":
                picked = _by_judge(drawn, setup)
            case "likelihood":
                picked = by_likelihood(drawn, policy, setup.prompts)
            case "vote":
                picked = by_vote(drawn)
        stage.write_records(best, picked, Answer)
    task.advance()
    if not stage.has("longer", left_out.file_of("longer")):
        asked = replace(
            policy, thought_format=ThoughtFormat(name="longer", instruction=config.longer)
        )
        answers = answer_prompts(
            stage, asked, config, setup.prompts, part="longer", places=setup.places
        )
        stage.write_records("longer", answers, Answer)
    task.advance()
    return {name: stage.read_records(name, Answer) for name in (best, "longer")}


def _by_judge(drawn: Sequence[Answer], match: WinRateSetup) -> list[Answer]:
    """Each prompt's best answer by the judge.

    Where the judge could not score a prompt the first answer with a response stands.
    """
    sides: dict[int, list[Answer]] = {}
    for answer in drawn:
        sides.setdefault(answer.sample_index, []).append(answer)
    judged = _judge(match, sides)
    scored = [answer for answers in judged.answers.values() for answer in answers]
    return first_best(scored, lambda one: -math.inf if one.score is None else one.score)


def _judge(match: WinRateSetup, sides: Mapping[Side, Sequence[Answer]]) -> JudgedSides[Side]:
    with Cache(match.cache, account=match.account) as cache:
        return judge_sides(match.judge, cache, sides, match.prompts, match.launch)


def _compared(
    stage: Stage, name: str, first: Sequence[Answer], second: Sequence[Answer], match: WinRateSetup
) -> tuple[list[ComparedAnswers], list[Count]]:
    """The comparisons of every prompt that the judge could score, and those it could not."""
    parts = {side: f"judged_{name}_{side}" for side in ("first", "second")}
    # Written last, so it stands for both sides and the unread verdicts.
    if not stage.has(parts["second"], f"{parts['first']}.parquet", _unread(name)):
        judged = _judge(match, {"first": first, "second": second})
        stage.write_json(_unread(name), judged.unread)
        for side, part in parts.items():
            stage.write_records(part, judged.answers[side], Answer)
    scored = {side: stage.read_records(part, Answer) for side, part in parts.items()}
    by_prompt: dict[str, dict[str, list[Answer]]] = {}
    for side, answers in scored.items():
        for answer in answers:
            by_prompt.setdefault(answer.prompt_id, {"first": [], "second": []})[side].append(answer)
    comparisons: list[ComparedAnswers] = []
    missing: list[Count] = []
    for prompt in match.prompts:
        group = by_prompt.get(prompt.prompt_id, {"first": [], "second": []})
        if not group["first"] or not group["second"]:
            missing.append(_lost(prompt, name, "one side has no answer"))
        elif any(
            answer.parsed.response is not None and answer.score is None
            for each in group.values()
            for answer in each
        ):
            missing.append(_lost(prompt, name, "the judge gave no scores"))
        else:
            comparisons.append(_comparison(prompt, group, relative=match.judge.is_relative))
    return comparisons, missing


def _unread(name: str) -> str:
    """The file with the number of verdicts that could not be read."""
    return f"unread_{name}.json"


def _lost(prompt: Prompt, against: str, reason: str) -> Count:
    return {"prompt_id": prompt.prompt_id, "against": against, "reason": reason}


def _comparison(
    prompt: Prompt, group: Mapping[str, Sequence[Answer]], *, relative: bool
) -> ComparedAnswers:
    labelled = [(side, answer) for side, each in group.items() for answer in each]
    shares = win_shares([answer.score for _, answer in labelled], [side for side, _ in labelled])
    own = [
        # A judge that compares has already given the share; a missing response has none.
        answer.score if relative and answer.score is not None else share
        for (side, answer), share in zip(labelled, shares, strict=True)
        if side == "first"
    ]
    lengths = {side: _mean_length(each) for side, each in group.items()}
    # Where a side has no response there is no length to control for.
    first = second = 0.0
    if lengths["first"] is not None and lengths["second"] is not None:
        first, second = lengths["first"], lengths["second"]
    return ComparedAnswers(
        prompt_id=prompt.prompt_id,
        preference=sum(own) / len(own),
        first_length=first,
        second_length=second,
        category=prompt.category,
    )


def _mean_length(answers: Sequence[Answer]) -> float | None:
    texts = [answer.parsed.response for answer in answers if answer.parsed.response is not None]
    return sum(map(len, texts)) / len(texts) if texts else None


def _mean_tokens(answers: Sequence[Answer]) -> float:
    """Tokens drawn per prompt, thoughts and every attempt included; 0 where they are not known."""
    prompts = len({answer.prompt_id for answer in answers})
    return sum(answer.spent_tokens for answer in answers) / max(prompts, 1)


def _unparsed(answers: Sequence[Answer]) -> int:
    return sum(answer.parsed.response is None for answer in answers)
