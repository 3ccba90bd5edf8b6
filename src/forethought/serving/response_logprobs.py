"""Log-probabilities of a response's tokens, which wait until their text is shown.

Which tokens have an entry, and which have none, stands in thought_filter.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from forethought.serving.backends.base import Piece, TokenLogprob

REPLACEMENT = "\ufffd"
"""What a token that is no whole character decodes to."""


class ResponseLogprobs:
    """Takes the tokens of an output in its order and gives those whose text has been shown.

    Places are characters of the output from its beginning.

    Example: `ResponseLogprobs(keep_early=False).begin(12)`
    """

    def __init__(self, *, keep_early: bool) -> None:
        self._keep_early = keep_early
        """Whether what comes before the response is known to begin may belong to it."""
        self._at = 0
        self._start: int | None = None
        self._shown = 0
        self._waiting: deque[tuple[int, str, TokenLogprob]] = deque()
        self._ended = False

    def begin(self, at: int) -> None:
        """The response begins at this place."""
        self._start = self._shown = at
        self._waiting = deque(entry for entry in self._waiting if self._inside(*entry[:2]))

    def end(self) -> None:
        """No more entries go out, waiting ones neither."""
        self._ended = True
        self._waiting.clear()

    def add(self, piece: Piece) -> None:
        """The tokens of the piece that begins here."""
        if self._ended:
            return
        if self._start is None and not self._keep_early:
            return
        for start, text, entry in _places(piece, self._at):
            if self._start is None or self._inside(start, text):
                self._waiting.append((start, text, entry))

    def pass_over(self, text: str) -> None:
        """Go on behind this text."""
        self._at += len(text)

    def up_to(self, count: int) -> Iterator[TokenLogprob]:
        """The entries that so many more shown characters complete."""
        self._shown += count
        while self._waiting:
            start, text, entry = self._waiting[0]
            if start + len(text.rstrip() or text) > self._shown:
                return
            self._waiting.popleft()
            yield entry

    def _inside(self, start: int, text: str) -> bool:
        """Whether a token has nothing but white space before the response, and ends in it."""
        assert self._start is not None
        before = max(self._start - start, 0)
        return not before or (before < len(text) and not text[:before].strip())


def _places(piece: Piece, at: int) -> Iterator[tuple[int, str, TokenLogprob]]:
    """Where each token stands and what text it covers; those without a text of theirs are out."""
    rest, exact = piece.text, True
    for entry in piece.logprobs:
        exact = exact and rest.startswith(entry.token)
        rest = rest[len(entry.token) :] if exact else rest
    # An end token has no text: all that the others cover is there.
    if piece.text and not rest and (exact or piece.finish_reason is not None):
        end = at + len(piece.text)
        for entry in piece.logprobs:
            if at + len(entry.token) > end:
                return
            yield at, entry.token, entry
            at += len(entry.token)
    elif piece.text and all(_part_of(piece.text, entry.token) for entry in piece.logprobs):
        for entry in piece.logprobs:
            yield at, piece.text, entry


def _part_of(text: str, token: str) -> bool:
    """Whether a token is in the text or is a fragment of one of its characters."""
    return REPLACEMENT in token or token in text
