"""Whether the arms' prompts ask for what the arms are: to think, to answer at once, or to decide.

Many chat models think by their template, and most templates have a switch for it. An arm that
thinks though it is the direct one would be no baseline, so such a recipe is refused before any
sampling is paid for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from forethought.config import Recipe
from forethought.models import loading, rendering
from forethought.thoughts import COMMON_TAGS, ThoughtFormat, load_format
from forethought.types import Arm, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SWITCHES = ("enable_thinking", "thinking")
"""Variables with which templates of common chat models turn thinking on and off."""
QUESTION = (Message(role="user", content="What is 2 + 3?"),)


def asked(tokenizer: PreTrainedTokenizerBase, template: Mapping[str, Any]) -> str:
    """A question as the model reads it with these variables, up to where its own turn begins."""
    ids = rendering.render(tokenizer, QUESTION, template)
    return str(tokenizer.decode(list(ids), skip_special_tokens=False)).rstrip()


def thinking_switch(tokenizer: PreTrainedTokenizerBase, template: Mapping[str, Any]) -> str | None:
    """The variable that turns the chat template's thinking on and off, if one of `SWITCHES`."""

    def turns(variable: str) -> bool:
        on, off = (asked(tokenizer, {**template, variable: value}) for value in (True, False))
        return on != off

    return next((variable for variable in SWITCHES if turns(variable)), None)


def refuse_dishonest_templates(recipe: Recipe) -> None:
    """Render a question for each arm.

    Raises: ValueError if the direct arm is asked to think, or the thought arm cannot.
    """
    path = recipe.model.path
    tokenizer = loading.load_tokenizer(recipe.model.source)
    thought_format = load_format(recipe.thought_format)

    def template(arm: Arm) -> dict[str, Any]:
        return rendering.template_variables(recipe.model.of_arm(arm))

    def rendered(arm: Arm, **switch: bool) -> str:
        return asked(tokenizer, template(arm) | switch)

    switch = thinking_switch(tokenizer, template(recipe.arms[0]))
    name = switch or SWITCHES[0]
    if "direct" in recipe.arms:
        text = rendered("direct")
        thinks = switch is not None and text == rendered("direct", **{switch: True})
        if thinks or text.endswith(_opening(thought_format)):
            raise ValueError(
                f"model.template: the chat template of {path} has the direct arm think, so it "
                f"would be no baseline; set model.template={{direct: {{{name}: false}}}}"
                + ("" if switch else " if the template has that or another switch for it")
                + ", or leave that arm out (arms: [thought])"
            )
    if "hybrid" in recipe.arms:
        text = rendered("hybrid")
        if text.endswith((*_opening(thought_format), *_closing(thought_format))):
            raise ValueError(
                f"model.template: the chat template of {path} begins the thought, or ends it, in "
                "the policy's place, so that the hybrid arm has nothing to decide; set "
                f"model.template={{hybrid: {{{name}: true}}}}, or false, whichever leaves the "
                "answer's opening free, or leave that arm out of arms"
            )
    by_template = thought_format.thinks and thought_format.instruction is None
    if "thought" not in recipe.arms or not by_template:
        return
    if rendered("thought").endswith(_closing(thought_format)):
        raise ValueError(
            f"model.template: the chat template of {path} ends the thought before it begins, "
            f"so the thought arm cannot think; set model.template={{thought: {{{name}: true}}}}"
        )


def _opening(thought_format: ThoughtFormat) -> tuple[str, ...]:
    return (*thought_format.thought_starts_after, *(opening for opening, _ in COMMON_TAGS))


def _closing(thought_format: ThoughtFormat) -> tuple[str, ...]:
    return (*thought_format.response_starts_after, *(closing for _, closing in COMMON_TAGS))
