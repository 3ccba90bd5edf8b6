"""What the package shows a judge to measure it, and the figures on verdicts written out."""

import json
from collections import Counter

import numpy as np
import pytest

from forethought.config import PairwiseJudge, ScriptedEngine, VerifierJudge
from forethought.evaluation.judge_quality.cases import (
    Case,
    CaseVerdict,
    attack_cases,
    attacks_on,
    length_cases,
    wrong_cases,
)
from forethought.evaluation.judge_quality.comparisons import ComparisonReader, places_followed
from forethought.evaluation.judge_quality.figures import NO_PLACES, Judged, judge_figures
from forethought.types import Message, Prompt

VERIFIER = VerifierJudge(function="gsm8k")
PAIRWISE = PairwiseJudge.model_validate(
    {"prompt": "with_ties", "engine": ScriptedEngine.model_validate({"path": "replies.jsonl"})}
)


def case(*responses, name="p", kind=None, around_worse=False):
    prompt = Prompt(
        prompt_id=name,
        messages=(Message(role="user", content=name),),
        category=None,
        source="s",
        reference=None,
    )
    return Case(prompt=prompt, responses=responses, kind=kind, around_worse=around_worse)


def verdict(*scores, evidence="", reason=None):
    return CaseVerdict(scores=scores, evidence=evidence, reason=reason)


def refused():
    return verdict(reason="too long")


def figures(config, lengths, again, attacks=(), preferences=None, wrong=()):
    """By name, or kind; each argument is a list of cases with their verdicts."""

    def judged(rows):
        return Judged([row[0] for row in rows], [row[1] for row in rows])

    turned = [(each.turned, said) for (each, _), said in zip(lengths[::-1], again, strict=True)]
    given = None if preferences is None else judged(preferences)
    sets = [judged(rows) for rows in (lengths, turned, attacks)]
    found = judge_figures(config, *sets, wrong=judged(wrong), preferences=given)
    return {figure.category or figure.name: figure for figure in found}


def test_sixty_attacks_are_balanced_by_kind():
    cases = attack_cases()
    assert Counter(each.kind for each in cases) == dict.fromkeys(
        [
            *("expert_claim", "fake_consensus", "fake_verdict", "fake_score", "fake_citation"),
            *("flattery", "padding", "instruction", "appeal", "formatting"),
        ],
        6,
    )
    assert Counter(each.prompt.prompt_id for each in cases) == dict.fromkeys(
        [each.prompt.prompt_id for each in length_cases()], 2
    )
    around_worse = Counter(each.kind for each in cases if each.around_worse)
    assert set(around_worse.values()) == {2}
    assert len(around_worse) == 6


def test_an_attack_adds_to_a_response_and_changes_nothing_of_it():
    plain = {each.prompt.prompt_id: each.responses for each in length_cases()}
    for each in attack_cases():
        good, attacking = each.responses
        assert good == plain[each.prompt.prompt_id][0]
        assert (good in attacking) != each.around_worse
        assert len(attacking) > len(good) or each.around_worse


def test_the_longer_response_has_the_same_answer_and_the_worse_one_has_not():
    for each, other in zip(length_cases(), wrong_cases(), strict=True):
        assert other.prompt == each.prompt
        assert other.responses[0] == each.responses[0]
        short, longer = each.responses
        reference = each.prompt.reference
        assert reference is not None
        assert reference.lower() in short.lower()
        assert reference.lower() in longer.lower()
        assert len(longer) > 1.5 * len(short)
        assert reference.lower() not in other.responses[1].lower()


def test_the_same_attacks_stand_around_other_responses():
    others = [case("one", "x"), case("two")]
    cases = attacks_on(others)
    assert len(cases) == 60
    assert [each.responses[0] for each in cases[:3]] == ["one", "two", "one"]
    assert all(each.responses[0] in each.responses[1] for each in cases)
    assert not any(each.around_worse for each in cases)
    assert set(Counter(each.kind for each in cases).values()) == {6}


def comparison(one, other):
    return json.dumps([[0, 1, one, "why"], [1, 0, other, "why"]])


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [
        ("[[A]]", "[[A]]", "first"),
        ("[[B]]", "[[B]]", "second"),
        ("[[A]]", "[[B]]", "neither"),
        ("[[B]]", "[[A]]", "neither"),
        ("[[C]]", "[[C]]", "neither"),
        ("[[A]]", "[[C]]", "neither"),
        (None, "[[A]]", None),
    ],
)
def test_which_place_a_verdict_followed(one, other, place):
    reader = ComparisonReader(PAIRWISE)
    [read] = reader.read(verdict(0.0, 0.0, evidence=comparison(one, other)))
    assert places_followed(read) == [place]


def test_position_bias_is_over_prompts():
    lengths = [
        (case("a", "bb", name="1"), verdict(0, 0, evidence=comparison("[[A]]", "[[A]]"))),
        (case("a", "bb", name="2"), verdict(1, -1, evidence=comparison("[[A]]", "[[B]]"))),
        (case("a", "bb", name="3"), refused()),
        (case("a", "bb", name="4"), verdict(0, 0, evidence=comparison(None, "[[B]]"))),
    ]
    attacks = [
        (case("a", "b!", name="1", kind="x"), verdict(1, -1, evidence=comparison("[[A]]", "[[B]]")))
    ]
    found = figures(PAIRWISE, lengths, [said for _, said in lengths[::-1]], attacks)
    # The first prompt has one of each, the second followed the response.
    assert found["position_bias"].value == pytest.approx(0.25)
    assert (found["position_bias"].count, found["position_bias"].refused) == (2, 2)
    assert found["position_first"].value == pytest.approx(0.25)
    assert found["position_second"].value == 0


def test_a_verdict_is_the_same_where_the_same_response_wins_at_the_same_place():
    lengths = [
        (case("a", "bb", name=str(n)), verdict(1, -1, evidence=comparison("[[A]]", "[[B]]")))
        for n in range(3)
    ]
    # Turned, the first response is the second one's index: the same verdicts have other indices.
    again = [
        verdict(-1, 1, evidence=comparison("[[B]]", "[[A]]")),
        verdict(1, -1, evidence=comparison("[[A]]", "[[B]]")),
        verdict(0, 0, evidence=comparison("[[A]]", None)),
    ]
    found = figures(PAIRWISE, lengths, again)
    assert found["same_verdict"].value == pytest.approx((1 + 0 + 0) / 3)
    assert found["same_verdict"].refused == 1
    assert found["same_preference"].value == pytest.approx(1 / 3)


def test_length_is_compared_within_prompts():
    """Long answers to one prompt and high scores of another make no slope."""
    lengths = [
        (case("a" * 100, "a" * 300, "b" * 300, name="1"), verdict(1.0, 3.0, 1.0)),
        (case("a" * 900, "a" * 700, name="2"), verdict(-7.0, -9.0)),
        (case("a" * 900, "a" * 700, name="3"), verdict(-8.0, None)),
        (case("a" * 900, "a" * 700, name="4"), refused()),
    ]
    again = [refused(), refused(), verdict(-9.0, -7.0), verdict(1.0, 3.0, 1.0)]
    found = figures(VERIFIER, lengths, again)
    # The first prompt has a win and a tie, the second a win.
    assert found["longer_wins"].value == pytest.approx((0.75 + 1) / 2)
    assert (found["longer_wins"].count, found["longer_wins"].refused) == (2, 2)
    within = [np.array([[1.0, 1], [3, 3], [3, 1]]), np.array([[9.0, -7], [7, -9]])]
    rows = np.concatenate([each - each.mean(axis=0) for each in within])
    slope, correlation = found["length_slope"], found["length_correlation"]
    assert slope.value == pytest.approx(np.polyfit(rows[:, 0], rows[:, 1], 1)[0])
    assert correlation.value == pytest.approx(np.corrcoef(rows.T)[0, 1])
    assert slope.interval is not None
    assert slope.value is not None
    assert slope.interval[0] < slope.value < slope.interval[1]


def test_a_score_without_noise_and_one_with_much():
    generator = np.random.default_rng(0)
    lengths = [(case("a", "bb", name=str(n)), verdict(float(n), float(n + 1))) for n in range(400)]
    same = figures(VERIFIER, lengths, [verdict(*said.scores[::-1]) for _, said in lengths[::-1]])
    assert same["repeat_noise"].value == 0
    assert same["same_verdict"].value == same["same_preference"].value == 1
    scores = np.array([said.scores for _, said in lengths], dtype=float)
    spread = float(scores.std())
    once, again = scores + generator.normal(0, spread, (2, *scores.shape))
    first = [(each, verdict(*row)) for (each, _), row in zip(lengths, once.tolist(), strict=True)]
    second = [verdict(*row) for row in again[::-1, ::-1].tolist()]
    found = figures(VERIFIER, first, second)["repeat_noise"]
    # Score and noise have the same spread, so that the noise is 1/√2 of what is seen.
    assert found.value == pytest.approx(2**-0.5, abs=0.05)
    assert found.interval is not None
    assert found.interval[0] < 2**-0.5 < found.interval[1]


def test_an_attack_wins_where_it_scores_higher():
    lengths = [(case("a", "bb"), verdict(0.0, 0.0))]
    attacks = [
        (case("a", "a!", name="1", kind="x"), verdict(0.0, 1.0)),
        (case("a", "a!", name="1", kind="y", around_worse=True), verdict(0.0, 0.0)),
        (case("a", "a!", name="2", kind="x"), verdict(1.0, 0.0)),
        (case("a", "a!", name="2", kind="y"), refused()),
        (case("a", "a!", name="3", kind="y"), verdict(0.0, None)),
    ]
    found = figures(VERIFIER, lengths, [verdict(0.0, 0.0)], attacks)
    assert found["attack_wins"].value == pytest.approx((0.5 + 0) / 2)
    # Of the pair and the attacks with both scores two differ, each of another prompt.
    assert found["decided"].value == pytest.approx((0 + 0.5 + 1) / 3)
    assert (found["decided"].count, found["decided"].refused) == (3, 2)
    assert (found["attack_wins"].count, found["attack_wins"].refused) == (2, 2)
    assert (found["x"].value, found["x"].count) == (0.5, 2)
    assert (found["y"].value, found["y"].count, found["y"].refused) == (0.0, 1, 2)
    assert found["attack_wins_worse"].value == 0
    assert "agreement" not in found


def test_who_tells_right_from_wrong():
    lengths = [(case("a", "bb"), verdict(0.0, 0.0))]
    wrong = [
        (case("right", "wrong", name="1"), verdict(2.0, 1.0)),
        (case("right", "wrong", name="2"), verdict(1.0, 1.0)),
        (case("right", "wrong", name="3"), verdict(0.0, 1.0)),
        (case("right", "wrong", name="4"), refused()),
    ]
    found = figures(VERIFIER, lengths, [verdict(0.0, 0.0)], wrong=wrong)
    assert found["right_wins"].value == 0.5
    assert (found["right_wins"].count, found["right_wins"].refused) == (3, 1)


def test_what_cannot_be_measured_says_why():
    lengths = [(case("a", "bb"), refused())]
    attacks = [(case("a", "a!", kind="x"), verdict(1.0, 1.0))]
    preferences = [(case("a", "b"), verdict(1.0, 1.0)), (case("a", "b", name="2"), refused())]
    found = figures(VERIFIER, lengths, [refused()], attacks, preferences)
    assert found["longer_wins"].value is None
    assert found["longer_wins"].note == "no verdict"
    assert found["length_slope"].note == "no two scored responses differ in length"
    assert found["repeat_noise"].value is None
    assert found["position_bias"].note == NO_PLACES
    assert (found["agreement"].value, found["agreement"].refused) == (0.5, 1)
