"""What the warm start shows a policy before each prompt, and in which format.

Demonstrations are earlier turns: a user's, asked as the arm asks, and an assistant's, thought and
response within the format's markers. A chat template may leave such markers out of earlier turns,
or they may be control tokens, which no content can spell: then the format that outputs are sampled
in is `generic`, and what is trained on is written again in the arm's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from forethought.config import Recipe
from forethought.models import loading, rendering
from forethought.prompts import read_demonstrations
from forethought.runs.layout import WARM_START, StageRef
from forethought.stages.policies.sampled_policy import longest_sequence
from forethought.thoughts import GENERIC, ThoughtFormat
from forethought.types import Demonstration, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIELD = "warm_start.demonstrations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Demonstrations as turns of a conversation.

    Example: `Shown(thought_format=GENERIC, turns=(Message(…), Message(…)))`
    """

    thought_format: ThoughtFormat
    """Of the turns, and of the outputs that are sampled after them."""
    turns: tuple[Message, ...]

    def ask(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """A conversation behind the demonstrations; its system turn stays in front of them."""
        own = self.thought_format.apply(messages)
        system = [message for message in own[:1] if message.role == "system"]
        return (*system, *self.turns, *own[len(system) :])


def arm_demonstrations(ref: StageRef) -> list[Demonstration]:
    """The recipe's demonstrations as the arm has them: in the direct arm without their thoughts, in
    the hybrid arm every second one without its thought.

    Raises: ValueError naming the first that is none, or that does not parse in the arm's format.
    """
    warm, thought_format = ref.recipe.warm_start, ref.thought_format
    assert warm is not None
    found = read_demonstrations(warm.demonstrations, thought_format.strip_thought)
    if not thought_format.thinks:
        return [replace(each, thought=None) for each in found]
    if thought_format.hybrid and not warm.samples:
        # Records that are trained on show in which mode each is to be.
        for each in found:
            _refuse_unparsed(each, thought_format)
        return found
    for each in found:
        if each.thought is None:
            raise ValueError(
                f"{FIELD}: {each.where}: it has no thought, and the {ref.arm} arm is to learn to "
                "write one; give it `thought`, or leave that arm out (arms: [direct])"
            )
        _refuse_unparsed(each, thought_format)
    if thought_format.hybrid:
        return [replace(each, thought=None) if i % 2 else each for i, each in enumerate(found)]
    return found


def _refuse_unparsed(each: Demonstration, thought_format: ThoughtFormat) -> None:
    parsed = thought_format.parse(thought_format.write(each.thought, each.response))
    if (parsed.thought, parsed.response) != (each.thought, each.response):
        raise ValueError(
            f"{FIELD}: {each.where}: written in thought_format {thought_format.name!r} it does not "
            f"parse into the same thought and response ({parsed.status}); take the format's "
            f"markers out of its texts: {', '.join(map(repr, thought_format.markers))}"
        )


def shown_demonstrations(ref: StageRef) -> Shown:
    """What the arm's policy is shown, in the arm's format where the chat template shows it whole.

    Raises: ValueError naming a demonstration that cannot be shown, or that they are too long.
    """
    recipe = ref.recipe
    tokenizer = loading.load_tokenizer(recipe.model.source)
    template = ref.policy.template
    found = arm_demonstrations(ref)
    shown = _turns(ref.thought_format, found)
    spelled = not ref.thought_format.markers_are_tokens and _whole(tokenizer, shown, template)
    plain = GENERIC.as_hybrid() if ref.thought_format.hybrid else GENERIC
    if not spelled and ref.thought_format.thinks:
        for each in found:
            _refuse_unparsed(each, plain)
        shown = _turns(plain, found)
    if not _whole(tokenizer, shown, template):
        raise ValueError(
            f"{FIELD}: the chat template of {recipe.model.path} does not show earlier answers "
            "whole, so nothing can be demonstrated to the model; give a file of what it is to "
            "write and warm_start.samples: 0, which trains on it"
        )
    _refuse_too_long(ref, len(rendering.render(tokenizer, shown.ask(_SHORT), template)))
    return shown


def look_at_demonstrations(recipe: Recipe) -> None:
    """Read them for every arm, and see that what is to be shown can be.

    Raises: ValueError as `shown_demonstrations` does.
    """
    assert recipe.warm_start is not None
    for arm in recipe.arms:
        ref = StageRef(recipe=recipe, stage="rollouts", arm=arm, index=WARM_START)
        if recipe.warm_start.samples:
            shown_demonstrations(ref)
        else:
            arm_demonstrations(ref)


_SHORT = (Message(role="user", content="Hello."),)


def _turns(thought_format: ThoughtFormat, found: Sequence[Demonstration]) -> Shown:
    turns: list[Message] = []
    for each in found:
        # A conversation has one system turn, and that is the prompt's own.
        asked = [message for message in each.prompt.messages if message.role != "system"]
        text = thought_format.write(each.thought, each.response)
        turns += [*thought_format.apply(asked), Message(role="assistant", content=text)]
    return Shown(thought_format=thought_format, turns=tuple(turns))


def _whole(tokenizer: PreTrainedTokenizerBase, shown: Shown, template: dict[str, Any]) -> bool:
    """Whether every assistant turn stands in the rendered conversation as it was written."""
    text = rendering.render_text(tokenizer, shown.ask(_SHORT), template)
    return all(turn.content in text for turn in shown.turns if turn.role == "assistant")


def _refuse_too_long(ref: StageRef, tokens: int) -> None:
    recipe = ref.recipe
    context = longest_sequence(recipe)
    limit = recipe.sampling.max_new_tokens
    if context is not None and tokens + limit > context:
        raise ValueError(
            f"{FIELD}: with a short prompt they are {tokens} tokens, and with sampling."
            f"max_new_tokens ({limit}) more than the context of {recipe.model.path} ({context}); "
            "give fewer or shorter ones, or a smaller sampling.max_new_tokens"
        )
