"""`forethought evaluate judge`: how far a judge can be trusted.

The judge is shown responses to the package's own prompts, or those of a file, and in a second round
the first of them once more: in reverse, by other seeds, with a cache of its own, so that nothing of
the first round is found there. Every kind of judge is measured by what it is for: `checked` scores.
What it refuses is counted beside every figure.

The folder resumes: replies of chat models and scores of reward models are kept as they come, and
each set of cases once it is judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forethought.config import JudgeConfig, JudgePart
from forethought.config.recipe_files import load_part
from forethought.evaluation.judge_quality.cases import (
    FILE,
    Case,
    CaseVerdict,
    attack_cases,
    attacks_on,
    length_cases,
    wrong_cases,
)
from forethought.evaluation.judge_quality.figures import Judged, JudgeFigure, judge_figures
from forethought.judging.describe import identity, refuse_missing_models
from forethought.judging.executor import JudgingExecutor, judging_executor
from forethought.judging.llm.frame import printable
from forethought.pipeline.measure import in_a_folder
from forethought.pipeline.on_files import GROUPS, InputLine, judged_lines, responses_of
from forethought.progress.reporter import Reporter, Task
from forethought.storage.files import sha256_file
from forethought.storage.open_stage import Stage
from forethought.storage.reply_cache import Cache
from forethought.storage.sealed_stage import SCRATCH, Count
from forethought.types import Judgement, ResponseGroup, Unjudged
from forethought.workers.executor import in_order
from forethought.workers.threads import use_threads

VERSION = 1
"""Moves when a figure changes its meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRequest:
    """What `forethought evaluate judge` was given.

    Example: `JudgeRequest(words=("recipe.yaml",), output=Path("out"), responses=None,
    preferences=None)`
    """

    words: tuple[str, ...]
    """Recipe files and overrides."""
    output: Path | None
    responses: Path | None
    """Prompts with responses, in place of the package's."""
    preferences: Path | None
    """Prompts with a chosen and a rejected response."""


def evaluate_judge(request: JudgeRequest, reporter: Reporter) -> dict[str, Count]:
    """Measure a recipe's judge; returns the sealed counts.

    Raises: ValueError for whatever is wrong with the settings, the files or the output, or if the
    judge refused all cases.
    """
    part = load_part(JudgePart, request.words)
    refuse_missing_models(part.judge)
    use_threads(part.launch.threads)
    sets, without = _sets(request, part.judge)
    named = {
        "measure": VERSION,
        "judge": identity(part.judge),
        "persuasion": sha256_file(FILE),
        "responses": None if request.responses is None else sha256_file(request.responses),
        "preferences": None if request.preferences is None else sha256_file(request.preferences),
    }

    def work(stage: Stage) -> dict[str, Count]:
        with reporter.task("judge", sum(map(len, sets.values())), "prompts") as task:
            judged, spent = _judged(stage, part, sets, task)
        _refuse_nothing_judged(part.judge, judged)
        seen = {name: Judged(cases, judged[name]) for name, cases in sets.items()}
        figures = judge_figures(
            part.judge,
            seen["lengths"],
            seen["again"],
            seen["attacks"],
            wrong=seen.get("wrong"),
            preferences=seen.get("preferences"),
        )
        return {
            "judge": part.judge.title,
            "results": [_row(figure) for figure in figures],
            "refused": _refused(sets, judged),
            "without_response": without,
            "judge_calls": spent,
        }

    return in_a_folder("judge", request.output, named, work)


def _sets(request: JudgeRequest, judge: JudgeConfig) -> tuple[dict[str, list[Case]], int]:
    """The cases of each set, and how many lines of a file have no response."""
    without = 0
    if request.responses is None:
        lengths, attacks = length_cases(), attack_cases()
    else:
        lines = judged_lines(request.responses, judge)
        lengths = list(_given(lines))
        without = len(lines) - len(lengths)
        if not lengths:
            raise ValueError(f"--responses: no line of {request.responses} has a response")
        attacks = attacks_on(lengths)
    again = [case.turned for case in reversed(lengths)]
    sets = {"lengths": lengths, "attacks": attacks, "again": again}
    if request.responses is None:
        sets["wrong"] = wrong_cases()
    if request.preferences is not None:
        sets["preferences"] = _preferences(request.preferences, judge)
    return sets, without


def _given(lines: Sequence[InputLine]) -> Iterator[Case]:
    for line in lines:
        texts = [text for text in responses_of(line) if text is not None]
        if texts:
            yield Case(prompt=line.prompt, responses=tuple(dict.fromkeys(texts)))


def _preferences(path: Path, judge: JudgeConfig) -> list[Case]:
    """Raises: ValueError that names file, line and field."""
    cases = []
    for line in judged_lines(path, judge):
        chosen, rejected = (_text(line, field) for field in ("chosen", "rejected"))
        if chosen == rejected:
            raise ValueError(
                f"{line.where}: chosen and rejected are the same text; leave the line out"
            )
        cases.append(Case(prompt=line.prompt, responses=(chosen, rejected)))
    return cases


def _text(line: InputLine, field: str) -> str:
    value = line.row.get(field)
    if not isinstance(value, str) or not value.strip():
        has = f"got {value!r:.80}" if field in line.row else f"the line has {sorted(line.row)}"
        raise ValueError(f"{line.where}: {field} must be the text of a response, {has}")
    return value


def _judged(
    stage: Stage, part: JudgePart, sets: Mapping[str, Sequence[Case]], task: Task
) -> tuple[dict[str, list[CaseVerdict]], dict[str, Any] | None]:
    """What the judge says of each set, and what that cost."""
    judged = {name: stage.read_records(name, CaseVerdict) for name in sets if stage.has(name)}
    task.advance(sum(map(len, judged.values())))
    spent: list[dict[str, int | float]] = []
    for again in (False, True):
        names = [name for name in sets if (name == "again") == again]
        owed = [name for name in names if name not in judged]
        judge = part.judge.asked_again if again else part.judge
        kept = stage.folder / SCRATCH / ("again.sqlite" if again else "cache.sqlite")
        path = kept if again or part.cache is None else part.cache
        with ExitStack() as opened:
            cache = opened.enter_context(
                Cache(path if judge.asks_a_model else None, account=str(stage.folder.resolve()))
            )
            if owed:
                executor = opened.enter_context(judging_executor(judge, cache, part.launch))
                for name in owed:
                    judged[name] = case_verdicts(executor, sets[name], task)
                    # What was refused altogether may be put right: it is asked again.
                    if any(verdict.scores for verdict in judged[name]):
                        stage.write_records(name, judged[name], CaseVerdict)
            spent.append(cache.counts())
    total = {name: sum(one[name] for one in spent) for name in spent[0]}
    return judged, total if part.judge.asks_a_model else None


def case_verdicts(
    executor: JudgingExecutor, cases: Sequence[Case], task: Task
) -> list[CaseVerdict]:
    """What the judge says of each case, in their order."""
    found: list[CaseVerdict] = []
    starts = range(0, len(cases), GROUPS)

    def groups(start: int) -> list[ResponseGroup]:
        return [case.group for case in cases[start : start + GROUPS]]

    for _, verdicts in in_order(starts, executor.each(starts, groups)):
        found += map(_verdict, verdicts.answers)
        task.advance(len(verdicts.answers))
    return found


def _verdict(answer: Judgement | Unjudged) -> CaseVerdict:
    # What a judge of the user's own says may hold anything that its responses hold.
    if isinstance(answer, Unjudged):
        return CaseVerdict(scores=(), evidence="", reason=printable(answer.reason))
    return CaseVerdict(scores=answer.scores, evidence=printable(answer.evidence), reason=None)


def _refuse_nothing_judged(judge: JudgeConfig, judged: Mapping[str, Sequence[CaseVerdict]]) -> None:
    reasons = [verdict.reason for each in judged.values() for verdict in each]
    if all(reason is not None for reason in reasons):
        raise ValueError(
            f"judge {judge.title} scored none of {len(reasons)} cases; the first: {reasons[0]}. "
            "Name another judge or prompt file, or give prompts that it can judge, with responses, "
            "by --responses"
        )


def _row(figure: JudgeFigure) -> dict[str, Any]:
    return asdict(figure) | {"interval": list(figure.interval) if figure.interval else None}


def _refused(
    sets: Mapping[str, Sequence[Case]], judged: Mapping[str, Sequence[CaseVerdict]]
) -> list[Count]:
    return [
        {"set": name, "prompt_id": case.prompt.prompt_id, "reason": verdict.reason}
        for name, cases in sets.items()
        for case, verdict in zip(cases, judged[name], strict=True)
        if verdict.reason is not None
    ]
