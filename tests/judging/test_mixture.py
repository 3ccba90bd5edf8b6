"""Mixtures: routing, normalising within the group, averaging, a member that fails."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought.config import (
    CustomJudge,
    Member,
    MixtureJudge,
    PairwiseJudge,
    Route,
    ScriptedEngine,
    VerifierJudge,
)
from forethought.judging.base import checked
from forethought.judging.describe import identity
from forethought.judging.mixture import normalised
from forethought.judging.open import open_judge
from forethought.types import Judgement, Message, Prompt, ResponseGroup, Unjudged


def length(prompt, response):
    return float(len(response))


def shortness(prompt, response):
    return -1000.0 * len(response)


def vowels(prompt, response):
    return sum(letter in "aeiou" for letter in response) / 7


def fails_on_x(prompt, response):
    if "x" in response:
        raise RuntimeError("no x please")
    return 1.0


def verifier(function):
    return VerifierJudge(function=f"{__name__}:{function.__name__}")


def group(*responses, source="chat", category=None, prompt_id="p"):
    prompt = Prompt(
        prompt_id=prompt_id,
        messages=(Message(role="user", content="Hi"),),
        category=category,
        source=source,
        reference="#### 4",
    )
    return ResponseGroup(prompt=prompt, responses=responses)


def route(*judges, source=(), category=(), weights=None):
    weights = weights or [1] * len(judges)
    members = tuple(Member(judge=j, weight=w) for j, w in zip(judges, weights, strict=True))
    return Route(source=source, category=category, members=members)


def judged(routes, *groups) -> list[Any]:
    with open_judge(MixtureJudge(routes=tuple(routes))) as judge:
        return list(checked(judge, groups))


def test_prompts_go_to_the_first_route_that_fits():
    routes = [
        route(VerifierJudge(function="gsm8k"), source=("maths",)),
        route(verifier(shortness), category=("brief",)),
        route(verifier(length)),
    ]
    answers = judged(
        routes,
        group("aaa", "b", prompt_id="1"),
        group("It is 4.", "It is 5.", source="maths", category="brief", prompt_id="2"),
        group("aaa", "b", category="brief", prompt_id="3"),
        group("b", "aaaa", prompt_id="4"),
    )
    assert [answer.prompt_id for answer in answers] == ["1", "2", "3", "4"]
    assert [answer.scores for answer in answers] == [(1, -1), (1, -1), (-1, 1), (-1, 1)]


def test_a_prompt_without_a_route_is_owed_with_the_way_out():
    routes = [route(verifier(length), source=("maths",))]
    owed, scored = judged(routes, group("a"), group("a", "bb", source="maths", prompt_id="q"))
    assert isinstance(owed, Unjudged)
    assert "no route fits source 'chat' and category None; add a last route" in owed.reason
    assert isinstance(scored, Judgement)


def test_scales_do_not_matter_weights_do():
    responses = ("aaaa", "b", "ee")
    alone = [
        np.array(judged([route(verifier(f))], group(*responses))[0].scores)
        for f in (vowels, shortness)
    ]
    [answer] = judged(
        [route(verifier(vowels), verifier(shortness), weights=[3, 1])], group(*responses)
    )
    assert answer.scores == pytest.approx((3 * alone[0] + alone[1]) / 4)
    evidence = json.loads(answer.evidence)
    assert [one["weight"] for one in evidence] == [3, 1]
    assert evidence[1]["scores"] == [-4000.0, -1000.0, -2000.0]


def test_a_member_that_fails_leaves_the_whole_group_owed():
    routes = [route(verifier(length), verifier(fails_on_x))]
    owed, scored = judged(routes, group("a", "x"), group("a", "bb", prompt_id="q"))
    assert isinstance(owed, Unjudged)
    assert "fails_on_x: response 1: RuntimeError: no x please" in owed.reason
    assert scored.scores == (-0.5, 0.5)


class Forgetful:
    """Scores by length, and has no score for a response that says so."""

    name, floor = "forgetful", None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def judge(self, groups):
        for one in groups:
            known = tuple(None if "?" in text else float(len(text)) for text in one.responses)
            yield Judgement(
                prompt_id=one.prompt.prompt_id,
                judge=self.name,
                scores=known,
                evidence="",
                missing=known.count(None),
            )


def test_a_response_that_a_member_could_not_score_has_no_score():
    forgetful = CustomJudge(import_path=f"{__name__}:Forgetful")
    routes = [route(verifier(length), forgetful)]
    some, owed = judged(routes, group("a", "?????", "bbb"), group("a", "?", prompt_id="q"))
    assert some.scores == (-1.0, None, 1.0)
    assert some.missing == 1
    assert isinstance(owed, Unjudged)
    assert "scores in common for 1 of 2 responses" in owed.reason


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_normalised_scores_have_mean_zero_and_spread_one(scores):
    normal = normalised(scores)
    assert normal.shape == (len(scores),)
    if max(scores) == min(scores):
        assert not normal.any()
    elif max(scores) - min(scores) > 1e-3:
        assert normal.mean() == pytest.approx(0, abs=1e-6)
        assert normal.std() == pytest.approx(1)


def test_what_is_said_of_a_mixture_before_it_is_opened():
    config = MixtureJudge(
        routes=(
            route(VerifierJudge(function="gsm8k"), source=("maths",)),
            route(verifier(length), CustomJudge(import_path="mine:Judge")),
        )
    )
    assert config.is_relative
    assert not VerifierJudge(function="gsm8k").is_relative
    assert CustomJudge(import_path="mine:Judge", relative=True).is_relative
    assert config.calls_per_group(8) == 0
    assert config.title.startswith("mixture of verifier gsm8k, verifier ")
    assert identity(config) != identity(MixtureJudge(routes=config.routes[::-1]))


def test_a_member_that_cannot_be_opened_is_named():
    routes = [route(verifier(length), VerifierJudge(function="nothing"))]
    with pytest.raises(ValueError, match=r"judge\.function: 'nothing' is no verifier"):
        judged(routes, group("a"))


def test_asked_again_so_are_its_members():
    engine = ScriptedEngine(path=Path("replies.jsonl"))
    pairwise = PairwiseJudge(engine=engine)
    members = (Member(judge=pairwise, weight=2), Member(judge=verifier(length)))
    again = MixtureJudge(routes=(Route(source=("chat",), members=members),)).asked_again
    [route] = again.routes
    assert route.source == ("chat",)
    [first, second] = route.members
    assert isinstance(first.judge, PairwiseJudge)
    assert (first.judge.seeds, first.weight) == ((1,), 2)
    assert second.judge == verifier(length)
