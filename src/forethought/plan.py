"""What a recipe will do, before it does it: prompts, outputs, tokens, steps and disk.

Token figures are upper bounds: every output at its limit. Disk counts the checkpoints, which
outweigh all else; the size of one is known where the model lies in a folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from forethought.config import Recipe
from forethought.judging.describe import calls_per_group, is_relative
from forethought.models import resolve
from forethought.pipeline import places
from forethought.stages.place import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """What one stage will do, at most.

    Example: `StagePlan(label="thought iteration 0 rollouts", work="192 prompts x 8 outputs",
    tokens=196608, calls=0, disk=0)`
    """

    label: str
    work: str
    tokens: int
    """New tokens of the policy at most."""
    calls: int
    """Calls of a chat model as judge at most, without retries."""
    disk: int
    """Bytes of checkpoints."""


def plan(recipe: Recipe) -> list[StagePlan]:
    """One row per stage, in order.

    Raises: ValueError if the model's folder is not one.
    """
    checkpoint = _checkpoint_bytes(recipe)
    return [_stage_plan(place, checkpoint) for place in places(recipe)]


def plan_table(rows: list[StagePlan]) -> Table:
    """The plan, with sums."""
    table = Table(title="Plan (upper bounds)", title_justify="left", show_footer=True)
    table.add_column("stage", footer="in all", no_wrap=True)
    table.add_column("work")
    tokens = sum(row.tokens for row in rows)
    table.add_column("new tokens", justify="right", footer=f"{tokens:,}")
    calls = sum(row.calls for row in rows)
    if calls:
        table.add_column("calls", justify="right", footer=f"{calls:,}")
        table.caption = "calls: of the judge model, without retries"
        table.caption_justify = "left"
    table.add_column("disk", justify="right", footer=_size(sum(row.disk for row in rows)))
    for row in rows:
        shown = [f"{row.tokens:,}" if row.tokens else ""]
        if calls:
            shown.append(f"{row.calls:,}" if row.calls else "")
        table.add_row(row.label, row.work, *shown, _size(row.disk) if row.disk else "")
    return table


def _stage_plan(place: Place, checkpoint: int) -> StagePlan:
    recipe = place.recipe
    prompts, samples = recipe.prompts_per_iteration, recipe.sampling.samples
    limit = recipe.sampling.max_new_tokens
    held_out = recipe.prompts.test
    work, tokens, calls, disk = "", 0, 0, 0
    match place.stage:
        case "prompts":
            test = held_out.count if held_out else 0
            work = (
                f"{recipe.iterations * prompts} to train on, "
                f"{recipe.prompts.validation.count} for validation, {test} for test"
            )
        case "rollouts":
            work, tokens = f"{prompts} prompts x {samples} outputs", prompts * samples * limit
        case "judgements":
            work = f"{prompts * samples} responses"
            calls = prompts * calls_per_group(recipe.judge, samples)
        case "pairs" | "reference":
            work = f"{prompts} pairs"
        case "training":
            training = recipe.training
            steps = training.epochs * -(-prompts // training.batch_size)
            work = f"{training.epochs} epochs, {steps} steps of {training.batch_size} pairs"
            disk = training.epochs * checkpoint
        case "selection":
            count = recipe.prompts.validation.count * recipe.selection.samples
            work = f"{recipe.training.epochs} epochs x {count} answers"
            together = recipe.training.epochs * recipe.selection.samples
            calls = recipe.prompts.validation.count * calls_per_group(recipe.judge, together)
            tokens = recipe.training.epochs * count * limit
        case "evaluation":
            assert held_out is not None
            count = held_out.count * recipe.evaluation.samples
            work, tokens = f"{count} answers", count * limit
            sides = 2 if is_relative(recipe.judge) else 1
            if sides == 1 or place.folder != place.baseline.folder:
                together = sides * recipe.evaluation.samples
                calls = held_out.count * calls_per_group(recipe.judge, together)
    return StagePlan(label=place.label, work=work, tokens=tokens, calls=calls, disk=disk)


def _checkpoint_bytes(recipe: Recipe) -> int:
    folder = Path(resolve(recipe.model.path))
    if not folder.is_dir():
        return 0
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _size(count: int) -> str:
    if not count:
        return "unknown"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count = count // 100 / 10  # type: ignore[assignment]
    return f"{count:.3g} TB"
