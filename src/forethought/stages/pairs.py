"""Stage `pairs`: length-controlled best and worst of each prompt."""

from __future__ import annotations

from typing import Any

from forethought.pairs import build_pairs, length_summary, pair_counts
from forethought.progress import Reporter
from forethought.stages.place import Place
from forethought.store import Count, Stage, read_records
from forethought.types import PairDecision, PreferencePair, Rollout, ScoredGroup


def configure(place: Place) -> dict[str, Any]:
    """What decides this stage's content besides its inputs."""
    return {"seed": place.recipe.seed, "pairs": place.recipe.pairs.model_dump(mode="json")}


def work(stage: Stage, place: Place, reporter: Reporter) -> dict[str, Count]:
    """Write the pairs and, for every prompt, why it gave one or none."""
    rollouts: dict[str, list[Rollout]] = {}
    for one in read_records(place.beside("rollouts"), Rollout):
        rollouts.setdefault(one.prompt_id, []).append(one)
    groups = read_records(place.beside("judgements"), ScoredGroup, "scored")
    scored = {group.prompt_id: group for group in groups}
    with reporter.task(place.label, len(rollouts), "prompts") as task:
        pairs, decisions = build_pairs(rollouts, scored, place.recipe.pairs, seed=place.recipe.seed)
        stage.write_records("pairs", pairs, PreferencePair)
        stage.write_records("decisions", decisions, PairDecision)
        task.advance(len(rollouts), note=f"{len(pairs)} pairs")
    return {"pairs": len(pairs), **pair_counts(decisions), **length_summary(pairs)}
