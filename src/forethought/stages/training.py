"""Stages `reference` and `training`: log-probs of the starting policy, then DPO on the pairs.

The `training` of the warm start is supervised fine-tuning on its examples, and has no reference;
nor has that of iterations with `training.loss: nll`, the same on the chosen outputs of the pairs.

The reference is the iteration's starting policy (the paper does not say; this is its group's
convention). Its log-probs are computed once and sealed, so training holds one model. With a
launcher both are done by several processes, and this one waits for them. What trains is imported
where it is called, because it loads torch and the commands that only look at a run do not need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forethought.config import ModelSource, TrainingConfig
from forethought.models import loading, rendering
from forethought.models.loading import pick_device
from forethought.progress.reporter import Reporter, Task
from forethought.runs.layout import StageRef
from forethought.stages.judged.no_pairs import why_no_pairs
from forethought.stages.policies.fitted_seed import fitted_seed
from forethought.storage.files import naming
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import (
    SCRATCH,
    ArmStoppedError,
    Count,
    read_records,
)
from forethought.thoughts import FORMAT_FILE, save_format
from forethought.training.results import (
    LEAST_KEPT,
    ReferenceLogprobs,
    Step,
    StepLog,
    TrainingResult,
)
from forethought.types import PreferencePair, TrainingExample

if TYPE_CHECKING:
    from forethought.training.distributed.job import Job, JobKind

REFERENCE_PART = 1024
"""Pairs per part of the reference: what is redone at most after a kill."""


def configure_reference(ref: StageRef) -> dict[str, Any]:
    """What decides the reference besides its inputs."""
    training = ref.recipe.training
    config: dict[str, Any] = {
        "dtype": training.dtype,
        "max_length": training.max_length,
        "tokens_per_microbatch": training.tokens_per_microbatch,
    }
    if ref.policy_stage is None:
        config["model"] = loading.identity(ref.recipe.model.source)
    return config


def configure_training(ref: StageRef) -> dict[str, Any]:
    """What decides the training besides its inputs."""
    recipe = ref.recipe
    config: dict[str, Any] = {
        "seed": recipe.seed,
        "training": ref.training.identity(),
        "sampled": recipe.model.dtype,
        "thought_format": ref.thought_format.model_dump(mode="json"),
    }
    if ref.policy_stage is None:
        config["model"] = loading.identity(recipe.model.source)
    return config


def compute_reference(stage: Stage, ref: StageRef, reporter: Reporter) -> dict[str, Count]:
    """Write the reference log-probs of every pair.

    Raises: ArmStoppedError if the iteration has no pair.
    """
    from forethought.training.policy_module import open_reference
    from forethought.training.reference import reference_logprobs

    pairs = _pairs(ref)
    parts = [
        pairs[start : start + REFERENCE_PART] for start in range(0, len(pairs), REFERENCE_PART)
    ]
    owed = [index for index in range(len(parts)) if not stage.has(f"part_{index:05d}")]
    with reporter.task(ref.label, len(pairs), "pairs") as task:
        training = ref.recipe.training
        task.done = sum(len(part) for i, part in enumerate(parts) if i not in owed)
        if owed and ref.recipe.launch.type != "local":
            _reference_by_processes(stage, ref, task, {i: len(parts[i]) for i in owed})
            return {"pairs": len(pairs)}
        device = str(pick_device(ref.recipe.model.device))
        if owed:
            model = ref.policy.source
            with open_reference(model, training, device) as policy:
                for index in owed:
                    part = reference_logprobs(
                        model, parts[index], training, device=device, policy=policy
                    )
                    stage.write_records(f"part_{index:05d}", part, ReferenceLogprobs)
                    task.advance(len(parts[index]))
    return {"pairs": len(pairs)}


def _pairs(ref: StageRef) -> list[PreferencePair]:
    """Raises: ArmStoppedError if the iteration has none."""
    pairs = read_records(ref.beside("pairs"), PreferencePair, "pairs")
    if not pairs:
        raise ArmStoppedError(why_no_pairs(ref))
    return pairs


def _reference_by_processes(stage: Stage, ref: StageRef, task: Task, owed: dict[int, int]) -> None:
    """The parts owed, index to pairs, taken in as the processes finish them."""
    from forethought.training.distributed.job import read_part

    scratch = _scratch(stage)
    job = _job(ref, "reference", scratch, ref.policy.source).model_copy(
        update={
            "owed": tuple(
                (index, index * REFERENCE_PART, index * REFERENCE_PART + count)
                for index, count in owed.items()
            )
        }
    )
    waiting = dict(owed)

    def take() -> None:
        for index in list(waiting):
            if (path := job.part(index)).exists():
                stage.write_records(f"part_{index:05d}", read_part(path), ReferenceLogprobs)
                task.advance(waiting.pop(index))

    for index in owed:
        job.part(index).unlink(missing_ok=True)
    _run_job(ref, job, scratch, take)
    take()
    assert not waiting, f"the processes left out parts {sorted(waiting)}"


def run_training(stage: Stage, ref: StageRef, reporter: Reporter) -> dict[str, Count]:
    """Train; every epoch's folder also gets the thought format.

    Raises: ArmStoppedError if the iteration has no pair.
    """
    from forethought.training.fine_tune import chosen_outputs
    from forethought.training.train import train

    pairs, training = _pairs(ref), ref.training
    if not training.prefers:
        chosen = chosen_outputs(pairs)
        result = _fine_tuned(stage, ref, reporter, "chosen", chosen, training, ref.policy.source)
        return {"pairs": len(pairs), "left_out": result.left_out, "steps": result.steps}
    with _steps(ref, reporter, len(pairs), training) as on_step:
        if ref.recipe.launch.type == "local":
            result = train(
                model=ref.policy.source,
                pairs=pairs,
                reference=read_records(ref.beside("reference"), ReferenceLogprobs),
                config=training,
                seed=ref.recipe.seed,
                directory=stage.folder,
                device=str(pick_device(ref.recipe.model.device)),
                sampled=ref.recipe.model.dtype,
                on_step=on_step,
            )
        else:
            result = _trained_by_processes(
                stage, ref, "training", on_step, StepLog, ref.policy.source
            )
    _save_formats(stage, ref, training.epochs)
    if (warning := loss_warning(ref, result.margin_kept)) is not None:
        reporter.say(f"warning: {warning}")
    return {
        "pairs": len(pairs),
        "left_out": result.left_out,
        "steps": result.steps,
        "margin_kept": list(result.margin_kept),
    }


def configure_fine_tuning(ref: StageRef) -> dict[str, Any]:
    """What decides the warm start's training besides its inputs."""
    config = configure_training(ref)
    config["training"] = ref.recipe.warm_training.identity()
    return config | ({"new_rows": "fitted"} if ref.grows else {})


def run_fine_tuning(stage: Stage, ref: StageRef, reporter: Reporter) -> dict[str, Count]:
    """Train on the warm start's examples, from new tokens whose rows fit them; every epoch's folder
    also gets the thought format."""
    examples = read_records(ref.beside("examples"), TrainingExample, "examples")
    training = ref.recipe.warm_training
    model = fitted_seed(stage, ref, examples, reporter) if ref.grows else ref.policy.source
    result = _fine_tuned(stage, ref, reporter, "fine_tuning", examples, training, model)
    return {"examples": len(examples), "left_out": result.left_out, "steps": result.steps}


def _fine_tuned(
    stage: Stage,
    ref: StageRef,
    reporter: Reporter,
    kind: JobKind,
    examples: Sequence[TrainingExample],
    training: TrainingConfig,
    model: ModelSource,
) -> TrainingResult:
    """Supervised fine-tuning, in this process or by several."""
    from forethought.training.fine_tune import fine_tune

    with _steps(ref, reporter, len(examples), training) as on_step:
        if ref.recipe.launch.type == "local":
            result = fine_tune(
                model=model,
                examples=examples,
                config=training,
                seed=ref.recipe.seed,
                directory=stage.folder,
                device=str(pick_device(ref.recipe.model.device)),
                on_step=on_step,
            )
        else:
            result = _trained_by_processes(stage, ref, kind, on_step, Step, model)
    _save_formats(stage, ref, training.epochs)
    return result


@contextmanager
def _steps(
    ref: StageRef, reporter: Reporter, count: int, training: TrainingConfig
) -> Iterator[Callable[[Step], None]]:
    """Shows the steps of a training on so many pairs or examples."""
    steps = training.epochs * -(-count // training.batch_size)
    with reporter.task(ref.label, steps, "steps") as task:

        def on_step(log: Step) -> None:
            task.done = log.step
            task.advance(tokens=log.tokens, note=f"loss {log.loss:.4f}")

        yield on_step


def _trained_by_processes(
    stage: Stage,
    ref: StageRef,
    kind: JobKind,
    on_step: Callable[[Step], None],
    log_kind: type[Step],
    model: ModelSource,
) -> TrainingResult:
    from forethought.training.checkpoint import LogReader, read_result

    log = LogReader(stage.folder, log_kind)
    job = _job(ref, kind, stage.folder, model)
    _run_job(ref, job, _scratch(stage), lambda: log.read(on_step))
    return read_result(stage.folder)


def _save_formats(stage: Stage, ref: StageRef, epochs: int) -> None:
    """What a checkpoint needs to be asked as it was trained."""
    for epoch in range(1, epochs + 1):
        folder = f"epoch_{epoch}"
        with naming(stage.folder / folder):
            save_format(ref.thought_format, stage.folder / folder)
            rendering.save_template_variables(ref.policy.template, stage.folder / folder)
        stage.note(f"{folder}/{FORMAT_FILE}", f"{folder}/{rendering.TEMPLATE_FILE}")


def loss_warning(ref: StageRef, margin_kept: Sequence[float | None]) -> str | None:
    """What to say where rounding takes too much of what was learned from some epoch's policy."""
    known = [share for share in margin_kept if share is not None]
    if not known or min(known) >= LEAST_KEPT:
        return None
    training = ref.recipe.training
    way_out = "sample in float32 (model.dtype)"
    if training.checkpoint_dtype not in ("masters", "float32"):
        way_out = "use training.checkpoint_dtype: masters"
    return (
        f"{ref.label}: of the margin that was learned, {min(known):.0%} is left in the policy as "
        f"it is sampled, weights rounded to {ref.recipe.model.dtype}; {way_out}"
    )


def _job(ref: StageRef, kind: JobKind, directory: Path, source: ModelSource) -> Job:
    """A job for processes anywhere: paths do not depend on where they are started."""
    from forethought.training.distributed.job import Job
    from forethought.training.distributed.ray_processes import ray_device

    recipe = ref.recipe
    assert recipe.launch.processes is not None
    folder = Path(loading.resolve(source))
    on_ray = recipe.launch.type == "ray"
    asked = recipe.model.device
    device = ray_device(asked, recipe.launch.ray) if on_ray else pick_device(asked).type
    assert device in ("cpu", "cuda")
    tuning = kind == "fine_tuning"
    return Job(
        kind=kind,
        model=replace(source, path=str(folder.absolute())) if folder.is_dir() else source,
        records=ref.beside("examples" if tuning else "pairs").absolute(),
        reference=ref.beside("reference").absolute() if kind == "training" else None,
        config=recipe.warm_training if tuning else ref.training,
        seed=recipe.seed,
        sampled=recipe.model.dtype,
        directory=directory.absolute(),
        processes=recipe.launch.processes,
        device=device,
        threads=recipe.launch.threads,
    )


def _run_job(ref: StageRef, job: Job, scratch: Path, watch: Callable[[], None]) -> None:
    from forethought.training.distributed.processes import run_processes
    from forethought.training.distributed.ray_processes import run_on_ray

    launch = ref.recipe.launch
    if launch.type == "ray":
        run_on_ray(job, scratch.absolute(), watch, launch.ray)
    else:
        run_processes(job, scratch.absolute(), watch)


def _scratch(stage: Stage) -> Path:
    scratch = stage.folder / SCRATCH
    scratch.mkdir(exist_ok=True)
    return scratch
