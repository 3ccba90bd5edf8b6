"""Stage `prompts`: load, deduplicate, filter and split the prompts once for a whole run.

Every prompt is rendered here with the chat template, with and without the thought instruction. One
that the template refuses, that fills the context, or that has more than `prompts.max_tokens` is
left out before anything is set aside or sliced, so that both arms get the same prompts.
"""

from __future__ import annotations

from typing import Any

from forethought.config import Recipe
from forethought.models import loading, rendering
from forethought.progress.reporter import Reporter
from forethought.prompts import Refuse, load_prompts, source_digests, split_prompts
from forethought.runs.layout import StageRef
from forethought.stages.policies.sampled_policy import longest_sequence
from forethought.storage import left_out
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import Count, StageError, read_json
from forethought.thoughts import DIRECT, ThoughtFormat, load_format
from forethought.types import Arm, Prompt, PromptPlace

SOURCES = "sources.json"
"""Digests of the sources as they were read."""


def configure(ref: StageRef) -> dict[str, Any]:
    """What decides this stage's content.

    The number of iterations and the size of their slices are not in it: the training prompts are
    kept in one fixed order, so that a run can be continued with more iterations. Nor are the arms:
    the prompts are those that either of them can be asked.
    """
    recipe = ref.recipe
    return {
        "seed": recipe.seed,
        "prompts": recipe.prompts.model_dump(mode="json"),
        # Both arms share these prompts: histories lose the thoughts of the arm that has any.
        "thought_format": load_format(recipe.thought_format).model_dump(mode="json"),
        "model": loading.identity(recipe.model.source),
        "context": recipe.sampling.context,
    }


def work(stage: Stage, ref: StageRef, reporter: Reporter) -> dict[str, Count]:
    """Write all training prompts in slice order, the validation and the test prompts.

    Raises: ValueError if a source cannot be read, or holds fewer prompts than are to be held out.
    """
    recipe = ref.recipe
    with reporter.task(ref.label, 1, "sets") as task:
        # First: what changes while it is read counts as changed.
        digests = source_digests(recipe.prompts)
        split = split_prompts(
            recipe.prompts,
            seed=recipe.seed,
            strip_thought=load_format(recipe.thought_format).strip_thought,
            refuse=_refuse(recipe),
        )
        stage.write_records("test", split.test, Prompt)
        stage.write_records("validation", split.validation, Prompt)
        stage.write_records("train", split.train, Prompt)
        kept = [prompt.prompt_id for prompt in (*split.test, *split.validation, *split.train)]
        places = [PromptPlace(prompt_id=key, where=split.places[key]) for key in kept]
        stage.write_records("places", places, PromptPlace)
        stage.write_json(SOURCES, digests)
        left_out.note(stage, "prompts", split.left_out)
        note = f"{len(split.train)} to train on, {split.duplicates} duplicates dropped"
        task.advance(note=note)
    left_out.say(stage, reporter)
    return {
        "train": len(split.train),
        "validation": len(split.validation),
        "test": len(split.test),
        "duplicates": split.duplicates,
        "overlap": split.overlap,
        **left_out.counts(stage.folder),
    }


def askable_prompts(recipe: Recipe) -> list[Prompt]:
    """The distinct prompts of the training sources that both arms of the recipe can be asked.

    Raises: ValueError if a source cannot be read, or none of its prompts can be sampled.
    """
    strip_thought = load_format(recipe.thought_format).strip_thought
    return load_prompts(recipe.prompts.train, strip_thought, _refuse(recipe)).prompts


def changed_sources(ref: StageRef) -> list[str]:
    """Sources whose content is not what the sealed stage has read; what is gone is not named."""
    path = ref.folder / SOURCES
    try:
        read = read_json(path)
    except (FileNotFoundError, StageError):
        return []
    now = source_digests(ref.recipe.prompts)
    return [name for name, digest in read.items() if now.get(name, digest) != digest]


def _refuse(recipe: Recipe) -> Refuse:
    """Why a prompt cannot be put to the policy in some arm."""
    tokenizer = loading.load_tokenizer(recipe.model.source)
    asked: tuple[tuple[ThoughtFormat, Arm], ...] = (
        (load_format(recipe.thought_format), "thought"),
        (DIRECT, "direct"),
    )
    if "hybrid" in recipe.arms:
        asked = (*asked, (load_format(recipe.thought_format).as_hybrid(), "hybrid"))
    formats = [
        (thought_format, rendering.template_variables(recipe.model.of_arm(arm)))
        for thought_format, arm in asked
    ]
    most, context = recipe.prompts.max_tokens, longest_sequence(recipe)

    def refuse(prompt: Prompt) -> str | None:
        try:
            rendered = [
                rendering.render(tokenizer, thought_format.apply(prompt.messages), template)
                for thought_format, template in formats
            ]
        except ValueError as error:
            return str(error)
        longest = max(map(len, rendered))
        if not all(rendered):
            return "it is empty once rendered with the chat template"
        if most is not None and longest > most:
            return f"it has {longest} tokens, prompts.max_tokens is {most}"
        if context is not None and longest >= context:
            return f"it has {longest} tokens and {context} are the whole context"
        return None

    return refuse
