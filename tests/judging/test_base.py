"""Opening judges, and the checked path: one answer per group, finite numbers or a reason."""

import ast
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from forethought import judging
from forethought.config import CustomJudge, JudgeConfig
from forethought.judging.base import checked
from forethought.judging.open import open_judge
from forethought.types import Judgement, Message, Prompt, ResponseGroup, Unjudged


class Scripted:
    """Gives what it was made with, whatever it is asked."""

    floor: float | None = None

    def __init__(self, answers: Sequence[Any] = (), name: str = "scripted") -> None:
        self.name = name
        self.answers = answers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def judge(self, groups: Sequence[ResponseGroup]) -> Iterator[Judgement | Unjudged]:
        return iter(self.answers)


def no_judge() -> dict[str, int]:
    return {}


def group(*responses: str, prompt_id: str = "p") -> ResponseGroup:
    message = Message(role="user", content="Hi")
    prompt = Prompt(
        prompt_id=prompt_id, messages=(message,), category=None, source="s", reference=None
    )
    return ResponseGroup(prompt=prompt, responses=responses)


def judgement(*scores: Any, prompt_id: str = "p") -> Judgement:
    return Judgement(prompt_id=prompt_id, judge="scripted", scores=scores, evidence="why")


def reason(answer: Any, *responses: str) -> str:
    [result] = checked(Scripted([answer]), [group(*responses)])
    assert isinstance(result, Unjudged), result
    assert (result.prompt_id, result.judge) == ("p", "scripted")
    return result.reason


def test_good_answers_pass_as_floats() -> None:
    scores = (1, True, np.float32(0.5), 2.5, np.int64(3))
    [answer] = checked(Scripted([judgement(*scores)]), [group(*"abcde")])
    assert answer == judgement(1.0, 1.0, 0.5, 2.5, 3.0)
    assert isinstance(answer, Judgement)
    assert all(type(score) is float for score in answer.scores)


def test_an_unjudged_group_keeps_its_reason() -> None:
    unjudged = Unjudged(prompt_id="p", judge="scripted", reason="too long")
    assert list(checked(Scripted([unjudged]), [group("a")])) == [unjudged]


@pytest.mark.parametrize(
    ("bad", "shown"),
    [
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (-float("inf"), "-inf"),
        (np.float32("nan"), "nan"),
        (10**400, "1000000"),
        (None, "None"),
        ("0.5", "'0.5'"),
        (torch.tensor(1.0), "tensor"),
        (1j, "1j"),
    ],
)
def test_what_is_no_finite_number_is_never_a_score(bad: Any, shown: str) -> None:
    text = reason(judgement(0.5, bad), "a", "b")
    assert text.startswith("the score of response 1 is ")
    assert shown in text
    assert text.endswith(", no finite number")


def test_wrong_counts_and_wrong_answers_are_unjudged() -> None:
    assert reason(judgement(0.5), "a", "b") == "1 scores for 2 responses"
    assert reason(judgement(0.5, 1.0, 1.0), "a", "b") == "3 scores for 2 responses"
    assert reason(None, "a") == "the judge gave no answer"
    assert reason(0.7, "a") == "the judge's answer is a float, no Judgement"
    assert "answered for prompt q" in reason(judgement(0.5, prompt_id="q"), "a")


def test_one_answer_per_group_in_order() -> None:
    groups = [group("a", prompt_id=name) for name in "pqr"]
    short = Scripted([judgement(1.0), judgement(1.0, prompt_id="q")])
    answers = list(checked(short, groups))
    assert [answer.prompt_id for answer in answers] == ["p", "q", "r"]
    assert isinstance(answers[2], Unjudged)
    with pytest.raises(ValueError, match="gave more than 1 answers for 1 groups"):
        list(checked(Scripted([judgement(1.0)] * 2), [group("a")]))
    assert list(checked(Scripted(), [])) == []


def custom(name: str, **options: Any) -> CustomJudge:
    return CustomJudge(import_path=f"{__name__}:{name}", options=options)


def test_a_custom_judge_gets_its_options() -> None:
    config = TypeAdapter[JudgeConfig](JudgeConfig).validate_python(
        {"type": "custom", "import_path": f"{__name__}:Scripted", "options": {"name": "mine"}}
    )
    with open_judge(config) as judge:
        assert judge.name == "mine"


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (custom("Scripted", colour=1), r"judge\.options: .*unexpected keyword argument 'colour'"),
        (custom("no_judge"), "gives a dict without name, floor, judge, __enter__, __exit__"),
        (custom("Nothing"), r"has no 'Nothing'; it has \[.*'Scripted'"),
        (custom("__name__"), "is a str; name a function or class"),
        (CustomJudge(import_path="no.colon"), r"judge\.import_path: 'no\.colon' is no import path"),
        (CustomJudge(import_path="a b:c"), "is no import path; write package.module:name"),
        (CustomJudge(import_path="not_there_at_all:x"), "ModuleNotFoundError.*put its folder on"),
    ],
)
def test_mistakes_in_a_custom_judge_name_the_field(config: CustomJudge, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        open_judge(config)


def test_a_judge_has_no_place_for_a_thought() -> None:
    fields = {field.name: field.type for field in dataclasses.fields(ResponseGroup)}
    assert fields == {"prompt": "Prompt", "responses": "tuple[str, ...]"}
    assert {field.name for field in dataclasses.fields(Prompt)} == {
        "prompt_id",
        "messages",
        "category",
        "source",
        "reference",
    }
    assert {field.name for field in dataclasses.fields(Message)} == {"role", "content"}


OF_USERS_FILES = {
    "forethought.prompts.PromptRecord",
    "forethought.prompts.prompt_of",
    "forethought.prompts.text_records",
    "forethought.prompts.conversations.prompt_column",
}
"""What reads a file of checklists, record by record, as it reads one of prompts."""


def test_no_judge_imports_the_splitter() -> None:
    for path in Path(judging.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in set(names) - OF_USERS_FILES:
                assert not name.startswith(
                    ("forethought.thoughts", "forethought.pairs", "forethought.prompts")
                ), (path, name)
