"""What a message about a mistake adds: the word that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(given: object, names: Iterable[str]) -> str:
    """`; did you mean NAME?` where one of the names is close to what was given, else empty."""
    close = get_close_matches(str(given), list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""
