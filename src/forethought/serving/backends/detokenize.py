"""Tokens to pieces of text, as they come: whole characters only, nothing said twice.

A byte-level tokenizer cuts characters in half, others decode a token by what stands before it. So
what is new is always read off the decoded end of the output, and an end that decodes to U+FFFD is
held back until more tokens tell what it is. The pieces together are the whole output decoded at
once; only where a tokenizer would take back characters that are out already (a byte-fallback
tokenizer does when invalid bytes follow a complete character) do they stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from forethought.models import rendering
from forethought.models.marker_tokens import whole_marker_tokens
from forethought.serving.backends.base import Piece, TokenLogprob
from forethought.thoughts.by_token import set_apart
from forethought.types import FinishReason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from forethought.decoding.continuous_batch import NewToken

REPLACEMENT = "\ufffd"
LONGEST_START = 3
"""A character has four bytes at most, so three tokens may start one and not complete it."""
LOOK_BACK = 4
"""Tokens before the new ones that are decoded with them."""
LONGEST_WINDOW = 64
"""Tokens decoded at a time where no character border coincides with a token's."""


class IncrementalDetokenizer:
    """The text of one output; `before` are tokens that it goes on from, `markers` stay in it.

    Where each of `markers` is a token, nothing else in the text spells one, see `rendering.decode`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        before: Sequence[int],
        markers: Sequence[str] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._markers = tuple(markers)
        tokens = whole_marker_tokens(tokenizer, markers)
        self._whole = {id_: marker for marker, id_ in tokens.items()}
        """The markers that are one token each: text is decoded from one to the next."""
        self._tail = ""
        """The end of what is out, which may be the beginning of a marker's spelling."""
        self._begin(before)

    def _begin(self, before: Sequence[int]) -> None:
        last = max((at for at, id_ in enumerate(before) if id_ in self._whole), default=-1)
        self._window = list(before[last + 1 :])
        self._border = len(self._window)
        """Tokens of the window up to a border of characters that the next window may start at."""
        self._sent = 0
        """Characters of the decoded window that are out."""
        if self._window:
            text = self._decoded()
            self._sent = len(text)
            self._apart(text)
        self._uncertain = 0
        """Tokens since the text last ended in a whole character."""

    def push(self, token_id: int) -> str:
        """What this token makes certain."""
        if token_id in self._whole:
            rest = self.finish()
            self._tail = ""
            self._begin(())
            return rest + self._whole[token_id]
        self._window.append(token_id)
        text = self._decoded()
        held = len(text) - len(text.rstrip(REPLACEMENT))
        self._uncertain = self._uncertain + 1 if held else 0
        if self._uncertain > LONGEST_START:
            # No single character: invalid bytes, or borders of characters inside tokens.
            held = min(held, LONGEST_START)
        new = text[self._sent : len(text) - held]
        self._sent = max(self._sent, len(text) - held)
        if not held and len(self._window) >= self._border + LOOK_BACK:
            self._forget(self._border, held)
            self._border = len(self._window)
        elif len(self._window) > self._border + LONGEST_WINDOW:
            self._forget(len(self._window) - 2 * LOOK_BACK, held)
            self._border = 0
        return self._apart(new)

    def finish(self) -> str:
        """What was held back."""
        return self._apart(self._decoded()[self._sent :])

    def _apart(self, new: str) -> str:
        """The text, every spelling of a marker that ends in it set apart."""
        if not self._whole or not new:
            return new
        text = set_apart(self._tail + new, self._markers)
        new = text[len(self._tail) :]
        longest = max(map(len, self._markers))
        self._tail = text[-longest + 1 :]
        return new

    def _forget(self, count: int, held: int) -> None:
        if count:
            del self._window[:count]
            self._sent = max(len(self._decoded()) - held, 0)

    def _decoded(self) -> str:
        return rendering.decode_between(self._tokenizer, self._window, self._markers)


class Vocabulary:
    """The text of single tokens, as it would stand inside an output."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        # Tokenizers drop the space at the very start, so a token is decoded behind another one.
        self._anchor: list[int] = tokenizer.encode("a", add_special_tokens=False)
        self._anchor_text = self._text(self._anchor)
        self._known: dict[int, str] = {}

    def __getitem__(self, token_id: int) -> str:
        if token_id not in self._known:
            text = self._text([*self._anchor, token_id])
            if self._anchor and text.startswith(self._anchor_text):
                self._known[token_id] = text[len(self._anchor_text) :]
            else:
                self._known[token_id] = self._text([token_id])
        return self._known[token_id]

    def _text(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text


class PieceWriter:
    """Writes the pieces of one output.

    The tokens of a piece's log-probabilities, joined, are its text: a token that only starts a
    character has an empty one, and the token that completes it has the character. End tokens have
    no text and no log-probability.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: Vocabulary,
        *,
        before: Sequence[int],
        prompt_tokens: int,
        markers: Sequence[str] = (),
    ) -> None:
        self._decoding = IncrementalDetokenizer(tokenizer, before, markers)
        self._vocabulary = vocabulary
        self._prompt_tokens: int | None = prompt_tokens
        self._text = ""
        self._tokens = 0
        self._logprobs: list[TokenLogprob] = []
        self._finish_reason: FinishReason | None = None

    def add(self, event: NewToken) -> None:
        """Read the output's next token; `take` gives what it makes certain."""
        new = "" if event.ends else self._decoding.push(event.token_id)
        self._tokens += 1
        if event.logprob is not None and not event.ends:
            top = tuple((self._vocabulary[token_id], logprob) for token_id, logprob in event.top)
            self._logprobs.append(TokenLogprob(token=new, logprob=event.logprob, top=top))
        if event.finish_reason is not None:
            self._finish_reason = event.finish_reason
            new += self._rest()
        self._text += new

    def _rest(self) -> str:
        rest = self._decoding.finish()
        if rest and self._logprobs:
            last = self._logprobs[-1]
            self._logprobs[-1] = replace(last, token=last.token + rest)
        return rest

    def take(self) -> Piece | None:
        """What there is to show; `None` while all is held back."""
        if not self._text and self._finish_reason is None:
            return None
        piece = Piece(
            text=self._text,
            tokens=self._tokens,
            logprobs=tuple(self._logprobs),
            prompt_tokens=self._prompt_tokens,
            finish_reason=self._finish_reason,
        )
        self._text, self._tokens, self._logprobs, self._prompt_tokens = "", 0, [], None
        return piece
