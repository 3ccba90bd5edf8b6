"""What a message about a mistake adds: the word that was probably meant, the line of a file."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

import yaml


def did_you_mean(given: object, names: Iterable[str]) -> str:
    """`; did you mean NAME?` where one of the names is close to what was given, else empty."""
    close = get_close_matches(str(given), list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def yaml_mistake(error: Exception) -> str:
    """Line, column and what is wrong there, of a text that is no YAML."""
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, yaml.MarkedYAMLError) and mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return str(error)
