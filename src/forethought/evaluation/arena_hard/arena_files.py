"""The files of Arena-Hard v0.1: questions, answers and verdicts, as the benchmark publishes them.

The benchmark changed its layout in April 2025; both are read:

- questions: `question_id` and `turns: [{content}]`, or `uid` and `prompt`;
- answers: `question_id`, `model_id` and `choices: [{turns: [{content}]}]`, or `uid`, `model` and
  `messages`, the last of which is the answer, its content a text or `{answer}`;
- judgments: `question_id` or `uid`, `model`, and two `games: [{score}]`.

Verdicts may also stand in a JSON file: `{"labels": {model: {question_id: [label, label]}}}`, or
`{question_id: [label, label]}` for one model, which is then named after the file. The first game
shows the baseline as A, the second the model; `null` is a game without a verdict. In a JSON file a
label that does not exist is refused. In judgments the judge itself may have written one, such as
`A<B`; there it is no verdict, as in the published code of v0.1.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import AliasChoices, BaseModel, Field, TypeAdapter, ValidationError

from forethought.config import explain
from forethought.evaluation.arena_hard.arena_score import (
    BATTLES,
    ArenaHardScore,
    Games,
    IntervalKind,
    ModelLabels,
    score_labels,
)

LAYOUTS = (
    '{"labels": {model: {question_id: [label, label]}}}, {question_id: [label, label]}, or JSONL '
    "of judgments with question_id, model and two games"
)
QUESTION_ID = AliasChoices("question_id", "uid")
MODEL = AliasChoices("model_id", "model")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaQuestion:
    """A question of the benchmark, which is a single turn of the user's.

    Example: `ArenaQuestion(question_id="328c149e…", text="Use ABC notation to write …")`
    """

    question_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswers:
    """What one model answered to each question.

    Example: `ModelAnswers(model="gpt-4-0314", texts={"328c149e…": "X: 1 …"})`
    """

    model: str
    texts: dict[str, str]
    """By question."""


class _QuestionTurn(BaseModel):
    content: str


class _QuestionLine(BaseModel):
    question_id: str = Field(validation_alias=QUESTION_ID)
    turns: list[_QuestionTurn] | None = None
    prompt: str | None = None

    def texts(self) -> list[str]:
        if self.prompt is not None:
            return [self.prompt]
        return [turn.content for turn in self.turns or ()]


class _AnswerChoice(BaseModel):
    turns: list[_QuestionTurn]


class _Content(BaseModel):
    answer: str


class _AnswerMessage(BaseModel):
    content: str | _Content


class _AnswerLine(BaseModel):
    question_id: str = Field(validation_alias=QUESTION_ID)
    model: str = Field(validation_alias=MODEL)
    choices: list[_AnswerChoice] = []
    messages: list[_AnswerMessage] = []

    def text(self) -> str | None:
        """The answer to the only turn; `None` where there is none."""
        if self.messages:
            content = self.messages[-1].content
            return content if isinstance(content, str) else content.answer
        turns = self.choices[0].turns if self.choices else []
        return turns[0].content if len(turns) == 1 else None


class _GameLine(BaseModel):
    score: str | None


class _Judgment(BaseModel):
    question_id: str = Field(validation_alias=QUESTION_ID)
    model: str
    games: list[_GameLine | None]


Record = TypeVar("Record", _QuestionLine, _AnswerLine, _Judgment)
BY_MODEL = TypeAdapter(dict[str, dict[str, list[str | None]]])


def read_questions(path: Path) -> list[ArenaQuestion]:
    """The questions in the file's order.

    Raises: ValueError if the file is missing or empty, or a record is no question of one turn.
    """
    found: dict[str, ArenaQuestion] = {}
    for where, record in _records(path, _QuestionLine):
        texts = record.texts()
        if len(texts) != 1:
            raise ValueError(f"{where}: it has {len(texts)} turns; Arena-Hard v0.1 asks one")
        _refuse_twice(where, record.question_id, found)
        found[record.question_id] = ArenaQuestion(question_id=record.question_id, text=texts[0])
    return list(found.values())


def read_answers(path: Path, question_ids: Collection[str]) -> ModelAnswers:
    """One model's answers to these questions; others in the file are left out.

    Raises: ValueError if the file is missing, holds answers of several models, or lacks one.
    """
    texts: dict[str, str] = {}
    models: dict[str, None] = {}
    seen: set[str] = set()
    for where, record in _records(path, _AnswerLine):
        _refuse_twice(where, record.question_id, seen)
        seen.add(record.question_id)
        models[record.model] = None
        if (text := record.text()) is not None:
            texts[record.question_id] = text
    if len(models) > 1:
        raise ValueError(f"{path} has answers of {_listed(models)}; give a file of one model")
    if missing := [id_ for id_ in question_ids if id_ not in texts]:
        raise ValueError(
            f"{path} lacks an answer to {len(missing)} of {len(question_ids)} questions: "
            f"{_listed(missing)}; give answers and questions of the same release"
        )
    return ModelAnswers(model=next(iter(models)), texts={id_: texts[id_] for id_ in question_ids})


def read_labels(path: Path, question_ids: Collection[str] | None = None) -> list[ModelLabels]:
    """The verdicts of every model in the file.

    With `question_ids`, each model must have labels for exactly these questions.

    Raises: ValueError that names what is wrong with the file and where.
    """
    value = _whole(path)
    # A single line of judgments is one JSON object, too.
    found = _from_judgments(path) if value is None or "games" in value else _from_json(path, value)
    if question_ids is not None:
        for labels in found:
            _refuse_other_questions(path, labels, question_ids)
    return found


def score_file(
    path: Path, *, interval: IntervalKind = "questions", questions: Path | None = None
) -> list[ArenaHardScore]:
    """The score of every model in a file of verdicts, checked against the questions where given.

    Raises: ValueError that names what is wrong with a file and where, or a model without verdict.
    """
    ids = (
        None
        if questions is None
        else [question.question_id for question in read_questions(questions)]
    )
    return [score_labels(label, interval=interval) for label in read_labels(path, ids)]


def _from_judgments(path: Path) -> list[ModelLabels]:
    models: dict[str, dict[str, Games]] = {}
    for where, record in _records(path, _Judgment):
        games = models.setdefault(record.model, {})
        _refuse_twice(f"{where}, model {record.model}", record.question_id, games)
        scores = [None if game is None else game.score for game in record.games]
        known = [score if score in BATTLES else None for score in scores]
        games[record.question_id] = _two(where, known)
    return [ModelLabels(model=model, games=games) for model, games in models.items()]


def _from_json(path: Path, value: dict[str, Any]) -> list[ModelLabels]:
    models = value.get("labels", {path.stem: value})
    if not isinstance(models, dict) or not models or not all(models.values()):
        raise ValueError(f"{path} holds no labels; the layouts are {LAYOUTS}")
    try:
        games = BY_MODEL.validate_python(models)
    except ValidationError as error:
        first, *others = explain(error, dict[str, dict[str, list[str | None]]]).splitlines()
        more = f" (and {len(others)} more)" if others else ""
        raise ValueError(f"{path}: {first}{more}; the layouts are {LAYOUTS}") from error
    try:
        return [
            ModelLabels(
                model=model,
                games={id_: _two(f"{model}, question {id_}", pair) for id_, pair in each.items()},
            )
            for model, each in games.items()
        ]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _two(where: str, labels: Sequence[str | None]) -> Games:
    if len(labels) != 2:
        raise ValueError(
            f"{where}: {len(labels)} games; give two, the baseline first as A and then as B, and "
            "null for one without a verdict"
        )
    return labels[0], labels[1]


def _refuse_other_questions(path: Path, found: ModelLabels, wanted: Collection[str]) -> None:
    missing = [id_ for id_ in wanted if id_ not in found.games]
    known = set(wanted)
    unknown = [game for game in found.games if game not in known]
    mistakes = (
        (missing, "questions have no labels"),
        (unknown, "labelled ones are no questions"),
    )
    said = [f"{len(ids)} {what} ({_listed(ids)})" for ids, what in mistakes if ids]
    if said:
        raise ValueError(
            f"{path}, model {found.model}: {' and '.join(said)}; give labels and questions of the "
            "same release"
        )


def _whole(path: Path) -> dict[str, Any] | None:
    """The file as one JSON object; `None` where it is empty or has one object a line."""
    text = _text(path).strip()
    if not text:
        return None
    try:
        value = json.loads(text, object_pairs_hook=_no_key_twice)
    except json.JSONDecodeError as error:
        try:
            json.loads(text.partition("\n")[0])
        except json.JSONDecodeError:
            raise ValueError(f"{path} is not JSON: {error}") from error
        return None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}; the layouts are {LAYOUTS}")
    return value


def _records(path: Path, kind: type[Record]) -> Iterator[tuple[str, Record]]:
    """Each line with its place. Raises: ValueError that names the line that is none."""
    empty = True
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        empty = False
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError("it is no JSON object")
            record = kind.model_validate(value)
        except ValidationError as error:
            raise ValueError(f"{where}: {explain(error, kind)}") from error
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        yield where, record
    if empty:
        raise ValueError(f"{path} is empty; give a file with one JSON object a line")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, member in pairs:
        if key in value:
            raise ValueError(f"{key!r} stands there twice; keep one of them")
        value[key] = member
    return value


def _refuse_twice(where: str, question_id: str, found: Collection[str]) -> None:
    if question_id in found:
        raise ValueError(f"{where}: question {question_id} stands there twice; keep one of them")


def _listed(names: Collection[str]) -> str:
    shown = list(names)[:3]
    return ", ".join(shown) + ", …" * (len(names) > len(shown))
