"""Which kind of reward model a checkpoint is, by its config alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from forethought.config import ArmoRMJudge, ScoringJudge
from forethought.models.hub import config_file

ARMORM = "LlamaForRewardModelWithGating"
LABELS = 2
"""Of a config that does not say."""


def refuse_other_kinds(config: ScoringJudge) -> None:
    """Look into the checkpoint's `config.json`.

    Raises: UnreachableError if it cannot be had from here; ValueError if the judge is of another
    type.
    """
    path = config_file(config.source, field="judge.path")
    try:
        fields: dict[str, Any] = json.loads(path.read_bytes())
        if isinstance(config, ArmoRMJudge):
            refuse_no_armorm(fields.get("architectures"))
        elif not config.source.trust_remote_code:
            # The checkpoint's own code may count its labels in another way.
            labels = fields.get("num_labels") or len(fields.get("id2label") or ()) or LABELS
            refuse_no_single_logit(fields.get("architectures"), labels)
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"judge.path: {config.path} is not for judge.type {config.type}: {error}"
        ) from None


def refuse_no_armorm(architectures: Sequence[str] | None) -> None:
    """Raises: ValueError if a checkpoint of these architectures is no ArmoRM."""
    if architectures != [ARMORM]:
        raise ValueError(
            f"its architecture is {architectures}, an ArmoRM's is [{ARMORM!r}]; for a "
            "sequence-classification model use judge.type: reward_model"
        )


def refuse_no_single_logit(architectures: Sequence[str] | None, labels: int) -> None:
    """Raises: ValueError if a checkpoint does not give one logit."""
    if architectures == [ARMORM]:
        raise ValueError("it is an ArmoRM; use judge.type: armorm")
    if labels != 1:
        raise ValueError(
            f"it has {labels} labels where a reward model has one logit (num_labels 1); is it a "
            "plain language model or a classifier?"
        )
