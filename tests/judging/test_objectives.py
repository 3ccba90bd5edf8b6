"""ArmoRM's evidence and the table made of it."""

import json
from io import StringIO

import pytest
from rich.console import Console

from forethought.judging.armorm.objectives import OBJECTIVES, evidence, explanation, rounded
from forethought.judging.scoring.score_cache import Scored


def scored(score: float, objectives: int = 19) -> Scored:
    rewards = [score + index / 10 for index in range(objectives)]
    return Scored(
        score=score,
        details={
            "rewards": rounded(rewards),
            "gate": rounded([1 / objectives] * objectives),
            "weights": rounded([0.01 * index for index in range(objectives)]),
        },
    )


def printed(text: str, width: int = 200) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(explanation(text))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_evidence_names_the_objectives_once_and_rounds() -> None:
    text = evidence([scored(0.123456), scored(-2.5)])
    content = json.loads(text)
    assert content["objectives"] == list(OBJECTIVES)
    assert len(set(OBJECTIVES)) == 19
    assert [one["score"] for one in content["responses"]] == [0.1235, -2.5]
    assert content["responses"][0]["gate"] == [0.05263] * 19
    assert " " not in text
    assert len(text) < 600 + 2 * 19 * 3 * 9


def test_the_table_has_a_row_per_objective_and_a_column_per_response() -> None:
    rows = printed(evidence([scored(0.123456), scored(-2.5)])).splitlines()
    row = next(row for row in rows if "helpsteer-coherence" in row)
    # A reward of 0.3235 and its share at a weight of 0.02.
    assert row.split()[1:] == ["0.053", "0.020", "0.324", "+0.006", "-2.300", "-0.046"]
    assert any(row.split() == ["response", "0", "response", "1"] for row in rows)
    assert [name for name in OBJECTIVES if not any(name in row for row in rows)] == []
    assert ["score", "0.1235", "-2.5"] in [row.split() for row in rows]


def test_eight_responses_fit_a_terminal() -> None:
    text = printed(evidence([scored(index / 7) for index in range(8)]), width=120)
    assert all(name in text for name in OBJECTIVES)
    assert "…" not in text


def test_other_objectives_are_numbered() -> None:
    assert "objective-2" in printed(evidence([scored(1.0, objectives=3)]))
    assert printed(evidence([]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I prefer A. [[A]]",
        "[]",
        "{}",
        '{"objectives": ["a"], "responses": [{"score": 1, "rewards": [1], "gate": []}]}',
        '{"objectives": ["a"], "responses": [3]}',
        '{"objectives": 3, "responses": [{"rewards": [1]}]}',
        '{"objectives": [], "responses": [{"rewards": [], "gate": [], "weights": []}]}',
    ],
)
def test_what_is_no_evidence_of_armorm_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="this is not the evidence of an ArmoRM"):
        explanation(text)
