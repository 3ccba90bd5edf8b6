"""The pairs of an iteration that is in memory as a whole."""

from collections.abc import Mapping, Sequence

from forethought.config import PairsConfig
from forethought.pairs import chosen_pairs, decide, outcomes, possible_pairs
from forethought.types import PairDecision, PreferencePair, Rollout, ScoredGroup


def build_pairs(
    rollouts: Mapping[str, Sequence[Rollout]],
    scored: Mapping[str, ScoredGroup],
    config: PairsConfig,
    *,
    seed: int,
) -> tuple[list[PreferencePair], list[PairDecision]]:
    """At most one pair per prompt, and for every prompt, in input order, what became of it."""
    offers, possible = possible_pairs(rollouts, scored, config)
    decisions = decide(offers, config.max_unparsable, seed)
    return list(chosen_pairs(possible, outcomes(decisions))), decisions
