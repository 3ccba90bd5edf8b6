"""Best and worst: hand-computed numbers, then properties over random groups."""

from dataclasses import replace
from math import isclose, sqrt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whole_pairs import build_pairs

from forethought.config import PairsConfig
from forethought.pairs import (
    LengthSums,
    chosen_pairs,
    decide,
    length_controlled,
    outcomes,
    pair_counts,
    possible_pairs,
    shaped_scores,
    unparsable_quota,
)
from forethought.types import (
    Completion,
    PairDecision,
    ParsedOutput,
    ParseStatus,
    PreferencePair,
    Rollout,
    ScoredGroup,
)

UNPARSABLE = (ParseStatus.NO_RESPONSE, ParseStatus.EMPTY_RESPONSE, ParseStatus.TRUNCATED)


def rollout(
    index: int, *, tokens: int = 3, status: ParseStatus = ParseStatus.COMPLETE, prompt: str = "p"
) -> Rollout:
    """Two tokens of thought and as many of response as asked for."""
    complete = status is ParseStatus.COMPLETE
    return Rollout(
        prompt_id=prompt,
        sample_index=index,
        prompt_token_ids=(0, 1),
        completion=Completion(
            text="t r", token_ids=(100 + index,) * (tokens + 2), finish_reason="stop"
        ),
        parsed=ParsedOutput(
            status=status,
            thought="t",
            response="r" if complete else None,
            response_offset=2 if complete else None,
        ),
        response_start=2,
        response_tokens=tokens if complete else 0,
    )


def group(scores: dict[int, float], prompt: str = "p") -> ScoredGroup:
    return ScoredGroup(
        prompt_id=prompt,
        judge="verifier:test",
        sample_indices=tuple(scores),
        scores=tuple(scores.values()),
        evidence="",
    )


def one_pair(
    rollouts: list[Rollout],
    scores: dict[int, float] | None,
    *,
    rho: float = 0.0,
    cap: float = 1.0,
    price: float = 0.0,
) -> tuple[PreferencePair | None, PairDecision]:
    scored = {} if scores is None else {"p": group(scores)}
    config = PairsConfig(rho=rho, max_unparsable=cap, thought_price=price)
    pairs, decisions = build_pairs({"p": rollouts}, scored, config, seed=0)
    assert len(decisions) == 1
    assert len(pairs) <= 1
    return (pairs[0] if pairs else None), decisions[0]


def lengths(pairs: list[PreferencePair]) -> dict[str, float | None]:
    sums = LengthSums()
    sums.add(pairs)
    return sums.summary()


def test_length_control_by_hand() -> None:
    # Deviations from the mean: scores -1 0 1, std sqrt(2/3); lengths -10 -10 20, std sqrt(200).
    shaped = length_controlled([1.0, 2.0, 3.0], [10, 10, 40], 0.5)
    expected = [-sqrt(1.5) + 5 / sqrt(200), 5 / sqrt(200), sqrt(1.5) - 10 / sqrt(200)]
    assert shaped == pytest.approx(expected, abs=1e-12)


def test_a_zero_deviation_makes_its_term_zero() -> None:
    assert length_controlled([0.1] * 3, [7, 7, 7], 0.5) == [0.0, 0.0, 0.0]
    assert length_controlled([0.1] * 2, [1, 3], 0.5) == [0.5, -0.5]
    assert length_controlled([1.0, 3.0], [5, 5], 0.5) == [-1.0, 1.0]
    assert length_controlled([], [], 0.5) == []


def test_extreme_scores_are_normalised_without_overflow() -> None:
    assert length_controlled([-1.7e308, 1.7e308], [1, 1], 0.0) == [-1.0, 1.0]
    assert length_controlled([0.0, 5e-324], [1, 1], 0.0) == [-1.0, 1.0]


def test_best_and_worst_make_a_pair_of_whole_outputs() -> None:
    pair, decision = one_pair([rollout(i) for i in range(3)], {0: 0.2, 1: 0.9, 2: 0.1})
    assert pair is not None
    assert (pair.chosen.sample_index, pair.rejected.sample_index) == (1, 2)
    assert pair.chosen.token_ids == (101,) * 5
    assert pair.prompt_token_ids == (0, 1)
    assert pair.kind == "judged"
    assert pair.margin is not None
    assert isclose(pair.margin, 0.8)
    assert decision == PairDecision(
        prompt_id="p", outcome="judged", judged=3, unparsable=0, chosen_index=1, rejected_index=2
    )


def test_length_control_prefers_the_shorter_of_equally_good() -> None:
    rollouts = [rollout(0, tokens=30), rollout(1, tokens=5), rollout(2, tokens=5)]
    scores = {0: 1.0, 1: 1.0, 2: 0.0}
    raw, _ = one_pair(rollouts, scores)
    shaped, _ = one_pair(rollouts, scores, rho=0.3)
    assert raw is not None
    assert raw.chosen.sample_index == 0
    assert shaped is not None
    assert shaped.chosen.sample_index == 1


def test_length_control_may_overrule_the_judge_and_is_reported() -> None:
    # N(s) = -1 1, N(l) = -1 1: with rho 2 the shaped scores are 1 and -1.
    rollouts = [rollout(0, tokens=1), rollout(1, tokens=9)]
    pair, _ = one_pair(rollouts, {0: 0.0, 1: 1.0}, rho=2.0)
    assert pair is not None
    assert pair.margin == -1.0
    assert lengths([pair])["against_judge"] == 1


def test_a_price_on_thoughts_prefers_the_shorter_one_at_equal_score() -> None:
    rollouts = [replace(rollout(i), response_start=start) for i, start in enumerate((9, 4, 2))]
    scores = {0: 1.0, 1: 1.0, 2: 0.0}
    free, _ = one_pair(rollouts, scores)
    priced, _ = one_pair(rollouts, scores, price=0.1)
    assert free is not None
    assert priced is not None
    assert (free.chosen.sample_index, priced.chosen.sample_index) == (0, 1)
    # N(s) of 1, 1, 0 and N(t) of 9, 4, 2, whose mean is 5 and whose deviation is sqrt(26 / 3).
    assert priced.chosen.shaped_score == pytest.approx(sqrt(0.5) + 0.1 / sqrt(26 / 3))


def test_a_price_on_thoughts_may_overrule_the_judge_but_decides_no_tie() -> None:
    rollouts = [replace(rollout(i), response_start=start) for i, start in enumerate((2, 9))]
    pair, _ = one_pair(rollouts, {0: 0.4, 1: 0.5}, price=2.0)
    assert pair is not None
    assert pair.chosen.sample_index == 0
    assert lengths([pair])["against_judge"] == 1
    assert one_pair(rollouts, {0: 0.5, 1: 0.5}, price=2.0)[1].outcome == "tie"


def test_rho_and_price_are_taken_off_together() -> None:
    config = PairsConfig(rho=0.5, thought_price=0.25)
    assert shaped_scores([0.0, 1.0], [3, 5], [7, 2], config) == [-1 + 0.5 - 0.25, 1 - 0.5 + 0.25]


def mixed(*starts: int) -> list[Rollout]:
    """Outputs that think for so many tokens, or not at all."""
    return [replace(rollout(i), response_start=start) for i, start in enumerate(starts)]


def ends(starts: tuple[int, ...], scores: tuple[float, ...], **rules: Any) -> tuple[int, int] | str:
    """Chosen and rejected sample, or why there is no pair."""
    scored = {"p": group(dict(enumerate(scores)))}
    pairs, decisions = build_pairs({"p": mixed(*starts)}, scored, PairsConfig(**rules), seed=0)
    if not pairs:
        return decisions[0].outcome
    return pairs[0].chosen.sample_index, pairs[0].rejected.sample_index


def test_a_thinking_output_has_to_win_by_the_margin() -> None:
    # N(s) of 0.5, 0.4, 0 is 0.93, 0.46, -1.39: the first beats the second by 0.47.
    assert ends((9, 0, 0), (0.5, 0.4, 0.0), mode_margin=0.4) == (0, 2)
    assert ends((9, 0, 0), (0.5, 0.4, 0.0), mode_margin=0.5) == (1, 2)
    assert ends((9, 9, 9), (0.5, 0.4, 0.0), mode_margin=0.5) == (0, 2)


def test_with_a_margin_a_thought_that_adds_nothing_is_rejected() -> None:
    assert ends((9, 0, 4), (1.0, 1.0, 1.0)) == "tie"
    assert ends((9, 0, 4), (1.0, 1.0, 1.0), mode_margin=0.1) == (1, 0)
    assert ends((9, 0, 4), (1.0, 1.0, 1.0), mode_margin=0.1, thought_price=0.1) == (1, 0)
    assert ends((9, 4), (1.0, 1.0), mode_margin=0.1) == "tie"
    assert ends((0, 0), (1.0, 1.0), mode_margin=0.1) == "tie"


def test_counterfactual_pairs_cross_modes_by_their_means() -> None:
    assert ends((9, 9, 0, 0), (1.0, 0.4, 0.5, 0.4), counterfactual=True) == (0, 3)
    # The best of all thinks, by luck: in the mean the others are better.
    assert ends((9, 9, 0, 0), (1.0, 0.0, 0.9, 0.5), counterfactual=True) == (2, 1)
    assert ends((9, 9), (1.0, 0.0), counterfactual=True) == "one_mode"
    assert ends((0, 0), (1.0, 0.0), counterfactual=True) == "one_mode"
    assert ends((9, 0), (1.0, 1.0), counterfactual=True) == "tie"
    # N(s) of the one that thinks is 2 above that of the other.
    assert ends((9, 0), (1.0, 0.0), counterfactual=True, mode_margin=1.9) == (0, 1)
    assert ends((9, 0), (1.0, 0.0), counterfactual=True, mode_margin=2.1) == (1, 0)
    assert ends((9, 0), (1.0, 1.0), counterfactual=True, mode_margin=0.1) == (1, 0)


def test_where_every_mode_was_forced_pairs_are_within_one() -> None:
    def within(starts: tuple[int, ...], scores: tuple[float, ...]) -> list[tuple[int, int]]:
        _, pairs = possible_pairs(
            {"p": mixed(*starts)},
            {"p": group(dict(enumerate(scores)))},
            PairsConfig(mode_margin=0.2, counterfactual=True),
            across=False,
        )
        return [(pair.chosen.sample_index, pair.rejected.sample_index) for pair in pairs]

    config = PairsConfig(mode_margin=0.2)
    scored = {"p": group({0: 0.0, 1: 0.5, 2: 1.0, 3: 0.2})}
    _, [pair] = possible_pairs({"p": mixed(9, 9, 0, 0)}, scored, config, across=False)
    assert (pair.chosen.sample_index, pair.rejected.sample_index) == (1, 0)
    scored = {"p": group({0: 0.5, 1: 0.5, 2: 1.0, 3: 0.2})}
    _, [pair] = possible_pairs({"p": mixed(9, 9, 0, 0)}, scored, config, across=False)
    assert (pair.chosen.sample_index, pair.rejected.sample_index) == (2, 3)
    scored = {"p": group({0: 0.5, 1: 0.5, 2: 1.0, 3: 1.0})}
    assert not possible_pairs({"p": mixed(9, 9, 0, 0)}, scored, config, across=False)[1]
    assert within((9, 9, 0, 0), (0.0, 0.5, 1.0, 0.2)) == [(1, 0)]


def test_what_was_forced_goes_with_the_pair() -> None:
    offers, possible = possible_pairs(
        {"p": mixed(9, 0)},
        {"p": group({0: 1.0, 1: 0.0})},
        PairsConfig(),
        forced=lambda one: tuple(range(2 - one.sample_index)),
    )
    [pair] = chosen_pairs(possible, outcomes(decide(offers, 0.1, seed=0)))
    assert pair.forced == ((0, 1), (0,))


def test_ties_take_the_lowest_index_in_any_order_of_rollouts() -> None:
    rollouts = [rollout(i) for i in (3, 1, 0, 2)]
    pair, _ = one_pair(rollouts, {2: 0.0, 3: 1.0, 0: 0.0, 1: 1.0})
    assert pair is not None
    assert (pair.chosen.sample_index, pair.rejected.sample_index) == (1, 0)


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_equal_scores_give_no_pair_however_long_the_responses(rho: float) -> None:
    rollouts = [rollout(0, tokens=3), rollout(1, tokens=30)]
    pair, decision = one_pair(rollouts, {0: 0.7, 1: 0.7}, rho=rho)
    assert pair is None
    assert (decision.outcome, decision.judged, decision.chosen_index) == ("tie", 2, None)


def test_shaped_scores_equal_but_for_rounding_give_no_pair() -> None:
    rollouts = [rollout(i, tokens=tokens) for i, tokens in enumerate((3, 5, 9, 4))]
    scores = {i: 0.1 * r.response_tokens for i, r in enumerate(rollouts)}
    pair, decision = one_pair(rollouts, scores, rho=1.0)
    assert pair is None
    assert decision.outcome == "tie"


@pytest.mark.parametrize("status", UNPARSABLE)
def test_an_output_without_response_is_rejected_where_the_judge_ties(status: ParseStatus) -> None:
    rollouts = [rollout(0, status=status), rollout(1), rollout(2, tokens=1), rollout(3)]
    rollouts[3] = rollout(3, status=status)
    regular = {f"q{i}": [rollout(0, prompt=f"q{i}"), rollout(1, prompt=f"q{i}")] for i in range(9)}
    scored = {prompt: group({0: 0.0, 1: 1.0}, prompt) for prompt in regular}
    pairs, decisions = build_pairs(
        {"p": rollouts, **regular},
        {"p": group({1: 0.5, 2: 0.5}), **scored},
        PairsConfig(rho=0.5, max_unparsable=0.1),
        seed=0,
    )
    assert len(pairs) == 10
    pair = pairs[0]
    assert pair.kind == "unparsable"
    assert (pair.chosen.sample_index, pair.rejected.sample_index) == (1, 0)
    assert pair.rejected.score is None
    assert pair.rejected.shaped_score is None
    assert pair.margin is None
    assert (decisions[0].outcome, decisions[0].judged, decisions[0].unparsable) == (
        "unparsable",
        2,
        2,
    )


def test_an_unparsable_pair_takes_the_best_judged_where_only_the_shaped_scores_tie() -> None:
    broken = rollout(2, status=ParseStatus.NO_RESPONSE)
    rollouts = [rollout(0, tokens=3), rollout(1, tokens=9), broken]
    pair, _ = one_pair(rollouts, {0: 0.0, 1: 1.0}, rho=1.0)
    assert pair is not None
    assert pair.kind == "unparsable"
    assert pair.chosen.sample_index == 1


def test_judged_pairs_give_way_to_unparsable_ones_up_to_the_share() -> None:
    rollouts, scored = {}, {}
    for number in range(20):
        name = f"p{number}"
        broken = rollout(2, prompt=name, status=ParseStatus.TRUNCATED)
        rollouts[name] = [rollout(0, prompt=name), rollout(1, prompt=name), broken]
        scored[name] = group({0: 0.0, 1: 1.0}, name)
    pairs, decisions = build_pairs(rollouts, scored, PairsConfig(max_unparsable=0.1), seed=0)
    assert pair_counts(decisions)["judged"] == 18
    assert [pair.chosen.sample_index for pair in pairs] == [1] * 20
    rejected = [pair.rejected.sample_index for pair in pairs if pair.kind == "unparsable"]
    assert rejected == [2, 2]
    none, _ = build_pairs(rollouts, scored, PairsConfig(max_unparsable=0.0), seed=0)
    assert {pair.kind for pair in none} == {"judged"}


@pytest.mark.parametrize(
    ("statuses", "scores", "outcome"),
    [
        ("cb", {0: 1.0}, "unparsable"),
        ("c", {0: 1.0}, "one_judged"),
        ("bb", None, "none_judged"),
        ("bb", {}, "none_judged"),
        ("ccb", None, "unjudged"),
        ("cc", None, "unjudged"),
        ("", None, "none_judged"),
    ],
)
def test_every_prompt_has_a_reason(
    statuses: str, scores: dict[int, float] | None, outcome: str
) -> None:
    kinds = {"c": ParseStatus.COMPLETE, "b": ParseStatus.NO_RESPONSE}
    rollouts = [rollout(i, status=kinds[status]) for i, status in enumerate(statuses)]
    pair, decision = one_pair(rollouts, scores)
    assert decision.outcome == outcome
    assert (pair is not None) == (outcome == "unparsable")


def test_without_room_in_the_quota_the_decision_says_so() -> None:
    rollouts = [rollout(0), rollout(1, status=ParseStatus.NO_RESPONSE)]
    pair, decision = one_pair(rollouts, {0: 1.0}, cap=0.1)
    assert pair is None
    assert decision.outcome == "unparsable_quota"


def test_the_quota_is_exact() -> None:
    assert unparsable_quota(9, 0.1, 5) == 1
    assert unparsable_quota(8, 0.1, 5) == 0
    assert unparsable_quota(90, 0.1, 50) == 10
    assert unparsable_quota(70, 0.3, 50) == 30
    assert unparsable_quota(0, 0.9, 5) == 0
    assert unparsable_quota(0, 1.0, 5) == 5
    assert unparsable_quota(9, 0.0, 5) == 0


@given(st.integers(0, 3000), st.integers(0, 1000), st.integers(0, 500))
def test_the_quota_is_the_largest_that_keeps_the_share(
    judged: int, thousandths: int, eligible: int
) -> None:
    used = unparsable_quota(judged, thousandths / 1000, eligible)
    assert 0 <= used <= eligible
    assert 1000 * used <= thousandths * (judged + used)
    if used < eligible:
        assert 1000 * (used + 1) > thousandths * (judged + used + 1)


def test_format_failures_are_taught_when_judged_pairs_are_plentiful() -> None:
    """A seed model's iteration: 6 % of outputs unparsable, a verifier of 0 and 1 with many ties."""
    rollouts, scored = {}, {}
    for number in range(400):
        prompt = f"p{number}"
        broken = {k for k in range(8) if (number * 8 + k) % 17 == 0}
        rollouts[prompt] = [
            rollout(k, prompt=prompt, status=UNPARSABLE[number % 3])
            if k in broken
            else rollout(k, prompt=prompt)
            for k in range(8)
        ]
        # Two in five prompts are all right or all wrong.
        scores = {k: float(number % 5 > 1 and k % 2) for k in range(8) if k not in broken}
        scored[prompt] = group(scores, prompt)
    pairs, decisions = build_pairs(rollouts, scored, PairsConfig(), seed=0)
    counts = pair_counts(decisions)
    assert counts["judged"] == 240
    assert counts["unparsable"] == 26
    assert counts["unparsable_quota"] > 0
    assert sum(counts.values()) == 400
    assert sum(pair.kind == "unparsable" for pair in pairs) == 26
    other, _ = build_pairs(rollouts, scored, PairsConfig(), seed=1)
    places = [{p.prompt_id for p in ps if p.kind == "unparsable"} for ps in (pairs, other)]
    assert places[0] != places[1]


def test_lengths_are_summed_up_over_judged_pairs_only() -> None:
    rollouts = {
        "a": [rollout(0, tokens=10, prompt="a"), rollout(1, tokens=4, prompt="a")],
        "b": [rollout(0, tokens=20, prompt="b"), rollout(1, tokens=6, prompt="b")],
        "c": [
            rollout(0, tokens=90, prompt="c"),
            rollout(1, prompt="c", status=ParseStatus.TRUNCATED),
        ],
    }
    scored = {"a": group({0: 1.0, 1: 0.0}, "a"), "b": group({0: 0.0, 1: 1.0}, "b")}
    scored["c"] = group({0: 1.0}, "c")
    pairs, _ = build_pairs(rollouts, scored, PairsConfig(max_unparsable=0.5), seed=0)
    summary = lengths(pairs)
    assert len(pairs) == 3
    assert summary == {
        "chosen_response_tokens": 8.0,
        "rejected_response_tokens": 12.0,
        "chosen_output_tokens": 10.0,
        "rejected_output_tokens": 14.0,
        "against_judge": 0,
    }
    assert lengths([])["chosen_response_tokens"] is None


def test_a_response_that_the_judge_could_not_score_has_no_part_in_it() -> None:
    rollouts = [rollout(0), rollout(1), rollout(2, tokens=40)]
    pair, decision = one_pair(rollouts, {0: 1.0, 1: 0.0}, rho=0.5)
    assert pair is not None
    assert (pair.chosen.sample_index, pair.rejected.sample_index) == (0, 1)
    assert decision.judged == 2
    # As if it were not there: length control does not know its length.
    alone, _ = one_pair(rollouts[:2], {0: 1.0, 1: 0.0}, rho=0.5)
    assert alone == pair
    assert one_pair(rollouts, {0: 1.0})[1].outcome == "one_judged"


def test_judgements_that_do_not_fit_the_outputs_are_our_bug() -> None:
    with pytest.raises(AssertionError, match=r"judged \[0, 2\]"):
        one_pair([rollout(0), rollout(1)], {0: 1.0, 2: 0.0})


finite = st.floats(-1e6, 1e6, allow_nan=False)
groups = st.lists(st.tuples(finite, st.integers(1, 50)), min_size=2, max_size=8)


@given(groups, st.sampled_from([0.0, 0.2, 0.5]), st.randoms(use_true_random=False))
def test_the_order_of_samples_changes_nothing(members, rho, random) -> None:
    rollouts = [rollout(i, tokens=tokens) for i, (_, tokens) in enumerate(members)]
    scores = {i: score for i, (score, _) in enumerate(members)}
    shuffled = random.sample(rollouts, len(rollouts))
    mixed = dict(random.sample(list(scores.items()), len(scores)))
    assert one_pair(rollouts, scores, rho=rho) == one_pair(shuffled, mixed, rho=rho)


@given(groups)
def test_without_length_control_the_raw_extremes_are_paired(members) -> None:
    scores = {i: score for i, (score, _) in enumerate(members)}
    pair, _ = one_pair([rollout(i, tokens=t) for i, (_, t) in enumerate(members)], scores)
    values = list(scores.values())
    if len(set(values)) == 1:
        assert pair is None
        return
    assert pair is not None
    assert pair.chosen.sample_index == values.index(max(values))
    assert pair.rejected.sample_index == values.index(min(values))
    assert pair.margin is not None
    assert pair.margin > 0


@given(
    st.lists(st.tuples(st.integers(-20, 20), st.integers(1, 50)), min_size=2, max_size=8),
    st.integers(-8, 8),
    st.integers(-100, 100),
)
def test_the_scale_of_the_judge_does_not_matter(members, power, shift) -> None:
    rollouts = [rollout(i, tokens=tokens) for i, (_, tokens) in enumerate(members)]
    first, _ = one_pair(rollouts, {i: float(s) for i, (s, _) in enumerate(members)}, rho=0.25)
    moved = {i: (s + shift) * 2.0**power for i, (s, _) in enumerate(members)}
    second, _ = one_pair(rollouts, moved, rho=0.25)
    ends = [p and (p.chosen.sample_index, p.rejected.sample_index) for p in (first, second)]
    assert ends[0] == ends[1]


@given(
    st.lists(st.text("cb01", min_size=0, max_size=6), max_size=30),
    st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.5, 1.0]),
)
def test_the_share_of_unparsable_pairs_is_never_exceeded(prompts, cap) -> None:
    """Letters of a prompt: c and b without score or response, 0 and 1 judged."""
    rollouts, scored = {}, {}
    for number, letters in enumerate(prompts):
        prompt = f"p{number}"
        kinds = [ParseStatus.NO_RESPONSE if x in "cb" else ParseStatus.COMPLETE for x in letters]
        rollouts[prompt] = [rollout(i, prompt=prompt, status=k) for i, k in enumerate(kinds)]
        scores = {i: float(x) for i, x in enumerate(letters) if x in "01"}
        scored[prompt] = group(scores, prompt)
    pairs, decisions = build_pairs(rollouts, scored, PairsConfig(max_unparsable=cap), seed=3)
    unparsable = sum(pair.kind == "unparsable" for pair in pairs)
    assert unparsable <= cap * len(pairs) + 1e-9
    assert [decision.prompt_id for decision in decisions] == list(rollouts)
    for pair in pairs:
        statuses = {r.sample_index: r.parsed.status for r in rollouts[pair.prompt_id]}
        assert statuses[pair.chosen.sample_index] is ParseStatus.COMPLETE
