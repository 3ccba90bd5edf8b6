"""Measure `arena_hard`: a policy's answers to Arena-Hard's questions against the baseline's.

The policy answers every question (greedily, as the benchmark asks; the token limit is the policy's
own, the benchmark's is 4096), the judge plays two games a question (arena_protocol.py),
the labels give the score (arena_score.py). The stage keeps:

- `answers.parquet`: the sampled outputs, thoughts included;
- `answers.jsonl`: the responses alone, as the benchmark's `model_answer`. `token_len` counts the
  policy's own tokens. Where no response came there is no choice;
- `judgments.jsonl`: as the benchmark's `model_judgment`, with the reason where a game has no
  verdict. The score can be computed from it again;
- `scores.json`: the score with both intervals.

The published protocol knows no output without a response. Here, after the attempts, it loses both
games as a plain loss (`>`, weight 1), without asking the judge, and is counted as `unparsable`. A
greedy policy says the same at every attempt. A question that the policy cannot be asked has no
games and is listed under `missing`.

Answers and the judge's replies are kept as they come: a run that was killed goes on with what it
still owes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from forethought.config import ArenaHardMeasure
from forethought.evaluation.arena_hard.arena_files import (
    ArenaQuestion,
    ModelAnswers,
    read_answers,
    read_questions,
)
from forethought.evaluation.arena_hard.arena_protocol import Game, Match, open_arena_judge, play
from forethought.evaluation.arena_hard.arena_score import ModelLabels, score_labels
from forethought.progress.reporter import Reporter, Task
from forethought.prompts import prompt_id_of
from forethought.sampling.base import Sampler
from forethought.stages.measures.base import Subject, as_counts
from forethought.stages.policies.sample_until_parsed import answer_prompts
from forethought.stages.policies.sampled_policy import server_counts
from forethought.storage import left_out
from forethought.storage.files import content_hash
from forethought.storage.open_stage import Stage
from forethought.storage.reply_cache import Cache
from forethought.storage.sealed_stage import SCRATCH, Count
from forethought.types import Answer, Message, Prompt, SampledPrompt, SampleRequest, Unsampled

LOSS = (
    Game(user_prompt="", judgment="", label="A>B", reason="the model gave no response"),
    Game(user_prompt="", judgment="", label="B>A", reason="the model gave no response"),
)
"""The two games of an output without a response."""
UNASKED = Game(user_prompt="", judgment="", label=None, reason="the model cannot be asked this")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A question with both answers."""

    question: ArenaQuestion
    prompt: Prompt
    baseline: str
    answer: Answer | None
    """`None` where the policy cannot be asked."""

    @property
    def response(self) -> str | None:
        return self.answer and self.answer.parsed.response


def measure(
    stage: Stage, subject: Subject, config: ArenaHardMeasure, reporter: Reporter
) -> dict[str, Count]:
    """Answer, judge, score; returns the counts of the manifest, `results` among them.

    Raises: ValueError if a file is not the benchmark's, an engine fails, or no game has a verdict.
    """
    entries = _entries(stage, subject, config, reporter)
    model = subject.policy.name
    _write_lines(stage, "answers.jsonl", [_answer_line(model, entry) for entry in entries])
    cache_file = subject.cache or stage.folder / SCRATCH / "judge.sqlite"
    with Cache(cache_file, account=subject.account) as cache:
        games = _games(subject, config, entries, cache, reporter)
        spent = cache.counts()
    lines = [_judgment_line(model, config, *each) for each in zip(entries, games, strict=True)]
    _write_lines(stage, "judgments.jsonl", lines)
    labels = ModelLabels(
        model=model,
        games={
            entry.question.question_id: (first.label, second.label)
            for entry, (first, second) in zip(entries, games, strict=True)
        },
    )
    score = score_labels(labels)
    published = score_labels(labels, interval="published")
    stage.write_json("scores.json", [score.as_json(), published.as_json()])
    given = [entry.answer for entry in entries if entry.answer is not None]
    answered = [answer for answer in given if answer.parsed.response is not None]
    return {
        "results": as_counts([score.as_result()]),
        "published_interval": list(published.interval),
        "questions": len(entries),
        "games": score.n_games,
        "missing": _missing(entries, games),
        "unparsable": len(given) - len(answered),
        **left_out.counts(stage.folder),
        "mean_response_tokens": _mean([answer.response_tokens for answer in answered]),
        "mean_thought_tokens": _mean([answer.thought_tokens for answer in answered]),
        "judge_calls": spent,
        **server_counts(stage, subject.policy),
    }


def read_files(config: ArenaHardMeasure) -> tuple[list[ArenaQuestion], ModelAnswers]:
    """The questions, and the baseline's answer to each.

    Raises: ValueError if a file is not the benchmark's.
    """
    questions = read_questions(config.questions)
    ids = [question.question_id for question in questions]
    return questions, read_answers(config.baseline, ids)


def _entries(
    stage: Stage, subject: Subject, config: ArenaHardMeasure, reporter: Reporter
) -> list[_Entry]:
    questions, baseline = read_files(config)
    prompts = [_prompt(question) for question in questions]
    if not stage.has("answers", left_out.file_of("answers")):
        # The same text may stand under two questions; a policy answers it once.
        distinct = list({prompt.prompt_id: prompt for prompt in prompts}.values())
        with reporter.task(f"{subject.policy.name} arena_hard", len(distinct), "answers") as task:
            answers = answer_prompts(
                stage,
                subject.policy,
                config,
                distinct,
                part="answers",
                task=task,
                places=lambda: {
                    prompt.prompt_id: f"{config.questions}, question {question.question_id}"
                    for prompt, question in zip(prompts, questions, strict=True)
                },
            )
        stage.write_records("answers", answers, Answer)
    found = {record.prompt_id: record for record in stage.read_records("answers", Answer)}
    return [
        _Entry(
            question=question,
            prompt=prompt,
            baseline=baseline.texts[question.question_id],
            answer=found.get(prompt.prompt_id),
        )
        for question, prompt in zip(questions, prompts, strict=True)
    ]


def _prompt(question: ArenaQuestion) -> Prompt:
    messages = (Message(role="user", content=question.text),)
    return Prompt(
        prompt_id=prompt_id_of(messages),
        messages=messages,
        category=None,
        source="arena-hard-v0.1",
        reference=None,
    )


def _games(
    subject: Subject,
    config: ArenaHardMeasure,
    entries: Sequence[_Entry],
    cache: Cache,
    reporter: Reporter,
) -> list[tuple[Game, Game]]:
    """Both games of every entry."""
    matches = {
        place: Match(question=entry.prompt, baseline=entry.baseline, answer=entry.response)
        for place, entry in enumerate(entries)
        if entry.response is not None
    }
    played: list[tuple[Game, Game]] = []
    if matches:
        with (
            reporter.task(f"{subject.policy.name} arena_hard", 2 * len(matches), "games") as task,
            _Watched(open_arena_judge(config.judge, cache), task) as judge,
        ):
            played = play(judge, list(matches.values()))
    by_place = dict(zip(matches, played, strict=True))
    return [
        by_place.get(place, LOSS if entry.answer else (UNASKED, UNASKED))
        for place, entry in enumerate(entries)
    ]


def _missing(entries: Sequence[_Entry], games: Sequence[tuple[Game, Game]]) -> list[Count]:
    """Games without a verdict, and why."""
    return [
        {"question_id": entry.question.question_id, "game": number, "reason": game.reason}
        for entry, both in zip(entries, games, strict=True)
        for number, game in enumerate(both, 1)
        if game.label is None
    ]


class _Watched:
    """A judge whose first replies advance a task."""

    def __init__(self, judge: Sampler, task: Task) -> None:
        self._judge = judge
        self._task = task

    def __enter__(self) -> Self:
        self._judge.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._judge.__exit__(kind, error, trace)

    def sample(self, requests: Sequence[SampleRequest]) -> Iterator[SampledPrompt | Unsampled]:
        for request, result in zip(requests, self._judge.sample(requests), strict=True):
            asked_again = request.messages[-2].role == "assistant"
            self._task.advance(0 if asked_again else 1)
            yield result


def _answer_line(model: str, entry: _Entry) -> dict[str, Any]:
    question_id, response = entry.question.question_id, entry.response
    turns = [{"content": response}]
    return {
        "question_id": question_id,
        "answer_id": content_hash([model, question_id, response])[:22],
        "model_id": model,
        "choices": [] if response is None else [{"index": 0, "turns": turns}],
        "conv_metadata": {"token_len": entry.answer.response_tokens if entry.answer else 0},
    }


def _judgment_line(
    model: str, config: ArenaHardMeasure, entry: _Entry, games: tuple[Game, Game]
) -> dict[str, Any]:
    return {
        "question_id": entry.question.question_id,
        "model": model,
        "judge": config.judge.model,
        "games": [
            {
                "user_prompt": game.user_prompt,
                "judgment": game.judgment,
                "score": game.label,
                "reason": game.reason,
            }
            for game in games
        ],
    }


def _write_lines(stage: Stage, name: str, records: Sequence[dict[str, Any]]) -> None:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    stage.write_bytes(name, text.encode())


def _mean(values: Sequence[int]) -> float | None:
    return sum(values) / len(values) if values else None
