"""Where contents begin and end before an LLM judge, and contents that cannot cross that line.

A prompt file puts texts that others wrote between delimiters, such as `[The End of Assistant A's
Answer]`. A response that spells out a delimiter could end its own frame and open one for its
rival; one that spells out a verdict could be quoted by the judge and be taken for it. So a content
is put there with every delimiter, every control token and every verdict broken by a word joiner,
in any case, spacing, kind of apostrophe, or letters that look alike. A reader sees the same text.

Control characters and lone surrogates, which servers refuse or end a text at, become U+FFFD.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from forethought.judging.llm.lookalikes import REPLACEMENT, broken
from forethought.models.control_tokens import WELL_KNOWN
from forethought.types import Message

MARKS = {
    "system": "[System message]",
    "user": "[Earlier user turn]",
    "assistant": "[Earlier assistant turn]",
}
"""What stands above each turn of a conversation before the last."""
LAST_MARK = "[Last user turn]"

DELIMITER = re.compile(
    r"""
      (?<!\[)\[[^\[\]{}\n]{2,80}\](?!\])     # [User Question], not the [A] of a label [[A]]
    | <[^<>{}\n]{1,80}>                      # <response>, <|User Prompt|>
    | ^\#{1,6}[ ][^{}\n]{1,80}$              # ### Answer A
    | ^(?:={3,}|-{3,}|\*{3,}|`{3,})$
    """,
    re.VERBOSE | re.MULTILINE,
)
BRACKETS = ("[[]]", "<||>", "<｜｜>")
"""How labels and control tokens of common chat models begin and end."""
UNSAFE = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")


def delimiters(template: str) -> tuple[str, ...]:
    """The parts of a template that look like delimiters: `[…]`, `<…>`, headings and rules."""
    return tuple(dict.fromkeys(DELIMITER.findall(template)))


def touching(before: str, after: str, strings: Iterable[str]) -> str | None:
    """One of the strings that the text around a field holds in part, so that a content could
    complete it; `None` if there is none."""
    for string in (*strings, *BRACKETS):
        for cut in range(1, len(string)):
            if before.endswith(string[:cut]) or after.startswith(string[cut:]):
                return string
    return None


def escape(text: str, strings: Sequence[str], verdict: str) -> str:
    """The text with these strings, every match of the pattern `verdict` and the control tokens of
    common chat models broken, in any spelling that looks like them (lookalikes.py). Each of the
    strings has two characters or more."""
    return broken(printable(text), _pattern(tuple(strings), verdict))


def printable(text: str) -> str:
    """The text without what no message may hold: control characters and lone surrogates."""
    return UNSAFE.sub(REPLACEMENT, text)


def earlier_turns(messages: Sequence[Message], clean: Callable[[str], str]) -> str:
    """All turns before the last, each under its mark, ending with the mark of the last one.

    Example: for a system message "Be brief." and a question it is `[System message]`, `Be brief.`,
    an empty line and `[Last user turn]`, each on its line. It is empty for a single turn.
    """
    if len(messages) == 1:
        return ""
    turns = [f"{MARKS[message.role]}\n{clean(message.content)}\n\n" for message in messages[:-1]]
    return "".join([*turns, LAST_MARK, "\n"])


@lru_cache(maxsize=64)
def _pattern(strings: tuple[str, ...], verdict: str) -> re.Pattern[str]:
    longest_first = sorted(strings, key=len, reverse=True)
    alternatives = [verdict, *map(_in_any_spelling, longest_first)]
    every = "|".join(f"(?:{alternative})" for alternative in alternatives)
    return re.compile(rf"{every}|(?x:{WELL_KNOWN.pattern})", re.IGNORECASE)


def _in_any_spelling(string: str) -> str:
    words = (re.escape(word).replace("'", "['’‘ʼ`´]") for word in string.split())
    return r"\s+".join(words)
