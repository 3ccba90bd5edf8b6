"""What a recipe will do, before it does it: prompts, outputs, tokens, steps and disk.

Token figures are upper bounds: every output at its limit, and drawn as often as it may be where it
has no response. Disk counts the checkpoints, which
outweigh all else; the size of one is known where the model lies in a folder, or where
`planning/model_shape.py` has its shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from forethought.config import FilePrompts, MicroworldPrompts, PromptSource, Recipe
from forethought.evaluation.alpaca_eval.alpaca_outputs import read_instructions
from forethought.evaluation.arena_hard.arena_files import read_questions
from forethought.evaluation.probe_openings import VARIANTS
from forethought.models.loading import resolve
from forethought.planning.model_shape import KNOWN, model_shape
from forethought.planning.training_cost import checkpoint_bytes
from forethought.prompts import demonstrations_file
from forethought.runs.layout import WARM_START, StageRef
from forethought.runs.retention import policies_that_stay
from forethought.runs.schedule import stage_refs
from forethought.stages.answers import CHECKED
from forethought.stages.measures.win_rate import MOST_ANSWERS

GSM8K_QUESTIONS = 1319
"""Questions of its test split."""
SEPARATE = 8
"""With more iterations than these, stages that do the same are one row of the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """What one stage will do, at most.

    Example: `StagePlan(ref=StageRef(…), work="192 prompts x 8 outputs", tokens=196608, calls=0,
    disk=0)`
    """

    ref: StageRef
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
    return [
        (_warm_plan if ref.index == WARM_START and ref.stage != "evaluation" else _stage_plan)(
            ref, checkpoint
        )
        for ref in stage_refs(recipe)
    ]


def plan_table(rows: list[StagePlan]) -> Table:
    """The plan as a table with sums; in long recipes stages that do the same share a row."""
    table = Table(title="Plan (upper bounds)", title_justify="left", show_footer=True)
    table.add_column("stage", footer="in all", no_wrap=True)
    table.add_column("work")
    tokens = sum(row.tokens for row in rows)
    table.add_column("new tokens", justify="right", footer=f"{tokens:,}")
    calls = sum(row.calls for row in rows)
    tries = rows[0].ref.recipe.selection.tries
    notes = ["new tokens: every output at its limit"]
    if tries > 1:
        notes[0] += f", answers drawn {tries} times for want of a response"
    if calls:
        table.add_column("calls", justify="right", footer=f"{calls:,}")
        notes.append("calls: of the judge model, without retries")
    table.caption, table.caption_justify = "\n".join(notes), "left"
    table.add_column("disk", justify="right", footer=_size(sum(row.disk for row in rows)))
    for alike in _alike(rows):
        sums = {what: sum(getattr(row, what) for row in alike) for what in ("tokens", "calls")}
        shown = [f"{sums['tokens']:,}" if sums["tokens"] else ""]
        if calls:
            shown.append(f"{sums['calls']:,}" if sums["calls"] else "")
        disk = sum(row.disk for row in alike)
        times = f"{len(alike)} x " if len(alike) > 1 else ""
        table.add_row(_label(alike), times + alike[0].work, *shown, _size(disk) if disk else "")
    return table


def _alike(rows: list[StagePlan]) -> list[list[StagePlan]]:
    """Rows to be shown as one; each by itself where there are few."""
    if max(row.ref.index for row in rows) <= SEPARATE:
        return [[row] for row in rows]
    by_kind: dict[tuple[str, str, str], list[StagePlan]] = {}
    for row in rows:
        by_kind.setdefault((row.ref.stage, row.ref.arm, row.work), []).append(row)
    return list(by_kind.values())


def _label(alike: list[StagePlan]) -> str:
    ref, last = alike[0].ref, alike[-1].ref.index
    return ref.label if len(alike) == 1 else ref.label_of(f"{ref.index} to {last}")


def _stage_plan(ref: StageRef, checkpoint: int) -> StagePlan:
    recipe = ref.recipe
    prompts, samples = recipe.prompts_per_iteration, recipe.sampling.samples
    limit = recipe.sampling.max_new_tokens
    held_out = recipe.prompts.test
    work, tokens, calls, disk = "", 0, 0, 0
    match ref.stage:
        case "prompts":
            test = held_out.count if held_out else 0
            work = (
                f"{recipe.first_prompt + recipe.iterations * prompts} to train on, "
                f"{recipe.prompts.validation.count} for validation, {test} for test"
            )
        case "rollouts":
            work, tokens = f"{prompts} prompts x {samples} outputs", prompts * samples * limit
        case "judgements":
            work = f"{prompts * samples} responses"
            calls = prompts * recipe.judge.calls_per_group(samples)
        case "pairs" | "reference":
            work = f"{prompts} pairs"
        case "training":
            training = recipe.training
            steps = training.epochs * -(-prompts // training.batch_size)
            work = f"{training.epochs} epochs, {steps} steps of {training.batch_size} pairs"
            if not training.prefers:
                work += ", chosen outputs alone"
            disk = training.epochs * checkpoint
            if recipe.keep != "all":
                disk = checkpoint if ref.index + 1 in policies_that_stay(recipe) else 0
        case "selection" if recipe.selection.by == "last":
            work = "the last epoch"
        case "selection":
            count = recipe.prompts.validation.count * recipe.selection.samples
            work = f"{recipe.training.epochs} epochs x {count} answers"
            together = recipe.training.epochs * recipe.selection.samples
            calls = recipe.prompts.validation.count * recipe.judge.calls_per_group(together)
            tokens = recipe.training.epochs * count * limit * recipe.selection.tries
        case "evaluation":
            assert held_out is not None
            count = held_out.count * recipe.evaluation.samples
            work, tokens = f"{count} answers", count * limit * recipe.evaluation.tries
            sides = 2 if recipe.judge.is_relative else 1
            if sides == 1 or ref.folder != ref.baseline.folder:
                together = sides * recipe.evaluation.samples
                calls = held_out.count * recipe.judge.calls_per_group(together)
        case _:
            return _measure_plan(ref)
    return StagePlan(ref=ref, work=work, tokens=tokens, calls=calls, disk=disk)


def _warm_plan(ref: StageRef, checkpoint: int) -> StagePlan:
    """A stage of the warm start."""
    recipe, warm = ref.recipe, ref.recipe.warm_start
    assert warm is not None
    work, tokens, calls, disk = "", 0, 0, 0
    count, limit = example_count(recipe), recipe.sampling.max_new_tokens
    match ref.stage:
        case "vocabulary":
            work, disk = f"{len(ref.thought_format.markers)} new tokens", checkpoint
        case "rollouts":
            work = f"{warm.prompts} prompts x {warm.samples} outputs, after demonstrations"
            tokens = warm.prompts * warm.samples * limit
        case "judgements":
            work = f"{warm.prompts * warm.samples} responses"
            calls = warm.prompts * recipe.judge.calls_per_group(warm.samples)
        case "examples":
            work = f"{count} outputs"
        case "training":
            steps = warm.epochs * -(-count // warm.batch_size)
            work = f"{warm.epochs} epochs, {steps} steps of {warm.batch_size} outputs"
            dropped = recipe.keep != "all"
            disk = checkpoint * (warm.epochs if not dropped else int(recipe.iterations == 0))
        case _:
            count = accepted_on(recipe)
            work, tokens = f"{count} answers", count * limit
    return StagePlan(ref=ref, work=work, tokens=tokens, calls=calls, disk=disk)


def accepted_on(recipe: Recipe) -> int:
    """Prompts that show whether the warm start's policy has the format."""
    return min(CHECKED, recipe.prompts.validation.count or CHECKED)


def example_count(recipe: Recipe) -> int:
    """Outputs that the warm start trains on at most.

    Raises: ValueError if the file that names them does not exist.
    """
    warm = recipe.warm_start
    assert warm is not None
    if warm.samples:
        return warm.prompts * min(warm.keep, warm.samples)
    return question_count(FilePrompts(path=demonstrations_file(warm.demonstrations))) or 0


def _measure_plan(ref: StageRef) -> StagePlan:
    """A measure's work; where it has questions of its own, one for each of them."""
    recipe, measures = ref.recipe, ref.recipe.measures
    test = recipe.prompts.test.count if recipe.prompts.test else 0
    work, outputs, calls = "", 0, 0
    if ref.stage == "win_rate" and measures.win_rate is not None:
        work = f"{test} prompts, thought against direct"
        calls = test * recipe.judge.calls_per_group(2)
        if measures.win_rate.equal_tokens:
            work += ", at equal tokens too"
            outputs = test * (MOST_ANSWERS + 1) * measures.win_rate.tries
            calls *= 3
            if measures.win_rate.pick == "judge":
                calls += test * recipe.judge.calls_per_group(MOST_ANSWERS)
    elif ref.stage == "second_judge" and measures.second_judge is not None:
        judge, samples = measures.second_judge.judge, recipe.evaluation.samples
        work = f"{test * samples} answers by another judge"
        if not judge.is_relative:
            calls = test * judge.calls_per_group(samples)
        elif (ref.arm, ref.index) != (ref.baseline.arm, ref.baseline.index):
            calls = test * judge.calls_per_group(2 * samples)
        if measures.second_judge.again:
            work += ", and again by the run's own"
            if not recipe.judge.is_relative:
                calls += test * recipe.judge.calls_per_group(samples)
            elif (ref.arm, ref.index) != (ref.baseline.arm, ref.baseline.index):
                calls += test * recipe.judge.calls_per_group(2 * samples)
        if ref.choice is not None:
            held_out = recipe.prompts.validation.count
            epochs = recipe.training.epochs * recipe.selection.samples
            work += f", {held_out * epochs} of {recipe.training.epochs} epochs"
            calls += held_out * judge.calls_per_group(epochs)
    elif ref.stage == "probe" and measures.probe is not None:
        count = min(test, measures.probe.prompts)
        # A first answer, whose thought is then kept, left out, swapped or halved.
        work = f"{count} prompts after {len(VARIANTS)} thoughts"
        outputs = count * (1 + len(VARIANTS) * measures.probe.attempts)
        calls = count * recipe.judge.calls_per_group(len(VARIANTS))
    elif ref.stage == "gsm8k" and measures.gsm8k is not None:
        count = questions_asked(recipe, ref.stage)
        work = f"{count} questions, twice"
        if None in map(question_count, measures.gsm8k.sources):
            work = f"every question, twice ({count} assumed)"
        outputs = 2 * count * measures.gsm8k.tries
    elif ref.stage == "alpaca_eval" and measures.alpaca_eval is not None:
        calls = questions_asked(recipe, ref.stage)
        work, outputs = f"{calls} instructions", calls * measures.alpaca_eval.tries
    elif ref.stage == "arena_hard" and measures.arena_hard is not None:
        count = questions_asked(recipe, ref.stage)
        work, calls = f"{count} questions, two games", 2 * count
        outputs = count * measures.arena_hard.tries
    tokens = outputs * recipe.sampling.max_new_tokens
    return StagePlan(ref=ref, work=work, tokens=tokens, calls=calls, disk=0)


def questions_asked(recipe: Recipe, stage: str) -> int:
    """How many questions of its own a measure has; a source that does not tell is GSM8K's."""
    measures = recipe.measures
    if stage == "gsm8k" and measures.gsm8k is not None:
        counts = [question_count(source) for source in measures.gsm8k.sources]
        return sum(GSM8K_QUESTIONS if count is None else count for count in counts)
    if stage == "alpaca_eval" and measures.alpaca_eval is not None:
        return len(read_instructions(measures.alpaca_eval.instructions))
    assert measures.arena_hard is not None
    return len(read_questions(measures.arena_hard.questions))


def question_count(source: PromptSource) -> int | None:
    """How many questions a source has at most, where that can be told without loading it."""
    match source:
        case MicroworldPrompts():
            return source.count
        case FilePrompts(path=Path() as path) if path.suffix == ".jsonl" and path.is_file():
            with path.open("rb") as file:
                lines = sum(1 for line in file if line.strip())
            return min(lines, source.limit or lines)
        case _:
            return source.limit


def _checkpoint_bytes(recipe: Recipe) -> int:
    """Bytes of a policy on disk; 0 where its model's size is not known without asking the hub."""
    source = recipe.model.source
    folder = Path(resolve(source))
    if not folder.is_dir() and source.path not in KNOWN:
        return 0
    try:
        return round(checkpoint_bytes(model_shape(source), recipe.training))
    except ValueError:
        # A mixture of experts: its weights as they are.
        return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _size(count: int) -> str:
    if not count:
        return "unknown"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count = count // 100 / 10  # type: ignore[assignment]
    return f"{count:.3g} TB"
