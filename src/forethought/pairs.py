"""Best and worst output of each prompt, with length control: pure functions, no files, no models.

The paper's rule: over a prompt's judged responses `s_k <- N(s_k) - rho · N(l_k)`, `N` the
normalisation to mean 0 and deviation 1, `l_k` the length of the response alone; the output with the
best `s` is chosen, that with the worst rejected. Where the paper is silent: the deviation is the
population's, a zero deviation makes its term 0, lengths are tokens, and ties go to the lowest
sample index. A prompt whose judge scores are all equal gives no judged pair, since a pair decided
by length alone would teach nothing but brevity.

`thought_price` asks for shorter thoughts in the same way, which the paper leaves as long as they
get: `s_k` also loses `thought_price · N(t_k)`, `t_k` the tokens before the response. 0 is off.

In the hybrid arm outputs that think and outputs that do not meet. Where a prompt has both, the
former lose `mode_margin`; with it, scores that are all equal do give a pair, of a direct output
over one that thinks: the thought added nothing. The best of several is the best by luck as well, in
either mode; so `counterfactual` compares the modes' means, and takes the best output of the better
one and the worst of the other. An output thinks where something stands before its response.

An output without a response is never judged and never chosen. A prompt that has one may pair it,
as rejected, with its best judged output; such pairs teach the format and are at most
`max_unparsable` of all pairs. Prompts without a judged pair come first, then others give theirs up;
a hash of (seed, prompt_id) decides who gets a place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor, fsum, isinf, sqrt
from statistics import fmean

from forethought.config import PairsConfig
from forethought.storage.files import content_hash
from forethought.types import (
    PairDecision,
    PairKind,
    PairSide,
    ParseStatus,
    PreferencePair,
    Rollout,
    ScoredGroup,
)

OUTCOMES = (
    "judged",
    "unparsable",
    "tie",
    "one_judged",
    "none_judged",
    "unjudged",
    "unparsable_quota",
)
"""What every arm's `PairDecision.outcome` may be: two kinds of pair, five reasons for none."""
ONE_MODE = "one_mode"
"""A further reason, with `counterfactual` alone: all that is judged thinks, or nothing does."""

SHAPED_DIGITS = 9
"""Shaped scores are of order 1; differences below this are rounding and no preference."""


def length_controlled(scores: Sequence[float], lengths: Sequence[int], rho: float) -> list[float]:
    """Shaped scores `N(s) - rho · N(l)` of one prompt's judged responses (arXiv 2410.10630).

    `lengths` are the tokens of the responses alone; scores, lengths and result have one order.
    """
    return _less(_normalised(scores), lengths, rho)


def shaped_scores(
    scores: Sequence[float], lengths: Sequence[int], thoughts: Sequence[int], config: PairsConfig
) -> list[float]:
    """What best and worst of one prompt's judged outputs are told by:
    `N(s) - rho · N(l) - thought_price · N(t)`, less `mode_margin` where `t > 0` for some only.

    `lengths` are the tokens of the responses, `thoughts` those before them; all have one order.
    """
    shaped = _less(length_controlled(scores, lengths, config.rho), thoughts, config.thought_price)
    if config.mode_margin == 0 or all(thoughts):
        return shaped
    return [s - config.mode_margin * (t > 0) for s, t in zip(shaped, thoughts, strict=True)]


def _less(scores: Sequence[float], tokens: Sequence[int], weight: float) -> list[float]:
    """The scores less the weight of their normalised tokens."""
    return [s - weight * count for s, count in zip(scores, _normalised(tokens), strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a prompt could give, before it is known what the others can.

    Example: `Offer(prompt_id="9f2c…", outcome="judged", judged=7, unparsable=1, pair=(3, 0),
    unparsable_pair=(3, 5))`
    """

    prompt_id: str
    outcome: str
    """What becomes of it without an unparsable pair."""
    judged: int
    unparsable: int
    pair: tuple[int, int] | None
    """Chosen and rejected sample of its judged outputs."""
    unparsable_pair: tuple[int, int] | None
    """Its best judged output and the first without a response."""


def possible_pairs(
    rollouts_by_prompt: Mapping[str, Sequence[Rollout]],
    scored: Mapping[str, ScoredGroup],
    config: PairsConfig,
    forced: Callable[[Rollout], tuple[int, ...]] | None = None,
    across: bool = True,
) -> tuple[list[Offer], list[PreferencePair]]:
    """What each prompt could give, in input order, and the pairs, up to two of a prompt.

    `forced` says where in its tokens an output was not drawn freely, if that may be. Without
    `across`, both sides of a pair are of one mode: of the thinking one where that has a pair.

    Prompts do not depend on each other here, so that an iteration may be done part by part.
    """
    offers: list[Offer] = []
    pairs: list[PreferencePair] = []
    for prompt_id, rollouts in rollouts_by_prompt.items():
        offer, found = _offer(prompt_id, rollouts, scored.get(prompt_id), config, across)
        offers.append(offer)
        pairs += [_with_forced(pair, rollouts, forced) for pair in found] if forced else found
    return offers, pairs


def decide(offers: Sequence[Offer], max_unparsable: float, seed: int) -> list[PairDecision]:
    """What becomes of every prompt of an iteration, in the order of `offers`.

    `max_unparsable` is the largest share, in [0, 1], of pairs that reject an output without a
    response; `seed` decides which prompts give them.
    """
    places = _unparsable_places(offers, max_unparsable, seed)
    decisions: list[PairDecision] = []
    for offer in offers:
        pair, outcome = offer.pair, offer.outcome
        if offer.prompt_id in places:
            pair, outcome = offer.unparsable_pair, "unparsable"
        elif pair is None and offer.unparsable_pair is not None:
            outcome = "unparsable_quota"
        chosen, rejected = pair or (None, None)
        decisions.append(
            PairDecision(
                prompt_id=offer.prompt_id,
                outcome=outcome,
                judged=offer.judged,
                unparsable=offer.unparsable,
                chosen_index=chosen,
                rejected_index=rejected,
            )
        )
    return decisions


def outcomes(decisions: Iterable[PairDecision]) -> dict[str, str]:
    """What became of each prompt."""
    return {decision.prompt_id: decision.outcome for decision in decisions}


def chosen_pairs(
    possible: Iterable[PreferencePair], outcome: Mapping[str, str]
) -> Iterator[PreferencePair]:
    """Those of the possible pairs that were decided for: a pair's kind is its outcome's name."""
    return (pair for pair in possible if outcome[pair.prompt_id] == pair.kind)


def _unparsable_places(offers: Sequence[Offer], share: float, seed: int) -> set[str]:
    """Prompts whose pair rejects an output without a response."""
    able = [offer for offer in offers if offer.unparsable_pair is not None]
    able.sort(key=lambda offer: content_hash([seed, "unparsable", offer.prompt_id]))
    without = [offer.prompt_id for offer in able if offer.pair is None]
    instead = [offer.prompt_id for offer in able if offer.pair is not None]
    judged = sum(offer.pair is not None for offer in offers)
    added = unparsable_quota(judged, share, len(without))
    # A pair more makes the total larger, one instead of a judged pair does not.
    replaced = floor(Fraction(str(share)) * (judged + added)) - added
    return {*without[:added], *instead[: max(replaced, 0)]}


def unparsable_quota(judged: int, share: float, eligible: int) -> int:
    """The largest `u <= eligible` with `u <= share · (judged + u)`, in exact decimals."""
    # By its digits: the float may lie just below them, and `floor` would then cost a pair.
    exact = Fraction(str(share))
    if exact == 1:
        return eligible
    return min(eligible, floor(exact * judged / (1 - exact)))


def pair_counts(decisions: Iterable[PairDecision]) -> dict[str, int]:
    """How many prompts had each outcome, those of every arm that none had included."""
    counts: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
    for decision in decisions:
        counts[decision.outcome] = counts.get(decision.outcome, 0) + 1
    return counts


@dataclass(slots=True)
class LengthSums:
    """Mean tokens of responses and of whole outputs, of pairs that come piece by piece.

    Chosen above rejected says that rho is too low. Only judged pairs count, an output without a
    response having no response length; without any the means are `None`.
    """

    judged: int = 0
    tokens: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Of responses, chosen and rejected, and of whole outputs."""
    against_judge: int = 0
    """Pairs that length control or the price of thoughts turned round: the judge scored the chosen
    response no higher than the rejected one."""

    def add(self, pairs: Iterable[PreferencePair]) -> None:
        """Count a piece."""
        for pair in pairs:
            if pair.kind != "judged":
                continue
            chosen, rejected = pair.chosen, pair.rejected
            responses, outputs = self.tokens[:2], self.tokens[2:]
            self.judged += 1
            self.tokens = (
                responses[0] + chosen.response_tokens,
                responses[1] + rejected.response_tokens,
                outputs[0] + len(chosen.token_ids),
                outputs[1] + len(rejected.token_ids),
            )
            self.against_judge += pair.margin is not None and pair.margin <= 0

    def summary(self) -> dict[str, float | None]:
        """The means and the count, as a manifest names them."""
        means = [tokens / self.judged if self.judged else None for tokens in self.tokens]
        return {
            "chosen_response_tokens": means[0],
            "rejected_response_tokens": means[1],
            "chosen_output_tokens": means[2],
            "rejected_output_tokens": means[3],
            "against_judge": self.against_judge,
        }


def _offer(
    prompt_id: str,
    rollouts: Sequence[Rollout],
    group: ScoredGroup | None,
    config: PairsConfig,
    across: bool,
) -> tuple[Offer, list[PreferencePair]]:
    ordered = sorted(rollouts, key=lambda rollout: rollout.sample_index)
    complete = [r for r in ordered if r.parsed.status is ParseStatus.COMPLETE]
    unparsable = [r for r in ordered if r.parsed.status is not ParseStatus.COMPLETE]
    sides = _judged_sides(complete, group, config) if group is not None else []
    ends = _best_and_worst(sides, config, across)
    pairs: list[PreferencePair] = []
    pair, outcome = None, _why_none(len(complete), sides, config.counterfactual and across)
    unparsable_pair = None
    if ends is not None:
        pairs.append(_pair(ordered[0], *ends, kind="judged"))
        pair, outcome = _indices(pairs[-1]), "judged"
    if sides and unparsable:
        # Without a judged pair all are equal; `max` takes the first of equal ones.
        best = ends[0] if ends is not None else max(sides, key=_judge_score)
        worst = _side(unparsable[0], None, None)
        pairs.append(_pair(ordered[0], best, worst, kind="unparsable"))
        unparsable_pair = _indices(pairs[-1])
    offer = Offer(
        prompt_id=prompt_id,
        outcome=outcome,
        judged=len(sides),
        unparsable=len(unparsable),
        pair=pair,
        unparsable_pair=unparsable_pair,
    )
    return offer, pairs


def _indices(pair: PreferencePair) -> tuple[int, int]:
    return pair.chosen.sample_index, pair.rejected.sample_index


def _with_forced(
    pair: PreferencePair,
    rollouts: Sequence[Rollout],
    forced: Callable[[Rollout], tuple[int, ...]],
) -> PreferencePair:
    places = {rollout.sample_index: forced(rollout) for rollout in rollouts}
    chosen, rejected = _indices(pair)
    return replace(pair, chosen_forced=places[chosen], rejected_forced=places[rejected])


def _why_none(complete: int, sides: Sequence[PairSide], two_modes: bool) -> str:
    if two_modes and len(sides) > 1 and not all(_by_mode(sides)):
        return ONE_MODE
    match complete, len(sides):
        case 0, _:
            return "none_judged"
        case _, 0:
            return "unjudged"
        case _, 1:
            return "one_judged"
        case _:
            return "tie"


def _judged_sides(
    complete: Sequence[Rollout], group: ScoredGroup, config: PairsConfig
) -> list[PairSide]:
    """The judged outputs by sample index; one without a score has no part in anything."""
    scores = dict(zip(group.sample_indices, group.scores, strict=True))
    known = [rollout for rollout in complete if rollout.sample_index in scores]
    assert len(known) == len(scores), f"{group.prompt_id}: judged {sorted(scores)}"
    judged = [scores[rollout.sample_index] for rollout in known]
    lengths, thoughts = [r.response_tokens for r in known], [r.response_start for r in known]
    shaped = shaped_scores(judged, lengths, thoughts, config)
    return [_side(r, s, t) for r, s, t in zip(known, judged, shaped, strict=True)]


def _best_and_worst(
    sides: Sequence[PairSide], config: PairsConfig, across: bool
) -> tuple[PairSide, PairSide] | None:
    """The ends of the order, `None` if the judge or the shaped score has no preference."""
    # Where nothing shapes them the judge's own numbers decide, which no normalisation can merge.
    key = _rounded_shaped_score if config.shapes else _judge_score
    thinking, direct = _by_mode(sides)
    equal = len({side.score for side in sides}) < 2
    if not across:
        rules = config.of_one_mode
        return _best_and_worst(thinking, rules, True) or _best_and_worst(direct, rules, True)
    if config.counterfactual or (equal and config.mode_margin > 0):
        if not (thinking and direct):
            return None
        adds = fmean(map(key, thinking)) > fmean(map(key, direct))
        better, other = (thinking, direct) if adds and not equal else (direct, thinking)
    elif equal:
        return None
    else:
        better = other = sides
    best, worst = max(better, key=key), min(other, key=key)
    return (best, worst) if key(best) > key(worst) else None


def _by_mode(sides: Sequence[PairSide]) -> tuple[list[PairSide], list[PairSide]]:
    """Those that think, and those that do not."""
    thinking = [side for side in sides if side.response_start > 0]
    return thinking, [side for side in sides if side.response_start == 0]


def _judge_score(side: PairSide) -> float:
    assert side.score is not None
    return side.score


def _rounded_shaped_score(side: PairSide) -> float:
    assert side.shaped_score is not None
    return round(side.shaped_score, SHAPED_DIGITS)


def _side(rollout: Rollout, score: float | None, shaped_score: float | None) -> PairSide:
    return PairSide(
        sample_index=rollout.sample_index,
        token_ids=rollout.completion.token_ids,
        response_start=rollout.response_start,
        response_tokens=rollout.response_tokens,
        score=score,
        shaped_score=shaped_score,
    )


def _pair(
    rollout: Rollout, chosen: PairSide, rejected: PairSide, *, kind: PairKind
) -> PreferencePair:
    margin = None
    if chosen.score is not None and rejected.score is not None:
        margin = chosen.score - rejected.score
    return PreferencePair(
        prompt_id=rollout.prompt_id,
        prompt_token_ids=rollout.prompt_token_ids,
        chosen=chosen,
        rejected=rejected,
        kind=kind,
        margin=margin,
    )


def _normalised(values: Sequence[float]) -> list[float]:
    """`(v - mean) / std`, all 0 where the values are equal.

    The values are brought to [0, 1] first: equal ones are then told apart from nearly equal ones,
    where the rounding of a mean could pass for a deviation, and no square overflows.
    """
    if len(set(values)) < 2:
        return [0.0] * len(values)
    low, high = min(values), max(values)
    # A power of two costs no digits.
    scale = 0.25 if isinf(high - low) else 1.0
    spread = high * scale - low * scale
    unit = [(value * scale - low * scale) / spread for value in values]
    mean = fsum(unit) / len(unit)
    std = sqrt(fsum((value - mean) ** 2 for value in unit) / len(unit))
    return [(value - mean) / std for value in unit]
