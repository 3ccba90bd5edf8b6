"""Where a marker stands free in a text, and which end of a text could still become one.

Spellings: either case of a marker's first letter, and straight and curly apostrophes, are the same;
with `any_spelling` also either case of each letter, and any white space for a space.
Markdown around it belongs to it: a heading's `#`, emphasis before it and the same emphasis behind
it, also before a colon at its end (`**Here is my response**:`).

A marker is text, and no marker,

- behind a word character: `Vec<R>`. Closing tags and control tokens (`</think>`, `<|answer|>`)
  stand there rightly, as do markers that begin with white space, and scripts without letter case,
  which put no space between words, do not count; with `any_spelling` markers of several words stand
  there, too, since nothing is called so;
- inside backticks or quotes that are opened before it and closed behind it on its line;
- in a fenced block, unless it is all that stands on its line. A fence that is not closed is open.

What is said of a text as it arrives never has to be taken back: while it is open whether a marker
is one, all from there on is held.

Where markers are tokens of their own (`exact`), the text holds a marker only where its token stood
(models/rendering.py breaks every other spelling), so none of these rules is needed: what is spelled
like a marker is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

LEAD = re.compile(
    r"(?:#{1,6}[ \t]{1,3})?(?:(?P<tight>[*_]{1,3})|(?<!\S)(?P<loose>[*_]{1,3})[ \t]{1,3})?\Z"
)
"""Markdown before a marker. Behind a word and before a space, emphasis closes something else."""
LEAD_BEGUN = re.compile(r"(?:#{1,6}[ \t]{0,3})?(?:[*_]{1,3}[ \t]{0,3})?\Z")
"""What could become that; matches every beginning of what `LEAD` matches."""
LONGEST_LEAD = 15
FENCE = re.compile(r"\s*(?:```|~~~)[^`]*$")
"""A line that begins or ends a fenced block."""
GLUED_RIGHTLY = re.compile(r"\s|\W*[/|｜]")
"""How markers begin that follow a word without a space, or bring their own."""
BLANKS = "\t\n\r\u00a0\u2007\u202f"
"""White space that may stand for a marker's space."""
QUOTES = tuple(
    (re.compile(opening), re.compile(closing))
    for opening, closing in (
        (r"`+", r"`+"),
        (r'(?<![\w.,!?…)\]])"(?=\S)', r'(?<=\S)"'),
        (r"(?<![\w.,!?…)\]])'(?=\S)", r"(?<=\S)'(?!\w)"),
        (r"(?<!\w)‘(?=\S)", r"(?<=\S)’(?!\w)"),
        (r"“", r"”"),
        (r"„", r"“"),
        (r"«", r"»"),
    )
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What stands before a place of the text, as far as it decides whether a marker is free."""

    line: str = ""
    """The text of the place's line up to it."""
    fenced: bool = False

    def behind(self, text: str) -> Surroundings:
        """The same, so much text further on."""
        *complete, line = (self.line + text).split("\n")
        toggles = sum(FENCE.match(complete_line) is not None for complete_line in complete)
        return Surroundings(line=line, fenced=self.fenced != bool(toggles % 2))


@dataclass(frozen=True, slots=True)
class Search:
    """What a text holds: no marker in its first `certain` characters, and what follows them."""

    certain: int
    marker: int = 0
    """Length of the marker that stands there, its Markdown included; 0 where none is known."""


class Markers:
    """Finds the first of some markers. It keeps nothing of a text, so one serves all.

    Example: `Markers(("<R>",)).search("so <R> 5", Surroundings(), ended=True)`
    """

    def __init__(
        self, spellings: Sequence[str], *, any_spelling: bool = False, exact: bool = False
    ) -> None:
        self._exact, self._any_spelling = exact, any_spelling
        self._fold: dict[int, str] = {}
        if exact:
            self._patterns = [(re.compile(re.escape(each)), each) for each in spellings]
        else:
            self._patterns = [
                (re.compile(_pattern(each, any_spelling=any_spelling)), each) for each in spellings
            ]
            self._fold = _folding(spellings, any_spelling=any_spelling)
        self._folded = [self.fold(spelling) for spelling in spellings]

    def fold(self, text: str) -> str:
        """The text with what counts as the same spelling made one; as long as it was."""
        return text.translate(self._fold)

    def named_in(self, text: str) -> bool:
        """Whether a marker is spelled anywhere in the text, free or not."""
        return any(True for _ in self._hits(text))

    def search(self, text: str, before: Surroundings, *, ended: bool) -> Search:
        """The first marker of `text`, which stands behind `before`; `ended`: no more will come."""
        for found, marker in self._hits(text):
            if self._exact:
                return Search(found.start(), len(marker))
            lead = _lead(LEAD, text[: found.start()], before)
            start = found.start() - len(lead.group())
            stop = _stop(found, lead, text, ended=ended)
            glue = GLUED_RIGHTLY.match(marker) or (self._any_spelling and " " in marker.strip())
            free = stop and _is_free(text, before, start, found, stop, glue=bool(glue), ended=ended)
            if free is None or stop is None:
                return Search(start)
            if free:
                return Search(start, stop - start)
        return Search(len(text) if ended else self._held_from(text))

    def _hits(self, text: str) -> Iterator[tuple[re.Match[str], str]]:
        """All that is spelled like a marker, the one that is complete first in front."""
        hits = []
        for pattern, marker in self._patterns:
            found = pattern.search(text)
            while found is not None:
                hits.append((found, marker))
                found = pattern.search(text, found.start() + 1)
        return iter(sorted(hits, key=lambda hit: (hit[0].end(), hit[0].start())))

    def _held_from(self, text: str) -> int:
        """Where the longest end of the text begins that could become a marker."""
        if not self._patterns:
            return len(text)
        folded = self.fold(text)
        held = possible_start(folded, self._folded)
        if self._exact:
            return len(text) - held
        # Emphasis may close before a colon.
        stars = len(folded) - len(re.sub(r"[*_]{1,3}\Z", "", folded))
        for spelling in self._folded:
            if stars and spelling.endswith(":") and folded[:-stars].endswith(spelling[:-1]):
                held = max(held, len(spelling) - 1 + stars)
        end = len(text) - held
        return end - len(_lead(LEAD_BEGUN, text[:end], Surroundings()).group())


@lru_cache(maxsize=256)
def markers_of(
    spellings: tuple[str, ...], *, any_spelling: bool = False, exact: bool = False
) -> Markers:
    """The same made once: every output that is split needs some."""
    return Markers(spellings, any_spelling=any_spelling, exact=exact)


def possible_start(text: str, markers: Sequence[str]) -> int:
    """Length of the longest end of `text` with which a marker could begin, 0 if there is none."""
    longest = 0
    for marker in markers:
        # Beginnings only: a whole marker is nothing that could still become one.
        start = text.find(marker[0], max(len(text) - len(marker) + 1, 0))
        while start >= 0 and not marker.startswith(text[start:]):
            start = text.find(marker[0], start + 1)
        if start >= 0:
            longest = max(longest, len(text) - start)
    return longest


def _folding(spellings: Sequence[str], *, any_spelling: bool) -> dict[int, str]:
    fold = {ord("’"): "'"}
    if any_spelling:
        fold |= {ord(blank): " " for blank in BLANKS}
    for spelling in spellings:
        for letter in _letters(spelling, any_case=any_spelling):
            fold[ord(letter.upper())] = letter.lower()
    return fold


def _letters(marker: str, *, any_case: bool) -> str:
    """Those that may have either case: the first one or all, where they have two cases."""
    letters = "".join(character for character in marker if character.isalpha())
    # One whose cases differ in length would shift places in a folded text.
    return "".join(
        letter
        for letter in (letters if any_case else letters[:1])
        if len(letter.lower()) == len(letter.upper()) == 1
    )


def _pattern(marker: str, *, any_spelling: bool) -> str:
    classes = {"'": "['’]", "’": "['’]"}
    if any_spelling:
        classes[" "] = f"[ {BLANKS}]"
    parts = [classes.get(character) or re.escape(character) for character in marker]
    at = 0
    for letter in _letters(marker, any_case=any_spelling):
        at = marker.index(letter, at)
        parts[at] = f"[{re.escape(letter.lower())}{re.escape(letter.upper())}]"
        at += 1
    if marker.endswith(":"):
        parts[-1] = r"([*_]{1,3})?:"
    return "".join(parts)


def _lead(pattern: re.Pattern[str], text: str, before: Surroundings) -> re.Match[str]:
    """The Markdown at the end of a text, which may be empty."""
    window = (before.line[-1:] + text)[-LONGEST_LEAD - 1 :]
    found = pattern.search(window, len(window) - min(len(text), LONGEST_LEAD))
    assert found is not None
    return found


def _stop(found: re.Match[str], lead: re.Match[str], text: str, *, ended: bool) -> int | None:
    """Where the marker ends, emphasis that closes behind it included; `None` while that is open."""
    end, emphasis = found.end(), lead["tight"] or lead["loose"]
    if not emphasis or any(found.groups()):
        return end
    closing = emphasis[::-1]
    if text.startswith(closing, end) and lead["tight"]:
        return end + len(closing)
    after = end
    while after < min(end + 3, len(text)) and text[after] in " \t":
        after += 1
    # Behind a space it closes nothing, but it opens nothing either if a space follows it.
    rest = text[after : after + len(closing) + 1]
    if rest[:-1] == closing and rest[-1].isspace():
        return after + len(closing)
    if closing.startswith(rest):
        if not ended:
            return None
        return after + len(closing) if rest == closing else end
    return end


def _is_free(
    text: str,
    before: Surroundings,
    start: int,
    found: re.Match[str],
    stop: int,
    *,
    glue: bool,
    ended: bool,
) -> bool | None:
    """Whether what is spelled like a marker is one, with `glue` behind a word, too; `None` while
    that is open."""
    here = before.behind(text[: found.start()])
    if _is_word_character(here.line.rstrip("_")[-1:]) and not glue:
        return False
    # A marker may itself end its line.
    own, line_break, _ = text[found.start() :].partition("\n")
    complete = ended or bool(line_break)
    rest = own[stop - found.start() :]
    if here.fenced:
        if before.behind(text[:start]).line.strip() or rest.strip():
            return False
        return True if complete else None
    line = here.line + own
    quoted = _is_quoted(line, len(here.line), len(line) - len(rest), complete=complete)
    return None if quoted is None else not quoted


def _is_word_character(character: str) -> bool:
    return bool(character) and (
        character == "_" or character.isdigit() or character.lower() != character.upper()
    )


def _is_quoted(line: str, start: int, stop: int, *, complete: bool) -> bool | None:
    """Whether this part of a line stands in quotes; `None` while they may still be closed."""
    answer: bool | None = False
    for opening, closing in QUOTES:
        at, is_open = 0, False
        while found := (closing if is_open else opening).search(line, at):
            if found.start() >= start:
                break
            at, is_open = found.end(), not is_open
        if not is_open:
            continue
        closed = closing.search(line, stop)
        # Behind an apostrophe at the end of what is known a word may go on.
        if closed is not None and (complete or closed.end() < len(line)):
            return True
        if not complete:
            answer = None
    return answer
