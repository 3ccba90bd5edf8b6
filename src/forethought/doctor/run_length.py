"""How long the whole run will take, by the plan's model and what the trial has measured.

The plan gets the trial's lengths and share of pairs. Its seconds of sampling are then scaled by
what the trial's sampling took beside what the plan says of that; a judge's time per response is
taken as it was. Training was not tried at length: there the plan's word stands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from forethought.config import Recipe
from forethought.doctor.evidence import ArmEvidence
from forethought.doctor.trial import Trial
from forethought.models.loading import pick_device
from forethought.planning.costs import StageCost, recipe_costs, stage_costs
from forethought.planning.devices import DEVICES, Device, find_device
from forethought.planning.fitting import SAMPLING
from forethought.planning.lengths import Lengths
from forethought.types import Arm

TRAINING = frozenset({"reference", "training"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLength:
    """Seconds of a run, all stages one after another.

    Example: `RunLength(parts={"sampling": 120.0, "judging": 1.0, "training": 90.0, "other": 2.0})`
    """

    parts: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """All together."""
        return sum(self.parts.values())


def run_length(trial: Trial, arms: Sequence[ArmEvidence]) -> RunLength | str:
    """The length of one seed's run; a sentence that says why where it cannot be told."""
    device = _device(trial.recipe)
    if isinstance(device, str):
        return device
    lengths: dict[Arm, Lengths] = {arm.arm: _lengths(arm) for arm in arms}
    try:
        whole = recipe_costs(trial.recipe, device, lengths=lengths)
        tried = stage_costs(replace(whole.setting, recipe=trial.small))
    except ValueError as error:
        return f"it cannot be planned: {error}"
    slower: dict[Arm, float] = {arm.arm: _slower(trial, tried, arm) for arm in arms}
    seconds = defaultdict[str, float](float)
    for stage in whole.stages:
        if stage.stage in SAMPLING:
            seconds["sampling"] += _sampled(trial.recipe, stage, slower, arms)
        elif stage.stage == "judgements":
            continue
        else:
            seconds["training" if stage.stage in TRAINING else "other"] += stage.seconds
    for arm in arms:
        spent, responses = arm.judging
        if responses:
            seconds["judging"] += _responses(trial.recipe) * spent / responses
    order = ("sampling", "judging", "training", "other")
    return RunLength(parts={kind: seconds[kind] for kind in order})


def _device(recipe: Recipe) -> Device | str:
    """What the policy is sampled and trained on, or why its rates are not known."""
    found = pick_device(recipe.model.device).type
    if found == "cpu":
        return find_device("cpu")
    import torch

    name = torch.cuda.get_device_name().lower().replace(" ", "")
    for device in DEVICES.values():
        if device.name.split("-")[0].removeprefix("rtx") in name:
            return device
    return f"the plan has no rates of {torch.cuda.get_device_name()}; it has {', '.join(DEVICES)}"


def _lengths(arm: ArmEvidence) -> Lengths:
    """Of the plan; without a pair it counts as if some were to come."""
    outputs = len(arm.rollouts)
    response = sum(rollout.response_tokens for rollout in arm.rollouts) / outputs
    return Lengths(
        prompt=arm.bare_tokens,
        output=max(arm.new_tokens / outputs, 1.0),
        response=response,
        pairs=arm.pair_share or 1.0,
        source="measured",
    )


def _slower(trial: Trial, tried: Sequence[StageCost], arm: ArmEvidence) -> float:
    """How many times the plan's seconds the trial's sampling took."""
    planned = next(
        stage.effort.seconds
        for stage in tried
        if (stage.stage, stage.arm, stage.warm) == ("rollouts", arm.arm, trial.warm)
    )
    return arm.seconds / planned


def _sampled(
    recipe: Recipe, stage: StageCost, slower: Mapping[Arm, float], arms: Sequence[ArmEvidence]
) -> float:
    """Seconds of a stage that samples; at a server they are those of its tokens."""
    assert stage.arm is not None
    if recipe.sampling.loads_model:
        return stage.seconds * slower[stage.arm]
    [arm] = (each for each in arms if each.arm == stage.arm)
    return stage.times * stage.effort.tokens * arm.seconds / max(arm.new_tokens, 1)


def _responses(recipe: Recipe) -> int:
    """Responses of an arm that the judge is shown: of iterations, the warm start, validation and
    test prompts."""
    found = recipe.iterations * recipe.prompts_per_iteration * recipe.sampling.samples
    if recipe.warm_start is not None and recipe.warm_start.judges:
        found += recipe.warm_start.prompts * recipe.warm_start.samples
    if recipe.selection.by == "judge":
        each = recipe.training.epochs * recipe.selection.samples
        found += recipe.iterations * recipe.prompts.validation.count * each
    if recipe.prompts.test is not None:
        policies = len(recipe.evaluated)
        found += policies * recipe.prompts.test.count * recipe.evaluation.samples
    return found
