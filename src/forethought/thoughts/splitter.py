"""The one state machine that splits outputs, fed a whole text or a piece at a time.

The paper says only "string matching" (Wu et al. 2024, section 2.1); the rules are ours. What a
marker is stands in markers.py; what follows which stands at `Splitter`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from forethought.thoughts.markers import Markers, Surroundings, markers_of
from forethought.types import FinishReason, ParsedOutput, ParseStatus

OPENING = "([{"
"""What may stand between a space and a marker that is written of."""


class SplitRules(Protocol):
    """What a splitter must know of a thought format."""

    @property
    def thought_starts_after(self) -> tuple[str, ...]: ...
    @property
    def thought_marker_optional(self) -> bool: ...
    @property
    def thought_must_open(self) -> bool: ...
    @property
    def response_starts_after(self) -> tuple[str, ...]: ...
    @property
    def markers_are_tokens(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What a chunk added to each side; either may be empty.

    Example: `Delta(thought="", response="The answer")`
    """

    thought: str = ""
    response: str = ""
    restart: int | None = None
    """Where in `response` the response begins anew: all of it before was a thought's."""


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
    """Splits one output; feed it chunks in order, the last one with the output's end.

    The first response marker ends the thought. Where a thought marker follows it before anything
    else, the thought goes on, and what stood between is part of it. Once the response has begun,
    markers in it are ordinary text.

    With `served` they are not. In any spelling, a thought marker begins a further thought: from it
    on all is held back until a response marker ends it, and is taken out of the response. If the
    output ends first, it was text where the marker stood within a line, behind a space. It stays
    hidden where the marker began or ended a line or was glued to a word, where a limit cut it off
    and where markers are tokens. A second response marker that begins a line, or is a token, says
    that what was taken for the response was thought still: the response begins anew behind it
    (`Delta.restart`).

    With `strict`, for an output that was to have no thought, all markers count in any spelling, and
    a thought that is still open at the end is never shown.

    Where a format has a required thought marker, a response marker before it does not count. Text
    before the thought marker belongs to neither side. White space around both sides is dropped.
    """

    def __init__(self, rules: SplitRules, *, served: bool = False, strict: bool = False) -> None:
        self._rules = rules
        opening, closing = rules.thought_starts_after, rules.response_starts_after
        exact = rules.markers_are_tokens
        self._opening = markers_of(opening, any_spelling=strict, exact=exact)
        self._closing = markers_of(closing, any_spelling=strict, exact=exact)
        self._served = served and bool(closing)
        self._later_closing = markers_of(closing, any_spelling=True, exact=exact)
        """What ends a further thought, and what a response begins anew behind."""
        self._later = markers_of((*opening, *closing), any_spelling=True, exact=exact)
        """All that is watched for in a response."""
        self._exact, self._strict = exact, strict
        self._buffer = ""
        self._before = Surroundings()
        self._consumed = 0
        self._end: FinishReason | None = None
        self._thought = _Trimmed()
        self._response = _Trimmed()
        self._border = ""
        """What has been read since the thought ended, while it may yet go on."""
        self.saw_marker = False
        """Whether a thought marker has been met."""
        self.response_offset: int | None = None
        """Where the response begins in the text (characters), once it has."""
        self.cuts = 0
        """Thoughts that were taken out of the response."""
        self.restarts = 0
        """How often the response has begun anew."""
        self._again = False
        """Whether a state that stays has left text to read."""
        self._hides_open = False
        """Whether what may be a further thought stays hidden if the output ends."""
        self._state = self._before_thought
        if not rules.response_starts_after:
            self._state = self._in_response
        elif not rules.thought_starts_after:
            self._state = self._in_thought

    @property
    def met_response(self) -> bool:
        """Whether the thought has ended, or there is none."""
        return self._state not in (self._before_thought, self._in_thought)

    @property
    def withholding(self) -> bool:
        """Whether a thought may have begun inside the response."""
        return self._state == self._in_later_thought

    @property
    def unclosed_fence(self) -> str:
        """A line that ends the fenced block which is open, behind which no marker would count."""
        return "\n```\n" if self._before.behind(self._buffer + "\n").fenced else ""

    def feed(self, chunk: str, *, end: FinishReason | None = None) -> Delta:
        """Take the next chunk; returns what became certain, in the order it is to be shown.

        `end` says that it is the last one, and how the output ended.
        """
        self._buffer += chunk
        self._end = end
        thought, response, restart = "", "", None
        # A state that hands over leaves text for the next; one that stays has read what it can.
        while True:
            state, self._again = self._state, False
            delta = state()
            thought += delta.thought
            response += delta.response
            if delta.restart is not None:
                restart = len(response)
            if self._state == state and not self._again:
                return Delta(thought=thought, response=response, restart=restart)

    def finish_with(self, text: str, finish_reason: FinishReason) -> ParsedOutput:
        """Feed a whole output, or the rest of one, and finish."""
        self.feed(text, end=finish_reason)
        return self.finish(finish_reason)

    def finish(self, finish_reason: FinishReason) -> ParsedOutput:
        """The result once the output has ended, by its end token or by the token limit.

        A response is given only where it is complete.
        """
        if self._end is None:
            self.feed("", end=finish_reason)
        thought = self._thought.text if self._has_thought else None
        if not self.met_response:
            return ParsedOutput(
                status=ParseStatus.NO_RESPONSE, thought=thought, response=None, response_offset=None
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
            response_offset=self.response_offset,
        )

    @property
    def _has_thought(self) -> bool:
        if self._rules.thought_must_open:
            return self.saw_marker or self.cuts > 0 or self.restarts > 0
        return bool(self._rules.response_starts_after) and self._state != self._before_thought

    def _take(self, count: int) -> str:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        self._before = self._before.behind(taken)
        self._consumed += count
        return taken

    def _skip_blanks(self) -> str:
        return self._take(len(self._buffer) - len(self._buffer.lstrip()))

    def _read_to(self, markers: Markers) -> tuple[str, str]:
        """What certainly stands before the first marker, and the marker once it is known."""
        search = markers.search(self._buffer, self._before, ended=self._end is not None)
        return self._take(search.certain), self._take(search.marker)

    def _opened(self) -> str | None:
        """The thought marker if the buffer begins with it; `None` while that is open."""
        search = self._opening.search(self._buffer, self._before, ended=self._end is not None)
        if search.certain or (self._end is not None and not search.marker):
            return ""
        self.saw_marker = self.saw_marker or bool(search.marker)
        return self._take(search.marker) or None

    def _before_thought(self) -> Delta:
        if self._rules.thought_marker_optional or self._rules.thought_must_open:
            self._skip_blanks()
            # Here a thought marker counts at the very start only.
            opened = self._opened()
            if opened or (opened is not None and not self._rules.thought_must_open):
                self._state = self._in_thought
            elif opened is not None:
                self._state = self._in_response
            return Delta()
        # A required marker may come late; what is read on the way to it belongs to neither side.
        _, marker = self._read_to(self._opening)
        if marker:
            self.saw_marker = True
            self._state = self._in_thought
        return Delta()

    def _in_thought(self) -> Delta:
        certain, self._border = self._read_to(self._closing)
        if self._border:
            self._state = self._behind_thought
        return Delta(thought=self._thought.push(certain))

    def _behind_thought(self) -> Delta:
        self._border += self._skip_blanks()
        # With nothing behind the marker yet, a thought marker may still follow it.
        opened = self._opened() if self._buffer or self._end is not None else None
        if opened is None:
            return Delta()
        if opened:
            self._state = self._in_thought
            return Delta(thought=self._thought.push(self._border + opened))
        self._state = self._in_response
        return Delta()

    def _in_response(self) -> Delta:
        if self.response_offset is None and self._buffer.strip():
            blank = len(self._buffer) - len(self._buffer.lstrip())
            self.response_offset = self._consumed + blank
        if not self._served:
            return Delta(response=self._response.push(self._take(len(self._buffer))))
        search = self._later.search(self._buffer, self._before, ended=self._end is not None)
        delta = Delta(response=self._response.push(self._take(search.certain)))
        if not search.marker:
            return delta
        line = self._before.line
        begins_a_line = not line.strip() or not self._response.text
        marker = self._take(search.marker)
        if not self._later_closing.named_in(marker):
            self._border, self._state = marker, self._in_later_thought
            # Who writes of a marker puts a space before it.
            glued = not line[-1:].isspace() and line[-1:] not in OPENING
            self._hides_open = self._strict or self._exact or begins_a_line or glued
            return delta
        self._again = True
        if self._exact or begins_a_line:
            self._begin_anew()
            delta = replace(delta, restart=len(delta.response))
        else:
            delta = Delta(response=delta.response + self._response.push(marker))
        return delta

    def _begin_anew(self) -> None:
        """What was taken for the response was thought."""
        self._thought.push("\n\n" + self._response.text)
        self._response = _Trimmed()
        self.response_offset = None
        self.restarts += 1

    def _in_later_thought(self) -> Delta:
        markers, ended = self._later_closing, self._end is not None
        search = markers.search(self._buffer, self._before, ended=ended)
        if not search.marker and not ended:
            return Delta()
        self._state = self._in_response
        if search.marker:
            thought = self._take(search.certain)
            self._take(search.marker)
            return self._cut(thought)
        # Nothing can follow, so the rest is not read again.
        rest = self._take(len(self._buffer))
        ends_a_line = not rest.partition("\n")[0].strip()
        if self._hides_open or ends_a_line or self._end != "stop":
            return self._cut(rest)
        return Delta(response=self._response.push(self._border + rest))

    def _cut(self, thought: str) -> Delta:
        self.cuts += 1
        return Delta(thought=self._thought.push("\n\n" + thought))


def first_response_token(
    token_ids: Sequence[int], offset: int | None, decode: Callable[[Sequence[int]], str]
) -> int:
    """Index of the first token that contributes a character at or after `offset` of the text.

    `len(token_ids)` where no response begins (`offset` is None).
    """
    if offset is None:
        return len(token_ids)
    # Beginnings are decoded, not single tokens, which may hold parts of characters only.
    low, high = 0, len(token_ids)
    while low < high:
        middle = (low + high + 1) // 2
        if len(decode(token_ids[:middle])) <= offset:
            low = middle
        else:
            high = middle - 1
    return low
