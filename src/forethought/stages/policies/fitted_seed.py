"""The grown seed with the rows of its new tokens fitted: what the warm start trains from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Any

from forethought.config import ModelSource
from forethought.models import loading
from forethought.models.loading import pick_device
from forethought.models.marker_tokens import whole_marker_tokens
from forethought.progress.reporter import Reporter
from forethought.runs.layout import StageRef
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import SCRATCH
from forethought.types import TrainingExample

FITTED = "fitted"


def fitted_seed(
    stage: Stage, ref: StageRef, examples: Sequence[TrainingExample], reporter: Reporter
) -> ModelSource:
    """A model folder in the stage's scratch, made anew where it is not whole; the seed itself where
    its output layer allows no fit.

    Raises: ValueError if the model cannot be loaded.
    """
    import torch

    from forethought.training.batches import short_enough
    from forethought.training.marker_rows import fit_marker_rows
    from forethought.training.policy_module import length_limit
    from forethought.training.stored import copy_rest

    source = ref.policy.source
    folder = stage.folder / SCRATCH / FITTED
    fitted = ref.policy.at(str(folder)).source
    if folder.exists():
        return fitted
    tokens = whole_marker_tokens(loading.load_tokenizer(source), ref.thought_format.markers)
    ids = list(tokens.values())
    dtype = loading.stored_dtype(source)
    device = str(pick_device(ref.recipe.model.device))
    model = loading.load_runnable(source, dtype=dtype, device=device)
    limit = length_limit(model, ref.recipe.warm_training)
    found = fit_marker_rows(model, ids, short_enough(examples, limit))
    if found is None:
        reporter.say(
            f"{ref.label}: no rows can be fitted to these outputs and this output layer, so the "
            "new tokens begin as the means of their words; they may need more warm_start.prompts "
            "or epochs"
        )
        return source
    reporter.say(
        f"{ref.label}: rows of {len(ids)} new tokens fitted, {found.before:.2f} to "
        f"{found.after:.2f} nats where they stand"
    )
    partial = folder.with_name(f"{FITTED}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    head: Any = model.get_output_embeddings()
    with torch.no_grad():
        head.weight[ids] = found.rows_TD.to(head.weight)
    # Where the device multiplies in a wider type the values are those of the stored one.
    model.to(getattr(torch, dtype)).save_pretrained(partial)
    copy_rest(source, partial)
    os.replace(partial, folder)
    return fitted
