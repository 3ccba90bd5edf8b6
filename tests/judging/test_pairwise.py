"""Comparisons in both orders, tournaments, and scores that come from nothing else."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
from judge_models import (
    NOWHERE,
    JudgeModel,
    Messages,
    answers,
    group,
    pairwise,
    prefers_longer,
    prompt,
    reason,
    scores,
    shown,
)

from forethought.config import OpenAIEngine, PairwiseJudge, ScriptedEngine, Tournament
from forethought.judging.base import checked
from forethought.judging.llm.bradley_terry import bradley_terry
from forethought.judging.llm.pairwise import Pairwise
from forethought.judging.open import open_judge
from forethought.types import Judgement, ResponseGroup, Unjudged, Unsampled


def always(reply: str) -> JudgeModel:
    return JudgeModel(lambda messages, seed: reply)


def lengths(count: int, seed: int = 0) -> tuple[str, ...]:
    """Distinct responses of 1 to `count` characters in random order."""
    return tuple("x" * length for length in random.Random(seed).sample(range(1, count + 1), count))


def test_every_pair_is_compared_in_both_orders_at_once() -> None:
    model = JudgeModel(prefers_longer)
    [found] = scores(pairwise(model), group("xxx", "x", "xxxx", "xx"))
    [call] = model.calls
    assert sorted(shown(one.messages) for one in call) == sorted(
        itertools.permutations(["x", "xx", "xxx", "xxxx"], 2)
    )
    assert np.argsort(found).tolist() == [1, 3, 0, 2]


def test_scores_are_bradley_terry_of_the_verdicts() -> None:
    """The counts of wins: 1 for each order in which the judge prefers m to n."""
    [found] = scores(pairwise(JudgeModel(prefers_longer), prior=0.3), group("a", "bb", "ccc"))
    wins_MN = np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0]], dtype=float)
    np.testing.assert_allclose(found, bradley_terry(wins_MN, 0.3), atol=1e-9)


@pytest.mark.parametrize("reply", ["[[A]]", "[[B]]"])
def test_position_bias_is_no_preference(reply: str) -> None:
    assert scores(pairwise(always(reply)), group("a", "b", "c")) == [(0.0, 0.0, 0.0)]


def test_bias_shifts_nothing_where_there_is_a_preference() -> None:
    """Prefers the first unless the second is much longer: near ones contradict, far ones do not."""

    def rule(messages: Messages, seed: int) -> str:
        first, second = shown(messages)
        return "[[B]]" if len(second) > len(first) + 5 else "[[A]]"

    [found] = scores(pairwise(JudgeModel(rule)), group("x", "x" * 3, "x" * 20))
    assert found[0] == found[1] < found[2]


def test_a_tie_counts_half_for_each() -> None:
    assert scores(pairwise(always("[[C]]"), prompt="with_ties"), group("a", "b")) == [(0.0, 0.0)]

    def likes_long_first(messages: Messages, seed: int) -> str:
        return "[[A]]" if "[Answer of assistant A]\nlong" in messages[0].content else "[[C]]"

    judge = pairwise(JudgeModel(likes_long_first), prompt="with_ties")
    [found] = scores(judge, group("s", "long"))
    expected = bradley_terry(np.array([[0, 0.5], [1.5, 0]]), 0.1)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_arena_hard_labels_have_weights() -> None:
    def rule(messages: Messages, seed: int) -> str:
        return "[[A>>B]]" if "Assistant A's Answer|>\ngood" in messages[1].content else "[[B>A]]"

    [found] = scores(pairwise(JudgeModel(rule), prompt="arena_hard"), group("bad", "good"))
    expected = bradley_terry(np.array([[0.0, 0.0], [4.0, 0.0]]), 0.1)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_equal_responses_are_compared_as_one() -> None:
    model = JudgeModel(prefers_longer)
    [found] = scores(pairwise(model), group("xx", "x", "xx", "x", "xx"))
    assert len(model.requests) == 2
    [(long, short)] = scores(pairwise(model), group("xx", "x"))
    assert found == (long, short, long, short, long)
    assert long > short


def test_nothing_to_compare_needs_no_call() -> None:
    model = always("never asked")
    groups = [group("x"), group("y", "y", "y"), group()]
    assert answers(pairwise(model), *groups) == [
        Judgement(prompt_id="p", judge=pairwise(model).name, scores=zeros, evidence="")
        for zeros in ((0.0,), (0.0, 0.0, 0.0), ())
    ]
    assert scores(pairwise(model, comparisons={"rounds": 3}), group("x")) == [(0.0,)]
    assert model.calls == []


def unreadable(*pairs: tuple[str, str]) -> JudgeModel:
    """Prefers the longer one, and has no verdict where these are shown in this order."""
    return JudgeModel(
        lambda messages, seed: "Hm." if shown(messages) in pairs else prefers_longer(messages, seed)
    )


def test_one_unreadable_verdict_of_56_costs_one_meeting() -> None:
    texts = lengths(8)
    model = unreadable((texts[2], texts[5]))
    [judged] = answers(pairwise(model), group(*texts))
    assert isinstance(judged, Judgement)
    assert judged.missing == 1
    # Neither order of that meeting counts, so that no place is favoured.
    wins = np.zeros((8, 8))
    for one in range(8):
        for other in range(8):
            if one != other and {one, other} != {2, 5}:
                wins[one, other] = 2.0 * (len(texts[one]) > len(texts[other]))
    assert judged.scores == pytest.approx(bradley_terry(wins, 0.1).tolist(), abs=1e-8)
    rows = json.loads(judged.evidence)
    assert len(rows) == 56
    assert [row[:3] for row in rows if row[2] is None] == [[2, 5, None]]
    [failed] = [row for row in rows if row[2] is None]
    assert failed[3].endswith("Hm.'")


def test_half_a_meeting_favours_no_place() -> None:
    def rule(messages: Messages, seed: int) -> str:
        return "Hm." if shown(messages) == ("b", "c") else "[[A]]"

    # A judge that always takes the first: with one order alone c would beat b.
    assert scores(pairwise(JudgeModel(rule)), group("a", "b", "c")) == [(0.0, 0.0, 0.0)]


def test_too_few_verdicts_leave_the_whole_group_owed() -> None:
    few = unreadable(*((one, "d") for one in "abc"))
    spoilt, fine = answers(pairwise(few), group(*"abcd"), group("a", "b", prompt_id="q"))
    assert isinstance(fine, Judgement)
    assert (fine.prompt_id, fine.missing) == ("q", 0)
    assert isinstance(spoilt, Unjudged)
    assert spoilt.reason == (
        "response 3: 0 of 3 meetings have verdicts in both orders, judge.min_read 0.5 asks for 2; "
        "response 0 before 3: no verdict: 'Hm.'; asked once more: no verdict: 'Hm.'"
    )
    one = unreadable(("a", "b"))
    assert "judge.min_read 1 asks for 3" in reason(pairwise(one, min_read=1), group(*"abcd"))
    assert "0 of 1 meetings" in reason(pairwise(one), group("a", "b"))


def test_failures_may_not_part_the_responses() -> None:
    parted = unreadable(*((one, other) for one in "ab" for other in "cd"))
    words = reason(pairwise(parted, min_read=0.2), group(*"abcd"))
    assert words.startswith("no verdict joins all responses that were compared; response 0 before")
    joined = unreadable(("a", "c"), ("a", "d"), ("b", "c"))
    [judged] = answers(pairwise(joined, min_read=0.2), group(*"abcd"))
    assert isinstance(judged, Judgement)
    assert judged.missing == 3
    # A tournament of one round joins nobody, without any failure.
    assert scores(pairwise(unreadable(), comparisons={"rounds": 1}), group(*"abcd"))


def test_what_the_engine_cannot_take_is_owed_with_its_reason() -> None:
    model = JudgeModel(lambda messages, seed: Unsampled(prompt_id="p", reason="9000 tokens"))
    words = reason(pairwise(model), group("a", "b"))
    assert words.endswith("; response 0 before 1: 9000 tokens")


def test_an_engine_that_fails_stops_the_judge() -> None:
    def rule(messages: Messages, seed: int) -> str:
        raise ValueError("the server stays down")

    with pytest.raises(ValueError, match="stays down"):
        answers(pairwise(JudgeModel(rule)), group("a", "b"))


def test_a_prompt_without_the_reference_that_the_file_shows(tmp_path: Path) -> None:
    path = tmp_path / "with_reference.yaml"
    path.write_text(
        "user: |\n  {conversation}{question}\n  [Truth]\n  {reference}\n  [First]\n  {response_a}\n"
        "  [Second]\n  {response_b}\n  [End]\nfinish: Finish.\nverdicts:\n"
        '  "[[A]]": {first: 1, second: 0}\n  "[[B]]": {first: 0, second: 1}\n'
    )
    model = JudgeModel(
        lambda messages, seed: "[[A]]" if "[First]\n42" in messages[0].content else "[[B]]"
    )
    judge = pairwise(model, prompt=str(path))
    assert judge.name == "pairwise:with_reference:scripted replies"
    known = ResponseGroup(prompt=prompt(reference="42"), responses=("41", "42"))
    owed, judged = answers(judge, group("41", "42"), known)
    assert not isinstance(owed, Judgement)
    assert "no reference" in owed.reason
    assert isinstance(judged, Judgement)
    assert judged.all_scores[1] > judged.all_scores[0]
    assert len(model.requests) == 2


def test_scores_do_not_depend_on_the_order_of_responses_or_groups() -> None:
    texts = lengths(7, seed=3)
    for comparisons in ("all", {"rounds": 3}, "circular", {"circles": 2}):
        judge = pairwise(JudgeModel(prefers_longer), comparisons=comparisons)
        [one] = scores(judge, group(*texts))
        [_, other] = scores(judge, group("a", "b", prompt_id="q"), group(*reversed(texts)))
        assert other == one[::-1]


@pytest.mark.parametrize(("count", "rounds"), [(8, 3), (9, 4), (16, 4)])
def test_a_tournament_asks_each_round_as_one_batch(count: int, rounds: int) -> None:
    model = JudgeModel(prefers_longer)
    judge = pairwise(model, comparisons={"rounds": rounds})
    groups = [group(*lengths(count, seed), prompt_id=f"p{seed}") for seed in range(3)]
    found = scores(judge, *groups)
    assert [len(call) for call in model.calls] == [3 * 2 * (count // 2)] * rounds
    asked = [(request.prompt_id, *shown(request.messages)) for request in model.requests]
    assert len(set(asked)) == len(asked)
    assert all((name, second, first) in set(asked) for name, first, second in asked)
    for one, given in zip(groups, found, strict=True):
        longest = max(range(count), key=lambda index: len(one.responses[index]))
        assert given[longest] == max(given)


def test_enough_rounds_are_all_comparisons() -> None:
    model = JudgeModel(prefers_longer)
    few = scores(pairwise(model, comparisons={"rounds": 7}), group(*lengths(8)))
    assert [len(call) for call in model.calls] == [56]
    assert few == scores(pairwise(JudgeModel(prefers_longer)), group(*lengths(8)))


def test_a_tournament_asks_nothing_more_about_a_group_that_is_owed() -> None:
    model = JudgeModel(lambda messages, seed: "Hm." if "xxxx" in shown(messages) else "[[A]]")
    assert "no verdict" in reason(pairwise(model, comparisons={"rounds": 4}), group(*lengths(8)))
    # After three rounds it has nothing read, and one more could not make that two of four.
    assert [len(call) for call in model.calls] == [8, 2] * 3


def test_a_tournament_goes_on_after_a_failure() -> None:
    texts = lengths(8)
    model = JudgeModel(prefers_longer)
    scores(pairwise(model, comparisons={"rounds": 3}), group(*texts))
    first = shown(model.requests[0].messages)
    [judged] = answers(pairwise(unreadable(first), comparisons={"rounds": 3}), group(*texts))
    assert isinstance(judged, Judgement)
    assert judged.missing == 1
    longest = max(range(8), key=lambda index: len(texts[index]))
    assert judged.scores[longest] == max(score or 0.0 for score in judged.scores)


@pytest.mark.parametrize(("count", "number"), [(8, 1), (8, 2), (8, 3), (9, 2), (3, 1)])
def test_circles_are_asked_in_one_batch(count: int, number: int) -> None:
    model = JudgeModel(prefers_longer)
    judge = pairwise(model, comparisons={"circles": number})
    groups = [group(*lengths(count, seed), prompt_id=f"p{seed}") for seed in range(3)]
    found = scores(judge, *groups)
    [call] = model.calls
    asked = [(request.prompt_id, *shown(request.messages)) for request in call]
    assert len(set(asked)) == len(asked) == 3 * 2 * number * count
    assert all((name, second, first) in set(asked) for name, first, second in asked)
    for one, given in zip(groups, found, strict=True):
        order = sorted(range(count), key=lambda index: len(one.responses[index]))
        # Who has met few may be best among these alone.
        assert given[order[0]] < 0 < given[order[-1]]
    # Another prompt has another draw.
    draws = {
        tuple(len(text) for name, *both in asked if name == each for text in both)
        for each in ("p0", "p1", "p2")
    }
    assert count == 3 or len(draws) == 3


def test_one_failure_leaves_a_circle_in_one_piece_and_two_may_not() -> None:
    texts = lengths(8)
    model = JudgeModel(prefers_longer)
    scores(pairwise(model, comparisons="circular"), group(*texts))
    met = [shown(request.messages) for request in model.requests][::2]
    [judged] = answers(pairwise(unreadable(met[0]), comparisons="circular"), group(*texts))
    assert isinstance(judged, Judgement)
    assert judged.missing == 1
    assert None not in judged.scores
    parted = pairwise(unreadable(met[0], met[4]), comparisons="circular")
    assert reason(parted, group(*texts)).startswith("no verdict joins all responses")
    joined = pairwise(unreadable(met[0], met[4]), comparisons={"circles": 2})
    assert scores(joined, group(*texts))


@pytest.mark.parametrize("wrong", [{}, {"rounds": 2, "circles": 1}])
def test_a_tournament_is_of_one_kind(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"either rounds or circles"):
        PairwiseJudge.model_validate({"engine": NOWHERE, "comparisons": wrong})


def test_rounds_name_the_same_judge_as_before_there_were_circles() -> None:
    config = PairwiseJudge(engine=NOWHERE, comparisons=Tournament(rounds=3))
    assert config.identity()["comparisons"] == {"rounds": 3}


@pytest.mark.parametrize(
    ("comparisons", "calls"),
    [
        ("all", [0, 0, 2, 6, 56]),
        (Tournament(rounds=1), [0, 0, 2, 2, 8]),
        (Tournament(rounds=3), [0, 0, 2, 6, 24]),
        (Tournament(rounds=99), [0, 0, 2, 6, 56]),
        ("circular", [0, 0, 2, 6, 16]),
        (Tournament(circles=3), [0, 0, 2, 6, 48]),
        (Tournament(circles=4), [0, 0, 2, 6, 56]),
    ],
)
def test_calls_are_known_before(comparisons, calls: list[int]) -> None:
    config = PairwiseJudge(engine=NOWHERE, comparisons=comparisons)
    assert [config.calls_per_group(count) for count in (0, 1, 2, 3, 8)] == calls
    for count, most in zip((1, 2, 3, 8), calls[1:], strict=True):
        model = JudgeModel(prefers_longer)
        with Pairwise(config, sampler=model) as judge:
            list(judge.judge([group(*lengths(count))]))
        assert len(model.requests) == most


def test_evidence_says_why() -> None:
    [answer] = answers(pairwise(JudgeModel(prefers_longer)), group("xxx", "x", "xxx"))
    assert isinstance(answer, Judgement)
    assert json.loads(answer.evidence) == [
        [0, 1, "[[A]]", "3 against 1. [[A]]"],
        [1, 0, "[[B]]", "1 against 3. [[B]]"],
    ]


@pytest.mark.parametrize(("count", "most"), [(2, 301), (8, 108), (16, 0)])
def test_evidence_is_kept_short(count: int, most: int) -> None:
    model = JudgeModel(
        lambda messages, seed: "<think>secret</think>" + "ö" * 5000 + prefers_longer(messages, 0)
    )
    [answer] = answers(pairwise(model), group(*lengths(count)))
    assert isinstance(answer, Judgement)
    rows = json.loads(answer.evidence)
    assert len(rows) == count * (count - 1)
    assert {len(row[3]) for row in rows} == {most}
    assert "secret" not in answer.evidence
    assert len(answer.evidence) < 12_000


def test_the_sampler_is_closed_with_the_judge() -> None:
    model = always("[[A]]")
    with pairwise(model) as judge:
        assert model.is_open
        assert judge.floor is None
    assert model.is_open is False


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"engine": NOWHERE}, "pairwise:self_taught_evaluator:scripted replies"),
        (
            {"engine": OpenAIEngine(base_url="http://localhost:1/v1", model="judge-70b")},
            "pairwise:self_taught_evaluator:judge-70b",
        ),
        (
            {"engine": OpenAIEngine(base_url="http://localhost:1/v1"), "prompt": "arena_hard"},
            "pairwise:arena_hard:the model at the server",
        ),
        (
            {"engine": {"type": "transformers"}, "model": {"path": "org/judge"}},
            "pairwise:self_taught_evaluator:org/judge",
        ),
    ],
)
def test_the_name_says_prompt_and_model(options, name: str) -> None:
    config = PairwiseJudge.model_validate(options)
    assert Pairwise(config, sampler=always("")).name == name


def test_it_opens_from_a_recipe(tmp_path: Path) -> None:
    """The first line answers the second turn, so that both turns are taken."""
    script = tmp_path / "replies.jsonl"
    script.write_text(
        '{"match": "Finish now", "replies": ["[[B]]"]}\n'
        '{"match": "Assistant A\'s Answer]\\nb", "replies": ["Better is [[A]]."]}\n'
        '{"match": "", "replies": ["I cannot say."]}\n'
    )
    config = PairwiseJudge(engine=ScriptedEngine(path=script))
    with open_judge(config) as judge:
        [answer] = checked(judge, [group("a", "b")])
    assert isinstance(answer, Judgement)
    assert answer.all_scores[1] == -answer.all_scores[0] > 0
    assert json.loads(answer.evidence) == [
        [0, 1, "[[B]]", "I cannot say. [[B]]"],
        [1, 0, "[[A]]", "Better is [[A]]."],
    ]


def test_a_prior_that_rounding_would_lose_is_refused() -> None:
    with pytest.raises(ValueError, match=r"judge\.prior: 1e-09 .* give 0\.0001 or more"):
        pairwise(always(""), prior=1e-9)


def test_a_wrong_prompt_file_is_refused_before_a_model_is_loaded() -> None:
    config = PairwiseJudge(engine=NOWHERE, prompt="nowhere.yaml")
    with pytest.raises(ValueError, match=r"judge\.prompt: nowhere\.yaml is neither"):
        open_judge(config)


def test_another_seed_asks_with_it() -> None:
    model = JudgeModel(lambda messages, seed: f"[[{'AB'[seed % 2]}]]")
    answers(pairwise(model, temperature=1, seed=5), group("x", "y"))
    assert {request.seeds for request in model.requests} == {(5,)}
