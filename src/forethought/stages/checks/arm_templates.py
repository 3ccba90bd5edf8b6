"""Whether both arms' prompts ask for what the arms are: to think, or to answer at once.

Many chat models think by their template, and most templates have a switch for it. An arm that
thinks though it is the direct one would be no baseline, so such a recipe is refused before any
sampling is paid for.
"""

from __future__ import annotations

from typing import Any

from forethought.config import Recipe
from forethought.models import loading, rendering
from forethought.thoughts import COMMON_TAGS, ThoughtFormat, load_format
from forethought.types import Arm, Message

SWITCHES = ("enable_thinking", "thinking")
"""Variables with which templates of common chat models turn thinking on and off."""
QUESTION = (Message(role="user", content="What is 2 + 3?"),)


def refuse_dishonest_templates(recipe: Recipe) -> None:
    """Render a question for each arm.

    Raises: ValueError if the direct arm is asked to think, or the thought arm cannot.
    """
    path = recipe.model.path
    tokenizer = loading.load_tokenizer(recipe.model.source)
    thought_format = load_format(recipe.thought_format)

    def rendered(arm: Arm, **switch: bool) -> str:
        template = rendering.template_variables(recipe.model.of_arm(arm))
        ids = rendering.render(tokenizer, QUESTION, template | switch)
        return str(tokenizer.decode(list(ids), skip_special_tokens=False)).rstrip()

    switch = next(
        (variable for variable in SWITCHES if _turns(rendered, recipe.arms[0], variable)), None
    )
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
    by_template = thought_format.thinks and thought_format.instruction is None
    if "thought" not in recipe.arms or not by_template:
        return
    if rendered("thought").endswith(_closing(thought_format)):
        raise ValueError(
            f"model.template: the chat template of {path} ends the thought before it begins, "
            f"so the thought arm cannot think; set model.template={{thought: {{{name}: true}}}}"
        )


def _turns(rendered: Any, arm: Arm, switch: str) -> bool:
    return rendered(arm, **{switch: True}) != rendered(arm, **{switch: False})


def _opening(thought_format: ThoughtFormat) -> tuple[str, ...]:
    return (*thought_format.thought_starts_after, *(opening for opening, _ in COMMON_TAGS))


def _closing(thought_format: ThoughtFormat) -> tuple[str, ...]:
    return (*thought_format.response_starts_after, *(closing for _, closing in COMMON_TAGS))
