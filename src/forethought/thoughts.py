"""Thought formats: the instruction before a query, the split of an output into its two sides.

One state machine does all the splitting. `ThoughtFormat.parse` feeds it the whole text,
`ThoughtFormat.stream` lets a server feed it chunk by chunk; for every way of cutting the text the
result is the same. The paper says only "string matching" (Wu et al. 2024, section 2.1); the exact
rules are ours and stand at `Splitter`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import yaml
from pydantic import Field, ValidationError, model_validator

from forethought.config import Shape, explain
from forethought.types import FinishReason, Message, ParsedOutput, ParseStatus

FORMAT_FILE = "thought_format.json"
"""Name of the format's file beside the weights of every checkpoint we write."""


class ThoughtFormat(Shape):
    """How a model is asked to think, and how its thought is told from its response.

    Example: `ThoughtFormat(name="short", instruction="Think first, then answer after <A>.",
    response_starts_after=("<A>",))`
    """

    name: str = Field(min_length=1)
    """Shown in reports."""
    instruction: str | None = None
    """Put in front of the user's last message; `None` leaves the message as it is."""
    thought_starts_after: tuple[str, ...] = ()
    """Spellings of the thought marker; empty: the thought starts with the output."""
    thought_marker_optional: bool = False
    """The thought marker is dropped where it opens the output and not missed elsewhere."""
    response_starts_after: tuple[str, ...] = ()
    """Spellings of the response marker; empty: there is no thought, all is response."""

    @model_validator(mode="after")
    def _markers_are_unambiguous(self) -> Self:
        if self.thought_starts_after and not self.response_starts_after:
            raise ValueError("response_starts_after: a format with thoughts needs it")
        for markers in (self.thought_starts_after, self.response_starts_after):
            for one in markers:
                if not one.strip():
                    raise ValueError("a marker must contain more than white space")
                if any(one in other for other in markers if other is not one):
                    raise ValueError(f"marker {one!r} is contained in another marker")
        return self

    @property
    def thinks(self) -> bool:
        """Whether outputs have a thought at all."""
        return bool(self.response_starts_after)

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

    def stream(self) -> Splitter:
        """A splitter for one output that arrives in chunks."""
        return Splitter(self)

    def parse(self, text: str, finish_reason: FinishReason = "stop") -> ParsedOutput:
        """Split a whole output."""
        splitter = Splitter(self)
        splitter.feed(text)
        return splitter.finish(finish_reason)

    def strip_thought(self, text: str) -> str:
        """An assistant message of the conversation's history without its thought.

        A message that opens a thought and never answers becomes empty; one without any marker
        stays as it is.
        """
        if not self.thinks:
            return text
        splitter = Splitter(self)
        splitter.feed(text)
        parsed = splitter.finish("stop")
        if parsed.response is not None:
            return parsed.response
        unmarked = parsed.status is ParseStatus.NO_RESPONSE and not splitter.saw_marker
        return text if unmarked else ""


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
DIRECT = ThoughtFormat(name="direct")

THOUGHT_FORMATS = {one.name: one for one in (GENERIC, SPECIFIC, TAGS, DIRECT)}


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
        )
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"thought_format: {path} is not readable YAML: {error}") from error
    try:
        return ThoughtFormat.model_validate(fields)
    except ValidationError as error:
        raise ValueError(f"thought_format: {path}: {explain(error, ThoughtFormat)}") from error


def save_format(thought_format: ThoughtFormat, folder: Path) -> None:
    """Write the format beside a checkpoint's weights."""
    text = thought_format.model_dump_json(indent=2) + "\n"
    (folder / FORMAT_FILE).write_text(text, encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What a chunk added to each side; either may be empty.

    Example: `Delta(thought="", response="The answer")`
    """

    thought: str
    response: str


class _Trimmed:
    """Passes text on without the white space at its two ends, as soon as that is certain."""

    def __init__(self) -> None:
        self.text = ""
        self._held = ""

    def push(self, text: str) -> str:
        text = self._held + text
        if not self.text:
            text = text.lstrip()
        body = text.rstrip()
        self._held = text[len(body) :]
        self.text += body
        return body


class Splitter:
    """Splits one output; feed it chunks in order, then finish it.

    Rules: the first response marker ends the thought and a later one is ordinary text. Where a
    format has a required thought marker, a response marker before it does not count. Text before
    the thought marker belongs to neither side. White space around both sides is dropped.
    """

    def __init__(self, thought_format: ThoughtFormat) -> None:
        self._format = thought_format
        self._buffer = ""
        self._thought = _Trimmed()
        self._response = _Trimmed()
        self._consumed = 0
        self._response_offset: int | None = None
        self.saw_marker = False
        """Whether a thought marker has been met."""
        self._state = self._before_thought
        if not thought_format.thinks:
            self._state = self._in_response
        elif not thought_format.thought_starts_after:
            self._state = self._in_thought

    def feed(self, chunk: str) -> Delta:
        """Take the next chunk; returns what became certain, in the order it is to be shown."""
        self._buffer += chunk
        thought, response = "", ""
        while True:
            state = self._state
            delta = state()
            thought += delta.thought
            response += delta.response
            if self._state == state:
                return Delta(thought=thought, response=response)

    def finish(self, finish_reason: FinishReason) -> ParsedOutput:
        """The result once the output has ended, by its end token or by the token limit."""
        if self._state == self._before_thought and self._format.thought_marker_optional:
            self._state = self._in_thought
        if self._state == self._in_thought:
            self._thought.push(self._take(len(self._buffer)))
        thought = self._thought.text if self._format.thinks else None
        if self._state != self._in_response:
            seen = thought if self._state == self._in_thought else None
            return ParsedOutput(
                status=ParseStatus.NO_RESPONSE, thought=seen, response=None, response_offset=None
            )
        response = self._response.text
        if finish_reason == "length":
            status = ParseStatus.TRUNCATED
        elif not response:
            status = ParseStatus.EMPTY_RESPONSE
        else:
            status = ParseStatus.COMPLETE
        return ParsedOutput(
            status=status,
            thought=thought,
            response=response if status is ParseStatus.COMPLETE else None,
            response_offset=self._response_offset,
        )

    def _take(self, count: int) -> str:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        self._consumed += count
        return taken

    def _before_thought(self) -> Delta:
        markers = self._format.thought_starts_after
        if self._format.thought_marker_optional:
            self._take(len(self._buffer) - len(self._buffer.lstrip()))
            opened = [one for one in markers if self._buffer.startswith(one)]
            if opened:
                self._take(len(opened[0]))
                self.saw_marker = True
            elif any(one.startswith(self._buffer) for one in markers):
                return Delta(thought="", response="")
            self._state = self._in_thought
            return Delta(thought="", response="")
        found = _first_marker(self._buffer, markers)
        if found is None:
            self._take(len(self._buffer) - possible_start(self._buffer, markers))
        else:
            self._take(found.stop)
            self.saw_marker = True
            self._state = self._in_thought
        return Delta(thought="", response="")

    def _in_thought(self) -> Delta:
        markers = self._format.response_starts_after
        found = _first_marker(self._buffer, markers)
        if found is None:
            certain = self._take(len(self._buffer) - possible_start(self._buffer, markers))
        else:
            certain = self._take(found.start)
            self._take(found.stop - found.start)
            self._state = self._in_response
        return Delta(thought=self._thought.push(certain), response="")

    def _in_response(self) -> Delta:
        if self._response_offset is None and self._buffer.strip():
            blank = len(self._buffer) - len(self._buffer.lstrip())
            self._response_offset = self._consumed + blank
        return Delta(thought="", response=self._response.push(self._take(len(self._buffer))))


def _first_marker(text: str, markers: Sequence[str]) -> slice | None:
    """Where the first marker stands; no marker contains another, so first start is first end."""
    hits = [(start, one) for one in markers if (start := text.find(one)) >= 0]
    if not hits:
        return None
    start, one = min(hits)
    return slice(start, start + len(one))


def possible_start(text: str, markers: Sequence[str]) -> int:
    """Length of the longest end of `text` with which a marker could begin, 0 if there is none."""
    longest = 0
    for one in markers:
        start = text.find(one[0], max(len(text) - len(one) + 1, 0))
        while start >= 0 and not one.startswith(text[start:]):
            start = text.find(one[0], start + 1)
        if start >= 0:
            longest = max(longest, len(text) - start)
    return longest


def first_response_token(
    token_ids: Sequence[int], offset: int | None, decode: Callable[[Sequence[int]], str]
) -> int:
    """Index of the first token that contributes a character at or after `offset` of the text.

    `len(token_ids)` where no response begins (`offset` is None).
    """
    if offset is None:
        return len(token_ids)
    low, high = 0, len(token_ids)
    while low < high:
        middle = (low + high + 1) // 2
        if len(decode(token_ids[:middle])) <= offset:
            low = middle
        else:
            high = middle - 1
    return low
