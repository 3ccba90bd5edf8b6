"""Stage `vocabulary` of the warm start: the seed with the control tokens of its thought format.

A format whose markers are tokens (`tokens`) needs them in the tokenizer, in the embedding and in
the output layer before anything is trained on them. What this stage writes is the plain seed but
for these rows, and is what is measured as the seed; before it is trained they are fitted to what it
is trained on (policies/fitted_seed.py).
"""

from __future__ import annotations

from typing import Any

from forethought.models import loading, rendering
from forethought.models.marker_tokens import add_marker_tokens
from forethought.progress.reporter import Reporter
from forethought.runs.layout import StageRef
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import Count
from forethought.thoughts import save_format

POLICY = "policy"


def configure(ref: StageRef) -> dict[str, Any]:
    """What decides this stage's content: it has no inputs."""
    model = ref.recipe.model.of_arm(ref.arm)
    return {
        "model": loading.identity(model.source),
        "template": model.template,
        "thought_format": ref.thought_format.model_dump(mode="json"),
    }


def work(stage: Stage, ref: StageRef, reporter: Reporter) -> dict[str, Count]:
    """Write the grown seed as `policy/`; counts the tokens that were added.

    Raises: ValueError if the model cannot be loaded.
    """
    from forethought.training.stored import copy_rest

    source = ref.recipe.model.source
    folder = stage.folder / POLICY
    # What a killed process left may be half a file.
    stage.remove(POLICY)
    with reporter.task(ref.label, 1, "models") as task:
        if loading.find_adapter(source) is not None:
            model = loading.merged(source)
        else:
            dtype = loading.stored_dtype(source)
            model = loading.load_model(source, dtype=dtype, device="cpu")
        tokenizer = loading.load_tokenizer(source)
        added = add_marker_tokens(model, tokenizer, ref.thought_format)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        copy_rest(source, folder)
        save_format(ref.thought_format, folder)
        rendering.save_template_variables(ref.recipe.model.of_arm(ref.arm).template, folder)
        stage.note(POLICY)
        task.advance(note=f"{len(added)} tokens added")
    return {"added_tokens": len(added), "vocabulary": len(tokenizer)}
