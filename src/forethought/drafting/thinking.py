"""How a model comes to think, read off its chat template: what the two arms of a recipe need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forethought.models import loading
from forethought.stages.checks.arm_templates import asked, thinking_switch
from forethought.thoughts import TAGS
from forethought.types import Arm


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """The settings that let one arm think and keep the other from it, and why these.

    Example: `Thinking(thought_format="generic", template={}, arms=("thought", "direct"),
    reason="it does not think by its chat template")`
    """

    thought_format: str
    template: dict[str, Any]
    """For `model.template`."""
    arms: tuple[Arm, ...]
    reason: str
    """What was seen of the model."""


def thinking_of(model: str) -> Thinking:
    """Ask the model's chat template.

    Raises: ValueError if there is no such model, or it has no chat template.
    """
    tokenizer = loading.load_tokenizer(model)
    switch = thinking_switch(tokenizer, {})
    [opening], [closing] = TAGS.thought_starts_after, TAGS.response_starts_after
    if switch is None:
        if asked(tokenizer, {}).endswith(opening):
            return Thinking(
                thought_format="tags",
                template={},
                arms=("thought",),
                reason=f"its chat template always opens a thought with {opening}",
            )
        return Thinking(
            thought_format="generic",
            template={},
            arms=("thought", "direct"),
            reason="its chat template does not have it think, so an instruction does",
        )
    if closing not in str(tokenizer.chat_template):
        return Thinking(
            thought_format="generic",
            template={switch: False},
            arms=("thought", "direct"),
            reason=f"its own thinking ({switch}) has other marks than {opening} and is turned off",
        )
    return Thinking(
        thought_format="tags",
        template={"thought": {switch: True}, "direct": {switch: False}},
        arms=("thought", "direct"),
        reason=f"it thinks by its chat template, which {switch} turns on and off",
    )
