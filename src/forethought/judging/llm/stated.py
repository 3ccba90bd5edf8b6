"""Where a reply states its verdict: on the last line that has a label, and there as a statement.

A judge also writes labels that are no verdicts: it weighs ("[[A]] would be right if …"), declines
("I will not output [[A]]") or repeats its scale ("from [[1]] to …"). So a label counts where a
sentence ends with it, and nothing in its clause denies it or makes it conditional. Everything else
is no verdict, and the judge is asked once more. The paper does not say how replies are read.
"""

from __future__ import annotations

import re

CLAUSE = re.compile(r"[.!?;,]\s+|\s[–—-]+\s")
"""Between a label's clause and what stands before it. A colon is none: "not this: [[A]]"."""
DENIED = re.compile(
    r"""
      \b(?:not|never|neither|nor|cannot|unless|if|instead|except|wrong|incorrect|refuse|avoid)\b
    | n['’]t\b
    | (?<!\bI[ ])\b(?:would|could|might|may)\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
MARKUP = r"[\s*_`\"'”’)\]}>]*"
ENDS = re.compile(rf"(?:{MARKUP}(?:/|out\ of)\s*[0-9]+)?{MARKUP}(?:[.!](?:\s|{MARKUP}$)|$)")
"""After a label that a sentence ends with, such as `**`, `.` or `/10.`."""
HEADS = re.compile(rf"{MARKUP}(?:[:;,]\s|[–—-])")
"""After a label that opens its line, before the reason."""


def stated(text: str, label: re.Pattern[str]) -> list[re.Match[str]]:
    """The labels on the last line that has any, if that line states a verdict; else none.

    Several distinct ones are all given: what they say together is for the caller.
    """
    for line in reversed(text.splitlines()):
        if found := list(label.finditer(line)):
            several = len({match.group() for match in found}) > 1
            # The one that opens the line, or the one that ends it.
            states = any(_states(line, match) for match in (found[0], found[-1]))
            return found if several or states else []
    return []


def _states(line: str, found: re.Match[str]) -> bool:
    before, after = line[: found.start()], line[found.end() :]
    clause = CLAUSE.split(before)[-1]
    if DENIED.search(clause):
        return False
    opens = not re.sub(r"[\W_]+", "", before)
    return ENDS.match(after) is not None or (opens and HEADS.match(after) is not None)
