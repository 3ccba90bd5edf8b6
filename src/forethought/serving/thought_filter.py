"""One output of a backend, read piece by piece: its sides, its limits, what of it is certain.

How tokens are counted. The response begins with the first piece that brings a character of it
other than white space. That piece counts as response, whole, even where it begins with the end of
the thought or with the marker; all pieces before it count as thought, markers and white space
included. A piece is never cut by a limit: `max_tokens` ends the response behind the piece that
reaches it. In the direct format everything counts as response.

Log-probabilities go out with their text. A token has its entry if, white space at its ends aside,
it lies wholly in the response that is shown: not one that holds a character of the thought or of
the marker, nor of what a stop string cut off, nor the end token. Where the tokens of a piece do not
join to its text (a character made of several), they are treated as one.

Behind a response marker that was forced a weak model may go on thinking. What it writes there is
held back until it writes a response marker itself, and then was thought; if the output ends, or has
all the tokens that the response may have, and none has come, it was the response, unless it begins
as the output did: then the thought was begun anew.

An output that was to have no thought is watched all the same. In a format whose thoughts have a
marker, one in any case of its letters begins a thought anywhere, and a thought that is open at the
end is never shown. In a format whose thoughts have none the whole output is held back: if a
response marker comes, what stands before it was thought; if the output ends, it was the response;
if a limit cuts it off, nobody knows, and none of it is shown.

A server's reasoning is thought wherever it comes. In a format without instruction, reasoning of
more than white space that comes before any text says that the text is the response; it is watched
as an output that nobody asked to think. Any other reasoning changes nothing about the text.

A thought marker inside the response may begin a further thought. All from there on is held back
until the thought has ended, and then was thought; what is still open at the output's end is text
only where the marker stood within a line. From the piece that completes the marker, pieces count as
thought in the one case and as response in the other. Log-probabilities end before it.

A second response marker says that the first one came too early: a model that names its marker in
its thought ends the thought by it. What was taken for the response was thought then, and the
response begins anew (`AnswerDelta.restart`). What a stream has shown by then it has shown; an
answer that is given whole does not have it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from forethought.serving.backends.base import AnswerDelta, AnswerRequest, Piece
from forethought.serving.response_logprobs import ResponseLogprobs
from forethought.serving.stop_strings import StopStrings
from forethought.thoughts import PLAIN, Delta, Splitter, ThoughtFormat
from forethought.types import FinishReason, ParseStatus

SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*(?=\s|$)|\n")
REPEATED = 40
"""Characters that a response does not share with the beginning of its output by chance."""
NOTHING = AnswerDelta(response="", thought="", logprobs=())


class ThoughtFilter:
    """Takes the pieces of one output and says what became certain of the answer.

    Example: `ThoughtFilter(question, THOUGHT_FORMATS["tags"], budget=1024).take(piece)`
    """

    def __init__(
        self, question: AnswerRequest, thought_format: ThoughtFormat, budget: int | None
    ) -> None:
        self._question = question
        self._format = thought_format
        self._thinking = question.think and thought_format.thinks
        self._budget = budget if self._thinking else None
        self._undecided = not question.think and thought_format.thinks_unmarked
        """Nobody asked for a thought, and only what comes can tell whether there is one."""
        self._sides = _Sides(
            thought_format,
            thinks=self._thinking,
            strict=thought_format.thinks and not question.think,
        )
        self._stops = StopStrings(question.stop)
        self._entries = ResponseLogprobs(keep_early=not self._thinking)
        self._written: list[tuple[str, str]] = []
        """Reasoning and text so far, kept while they may have to be gone on from."""
        self._marked = False
        """The response marker has been met, or was put there."""
        self._forced = ""
        """The markers that were put there, while it is open what comes behind them."""
        self._held: list[Piece] = []
        """What is held back until it is known what it is."""
        self._held_tokens = 0
        self._own_marker = PLAIN.stream()
        """Watches for a marker that the model writes itself in what is held back."""
        if self._undecided:
            self._own_marker = _response_marker(thought_format, strict=True)
        self._text_began = False
        self.begun = ""
        """What the backend is to go on from."""
        if thought_format.hybrid and question.mode == "think":
            self.begun = thought_format.thought_starts_after[0]
            self._sides.add(self.begun)
            self._entries.pass_over(self.begun)
            self._written.append(("", self.begun))
        self.answered = False
        """The response has begun."""
        self.finish_reason: FinishReason | None = None
        """Set when no more pieces are wanted."""
        self.spent = self._budget == 0
        """The thought budget is used up and no response marker has come."""
        self.reasoning_tokens = 0
        self.response_tokens = 0
        self._open_tokens = 0
        """Of what may turn out to be a further thought; counted among the response's until then."""

    @property
    def max_tokens(self) -> int | None:
        """New tokens that the backend may need from here on."""
        limit = self._question.max_tokens
        if not self._thinking or self._marked:
            return limit
        if limit is None or self._budget is None:
            return None
        return self._budget + limit

    def start_response(self) -> None:
        """End the thought: the markers are put behind what is written, to be gone on from."""
        whole = "".join(reasoning + text for reasoning, text in self._written)
        kept = _whole_sentences(whole)
        self._forced = self._ending(kept, "".join(text for _, text in self._written))
        self.begun = kept + self._forced
        if not self._sides.all_is_response:
            # By the rules of the sides, which are to find the same marker.
            self._own_marker = _response_marker(self._format, strict=False)
        self._marked, self.spent = True, False
        self._written.clear()

    def _ending(self, kept: str, split: str) -> str:
        """The markers behind which the response begins, behind an empty line.

        `kept` is what the model goes on from, `split` what the splitter has been fed.
        """
        markers = [self._format.response_starts_after[0]]
        if self._sides.wants_thought_marker:
            # A response marker does not count before the thought's.
            markers.insert(0, self._format.thought_starts_after[0])
        ending = "\n".join(markers)
        fence = self._format.stream()
        fence.feed(kept)
        leads = ("\n\n", "", " ") if kept else ("", "\n\n", " ")
        leads = (*leads, f"{fence.unclosed_fence}\n")
        for lead in leads:
            # Half a marker at the end of the text could become whole with what is put behind it.
            after = f"{lead}{ending}x"
            if all(self._format.parse(text + after).response == "x" for text in (kept, split)):
                return lead + ending
        return leads[0] + ending

    def take(self, piece: Piece) -> AnswerDelta:
        """Read the next piece.

        Sets `finish_reason` when the answer is complete, `spent` when the thought is to be ended.
        """
        if not self._forced and (not self._undecided or piece.text_is_response):
            return self._read(piece)
        self._held.append(piece)
        self._held_tokens += piece.tokens
        self._own_marker.feed(piece.text, end=piece.finish_reason)
        if self._undecided and self._own_marker.met_response:
            return self._release_thought()
        if self._own_marker.met_response and not self._sides.all_is_response:
            return self._release(self._before_own_marker())
        limit, ended = self._question.max_tokens, piece.finish_reason
        if ended is None and limit is not None and self._held_tokens >= limit:
            ended = "length"
        if ended is None:
            return NOTHING
        if self._undecided:
            return self._release("") if ended == "stop" else self._withhold(ended)
        return self._withhold(ended) if self._begins_anew() else self._release(self._forced)

    def _release_thought(self) -> AnswerDelta:
        """Read what was held back, which has proved to begin with a thought."""
        self._thinking = self._marked = True
        self._sides = _Sides(self._format, thinks=True, strict=True)
        self._entries = ResponseLogprobs(keep_early=False)
        return self._release("")

    def _withhold(self, ended: FinishReason) -> AnswerDelta:
        """End the output with what was held back as thought."""
        thought = "".join(piece.reasoning + piece.text for piece in self._held)
        self.reasoning_tokens += self._held_tokens
        self._held.clear()
        self.finish_reason = ended
        return AnswerDelta(response="", thought=thought, logprobs=())

    def _begins_anew(self) -> bool:
        """Whether what was held back begins as the output did that it was to go on from."""
        again = "".join(piece.text for piece in self._held).lstrip()[:REPEATED]
        return len(again) == REPEATED and self.begun.lstrip().startswith(again)

    def _before_own_marker(self) -> str:
        """What stands between a thought cut off and one that goes on: no marker may grow there."""
        opening = self._format.thought_starts_after[0] if self._sides.wants_thought_marker else ""
        return f"{self._sides.unclosed_fence}\n\n{opening}\n"

    def _release(self, between: str) -> AnswerDelta:
        """Read what was held back, behind this text."""
        self._forced, self._undecided = "", False
        self._entries.pass_over(between)
        deltas = [AnswerDelta(response="", thought=self._sides.add(between), logprobs=())]
        for piece in self._held:
            if self.finish_reason is None:
                deltas.append(self._read(piece))
        self._held.clear()
        return joined(deltas)

    def _read(self, piece: Piece) -> AnswerDelta:
        reasoning = self._reasoning_of(piece)
        delta = self._sides.feed(piece.text, end=piece.finish_reason)
        self._place(piece, delta, with_entries=not reasoning)
        self._count(piece, only_reasoning=bool(reasoning and not piece.text))
        shown, restart = self._shown_of(delta)
        thought = reasoning + delta.thought
        if self._stops.met:
            self.finish_reason = "stop"
        elif self._at_the_end(piece):
            shown += self._stops.flush()
        else:
            self._watch_budget(reasoning, piece.text)
        if not shown and not thought and restart is None:
            return NOTHING
        logprobs = tuple(self._entries.up_to(len(shown) - (restart or 0)))
        return AnswerDelta(response=shown, thought=thought, logprobs=logprobs, restart=restart)

    def _shown_of(self, delta: Delta) -> tuple[str, int | None]:
        """What stands before any stop string, and where in it the response begins anew."""
        before = self._stops.feed(delta.response[: delta.restart])
        if delta.restart is None or self._stops.met:
            return before, None
        # Of what was thought no stop string can have begun.
        self._stops = StopStrings(self._question.stop)
        return before + self._stops.feed(delta.response[delta.restart :]), len(before)

    def _reasoning_of(self, piece: Piece) -> str:
        if piece.text_is_response:
            self._sides.go_on_with(PLAIN)
        elif not self._text_began and self._format.instruction is None and piece.reasoning.strip():
            # A format without instruction has its reasoning taken out by the server that knows it.
            # With one, the text still has the markers that the instruction asked for.
            self._sides.go_on_with(self._format.unasked())
        self._text_began = self._text_began or bool(piece.text.strip())
        return piece.reasoning

    def _at_the_end(self, piece: Piece) -> bool:
        limit = self._question.max_tokens
        if piece.finish_reason is not None:
            self.finish_reason = piece.finish_reason
        elif self.answered and limit is not None and self.response_tokens >= limit:
            self.finish_reason = "length"
        return self.finish_reason is not None

    def _place(self, piece: Piece, delta: Delta, *, with_entries: bool) -> None:
        """Note where the response begins and where the tokens stand."""
        if delta.restart is not None:
            self.answered = False
            self.reasoning_tokens += self.response_tokens
            self.response_tokens = self._open_tokens = 0
        if delta.response[delta.restart :] and not self.answered:
            self.answered = True
            self._written.clear()
            self._entries.begin(self._sides.response_at)
        if self._sides.has_cuts:
            # Behind a hole it is not known any more which token has shown text.
            self._entries.end()
        if with_entries and piece.logprobs and self._question.top_logprobs is not None:
            self._entries.add(piece)
        self._entries.pass_over(piece.text)

    def _count(self, piece: Piece, *, only_reasoning: bool) -> None:
        if self._sides.thought_unasked and not self.answered:
            # What was taken for the beginning of a response is the thought's.
            self.reasoning_tokens += self.response_tokens + piece.tokens
            self.response_tokens = 0
        elif only_reasoning or (self._thinking and not self.answered):
            self.reasoning_tokens += piece.tokens
        else:
            self.response_tokens += piece.tokens
            self._recount(piece.tokens)

    def _recount(self, tokens: int) -> None:
        """Make the tokens of a further thought the thought's, once it is known to be one."""
        self._open_tokens += tokens
        if self._sides.took_a_cut():
            self.response_tokens -= self._open_tokens
            self.reasoning_tokens += self._open_tokens
        if not self._sides.withholding:
            self._open_tokens = 0

    def _watch_budget(self, reasoning: str, text: str) -> None:
        if self._budget is None or self._marked or self.answered:
            return
        self._written.append((reasoning, text))
        # A hybrid policy has not thought before it has said that it will.
        undecided = self._format.hybrid and not self._sides.saw_marker
        if self.reasoning_tokens < self._budget or undecided:
            return
        # With the reason `length`, an output is truncated only where its response marker has come.
        parsed = self._format.parse("".join(text for _, text in self._written), "length")
        self._marked = parsed.status is ParseStatus.TRUNCATED
        self.spent = not self._marked


def joined(deltas: Sequence[AnswerDelta]) -> AnswerDelta:
    """Several deltas as one."""
    response, restart = "", None
    for delta in deltas:
        if delta.restart is not None:
            restart = len(response) + delta.restart
        response += delta.response
    return AnswerDelta(
        response=response,
        thought="".join(delta.thought for delta in deltas),
        logprobs=tuple(entry for delta in deltas for entry in delta.logprobs),
        restart=restart,
    )


def _response_marker(thought_format: ThoughtFormat, *, strict: bool) -> Splitter:
    """Says whether a response marker has come, whether or not a thought marker came before it."""
    return thought_format.model_copy(update={"thought_starts_after": ()}).stream(strict=strict)


def _whole_sentences(text: str) -> str:
    """The text without a last sentence that is not complete, if that costs less than half of it.

    Behind half a sentence a model goes on with its thought whatever marker stands there.
    """
    ends = [found.end() for found in SENTENCE_END.finditer(text)]
    if ends and 2 * ends[-1] > len(text):
        text = text[: ends[-1]]
    return text.rstrip()


class _Sides:
    """The splitter of an output: the format's, or the one for outputs that nobody asked to think.

    Places are characters of the output from its beginning.
    """

    def __init__(self, thought_format: ThoughtFormat, *, thinks: bool, strict: bool) -> None:
        self._format = thought_format
        self._asked = thinks
        rules = thought_format if thinks else thought_format.unasked()
        self._splitter = rules.stream(served=True, strict=strict)
        self._start = 0
        """Where the splitter's text begins."""
        self._read = 0
        self._cuts_seen = 0

    @property
    def wants_thought_marker(self) -> bool:
        """Whether a response marker would not count yet."""
        if not self._asked or self._format.thought_marker_optional:
            return False
        return bool(self._format.thought_starts_after) and not self._splitter.saw_marker

    @property
    def saw_marker(self) -> bool:
        """Whether a thought marker has been met."""
        return self._splitter.saw_marker

    @property
    def thought_unasked(self) -> bool:
        """Whether the output thinks though nobody asked it to."""
        return not self._asked and self._splitter.saw_marker

    @property
    def all_is_response(self) -> bool:
        """Whether no marker ends a thought."""
        return not self._asked and not self.thought_unasked

    @property
    def response_at(self) -> int:
        """Where the response begins, once it has."""
        assert self._splitter.response_offset is not None
        return self._start + self._splitter.response_offset

    @property
    def unclosed_fence(self) -> str:
        """What ends a fenced block that is open."""
        return self._splitter.unclosed_fence

    @property
    def withholding(self) -> bool:
        """Whether a further thought may have begun inside the response."""
        return self._splitter.withholding

    @property
    def has_cuts(self) -> bool:
        """Whether a further thought has been taken out of the response."""
        return self._splitter.cuts > 0

    def took_a_cut(self) -> bool:
        """Whether that has happened since it was last asked."""
        before, self._cuts_seen = self._cuts_seen, self._splitter.cuts
        return self._cuts_seen > before

    def go_on_with(self, rules: ThoughtFormat) -> None:
        """What comes from here on was split by the server: it has no thought that was asked for."""
        if self._asked or not self._read:
            self._asked = False
            self._splitter = rules.stream(served=True)
            self._start = self._read

    def add(self, text: str) -> str:
        """Feed what the model did not write; returns what of the thought that made certain."""
        if self.all_is_response:
            self._start += len(text)
            self._read += len(text)
            return ""
        return self.feed(text, end=None).thought

    def feed(self, text: str, *, end: FinishReason | None) -> Delta:
        """What a chunk made certain; the last one has the output's end."""
        self._read += len(text)
        return self._splitter.feed(text, end=end)
