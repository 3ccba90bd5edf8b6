"""What a trial has sealed, read for the checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from forethought.doctor.trial import Trial, cases_of
from forethought.evaluation.judge_quality.cases import CaseVerdict
from forethought.evaluation.judge_quality.figures import Judged
from forethought.models import loading, rendering
from forethought.pairs import decide, pair_counts, possible_pairs
from forethought.runs.layout import WARM_START, StageRef
from forethought.stages.policies.demonstrated import shown_demonstrations
from forethought.stages.policies.modes import modes_of
from forethought.stages.policies.sampled_policy import longest_sequence
from forethought.storage.sealed_stage import is_sealed, read_manifest, read_records
from forethought.thoughts import ThoughtFormat
from forethought.types import Arm, Message, Prompt, Rollout, ScoredGroup, Unjudged

LONGEST = 32
"""Prompts, the longest by their letters, whose tokens are counted: the longest is among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What prompts leave of the context. All figures are tokens.

    Example: `Room(context=1024, sampled=(31, 40), longest=77)`
    """

    context: int | None
    """Most of a prompt and its output together; `None` where only the engine knows."""
    sampled: tuple[int, ...]
    """Of each prompt of the trial as it was asked, with demonstrations where there are any."""
    longest: int
    """Of the longest prompt of the recipe, as it will be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmEvidence:
    """What the trial has of one arm."""

    arm: Arm
    thought_format: ThoughtFormat
    """Of the outputs as they were sampled."""
    rollouts: tuple[Rollout, ...]
    once: Judged
    """The judge's scores, prompt by prompt; of a prompt that it refused the reason."""
    again: Judged
    """The same responses judged once more, as they were shown: in reverse."""
    outcomes: dict[str, int]
    """What became of each prompt in pairing."""
    room: Room
    bare_tokens: float
    """Mean of the prompts' tokens without demonstrations."""
    examples: dict[str, Any] | None
    """Counts of the stage `examples`; `None` without a warm start, or where none was kept."""
    seconds: float
    """Of sampling, loading the model included."""
    judging: tuple[float, int]
    """Seconds of the second judging without opening the judge, and its responses."""

    @property
    def by_prompt(self) -> dict[str, list[Rollout]]:
        """The outputs of each prompt."""
        return _by_prompt(self.rollouts)

    @property
    def new_tokens(self) -> int:
        """Of all outputs."""
        return sum(len(rollout.completion.token_ids) for rollout in self.rollouts)

    @property
    def pair_share(self) -> float:
        """Share of prompts that gave a pair."""
        paired = self.outcomes["judged"] + self.outcomes["unparsable"]
        return paired / max(sum(self.outcomes.values()), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptEvidence:
    """What the trial has of the prompts: those there are, and those that cannot be asked.

    Example: `PromptEvidence(there=2560, left_out=2, first_left_out="p.jsonl, line 3: it has …")`
    """

    there: int
    """To train on."""
    left_out: int
    first_left_out: str


def read_prompts(trial: Trial) -> PromptEvidence:
    """What the stage `prompts` says."""
    counts: Any = read_manifest(trial.ref("prompts", trial.small.arms[0]).folder).counts
    first = [f"{each['where']}: {each['reason']}" for each in counts["left_out"]["first"]]
    return PromptEvidence(
        there=counts["train"],
        left_out=counts["left_out"]["count"],
        first_left_out=(first or [""])[0],
    )


def read_arm(trial: Trial, arm: Arm) -> ArmEvidence:
    """Everything of an arm; its rollouts have to be sealed."""
    ref = trial.ref("rollouts", arm)
    manifest = read_manifest(ref.folder)
    rollouts = tuple(read_records(ref.folder, Rollout))
    shown = cases_of(trial, arm)
    scored = _scored(ref.beside("judgements"))
    verdicts, seconds = _verdicts_again(trial, arm)
    cases = [case for _, case in shown]
    once = [
        _first_verdict(scored.get(case.prompt.prompt_id), indices) or verdicts[-1 - place]
        for place, (indices, case) in enumerate(shown)
    ]
    examples = ref.beside("examples")
    return ArmEvidence(
        arm=arm,
        thought_format=shown_demonstrations(ref).thought_format
        if trial.warm
        else ref.thought_format,
        rollouts=rollouts,
        once=Judged(cases, once),
        again=Judged([case.turned for case in reversed(cases)], verdicts),
        outcomes=_outcomes(ref, rollouts, scored),
        room=_room(trial, ref, rollouts),
        bare_tokens=fmean(_tokens(ref, ref.prompts("train"))),
        examples=dict(read_manifest(examples).counts) if is_sealed(examples) else None,
        seconds=manifest.seconds,
        judging=seconds,
    )


def _scored(folder: Path) -> dict[str, ScoredGroup | Unjudged]:
    """What the stage `judgements` has of each prompt; nothing where it could not be sealed."""
    if not is_sealed(folder):
        return {}
    groups = read_records(folder, ScoredGroup, "scored")
    refused = read_records(folder, Unjudged, "unjudged")
    return {each.prompt_id: each for each in chain(groups, refused)}


def _verdicts_again(trial: Trial, arm: Arm) -> tuple[list[CaseVerdict], tuple[float, int]]:
    folder = trial.again(arm)
    if not is_sealed(folder):
        return [], (0.0, 0)
    counts: Any = read_manifest(folder).counts
    found = read_records(folder, CaseVerdict)
    return found, (counts["judging_seconds"], counts["responses"])


def _first_verdict(
    said: ScoredGroup | Unjudged | None, indices: Sequence[int]
) -> CaseVerdict | None:
    """The stage's verdict; `None` where it could not be sealed: the second judging has it then."""
    match said:
        case ScoredGroup():
            known = dict(zip(said.sample_indices, said.scores, strict=True))
            scores = tuple(known.get(index) for index in indices)
            return CaseVerdict(scores=scores, evidence=said.evidence, reason=None)
        case Unjudged():
            return CaseVerdict(scores=(), evidence="", reason=said.reason)
        case _:
            return None


def _outcomes(
    ref: StageRef, rollouts: Sequence[Rollout], scored: dict[str, ScoredGroup | Unjudged]
) -> dict[str, int]:
    """As the stage `pairs` decides."""
    groups = {key: group for key, group in scored.items() if isinstance(group, ScoredGroup)}
    modes = modes_of(ref) if ref.index != WARM_START else None
    across = modes is None or modes.decides
    offers, _ = possible_pairs(_by_prompt(rollouts), groups, ref.pair_rules, across=across)
    recipe = ref.recipe
    return pair_counts(decide(offers, recipe.pairs.max_unparsable, recipe.seed))


def _by_prompt(rollouts: Sequence[Rollout]) -> dict[str, list[Rollout]]:
    found: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        found.setdefault(rollout.prompt_id, []).append(rollout)
    return found


def _room(trial: Trial, ref: StageRef, rollouts: Sequence[Rollout]) -> Room:
    recipe = trial.recipe
    sampled = {rollout.prompt_id: len(rollout.prompt_token_ids) for rollout in rollouts}
    train = read_records(ref.beside("prompts"), Prompt, "train")
    held_out = [*ref.prompts("validation"), *ref.prompts("test")]
    first = recipe.first_prompt
    used = train[first : first + recipe.iterations * recipe.prompts_per_iteration]
    found = max(_tokens(ref, nlargest(LONGEST, [*used, *held_out], key=_letters)), default=0)
    if trial.warm:
        shown = nlargest(LONGEST, train[:first], key=_letters)
        found = max(found, *_tokens(ref, shown, shown_demonstrations(ref).ask))
    return Room(context=longest_sequence(recipe), sampled=tuple(sampled.values()), longest=found)


def _letters(prompt: Prompt) -> int:
    return sum(len(turn.content) for turn in prompt.messages)


def _tokens(
    ref: StageRef,
    prompts: Sequence[Prompt],
    ask: Callable[[Sequence[Message]], tuple[Message, ...]] | None = None,
) -> list[int]:
    """Of each prompt as the arm asks it, without demonstrations unless `ask` has them."""
    tokenizer = loading.load_tokenizer(ref.recipe.model.source)
    template = rendering.template_variables(ref.policy)
    asked = ask or ref.thought_format.apply
    return [len(rendering.render(tokenizer, asked(each.messages), template)) for each in prompts]
