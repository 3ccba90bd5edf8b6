"""What a judge that trained nothing says of a run, beside the one that did.

Two scales cannot be set side by side, so the gap between both judges is one of wins: on how many
test prompts a policy's answer scores higher than its first policy's, by either judge; a tie counts
half. What the judge of training sees and the other does not is what pleased that judge alone
(measures.second_judge).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from forethought.config import Recipe
from forethought.evaluation.intervals import mean_result, paired_difference
from forethought.evaluation.scale import PERCENT, Scale
from forethought.runs.comparison import (
    Claim,
    Evaluations,
    first_policy,
    score_difference,
    score_scale,
)
from forethought.runs.schedule import sealed_measures
from forethought.share_interval import SHARE
from forethought.storage.sealed_stage import read_manifest
from forethought.types import Arm, EvaluationResult

MEASURE = "second_judge"
WINS_APART = (-1.0, 1.0)
"""The ends of a difference of two wins."""

Scores = dict[Arm, dict[int, dict[str, float]]]
"""The second judge's score of each test prompt, by arm and policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """The judge of training against itself, asked again about the same answers.

    Example: `Noise(apart=EvaluationResult(…), changed=0.08, by_second=0.31)`
    """

    apart: EvaluationResult
    """Its wins minus those that it gave again: what a gap would be by chance alone."""
    changed: float
    """Share of prompts of which it said another thing."""
    by_second: float
    """Share of the same prompts of which the second judge says another thing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """One arm's last policy against its first, by both judges.

    Example: `Gap(policy=4, first=EvaluationResult(…), second=EvaluationResult(…),
    apart=EvaluationResult(…), noise=None)`
    """

    policy: int
    first: EvaluationResult
    """Share of prompts won by the judge of training."""
    second: EvaluationResult
    apart: EvaluationResult
    """First minus second, on the same prompts."""
    noise: Noise | None
    """Where the judge of training was asked again (`measures.second_judge.again`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochChoice:
    """The epoch that became a policy, and that which the second judge would have taken.

    Example: `EpochChoice(chosen=3, second=1, scores={1: 0.62, 2: 0.6, 3: 0.57})`
    """

    chosen: int
    second: int
    scores: Mapping[int, float]
    """The second judge's mean score of each epoch's validation answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondOpinion:
    """What the second judge says of a run so far.

    Example: `SecondOpinion(judge="verifier constraints", policy=4,
    difference=EvaluationResult(…), gaps={"thought": Gap(…)}, means={"thought": {4: 0.6}},
    scale=PERCENT, epochs={})`
    """

    judge: str
    policy: int
    """The last one of both arms that it scored; -1 where there is none."""
    difference: EvaluationResult | None
    """Thought minus direct at that policy."""
    gaps: Mapping[Arm, Gap]
    means: Mapping[Arm, Mapping[int, float]]
    """Its mean score of each policy that it scored."""
    scale: Scale
    epochs: Mapping[Arm, Mapping[int, EpochChoice]]
    """By policy, where it was asked (`measures.second_judge.epochs`)."""

    def sentences(self, recipe: Recipe, claim: Claim) -> Iterator[str]:
        """The difference and each arm's gap, a whole sentence each."""
        if self.difference is not None and not claim.withheld:
            figure = self.scale.change_with_interval(self.difference)
            yield (
                f"By a second judge ({self.judge}), which trained nothing, thought minus direct at "
                f"policy {self.policy}: {figure}{_beside(self, claim)}."
            )
        for arm, gap in self.gaps.items():
            wins = [PERCENT.number(one.value) for one in (gap.first, gap.second)]
            yield (
                f"The {arm} arm's policy {gap.policy} beats its {first_policy(recipe)} on {wins[0]}"
                f" of the test prompts by the judge that trained it and on {wins[1]} by the second"
                f" judge, a gap of {PERCENT.change_with_interval(gap.apart)}; {_apart(gap.apart)}."
            )
            if gap.noise is not None:
                yield _of_noise(arm, gap.noise)
        for arm, choices in self.epochs.items():
            yield _of_epochs(arm, choices, self.scale)


def second_opinion(recipe: Recipe, evaluated: Evaluations) -> SecondOpinion | None:
    """What the sealed second scores of a run say beside its evaluations; `None` where there are
    none.

    Raises: StageError if a sealed stage is damaged.
    """
    config = recipe.measures.second_judge
    if config is None:
        return None
    counts = _counts(recipe)
    scores: Scores = {
        arm: {index: each["scores"] for index, each in by_policy.items()}
        for arm, by_policy in counts.items()
    }
    if not scores:
        return None
    again: Scores = {
        arm: {index: each["again"] for index, each in by_policy.items() if "again" in each}
        for arm, by_policy in counts.items()
    }
    thought, direct = (scores.get(arm, {}) for arm in ("thought", "direct"))
    policy = max(thought.keys() & direct.keys(), default=-1)
    difference = None
    if policy >= 0:
        difference = score_difference(config.judge, thought[policy], direct[policy])
    every = [score for each in scores.values() for own in each.values() for score in own.values()]
    return SecondOpinion(
        judge=config.judge.title,
        policy=policy,
        difference=difference,
        gaps=dict(_gaps(evaluated, scores, again)),
        means={
            arm: {index: fmean(own.values()) for index, own in each.items() if own}
            for arm, each in scores.items()
        },
        scale=score_scale(config.judge, every),
        epochs={
            arm: choices for arm, by_policy in counts.items() if (choices := _choices(by_policy))
        },
    )


def _counts(recipe: Recipe) -> dict[Arm, dict[int, dict[str, Any]]]:
    """What the measure's sealed stages say, by arm and policy."""
    found: dict[Arm, dict[int, dict[str, Any]]] = {}
    for ref in sealed_measures(recipe):
        if ref.stage == MEASURE:
            found.setdefault(ref.arm, {})[ref.index] = read_manifest(ref.folder).counts
    return found


def _choices(by_policy: Mapping[int, dict[str, Any]]) -> dict[int, EpochChoice]:
    return {
        index: EpochChoice(
            chosen=epochs["chosen"],
            second=epochs["second"],
            scores={row["epoch"]: row["score"] for row in epochs["scores"]},
        )
        for index, counts in sorted(by_policy.items())
        if (epochs := counts.get("epochs"))
    }


def _of_epochs(arm: Arm, choices: Mapping[int, EpochChoice], scale: Scale) -> str:
    """In how many selections both judges agree, and what the others would have gained."""
    agreed = [index for index, choice in choices.items() if choice.chosen == choice.second]
    said = (
        f"Of the {len(choices)} epochs that became policies of the {arm} arm the second judge "
        f"would have chosen {len(agreed)}"
    )
    apart = [
        f"epoch {choice.second} instead of {choice.chosen} for policy {index} "
        f"({scale.number(choice.scores[choice.second])} against "
        f"{scale.number(choice.scores[choice.chosen])})"
        for index, choice in choices.items()
        if index not in agreed and choice.chosen in choice.scores
    ]
    return said + (f"; {', '.join(apart)}." if apart else ".")


def _of_noise(arm: Arm, noise: Noise) -> str:
    changed, second = (PERCENT.number(share) for share in (noise.changed, noise.by_second))
    return (
        f"Asked again about the same answers of the {arm} arm, the judge that trained it says "
        f"another thing of {changed} of the prompts, a gap to itself of "
        f"{PERCENT.change_with_interval(noise.apart)}; the second judge does of {second}."
    )


def _gaps(evaluated: Evaluations, scores: Scores, asked_again: Scores) -> Iterator[tuple[Arm, Gap]]:
    for arm, by_policy in scores.items():
        both = by_policy.keys() & evaluated[arm].keys()
        last = max(both, default=0)
        if last == 0 or 0 not in both:
            continue
        trained = [evaluated[arm][policy]["scores"] for policy in (last, 0)]
        other = [by_policy[policy] for policy in (last, 0)]
        shared = set.intersection(*(set(each) for each in (*trained, *other)))
        if not shared:
            continue
        first, second = _wins(trained, shared), _wins(other, shared)
        yield (
            arm,
            Gap(
                policy=last,
                first=mean_result("wins", list(first.values()), ends=SHARE),
                second=mean_result("wins", list(second.values()), ends=SHARE),
                apart=paired_difference("wins_apart", first, second, ends=WINS_APART),
                noise=_noise(first, second, [asked_again[arm].get(last), asked_again[arm].get(0)]),
            ),
        )


def _noise(
    first: dict[str, float], second: dict[str, float], again: list[dict[str, float] | None]
) -> Noise | None:
    """Of the prompts that have a score each time; `None` where none was asked about again."""
    known = [each for each in again if each is not None]
    shared = set(first).intersection(*known)
    if len(known) < len(again) or not shared:
        return None
    once = {prompt: first[prompt] for prompt in sorted(shared)}
    repeated = _wins(known, shared)
    return Noise(
        apart=paired_difference("wins_apart", once, repeated, ends=WINS_APART),
        changed=fmean(once[prompt] != repeated[prompt] for prompt in once),
        by_second=fmean(once[prompt] != second[prompt] for prompt in once),
    )


def _wins(after_and_before: list[dict[str, float]], prompts: set[str]) -> dict[str, float]:
    after, before = after_and_before
    return {
        prompt: float(after[prompt] > before[prompt]) + 0.5 * (after[prompt] == before[prompt])
        for prompt in sorted(prompts)
    }


def _beside(opinion: SecondOpinion, claim: Claim) -> str:
    """Whether both judges' differences point to the same side."""
    first, second = claim.difference, opinion.difference
    if first is None or second is None or claim.policy != opinion.policy:
        return ""
    sides = [_side(each) for each in (first, second)]
    if sides[0] == sides[1]:
        return "; both judges say the same" if sides[0] else "; neither can tell the arms apart"
    return "; the judges do not say the same"


def _side(difference: EvaluationResult) -> int:
    """1 above zero, -1 below, 0 where the interval includes it."""
    if difference.interval is None:
        return 0
    low, high = difference.interval
    return (low > 0) - (high < 0)


def _apart(apart: EvaluationResult) -> str:
    match _side(apart):
        case 1:
            return "so much of the gain pleases the first judge alone"
        case -1:
            return "the second judge sees the larger gain"
        case _:
            return "the interval includes zero"
