"""A stage's cost, and a whole recipe's.

Stages follow each other, each on the devices that the recipe launches something on
(`device_shares.py`). One process takes in what the engines draw while they go on. Iterations are
alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from forethought.config import Recipe
from forethought.evaluation.probe_openings import VARIANTS
from forethought.planning.bounds import (
    accepted_on,
    example_count,
    question_count,
    questions_asked,
)
from forethought.planning.device_shares import (
    Share,
    devices_used,
    judging_share,
    sampling_share,
    training_share,
)
from forethought.planning.devices import Device
from forethought.planning.hardware import Cluster, Effort, Setting
from forethought.planning.judging_cost import INSTRUCTION, VERDICT, judge_cost, server_cost
from forethought.planning.lengths import Lengths, demonstration_tokens, expected_lengths
from forethought.planning.memory import shared_memory
from forethought.planning.model_shape import ModelShape, model_shape
from forethought.planning.rates import GPU, cpu_rates, measure_cpu, measured_device
from forethought.planning.sampling_cost import sample_cost
from forethought.planning.training_cost import (
    checkpoint_bytes,
    fine_tuning_cost,
    likelihood_cost,
    reference_cost,
    training_cost,
)
from forethought.runs.layout import WARM_START, StageRef
from forethought.runs.retention import policies_that_stay
from forethought.runs.schedule import stage_refs
from forethought.stages.judged.joint_judging import judged_part
from forethought.stages.measures.win_rate import MOST_ANSWERS
from forethought.stages.policies.sample_until_parsed import answers_part
from forethought.types import Arm

RECORD_BYTES = 5
"""Bytes of a sealed part per sampled token, ids and text compressed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """One kind of stage of one arm; figures of each time it runs.

    Example: `StageCost(stage="training", arm="direct", warm=False, times=4, starts=4, kept=4,
    effort=Effort())`
    """

    stage: str
    arm: Arm | None
    warm: bool
    """Whether it is of the warm start."""
    times: int
    starts: int
    """How many of the times engines, judge or trainer start."""
    kept: float
    """Of how many of the times the weights stay on disk."""
    effort: Effort

    @property
    def seconds(self) -> float:
        """Seconds of all times together; those that find engines running save their start."""
        return self.times * self.effort.seconds - (self.times - self.starts) * self.effort.start

    @property
    def disk(self) -> float:
        """Bytes on disk that all times leave, and that one time needs meanwhile."""
        effort = self.effort
        return self.times * effort.disk + self.kept * effort.weights + effort.scratch


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """A whole recipe on given devices."""

    setting: Setting
    stages: tuple[StageCost, ...]

    @property
    def seconds(self) -> float:
        """Seconds of all stages one after another."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def starting(self) -> float:
        """Those of the seconds that pass until engines, judges and trainers begin."""
        return sum(stage.starts * stage.effort.start for stage in self.stages)

    @property
    def disk(self) -> float:
        """Bytes on disk that all stages leave, and that the one needing most has meanwhile."""
        left = sum(stage.disk - stage.effort.scratch for stage in self.stages)
        return left + max(stage.effort.scratch for stage in self.stages)

    @property
    def usd(self) -> float:
        """USD for all devices over all seconds, and for what servers ask."""
        cluster = self.setting.cluster
        paid = sum(stage.times * stage.effort.usd for stage in self.stages)
        return paid + self.seconds / 3600 * cluster.gpus * cluster.device.price


def recipe_costs(
    recipe: Recipe,
    device: Device,
    gpus: int | None = None,
    *,
    like: Path | None = None,
    prompt_tokens: float | None = None,
    output_tokens: float | None = None,
    storage: float | None = None,
    lengths: dict[Arm, Lengths] | None = None,
) -> Costs:
    """What every stage costs; on `cpu` this machine is measured first.

    Without `gpus` there are as many devices as the recipe uses at a time. `prompt_tokens` and
    `output_tokens` are means, used with `like` as `expected_lengths` says, where no `lengths` are
    given. `storage` is in GB per second, to and from the run directory.

    Raises: ValueError if a model's size or a run's lengths cannot be read, or a number of devices
    or a rate makes no sense.
    """
    if storage is not None and storage <= 0:
        raise ValueError(f"--storage: {storage} GB per second is no rate; give one above 0")
    if gpus is None:
        gpus = 1 if device.is_cpu else max(1, *devices_used(recipe).values())
    if gpus < 1 or (device.is_cpu and gpus != 1):
        raise ValueError(f"--gpus: {gpus} is not possible with --gpu {device.name}; 1 is")
    shape = model_shape(recipe.model.source)
    if lengths is None:
        lengths = expected_lengths(recipe, like=like, prompt=prompt_tokens, output=output_tokens)
    cluster = _cluster(recipe, device, gpus, shape)
    if storage is not None:
        cluster = replace(cluster, rates=replace(cluster.rates, storage=storage * 1e9))
    setting = Setting(recipe=recipe, shape=shape, lengths=lengths, cluster=cluster)
    return Costs(setting=setting, stages=stage_costs(setting))


def _cluster(recipe: Recipe, device: Device, gpus: int, shape: ModelShape) -> Cluster:
    if not device.is_cpu:
        return Cluster(device=device, gpus=gpus, rates=GPU)
    speed = measure_cpu(shape, recipe.training.dtype, recipe.launch.threads)
    return Cluster(device=measured_device(device, speed), gpus=1, rates=cpu_rates(shape, speed))


def stage_costs(setting: Setting) -> tuple[StageCost, ...]:
    """Costs by kind of stage and arm, each taken from its first; preparing prompts has no arm.

    Raises: ValueError if a stage needs more devices than there are, or a judge's size is unknown.
    """
    by_kind: dict[tuple[str, Arm | None, bool], list[StageRef]] = {}
    for ref in stage_refs(setting.recipe):
        arm = None if ref.stage == "prompts" else ref.arm
        # The seed is evaluated like any policy.
        warm = ref.index == WARM_START and ref.stage != "evaluation"
        by_kind.setdefault((ref.stage, arm, warm), []).append(ref)
    return tuple(
        StageCost(
            stage=stage,
            arm=arm,
            warm=warm,
            times=len(alike),
            starts=_starts(setting.recipe, stage, len(alike)),
            kept=_kept(setting.recipe, len(alike), warm=warm),
            effort=_beside_held(setting, stage, (_warm if warm else _effort)(setting, alike[0])),
        )
        for (stage, arm, warm), alike in by_kind.items()
    )


def _beside_held(setting: Setting, stage: str, effort: Effort) -> Effort:
    """With `launch.keep_engines` a stage has its memory beside what the others keep loaded."""
    recipe, shape = setting.recipe, setting.shape
    if not recipe.launch.keep_engines or not effort.memory:
        return effort
    held = {"judging": _judged(setting, setting.lengths[recipe.arms[0]], 1, 1).memory}
    if recipe.launch.type == "local" and recipe.training.lora is None:
        held["training"] = 4 * shape.parameters
    if (reserved := recipe.sampling.reserved) is not None:
        held["sampling"] = setting.cluster.device.memory * reserved
    # The embedded engine samples with the module that is trained.
    own = {"judgements": "judging", "reference": "training", "training": "training"}
    rest = sum(size for kind, size in held.items() if kind != own.get(stage, "sampling"))
    return replace(effort, memory=effort.memory + rest)


def _starts(recipe: Recipe, stage: str, times: int) -> int:
    """How often engines are started, in this process or in others."""
    launch = recipe.launch
    elsewhere = launch.type != "local" and stage in ("reference", "training")
    return 1 if launch.keep_engines and not elsewhere else times


def _kept(recipe: Recipe, times: int, *, warm: bool) -> float:
    """Where not all weights stay, one epoch's does for some policies."""
    if recipe.keep == "all":
        return times
    if warm:
        return 0 if recipe.iterations else 1 / recipe.warm_training.epochs
    return len(policies_that_stay(recipe)) / recipe.training.epochs


def _warm(setting: Setting, ref: StageRef) -> Effort:
    """A stage of the warm start, most of whose outputs are assumed to parse."""
    recipe, lengths = setting.recipe, setting.lengths[ref.arm]
    warm, fixed = recipe.warm_start, Effort.of({"host": setting.cluster.rates.stage})
    assert warm is not None
    match ref.stage:
        case "vocabulary":
            return fixed + Effort(disk=checkpoint_bytes(setting.shape, recipe.training))
        case "rollouts":
            shown = replace(lengths, prompt=lengths.prompt + demonstration_tokens(recipe, ref.arm))
            part = recipe.sampling.part_size
            drawn = _drawn(setting, shown, warm.prompts, warm.samples, part)
            return drawn + Effort(disk=drawn.tokens * RECORD_BYTES)
        case "judgements":
            part = recipe.sampling.part_size
            return _judged(setting, lengths, warm.prompts, warm.samples, part) + fixed
        case "training":
            return fine_tuning_cost(_trained(setting), lengths, example_count(recipe))
        case "selection":
            return _drawn(setting, lengths, accepted_on(recipe), 1) + fixed
        case _:
            return fixed


def _effort(setting: Setting, ref: StageRef) -> Effort:
    recipe, rates, stage = setting.recipe, setting.cluster.rates, ref.stage
    lengths = setting.lengths[ref.arm]
    count = recipe.prompts_per_iteration
    k = recipe.sampling.samples
    fixed = Effort.of({"host": rates.stage})
    match stage:
        case "prompts":
            return Effort.of({"host": rates.stage + _loaded(recipe) * rates.prompt})
        case "rollouts":
            drawn = _drawn(setting, lengths, count, k, recipe.sampling.part_size)
            drawn = drawn.beside("host", _rollout_tokens(setting, lengths) * rates.record)
            return drawn + Effort(disk=drawn.tokens * RECORD_BYTES)
        case "judgements":
            return _judged(setting, lengths, count, k, recipe.sampling.part_size) + fixed
        case "pairs":
            host = _rollout_tokens(setting, lengths) * rates.token
            return fixed + Effort.of({"host": host})
        case "reference":
            return reference_cost(_trained(setting), lengths)
        case "training":
            return training_cost(_trained(setting), lengths)
        case "selection" if recipe.selection.by == "last":
            return fixed
        case "selection":
            held = recipe.prompts.validation.count * recipe.selection.samples
            return _answered(setting, lengths, held, recipe.training.epochs)
        case "evaluation":
            assert recipe.prompts.test is not None
            held = recipe.prompts.test.count * recipe.evaluation.samples
            return _answered(setting, lengths, held, 1)
        case _:
            return _measured(setting, stage, ref)


def _loaded(recipe: Recipe) -> int:
    """Prompts that the sources give, or that are used where a source does not tell."""
    held = recipe.prompts.test.count if recipe.prompts.test else 0
    used = recipe.first_prompt + recipe.iterations * recipe.prompts_per_iteration
    counts = [question_count(source) for source in recipe.prompts.train]
    there = sum(count for count in counts if count is not None)
    return max(used, there) + recipe.prompts.validation.count + held


def _rollout_tokens(setting: Setting, lengths: Lengths) -> float:
    """Tokens of an iteration's records: each output's has its prompt."""
    recipe = setting.recipe
    outputs = recipe.prompts_per_iteration * recipe.sampling.samples
    return outputs * (lengths.prompt + lengths.output)


def _trained(setting: Setting) -> Setting:
    return replace(setting, cluster=training_share(setting.recipe, setting.cluster))


def _drawn(
    setting: Setting, lengths: Lengths, prompts: float, k: int, part: float | None = None
) -> Effort:
    sampling = setting.recipe.sampling
    share = sampling_share(setting.recipe, setting.cluster)
    drawn = sample_cost(
        setting.shape,
        sampling,
        share.cluster,
        setting.recipe.model.dtype,
        prompts=prompts,
        k=k,
        prompt=lengths.prompt,
        output=lengths.output,
        longest=lengths.longest(sampling.max_new_tokens),
        part_size=answers_part(sampling.part_size) if part is None else part,
    )
    return _crowded(drawn, share)


def _judged(
    setting: Setting, lengths: Lengths, prompts: float, responses: int, part: float | None = None
) -> Effort:
    share = judging_share(setting.recipe, setting.cluster)
    cost = judge_cost(
        setting.recipe.judge,
        share,
        lengths,
        prompts=prompts,
        responses=responses,
        part_size=judged_part(responses) if part is None else part,
    )
    return _crowded(cost, share)


def _crowded(effort: Effort, share: Share) -> Effort:
    cpu = share.cluster.device.is_cpu
    return replace(effort, memory=shared_memory(effort.memory, share.crowd, cpu=cpu))


def _answered(setting: Setting, lengths: Lengths, prompts: float, policies: int) -> Effort:
    """So many policies answer held-out prompts, then all answers are judged."""
    per_policy = _drawn(setting, lengths, prompts, 1)
    relative = setting.recipe.judge.is_relative
    # A judge that only compares reads a lone policy's answers beside the baseline's.
    together = policies if policies > 1 or not relative else 2
    judged = _judged(setting, lengths, prompts, together)
    drawn = per_policy
    for _ in range(policies - 1):
        drawn = drawn + per_policy
    rates = setting.cluster.rates
    return drawn + judged + Effort.of({"host": prompts * policies * rates.answer})


def _measured(setting: Setting, stage: str, ref: StageRef) -> Effort:
    recipe, lengths = setting.recipe, setting.lengths[ref.arm]
    test = recipe.prompts.test.count if recipe.prompts.test else 0
    if stage == "win_rate" and recipe.measures.win_rate is not None:
        judged = _judged(setting, lengths, test, 2)
        if not recipe.measures.win_rate.equal_tokens:
            return judged
        direct = setting.lengths["direct"]
        answers = min(MOST_ANSWERS, math.ceil(lengths.output / direct.output))
        drawn = _drawn(setting, direct, test, answers) + _drawn(setting, direct, test, 1)
        shown = Effort.of({"host": 2 * test * setting.cluster.rates.answer})
        # The answers that thinking is compared with: one, the best of several, a longer one.
        match recipe.measures.win_rate.pick:
            case "judge" if answers > 1:
                best = _judged(setting, direct, test, answers)
            case "likelihood":
                best = likelihood_cost(setting, direct, test * answers)
            case _:
                best = Effort()
        return drawn + judged + judged + judged + best + shown
    if stage == "second_judge" and recipe.measures.second_judge is not None:
        judge = recipe.measures.second_judge.judge
        asked = replace(setting, recipe=recipe.model_copy(update={"judge": judge}))
        samples = recipe.evaluation.samples * (2 if judge.is_relative else 1)
        cost = _judged(asked, lengths, test, samples)
        if recipe.measures.second_judge.again:
            sides = recipe.evaluation.samples * (2 if recipe.judge.is_relative else 1)
            cost = cost + _judged(setting, lengths, test, sides)
        if ref.choice is None:
            return cost
        sides = recipe.training.epochs * recipe.selection.samples
        return cost + _judged(asked, lengths, recipe.prompts.validation.count, sides)
    if stage == "probe" and recipe.measures.probe is not None:
        count = min(test, recipe.measures.probe.prompts)
        drawn = _drawn(setting, lengths, count, 1)
        # A variant's thought is given; the response is drawn, and again where there is none.
        rest = replace(lengths, output=(lengths.output + lengths.response) / 2)
        for _ in VARIANTS:
            drawn = drawn + _drawn(setting, rest, count, 1, part=count)
        return drawn + _judged(setting, lengths, count, len(VARIANTS))
    count = questions_asked(recipe, stage)
    return _drawn(setting, lengths, 2 * count if stage == "gsm8k" else count, 1) + _benchmarked(
        setting, stage, lengths, count
    )


def _benchmarked(setting: Setting, stage: str, lengths: Lengths, count: int) -> Effort:
    """Calls of a benchmark's judge: of AlpacaEval one token for each instruction, of Arena-Hard two
    games a question."""
    measures = setting.recipe.measures
    prompt = INSTRUCTION + lengths.prompt + 2 * lengths.response
    if stage == "alpaca_eval" and measures.alpaca_eval is not None:
        return server_cost(measures.alpaca_eval.annotator, count, prompt=prompt, verdict=1)
    if stage == "arena_hard" and measures.arena_hard is not None:
        return server_cost(measures.arena_hard.judge, 2 * count, prompt=prompt, verdict=VERDICT)
    return Effort()
