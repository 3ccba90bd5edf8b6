"""Refuse what cannot fit, and name the setting that would.

Remedies are not guessed: each is tried in the same model of memory, the mildest first, and only one
that fits is named.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace

from forethought.config import (
    LoraSettings,
    Recipe,
    ScoringJudge,
    TransformersSampling,
    VllmSampling,
    Workers,
)
from forethought.planning.costs import Costs, StageCost, stage_costs
from forethought.planning.device_shares import devices_used
from forethought.planning.devices import NODE
from forethought.planning.hardware import Setting
from forethought.planning.memory import RESERVE

SAMPLING = ("rollouts", "selection", "evaluation", "win_rate", "probe", "gsm8k")
"""Stages whose time and memory are mostly those of the policy's sampling."""
Change = tuple[str, Recipe]


def refuse_what_cannot_fit(costs: Costs) -> None:
    """Raises: ValueError naming each stage that needs more memory than a device has, how much, and
    the settings with which it fits."""
    wrong = _too_large(costs.stages, costs.setting)
    if not wrong:
        return
    device = costs.setting.cluster.device
    room = device.memory * (1 - RESERVE)
    lines = []
    for stage, needed in wrong.items():
        remedy = _remedy(costs.setting, stage)
        lines.append(
            f"{stage} needs {needed / 1e9:.3g} GB per device, and {room / 1e9:.3g} of the "
            f"{device.memory / 1e9:.3g} GB of {device.name} can be used; {remedy}"
        )
    raise ValueError("plan: this cannot fit\n" + "\n".join(lines))


def _too_large(stages: tuple[StageCost, ...], setting: Setting) -> dict[str, float]:
    """Stages over the memory of a device, once each."""
    room = setting.cluster.device.memory * (1 - RESERVE)
    wrong: dict[str, float] = {}
    for stage in stages:
        if stage.effort.memory > room:
            wrong[stage.stage] = max(wrong.get(stage.stage, 0), stage.effort.memory)
    return wrong


def _remedy(setting: Setting, stage: str) -> str:
    """What makes the stage fit, in words."""
    remedies: list[str] = []
    for words, recipe in _changes(setting, stage):
        # A milder one of the same settings, or fewer of them, is enough.
        if any(_fields(remedy) <= _fields(words) for remedy in remedies):
            continue
        if stage not in _too_large(*_tried(_with_room(replace(setting, recipe=recipe)))):
            remedies.append(words)
    remedies += _more_devices(setting, stage)
    if not remedies:
        return "no setting of this recipe would fit: take a device with more memory"
    return "it fits with " + ", or with ".join(remedies[:3])


def _fields(words: str) -> set[str]:
    return set(re.findall(r"[\w.]+(?==)", words))


def _tried(setting: Setting) -> tuple[tuple[StageCost, ...], Setting]:
    return stage_costs(setting), setting


def _changes(setting: Setting, stage: str) -> Iterator[Change]:
    if stage == "training":
        yield from _training_changes(setting.recipe)
    elif stage == "reference":
        yield from _token_budgets(setting.recipe)
    elif stage == "judgements":
        yield from _judge_changes(setting.recipe)
    elif stage in SAMPLING:
        yield from _sampling_changes(setting)


def _training_changes(recipe: Recipe) -> Iterator[Change]:
    """From the mildest: the result stays the same until LoRA comes in."""
    checkpointed = recipe
    before = ""
    if not recipe.training.gradient_checkpointing:
        checkpointed = _with_training(recipe, gradient_checkpointing=True)
        before = "training.gradient_checkpointing=true"
        yield before, checkpointed
    smaller = next(
        (change for change in _token_budgets(checkpointed) if "=4096" in change[0]), None
    )
    if smaller is not None:
        yield " ".join(filter(None, [before, smaller[0]])), smaller[1]
    if recipe.training.lora is None:
        lora = {"lora": LoraSettings(), "gradient_checkpointing": True}
        words = " ".join(filter(None, [before, "training.lora={rank: 16}"]))
        yield words, _with_training(recipe, **lora)
        if smaller is not None:
            yield f"{words} {smaller[0]}", _with_training(smaller[1], **lora)


def _token_budgets(recipe: Recipe) -> Iterator[Change]:
    for budget in (8192, 4096, 2048):
        if budget < recipe.training.tokens_per_microbatch:
            words = f"training.tokens_per_microbatch={budget}"
            yield words, _with_training(recipe, tokens_per_microbatch=budget)


def _judge_changes(recipe: Recipe) -> Iterator[Change]:
    judge = recipe.judge
    if isinstance(judge, ScoringJudge) and judge.tokens_per_batch > 2048:
        smaller = judge.model_copy(update={"tokens_per_batch": 2048})
        yield "judge.tokens_per_batch=2048", recipe.model_copy(update={"judge": smaller})


def _sampling_changes(setting: Setting) -> Iterator[Change]:
    recipe, sampling = setting.recipe, setting.recipe.sampling
    if isinstance(sampling, TransformersSampling):
        rows = sampling.rows // 2
        while rows >= sampling.samples:
            yield f"sampling.rows={rows}", _with_sampling(recipe, rows=rows)
            rows //= 2
    if isinstance(sampling, VllmSampling):
        prompt = max(length.prompt for length in setting.lengths.values())
        # Room for a prompt of several times the mean.
        least = 2 ** math.ceil(math.log2(4 * prompt + sampling.max_new_tokens))
        if least < (sampling.max_model_len or setting.shape.context or 0):
            words = f"sampling.max_model_len={least}"
            yield words, _with_sampling(recipe, max_model_len=least)
        yield from _wider_engines(setting, sampling)
    if setting.cluster.device.is_cpu and sampling.pool is not None and sampling.pool.count > 1:
        yield "sampling.workers=1", _with_sampling(recipe, workers=Workers(count=1))


def _wider_engines(setting: Setting, sampling: VllmSampling) -> Iterator[Change]:
    """More devices for each engine: of those there are, or of a machine."""
    there = setting.cluster.gpus
    together = sampling.tensor_parallel * 2
    while together <= max(there, NODE) and not setting.cluster.device.is_cpu:
        changes: dict[str, object] = {"tensor_parallel": together}
        words = f"sampling.tensor_parallel={together}"
        if sampling.workers is not None:
            count = max(1, min(sampling.workers.count, there // together))
            gpus = None if sampling.workers.gpus is None else float(together)
            update = {"count": count, "gpus": gpus}
            changes["workers"] = sampling.workers.model_copy(update=update)
            words += f" sampling.workers.count={count}"
            words += "" if gpus is None else f" sampling.workers.gpus={together}"
        if together > there:
            words += f" --gpus {together}"
        yield words, _with_sampling(setting.recipe, **changes)
        together *= 2


def _more_devices(setting: Setting, stage: str) -> list[str]:
    """The smallest larger power of two of processes with which a sharded stage fits."""
    launch, there = setting.recipe.launch, setting.cluster.gpus
    if stage not in ("training", "reference") or setting.cluster.device.is_cpu:
        return []
    if setting.recipe.training.optimizer != "adamw":
        return []
    for processes in (2**power for power in range(1, 11)):
        if processes <= (launch.processes or 1):
            continue
        kind = launch.type
        if kind == "local" or (kind == "torchrun" and processes > NODE):
            kind = "torchrun" if processes <= NODE else "ray"
        changes = {"type": kind, "processes": processes}
        words = [] if kind == launch.type else [f"launch.type={kind}"]
        words.append(f"launch.processes={processes}")
        if processes > there:
            words.append(f"--gpus {processes}")
        recipe = setting.recipe.model_copy(update={"launch": launch.model_copy(update=changes)})
        if stage not in _too_large(*_tried(_with_room(replace(setting, recipe=recipe)))):
            return [" ".join(words)]
    return []


def _with_room(setting: Setting) -> Setting:
    """The same with as many devices as the recipe uses, if those were too few."""
    if setting.cluster.device.is_cpu:
        return setting
    gpus = max(setting.cluster.gpus, *devices_used(setting.recipe).values())
    return replace(setting, cluster=replace(setting.cluster, gpus=gpus))


def _with_sampling(recipe: Recipe, **changes: object) -> Recipe:
    return recipe.model_copy(update={"sampling": recipe.sampling.model_copy(update=changes)})


def _with_training(recipe: Recipe, **changes: object) -> Recipe:
    training = recipe.training.model_copy(update=changes)
    return recipe.model_copy(update={"training": training})
