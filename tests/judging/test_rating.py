"""Ratings of single responses: on the scale or none, and a mean over the votes there are."""

import json
from pathlib import Path

import pytest
from judge_models import (
    NOWHERE,
    JudgeModel,
    Messages,
    answers,
    group,
    prompt,
    rating,
    reason,
    scores,
)

from forethought.config import RatingJudge, ScriptedEngine
from forethought.judging.base import checked
from forethought.judging.open import open_judge
from forethought.types import Judgement, ResponseGroup, Unsampled


def rated(messages: Messages) -> str:
    return messages[0].content.partition("[The assistant's answer]\n")[2].partition("\n[End")[0]


def by_length(messages: Messages, seed: int) -> str:
    return f"It has {len(rated(messages))} characters: [[{len(rated(messages))}]]"


def test_each_response_gets_its_rating_in_one_batch() -> None:
    model = JudgeModel(by_length)
    judge = rating(model)
    found = scores(judge, group("xxx", "x"), group("x" * 10, prompt_id="q"), group(prompt_id="r"))
    assert found == [(3.0, 1.0), (10.0,), ()]
    assert [len(call) for call in model.calls] == [3]
    assert all(request.seeds == (0,) for request in model.requests)
    assert judge.name == "rating:rating_1_to_10:scripted replies"
    assert judge.floor == 1.0


def test_equal_responses_are_rated_once() -> None:
    model = JudgeModel(by_length)
    assert scores(rating(model), group("xx", "x", "xx")) == [(2.0, 1.0, 2.0)]
    assert len(model.requests) == 2


def test_votes_are_averaged_over_their_own_seeds() -> None:
    model = JudgeModel(lambda messages, seed: f"[[{(4, 5, 9.5)[seed]}]]")
    judge = rating(model, votes=3, temperature=0.7)
    [answer] = answers(judge, group("x"))
    assert isinstance(answer, Judgement)
    assert answer.scores == (18.5 / 3,)
    assert [request.seeds for request in model.requests] == [(0, 1, 2)]
    assert json.loads(answer.evidence) == [[0, [4.0, 5.0, 9.5], "[[4]]"]]


def test_another_seed_is_another_draw_and_so_is_asking_again() -> None:
    model = JudgeModel(lambda messages, seed: f"[[{seed}]]")
    assert scores(rating(model, votes=2, temperature=1, seed=3), group("x")) == [(3.5,)]
    config = RatingJudge.model_validate({"engine": NOWHERE, "votes": 2, "temperature": 1})
    assert config.asked_again.seeds == (2, 3)
    assert config.asked_again.asked_again.seeds == (4, 5)
    # A seed that nobody chose names no other judge than before there was the field.
    assert "seed" not in config.identity()
    assert config.asked_again.identity()["seed"] == 2


def test_a_vote_without_rating_is_asked_once_more() -> None:
    def rule(messages: Messages, seed: int) -> str:
        return "Good." if seed == 1 and len(messages) == 1 else f"[[{seed + 5}]]"

    model = JudgeModel(rule)
    assert scores(rating(model, votes=3, temperature=1), group("x")) == [(6.0,)]
    [second] = model.calls[1]
    assert second.seeds == (1,)
    assert [message.role for message in second.messages] == ["user", "assistant", "user"]
    assert second.messages[-1].content.startswith("End with the rating alone")


def silent_on(text: str, *seeds: int) -> JudgeModel:
    """Has no rating for a text in these votes."""

    def rule(messages: Messages, seed: int) -> str:
        return "Good." if seed in seeds and rated(messages) == text else f"[[{seed + 5}]]"

    return JudgeModel(rule)


def test_a_missing_vote_leaves_the_mean_of_the_others() -> None:
    judge = rating(silent_on("b", 2), votes=3, temperature=1)
    judged, fine = answers(judge, group("a", "b"), group("a", prompt_id="q"))
    assert isinstance(fine, Judgement)
    assert fine.missing == 0
    assert isinstance(judged, Judgement)
    assert judged.scores == (6.0, 5.5)
    assert judged.missing == 1
    assert json.loads(judged.evidence)[1] == [1, [5.0, 6.0], "[[5]]"]
    strict = rating(silent_on("b", 2), votes=3, temperature=1, min_read=1)
    assert reason(strict, group("a", "b")) == (
        "1 of 2 responses have enough ratings, needed are 2; "
        "response 1: no verdict: 'Good.'; asked once more: no verdict: 'Good.'"
    )


def test_one_response_without_a_rating_does_not_cost_the_others_theirs() -> None:
    [judged] = answers(rating(silent_on("b", 0)), group("a", "b", "c"))
    assert isinstance(judged, Judgement)
    assert judged.scores == (5.0, None, 5.0)
    assert judged.missing == 1
    assert json.loads(judged.evidence)[1][:2] == [1, []]
    assert "1 of 2 responses have enough" in reason(rating(silent_on("b", 0)), group("a", "b"))
    few = rating(silent_on("b", 1, 2), votes=3, temperature=1)
    [judged] = answers(few, group("a", "b", "c"))
    assert isinstance(judged, Judgement)
    assert judged.scores == (6.0, None, 6.0)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("[[11]]", "11 is not on the scale from 1 to 10"),
        ("[[0]]", "0 is not on the scale"),
        ("[[-3]]", "-3 is not on the scale"),
        ("[[1e3]]", "no verdict"),
        ("[[" + "9" * 5000 + "]]", "inf is not on the scale"),
        ("[[7]], perhaps [[8]]", "several verdicts (7.0, 8.0)"),
        ("[[7]] of [[10]]", "several verdicts"),
        ("Rating: 7", "no verdict"),
        ("[[seven]]", "no verdict"),
        ("[[7/10]]", "no verdict"),
        ("[[nan]]", "no verdict"),
        ("[[٧]]", "no verdict"),
        ("<think>[[7]]</think>", "no verdict"),
    ],
)
def test_no_rating_is_guessed(reply: str, why: str) -> None:
    model = JudgeModel(lambda messages, seed: reply)
    assert f"; response 0: {why}" in reason(rating(model), group("x"))
    assert len(model.calls) == 2


@pytest.mark.parametrize(
    ("reply", "score"),
    [("[[1]]", 1), ("[[10]]", 10), ("[[7.0]] so [[7]]", 7), ("[[+6.25]]", 6.25), ("[[07]]", 7)],
)
def test_ratings_that_are_read(reply: str, score: float) -> None:
    assert scores(rating(JudgeModel(lambda messages, seed: reply)), group("x")) == [(score,)]


def test_what_the_engine_cannot_take_is_owed() -> None:
    model = JudgeModel(lambda messages, seed: Unsampled(prompt_id="p", reason="9000 tokens"))
    assert reason(rating(model), group("x")).endswith("; response 0: 9000 tokens")


def test_another_scale_and_label_with_a_reference(tmp_path: Path) -> None:
    path = tmp_path / "exam.yaml"
    path.write_text(
        "system: You grade exams.\nuser: |\n  <q>{conversation}{question}</q>\n"
        "  <truth>{reference}</truth>\n  <answer>{response}</answer>\nfinish: Give the points.\n"
        'scale: [-1, 1.5]\nlabel: "points={number};"\n'
    )
    model = JudgeModel(
        lambda messages, seed: (
            "points=1.5;"
            if "<truth>42</truth>\n<answer>42</answer>" in messages[1].content
            else "points=-1;"
        )
    )
    judge = rating(model, prompt=str(path))
    assert judge.floor == -1
    asked = ResponseGroup(prompt=prompt(reference="42"), responses=("42", "points=1.5;"))
    assert scores(judge, asked) == [(1.5, -1.0)]
    assert "no reference" in reason(judge, group("42"))


def test_it_opens_from_a_recipe_and_is_closed(tmp_path: Path) -> None:
    script = tmp_path / "replies.jsonl"
    script.write_text('{"match": "", "replies": ["[[3]]", "[[5]]"]}\n')
    config = RatingJudge(engine=ScriptedEngine(path=script), votes=8, temperature=1)
    with open_judge(config) as judge:
        [answer] = checked(judge, [group("x")])
    assert isinstance(answer, Judgement)
    assert 3 < answer.all_scores[0] < 5
    model = JudgeModel(by_length)
    with rating(model):
        assert model.is_open
    assert model.is_open is False


def test_a_wrong_prompt_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"judge\.prompt: arena_hard is neither .* rating_1_to_10"):
        open_judge(RatingJudge(engine=NOWHERE, prompt="arena_hard"))
