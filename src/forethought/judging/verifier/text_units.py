"""Words, phrases and sentences of a text, as the verifier `constraints` counts them."""

from __future__ import annotations

import re
from collections.abc import Sequence

ABBREVIATION = re.compile(r"no|vs|etc|approx|[^\W\d_](?:\.[^\W\d_])+")
"""A full stop behind one of these, such as `e.g`, ends no sentence where a capital does not
follow."""
TITLES = frozenset({"mr", "mrs", "ms", "dr", "prof", "st"})
"""Behind one of these it ends none at all."""
ENDS = ".!?…"
BEHIND_AN_END = "\"'”’)]*_"
"""May stand between the end of a sentence and the white space after it."""


def found_at(phrase: str, text: str) -> Sequence[tuple[int, int]]:
    """Where a phrase stands, whole, in any case and with any white space in it."""
    pattern = r"\s+".join(map(re.escape, phrase.split()))
    before = r"(?<!\w)" if re.match(r"\w", phrase.strip()) else ""
    behind = r"(?!\w)" if re.search(r"\w$", phrase.strip()) else ""
    return [
        match.span() for match in re.finditer(f"{before}{pattern}{behind}", text, re.IGNORECASE)
    ]


def with_a_word(texts: Sequence[str]) -> int:
    """How many have a letter or a digit."""
    return sum(re.search(r"\w", text) is not None for text in texts)


def in_one_case(text: str) -> str:
    """In one case, with one space between words."""
    return " ".join(text.casefold().split())


def sentences_of(line: str) -> int:
    """Sentences of a line; what is left behind the last end is one, if there is a word in it."""
    count, open_at = 0, None
    words = line.split()
    for index, word in enumerate(words):
        if open_at is None and re.search(r"\w", word):
            open_at = index
        inside = word.rstrip(BEHIND_AN_END)
        stem = inside.rstrip(ENDS)
        if open_at is None or stem == inside:
            continue
        behind = words[index + 1] if index + 1 < len(words) else ""
        is_number = index == open_at and stem.isdigit()
        if inside != f"{stem}." or not behind or not (is_number or _is_short(stem, behind)):
            count, open_at = count + 1, None
    return count + (open_at is not None)


def _is_short(stem: str, behind: str) -> bool:
    """Whether a word and a full stop are a short form or an initial, before the next word."""
    word = stem.lstrip("(\"'“‘").casefold()
    if word in TITLES or (re.fullmatch(r"[^\W\d_]", word) and word != "i"):
        return True
    return ABBREVIATION.fullmatch(word) is not None and not behind[0].isupper()
