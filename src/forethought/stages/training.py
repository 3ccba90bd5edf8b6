"""Stages `reference` and `training`: log-probs of the starting policy, then DPO on the pairs.

The reference is the iteration's starting policy (the paper does not say; this is its group's
convention). Its log-probs are computed once and sealed, so training holds one model.
"""

from __future__ import annotations

from typing import Any

from forethought import models
from forethought.models import pick_device
from forethought.pairs import OUTCOMES
from forethought.progress import Reporter
from forethought.stages.place import Place
from forethought.store import Count, Stage, StageError, read_manifest, read_records
from forethought.thoughts import save_format
from forethought.training.policy import open_reference
from forethought.training.reference import reference_logprobs
from forethought.training.results import ReferenceLogprobs, StepLog
from forethought.training.train import train
from forethought.types import PreferencePair

REFERENCE_PART = 1024
"""Pairs per part of the reference: what is redone at most after a kill."""


def configure_reference(place: Place) -> dict[str, Any]:
    """What decides the reference besides its inputs."""
    training = place.recipe.training
    config: dict[str, Any] = {
        "dtype": training.dtype,
        "max_length": training.max_length,
        "tokens_per_microbatch": training.tokens_per_microbatch,
    }
    if place.policy_stage is None:
        config["model"] = models.identity(place.recipe.model.path)
    return config


def configure_training(place: Place) -> dict[str, Any]:
    """What decides the training besides its inputs."""
    recipe = place.recipe
    config: dict[str, Any] = {
        "seed": recipe.seed,
        "training": recipe.training.model_dump(mode="json"),
        "thought_format": place.thought_format.model_dump(mode="json"),
    }
    if place.policy_stage is None:
        config["model"] = models.identity(recipe.model.path)
    return config


def compute_reference(stage: Stage, place: Place, reporter: Reporter) -> dict[str, Count]:
    """Write the reference log-probs of every pair.

    Raises: StageError if the iteration has no pair.
    """
    pairs = read_records(place.beside("pairs"), PreferencePair, "pairs")
    _refuse_no_pairs(place, pairs)
    parts = [
        pairs[start : start + REFERENCE_PART] for start in range(0, len(pairs), REFERENCE_PART)
    ]
    owed = [index for index in range(len(parts)) if not stage.has(f"part_{index:05d}")]
    device = str(pick_device(place.recipe.model.device))
    with reporter.task(place.label, len(pairs), "pairs") as task:
        training = place.recipe.training
        task.done = sum(len(part) for i, part in enumerate(parts) if i not in owed)
        policy = open_reference(place.policy, training, device) if owed else None
        for index in owed:
            part = reference_logprobs(
                place.policy, parts[index], training, device=device, policy=policy
            )
            stage.write_records(f"part_{index:05d}", part, ReferenceLogprobs)
            task.advance(len(parts[index]))
    return {"pairs": len(pairs)}


def run_training(stage: Stage, place: Place, reporter: Reporter) -> dict[str, Count]:
    """Train; every epoch's folder also gets the thought format."""
    pairs = read_records(place.beside("pairs"), PreferencePair, "pairs")
    reference = read_records(place.beside("reference"), ReferenceLogprobs)
    training = place.recipe.training
    steps = training.epochs * -(-len(pairs) // training.batch_size)
    with reporter.task(place.label, steps, "steps") as task:

        def on_step(log: StepLog) -> None:
            task.done = log.step
            task.advance(tokens=log.tokens, note=f"loss {log.loss:.4f}")

        result = train(
            model_path=place.policy,
            pairs=pairs,
            reference=reference,
            config=training,
            seed=place.recipe.seed,
            directory=stage.folder,
            device=str(pick_device(place.recipe.model.device)),
            on_step=on_step,
        )
    for folder in sorted(stage.folder.glob("epoch_*")):
        save_format(place.thought_format, folder)
    return {"pairs": len(pairs), "left_out": result.left_out, "steps": result.steps}


def _refuse_no_pairs(place: Place, pairs: list[PreferencePair]) -> None:
    if pairs:
        return
    counts = read_manifest(place.beside("pairs")).counts
    reasons = ", ".join(f"{counts[name]} {name}" for name in OUTCOMES if counts[name])
    raise StageError(
        f"{place.label}: no prompt of this iteration gave a pair ({reasons}). More samples per "
        "prompt (sampling.samples), a higher sampling.temperature or a judge with finer scores "
        "give more; remove the iteration's folder to sample it again: "
        f"rm -r {place.beside('pairs').parent}"
    )
