"""Texts in which a marker that is a token is told from other tokens that spell it.

`set_apart` puts a word joiner (U+2060), which a reader does not see, before the last character of
such a spelling, so that a splitter, which reads text, finds the markers alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

WORD_JOINER = "\u2060"
SPARE = 8
"""Tokens that may stand at a spelling's two ends and have characters of it and of others."""


def set_apart(text: str, markers: Sequence[str]) -> str:
    """The text with every spelling of a marker in it set apart, so that none is read as one."""
    return spelled(tuple(markers)).sub(
        lambda found: found.group()[:-1] + WORD_JOINER + found.group()[-1], text
    )


@lru_cache(maxsize=64)
def spelled(markers: tuple[str, ...]) -> re.Pattern[str]:
    """What is spelled like one of these markers."""
    return re.compile("|".join(map(re.escape, sorted(markers, key=len, reverse=True))))


class TokenMarkers:
    """Sets spellings apart in a text that comes beside its token ids, and later than they.

    The ids say in which order markers and spellings of markers follow each other; the text has them
    in the same order.

    Example: `TokenMarkers({7: "</think>"}, decode)`
    """

    def __init__(self, tokens: Mapping[int, str], decode: Callable[[Sequence[int]], str]) -> None:
        """`tokens` are the markers by their ids; `decode` gives the text of some ids."""
        self._tokens = tokens
        self._decode = decode
        self._pattern = spelled(tuple(tokens.values()))
        self._longest = max(map(len, tokens.values()))
        self._window: list[int] = []
        self._is_token: list[bool] = []
        """Of everything spelled like a marker so far, in order, whether it is the token."""
        self._met = 0
        """How many of these the text has had."""
        self._tail = ""

    def read(self, token_ids: Sequence[int]) -> None:
        """Take the next ids."""
        for id_ in token_ids:
            if id_ in self._tokens:
                self._is_token.append(True)
                self._window.clear()
                continue
            before = self._count()
            self._window.append(id_)
            self._is_token += [False] * (self._count() - before)
            del self._window[: -self._longest - SPARE]

    def text(self, text: str) -> str:
        """The next piece of text, whose ids have been read, with its spellings set apart."""
        whole = self._tail + text
        parts, at = "", 0
        for found in self._pattern.finditer(whole):
            # Of more than the ids have told nothing is a marker.
            real = self._met < len(self._is_token) and self._is_token[self._met]
            self._met += 1
            last = found.end() - 1
            parts += whole[at:last] + ("" if real else WORD_JOINER) + whole[last]
            at = found.end()
        new = (parts + whole[at:])[len(self._tail) :]
        self._tail = whole[max(at, len(whole) - self._longest + 1) :]
        return new

    def _count(self) -> int:
        return len(self._pattern.findall(self._decode(self._window))) if self._window else 0
