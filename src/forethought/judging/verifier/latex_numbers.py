"""Numbers as LaTeX and typesetting spell them, put as plain text.

`9{,}500`, `9\\,500` and `9 500` with a thin space become `9,500`; `\\dfrac{5}{2}` becomes `5/2` and
`2\\frac{1}{2}`, like `2½`, `2 1/2`; `15 \\text{ km}` keeps the unit and loses the command. Every
step is linear in the text, since a stuck model repeats a command thousands of times.
"""

from __future__ import annotations

import re
import unicodedata

THREE = r"(?=\d{3}(?!\d))"
"""Three digits follow: what stands before them may separate thousands."""
SPACES = "\u00a0\u2007\u2009\u202f"
"""No-break, figure, thin and narrow no-break space."""
VULGAR = re.compile("[¼½¾⅐-⅞]")
FRACTION = re.compile(
    r"\\[dtc]?frac\s*+(?:\{([^{}]*+)\}|(\d))\s*+(?:\{([^{}]*+)\}|(\d))", re.IGNORECASE
)
NUMERIC = re.compile(r"([-−+]?)\s*([\d.,]+)")
NESTED = 3
"""Fractions within fractions up to this depth are read."""

PLAIN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Commands about looks alone; the braces of what they hold stay, as of a group.
        (
            r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt|bb|cal)|mbox|bm|boldsymbol"
            r"|operatorname|emph|underline|displaystyle|left|right|[bB]igg?[lr]?)(?![A-Za-z])\*?",
            "",
        ),
        (r"\\!", ""),
        (r"\\([$%])", r"\1"),
        (r"\{\s*\\[,;:]\s*\}", r"\,"),
        (rf"(?<=\d)\{{\s*,\s*\}}{THREE}", ","),
        # A comma in braces before other than three digits is a decimal one.
        (r"(?<=\d)\{\s*[,.]\s*\}(?=\d)", "."),
        (rf"(?<=\d)(?:\\[,;: ]|\\thinspace\s*|[~{SPACES}'’_]){THREE}", ","),
        (r"\\(?:[,;: ()\[\]]|q?quad(?![A-Za-z])|thinspace(?![A-Za-z]))|~", " "),
        (r"\\(?:times|cdot|ast)(?![A-Za-z])", " * "),
        (r"\\div(?![A-Za-z])", " ÷ "),
        (r"\\(?:approx|simeq|sim|equiv)(?![A-Za-z])|≈", " = "),
        (r"\^\s*\{?\s*\\circ(?![A-Za-z])\s*\}?", "°"),
    )
)


def plain_numbers(text: str) -> str:
    """The text with its numbers in plain spelling and other commands as they are."""
    text = VULGAR.sub(_vulgar, text).replace("⁄", "/")
    for pattern, replacement in PLAIN:
        text = pattern.sub(replacement, text)
    for _ in range(NESTED):
        text, count = FRACTION.subn(_fraction, text)
        if not count:
            break
    return text


def _vulgar(found: re.Match[str]) -> str:
    return _after_a_number(found, unicodedata.normalize("NFKC", found.group()))


def _fraction(found: re.Match[str]) -> str:
    over, under = found[1] or found[2] or "", found[3] or found[4] or ""
    parts = [NUMERIC.fullmatch(side.strip(" $")) for side in (over, under)]
    if parts[0] is None or parts[1] is None:
        return _after_a_number(found, f"({over})/({under})")
    (sign, top), (other, bottom) = parts[0].groups(), parts[1].groups()
    minus = "-" if (sign in "-−" and sign != "") != (other in "-−" and other != "") else ""
    return _after_a_number(found, f"{minus}{top}/{bottom}")


def _after_a_number(found: re.Match[str], fraction: str) -> str:
    """Kept apart from digits before it: 2½ is a mixed number and not 21/2."""
    before = found.string[: found.start()][-1:]
    return f" {fraction}" if before.isdigit() else fraction
