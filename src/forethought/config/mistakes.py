"""A validation error in a user's words: the field as a recipe names it, what was given, what is
allowed.

Pydantic names the branches of a union in an error's place and its own types in the message. Here
the place is followed through the annotations instead, and what is allowed is read from them, so
that every field says it by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from forethought.config.allowed import (
    Spot,
    allowed,
    fields_of,
    is_tagged,
    item_of,
    members_of,
    model_of,
    spot_of,
    tag_of,
    tags_of,
    variant_of,
)
from forethought.config.hints import did_you_mean
from forethought.config.secrets import HIDDEN, is_secret

QUOTED = re.compile(r"'([^']*)'")
"""The words that pydantic expected."""
LONGEST = 80
"""Characters of what was given that a message repeats."""


def explain(error: ValidationError, shape: Any, at: str = "") -> str:
    """A validation error as one line per mistake: field, what was given, what is allowed.

    `shape` is what was validated: a model, or any annotation. `at` is the dotted place of the whole
    in the user's file, such as `measures`.
    """
    mistakes = error.errors(include_url=False)
    # A list whose entries are wrong is also called too short, for wanting right ones.
    above = {mistake["loc"][:end] for mistake in mistakes for end in range(len(mistake["loc"]))}
    mistakes = [
        mistake
        for mistake in mistakes
        if mistake["type"] != "too_short" or mistake["loc"] not in above
    ]
    traced = [_trace(shape, mistake) for mistake in mistakes]
    deeper = {place for trace in traced for place in trace.passed}
    lines = [_line(trace, at) for trace in traced if trace.ended_at not in deeper]
    return "\n".join(dict.fromkeys(lines))


def wanted(shape: Any, mistake: Any) -> str:
    """What is allowed where one of an error's mistakes is."""
    spot = _trace(shape, mistake).spot
    return "another value" if spot is None else allowed(spot)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traced:
    """A mistake and where it is.

    Example: `_Traced(mistake={…}, path=("judge", "comparisons"), spot=Spot(…), parent=Spot(…),
    passed=(), ended_at=("judge", "pairwise", "comparisons"))`
    """

    mistake: Any
    path: tuple[str, ...]
    """Steps that a user writes."""
    spot: Spot | None
    """What is allowed there; `None` if the place is not of the shape."""
    parent: Spot | None
    """The section that the last step belongs to."""
    passed: tuple[tuple[Any, ...], ...]
    """Unions of which one branch was entered, as pydantic places them."""
    ended_at: tuple[Any, ...] | None
    """The union that did not take the value at all, if it is one."""


def _trace(shape: Any, mistake: Any) -> _Traced:
    location: tuple[Any, ...] = mistake["loc"]
    spot: Spot | None = spot_of(shape)
    parent: Spot | None = None
    path: list[str] = []
    passed: list[tuple[Any, ...]] = []
    ended_at = None
    # pydantic's places have steps for branches of unions and variants, which no user writes.
    for index, step in enumerate(location):
        if spot is not None and is_tagged(spot):
            spot = variant_of(spot, step)
        elif spot is not None and len(members_of(spot)) > 1:
            if index + 1 == len(location):
                ended_at = location[:index]
            else:
                passed.append(location[:index])
                spot = _branch(spot, str(step))
        elif step != "[key]":
            parent, spot = spot, item_of(spot, step)
            path.append(str(step))
    return _Traced(
        mistake=mistake,
        path=tuple(path),
        spot=spot,
        parent=parent,
        passed=tuple(passed),
        ended_at=ended_at,
    )


def _branch(union: Spot, label: str) -> Spot | None:
    """The branch that pydantic calls so; a model's name stands in it, also within a validator's."""
    for branch in members_of(union):
        model = model_of(branch)
        if model is not None and model.__name__ in label:
            return branch
    lists = [branch for branch in members_of(union) if item_of(branch, 0) is not None]
    return lists[0] if lists and ("tuple" in label or "list" in label) else None


def _line(traced: _Traced, at: str) -> str:
    mistake, spot = traced.mistake, traced.spot
    path = ".".join(step for step in (at, *traced.path) if step)
    kind, value = mistake["type"], mistake["input"]
    wanted = "another value" if spot is None else allowed(spot)
    if kind == "missing":
        return f"{path} is missing; give {wanted}"
    if kind in ("union_tag_not_found", "union_tag_invalid") and spot is not None:
        path = f"{path}.type".removeprefix(".")
        tags = ", ".join(tags_of(spot))
        if "type" not in value:
            return f"{path} is missing; give one of {tags}"
        meant = did_you_mean(value["type"], tags_of(spot))
        return f"{path}: give one of {tags}{meant}{_given(value['type'])}"
    if kind == "extra_forbidden":
        message = f"there is no such field{_hint(traced)}"
        if is_secret(traced.path[-1], value):
            value = HIDDEN
    elif kind in ("value_error", "assertion_error"):
        # Of a section the message speaks for itself.
        message = mistake["msg"].partition(", ")[2]
        shown = "" if isinstance(value, dict | BaseModel) else _given(value)
        return f"{path}: {message}{shown}".removeprefix(": ")
    elif kind == "invalid_key":
        message = "the name of a field is text"
    elif kind == "json_invalid":
        return f"{path}: it is not JSON: {mistake['ctx']['error']}".removeprefix(": ")
    else:
        if kind == "finite_number":
            wanted = wanted.replace("a number", "a finite number")
        message = f"give {wanted}"
        if kind == "literal_error":
            message += did_you_mean(value, QUOTED.findall(mistake["ctx"]["expected"]))
    return f"{path}: {message}{_given(value)}".removeprefix(": ")


def _hint(traced: _Traced) -> str:
    """The field that was probably meant, or all there are."""
    section, name = traced.parent, traced.path[-1]
    fields = () if section is None else fields_of(section)
    if meant := did_you_mean(name, fields):
        return meant
    if section is None or not fields:
        return ""
    others = [sibling for sibling in section.siblings if name in fields_of(sibling)]
    if others:
        types = " or ".join(tag_of(other) for other in others)
        return f" with type {tag_of(section)}; it is one of type {types}"
    return f"; the fields are {', '.join(fields)}"


def _given(value: Any) -> str:
    """As a recipe would write it."""
    text = json.dumps(_plain(value), ensure_ascii=False, default=str)
    short = text if len(text) <= LONGEST else f"{text[: LONGEST - 2]} …"
    return f" (given: {short})"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {
            str(key): HIDDEN if is_secret(str(key), item) else _plain(item)
            for key, item in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value
