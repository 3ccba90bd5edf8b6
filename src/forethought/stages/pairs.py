"""Stage `pairs`: length-controlled best and worst of each prompt.

Part *i* of `rollouts` and of `judgements` is read, its possible pairs are set aside, and it is let
go; of each prompt a few numbers are kept. When all are known it is decided which pairs stay. With
`pairs.thoughts: shuffled` their outputs then get other prompts' thoughts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from forethought.pairs import (
    LengthSums,
    Offer,
    chosen_pairs,
    decide,
    outcomes,
    pair_counts,
    possible_pairs,
)
from forethought.progress.reporter import Reporter, Task
from forethought.runs.layout import StageRef
from forethought.stages.policies.modes import modes_of
from forethought.stages.policies.others_thoughts import OthersThoughts
from forethought.stages.policies.sampled_policy import OutputSplitter
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import (
    SCRATCH,
    Count,
    read_part,
    sealed_parts,
)
from forethought.types import PairDecision, PreferencePair, Rollout, ScoredGroup

FORCED = ("chosen_forced", "rejected_forced")
"""Columns of pairs that only the hybrid arm has."""


def configure(ref: StageRef) -> dict[str, Any]:
    """What decides this stage's content besides its inputs."""
    settings = ref.recipe.pairs.model_dump(mode="json")
    if not ref.shuffles_thoughts:
        del settings["thoughts"]
    if ref.recipe.pairs.thought_price == 0:
        del settings["thought_price"]
    if ref.arm != "hybrid":
        del settings["mode_margin"], settings["counterfactual"]
    return {"seed": ref.recipe.seed, "pairs": settings}


def work(stage: Stage, ref: StageRef, reporter: Reporter) -> dict[str, Count]:
    """Write the pairs and, for every prompt, why it gave one or none."""
    recipe, sums = ref.recipe, LengthSums()
    with reporter.task(ref.label, recipe.prompts_per_iteration, "prompts") as task:
        parts = list(_offered(stage, ref, task))
        offers = [offer for part in parts for offer in part]
        decisions = decide(offers, recipe.pairs.max_unparsable, recipe.seed)
        outcome = outcomes(decisions)

        def decided() -> Iterator[list[PreferencePair]]:
            for index in range(len(parts)):
                possible = stage.read_records(_possible(index), PreferencePair)
                yield list(chosen_pairs(possible, outcome))

        others = None
        if ref.shuffles_thoughts:
            others = OthersThoughts(OutputSplitter(ref.thought_format, ref.policy), recipe.seed)
            for pairs in decided():
                others.learn(pairs)

        def kept() -> Iterator[list[PreferencePair]]:
            for pairs in decided():
                trained = pairs if others is None else [others.given_to(pair) for pair in pairs]
                sums.add(trained)
                yield trained

        without = () if ref.arm == "hybrid" else FORCED
        stage.write_pieces("pairs", kept(), PreferencePair, without=without)
        stage.write_records("decisions", decisions, PairDecision)
        count = sum(decision.chosen_index is not None for decision in decisions)
        task.note = f"{count} pairs"
        own: dict[str, Count] = {}
        if others is not None:
            own = {"own_thoughts": others.unchanged}
            task.note += f", {count - others.unchanged} with thoughts of other prompts"
    return {"pairs": count, **pair_counts(decisions), **own, **sums.summary()}


def _offered(stage: Stage, ref: StageRef, task: Task) -> Iterator[list[Offer]]:
    """What the prompts of each part could give; the pairs themselves are set aside."""
    sampled, judged = ref.beside("rollouts"), ref.beside("judgements")
    modes = modes_of(ref)
    both = zip(sealed_parts(sampled), sealed_parts(judged, "scored"), strict=True)
    for index, (outputs, scores) in enumerate(both):
        rollouts: dict[str, list[Rollout]] = {}
        for rollout in read_part(sampled, outputs, Rollout):
            rollouts.setdefault(rollout.prompt_id, []).append(rollout)
        groups = read_part(judged, scores, ScoredGroup)
        scored = {group.prompt_id: group for group in groups}
        offers, pairs = possible_pairs(
            rollouts,
            scored,
            ref.pair_rules,
            None if modes is None else modes.forced_places,
            across=modes is None or modes.decides,
        )
        stage.write_records(_possible(index), pairs, PreferencePair)
        task.advance(len(rollouts))
        yield offers


def _possible(index: int) -> str:
    return f"{SCRATCH}/possible_{index:05d}"
