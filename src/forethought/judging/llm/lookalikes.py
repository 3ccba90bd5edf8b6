"""Strings found in any spelling that a reader, or a model, takes for them.

A content that must not hold a delimiter could spell it with full-width brackets, Cyrillic letters
or a zero-width space inside. So what is looked for is looked for in a folded copy of the text:
compatibility forms (NFKC), look-alikes of ASCII (Unicode's confusables), invisible characters left
out. What is found there is broken in the text itself, which is otherwise left as it was.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from confusable_homoglyphs.confusables import confusables_data

from forethought.models.control_tokens import WORD_JOINER

REPLACEMENT = "\ufffd"


def broken(text: str, pattern: re.Pattern[str]) -> str:
    """The text with a word joiner after the first character of whatever matches when folded."""
    while True:
        folded, places = _folded(text)
        # Once may not do: breaking one string can leave another, which overlapped with it.
        found = [
            (places[match.start()], places[match.end() - 1]) for match in _matches(pattern, folded)
        ]
        if not found:
            return text
        pieces: list[str] = []
        done = 0
        for first, last in found:
            # A single character that stands for all of it cannot be broken inside.
            shown = text[first] if last > first else REPLACEMENT
            pieces += [text[done:first], shown, WORD_JOINER]
            done = first + 1
        text = "".join([*pieces, text[done:]])


def _matches(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    return [match for match in pattern.finditer(text) if match.group()]


def _folded(text: str) -> tuple[str, Sequence[int]]:
    """The text as it looks, and for each of its characters the place of the one it stands for."""
    if text.isascii():
        return text, range(len(text))
    folded: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        looks = _looks(character)
        folded.append(looks)
        places += [place] * len(looks)
    return "".join(folded), places


@lru_cache(maxsize=4096)
def _looks(character: str) -> str:
    """What a character is taken for; a word joiner is what we break strings with, and stays."""
    if character.isascii() or character == WORD_JOINER:
        return character
    if unicodedata.category(character) == "Cf" or 0xFE00 <= ord(character) <= 0xFE0F:
        return ""
    plain = unicodedata.normalize("NFKC", character)
    if plain.isascii():
        return plain
    alike = [entry["c"] for entry in confusables_data.get(character, ())]
    return next((other for other in alike if len(other) == 1 and other.isascii()), plain)
