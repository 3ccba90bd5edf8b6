"""Thought formats: the instruction before a query, and the markers that an output is split at.

`ThoughtFormat.parse` feeds a splitter (splitter.py) the whole text, `ThoughtFormat.stream` lets a
server feed it chunk by chunk; for every way of cutting the text the result is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, model_validator

from forethought.config import ConfigModel, explain
from forethought.config.hints import did_you_mean
from forethought.config.yaml_text import read_yaml
from forethought.thoughts.markers import Markers
from forethought.thoughts.splitter import Splitter
from forethought.types import FinishReason, Message, ParsedOutput, ParseStatus

HYBRID_SENTENCE = "Think first where it helps."
"""What the hybrid arm is asked besides the format's own instruction."""
FORMAT_FILE = "thought_format.json"
"""Name of the format's file beside the weights of every checkpoint we write."""


class ThoughtFormat(ConfigModel):
    """How a model is asked to think, and how its thought is told from its response.

    Example: `ThoughtFormat(name="short", instruction="Think first, then answer after <A>.",
    response_starts_after=("<A>",))`
    """

    name: str = Field(min_length=1)
    """Shown in reports."""
    instruction: str | None = None
    """Put in front of the user's last message; `None` leaves the message as it is."""
    hybrid_instruction: str | None = Field(default=None, exclude=True)
    """The same for the hybrid arm, whose outputs may think or not; by default the instruction,
    where there is one, and behind it `Think first where it helps.`"""
    hybrid: bool = Field(default=False, exclude_if=lambda value: not value)
    """The policy decides: an output thinks where a thought marker opens it, any other is all
    response. Made of a format by `as_hybrid`."""
    thought_starts_after: tuple[str, ...] = ()
    """Spellings of the thought marker; empty: the thought starts with the output."""
    thought_marker_optional: bool = False
    """The thought marker is dropped where it opens the output and not missed elsewhere."""
    thought_must_open: bool = False
    """Nobody asks for a thought: an output has one only where a thought marker opens it. All of any
    other output is response."""
    response_starts_after: tuple[str, ...] = ()
    """Spellings of the response marker; empty: there is no thought, all is response."""
    markers_are_tokens: bool = Field(default=False, exclude_if=lambda value: not value)
    """Each marker is a token of the tokenizer, and nothing but that token is a marker: text that
    spells one is text. Set for a format whose markers the tokenizer has (models/marker_tokens.py);
    true of a format that cannot do without."""

    @model_validator(mode="after")
    def _markers_are_unambiguous(self) -> Self:
        if self.hybrid and not (self.thought_must_open and self.thought_starts_after):
            raise ValueError(
                "hybrid: give a format with thought_starts_after, and let the recipe's arm hybrid "
                "make a hybrid one of it"
            )
        if self.thought_starts_after and not self.response_starts_after:
            raise ValueError("response_starts_after: a format with thoughts needs it")
        for markers in (self.thought_starts_after, self.response_starts_after):
            fold = Markers(markers).fold
            for marker in markers:
                if not marker.strip():
                    raise ValueError("a marker must contain more than white space")
                if any(fold(marker) in fold(other) for other in markers if other is not marker):
                    raise ValueError(f"marker {marker!r} is contained in another marker")
        return self

    @property
    def thinks(self) -> bool:
        """Whether outputs are meant to have a thought, or may."""
        return bool(self.response_starts_after) and (self.hybrid or not self.thought_must_open)

    @property
    def must_think(self) -> bool:
        """Whether every output is meant to have a thought."""
        return self.thinks and not self.hybrid

    @property
    def can_answer_directly(self) -> bool:
        """Whether an output can be asked for without a thought: by leaving the instruction out."""
        return not self.thinks or self.instruction is not None

    @property
    def thinks_unmarked(self) -> bool:
        """Whether a thought may begin without a marker that says so."""
        return self.thinks and (not self.thought_starts_after or self.thought_marker_optional)

    @property
    def markers(self) -> tuple[str, ...]:
        """All spellings of both markers."""
        return (*self.thought_starts_after, *self.response_starts_after)

    def apply(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The conversation with the instruction in front of the last user message.

        Raises: ValueError if the conversation does not end with a user message.
        """
        if not messages or messages[-1].role != "user":
            raise ValueError("a conversation must end with a user message to be answered")
        if self.instruction is None:
            return tuple(messages)
        last = messages[-1]
        content = f"{self.instruction}\n\nUser query: {last.content}"
        return (*messages[:-1], replace(last, content=content))

    def write(self, thought: str | None, response: str, *, opened: bool = False) -> str:
        """An output of these two, markers in their first spelling, as `parse` splits it again.

        In a format without thoughts it is the response alone. `opened` leaves out the thought
        marker, for a prompt that ends with it.
        """
        if not self.thinks or thought is None:
            return response
        opening = "" if opened else "".join(f"{each}\n" for each in self.thought_starts_after[:1])
        return f"{opening}{thought}\n\n{self.response_starts_after[0]}\n{response}"

    def stream(self, *, served: bool = False, strict: bool = False) -> Splitter:
        """A splitter for an output in chunks; with `served` its response is watched to the end.

        `strict` is for an output that was to have no thought, see `Splitter`.
        """
        return Splitter(self, served=served, strict=strict)

    def parse(
        self, text: str, finish_reason: FinishReason = "stop", *, served: bool = False
    ) -> ParsedOutput:
        """Split a whole output."""
        return self.stream(served=served).finish_with(text, finish_reason)

    def strip_thought(self, text: str) -> str:
        """An assistant message of the conversation's history without its thought.

        Where no thought opens the message it stays as it is; in a format whose thoughts have no
        marker of their own, a response marker says that there is one. A message that opens a
        thought and never answers becomes empty.
        """
        if not self.thinks:
            return text
        opens = bool(self.thought_starts_after)
        rules = self.model_copy(update={"thought_must_open": opens}) if opens else self
        parsed = rules.parse(text)
        if parsed.thought is None or (not opens and parsed.status is ParseStatus.NO_RESPONSE):
            return text
        return parsed.response or ""

    def as_hybrid(self) -> ThoughtFormat:
        """The format in which an output either opens with the thought marker and is split as this
        one splits it, or is a response and nothing else.

        Raises: ValueError if nothing marks where a thought begins.
        """
        if not self.thinks or not self.thought_starts_after:
            raise ValueError(
                f"thought_format: {self.name!r} does not mark where a thought begins, so that "
                "nothing would tell an output that thinks from one that does not; for the arm "
                "hybrid take generic, tags or tokens, or give it thought_starts_after"
            )
        asked = " ".join(filter(None, (self.instruction, HYBRID_SENTENCE)))
        return self.model_copy(
            update={
                "name": f"{self.name}-hybrid",
                "instruction": self.hybrid_instruction or asked,
                "hybrid": True,
                "thought_must_open": True,
                "thought_marker_optional": False,
            }
        )

    def unasked(self) -> ThoughtFormat:
        """How outputs are split that nobody asked to think: a model may do so all the same.

        A thought has this format's own markers then, or those of common chat models.
        """
        own = (self.thought_starts_after, self.response_starts_after)
        if not self.thought_starts_after:
            own = ((), ())
        opening, closing = (
            (*mine, *(marker for marker in common if not _clash(marker, mine)))
            for mine, common in zip(own, zip(*COMMON_TAGS, strict=True), strict=True)
        )
        return ThoughtFormat(
            name="direct",
            thought_starts_after=opening,
            thought_must_open=True,
            response_starts_after=closing,
        )


def _clash(marker: str, others: Sequence[str]) -> bool:
    return any(marker in other or other in marker for other in others)


COMMON_TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
)
"""What common chat models put around thoughts."""


def _spellings(marker: str) -> tuple[str, ...]:
    return (marker, marker.replace("Here is", "Here's"))


GENERIC = ThoughtFormat(
    name="generic",
    instruction=(
        "Respond to the following user query in a comprehensive and detailed way. You can write "
        "down your thought process before responding. Write your thoughts after "
        '"Here is my thought process:" and write your response after "Here is my response:".'
    ),
    thought_starts_after=_spellings("Here is my thought process:"),
    response_starts_after=_spellings("Here is my response:"),
)
SPECIFIC = ThoughtFormat(
    name="specific",
    instruction=(
        "Respond to the following user query in a comprehensive and detailed way. But first write "
        "down your internal thoughts. This must include your draft response and its evaluation. "
        'After this, write your final response after "<R>".'
    ),
    response_starts_after=("<R>",),
)
TAGS = ThoughtFormat(
    name="tags",
    thought_starts_after=("<think>",),
    thought_marker_optional=True,
    response_starts_after=("</think>",),
)
TOKENS = ThoughtFormat(
    name="tokens",
    thought_starts_after=("<|thought|>",),
    thought_marker_optional=True,
    response_starts_after=("<|response|>",),
    markers_are_tokens=True,
)
DIRECT = ThoughtFormat(name="direct").unasked()
PLAIN = ThoughtFormat(name="plain")
"""For texts that are responses already: nothing in them is a marker."""

THOUGHT_FORMATS = {
    thought_format.name: thought_format
    for thought_format in (GENERIC, SPECIFIC, TAGS, TOKENS, DIRECT)
}


def load_format(name: str) -> ThoughtFormat:
    """A built-in format by name, or one of the user's own from a YAML or JSON file.

    Raises: ValueError if it is neither, or if the file does not describe a format.
    """
    if name in THOUGHT_FORMATS:
        return THOUGHT_FORMATS[name]
    path = Path(name).expanduser()
    if not path.is_file():
        raise ValueError(
            f"thought_format: {name!r} is neither a file nor one of {', '.join(THOUGHT_FORMATS)}"
            f"{did_you_mean(name, THOUGHT_FORMATS)}"
        )
    try:
        fields = read_yaml(path)
    except ValueError as error:
        raise ValueError(f"thought_format: {path} is not readable YAML: {error}") from error
    try:
        return ThoughtFormat.model_validate(fields)
    except ValidationError as error:
        raise ValueError(f"thought_format: {path}: {explain(error, ThoughtFormat)}") from error


def save_format(thought_format: ThoughtFormat, folder: Path) -> None:
    """Write the format beside a checkpoint's weights."""
    text = thought_format.model_dump_json(indent=2) + "\n"
    (folder / FORMAT_FILE).write_text(text, encoding="utf-8")
