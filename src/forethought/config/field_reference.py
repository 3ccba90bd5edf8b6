"""Every field of a recipe in words: its place, what is allowed, its default, what it does.

`forethought config --fields` prints it, and docs/recipe.md is what that prints. Sections follow the
recipe's order; of a section that has types, the fields that all types share stand first. A section
that stands in several places is described at the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from forethought.config.allowed import (
    Spot,
    allowed,
    item_of,
    members_of,
    model_of,
    spot_of,
    tag_of,
)
from forethought.config.hints import did_you_mean
from forethought.config.recipe import Recipe

TITLE = """# The recipe, field by field

What `forethought config --fields` prints; with a place behind it, such as `training.lora`, that
part alone. A line has the field's place, what it takes, its default, and what it does. On the
command line: `training.epochs=3`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldLine:
    """One field.

    Example: `FieldLine(place="pairs.rho", takes="a number of at least 0", default="0.0",
    meaning="Weight of the response length …")`
    """

    place: str
    takes: str
    default: str | None
    """As a recipe would write it; `None` where the field is needed."""
    meaning: str

    def __str__(self) -> str:
        default = "needed" if self.default is None else f"`{self.default}`"
        return f"- `{self.place}` ({self.takes}; {default}): {self.meaning}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldGroup:
    """The fields of a section, or those of one of its types.

    Example: `FieldGroup(place="judge", types=("reward_model",), meaning="A sequence …",
    lines=(FieldLine(…),))`
    """

    place: str
    """Empty for the recipe's own fields."""
    types: tuple[str, ...]
    """The types that have these fields; empty where the section has none."""
    meaning: str
    lines: tuple[FieldLine, ...]

    def __str__(self) -> str:
        types = f", `type: {self.types[0]}`" if len(self.types) == 1 else ""
        every = ", every type" if len(self.types) > 1 else ""
        heading = f"## `{self.place}`{types}{every}" if self.place else "## The whole"
        return "\n".join([heading, "", self.meaning, "", *map(str, self.lines)])


def field_reference(places: Sequence[str] = ()) -> str:
    """The reference as Markdown, whole or of what stands at and below some places.

    Raises: ValueError if there is no field at a place; it names the likeliest.
    """
    homes: dict[type[BaseModel], str] = {}
    _find_homes(spot_of(Recipe), "", homes)
    groups = list(_groups(spot_of(Recipe), "", homes))
    if not places:
        return "\n\n".join([TITLE.strip(), *map(str, groups)]) + "\n"
    known = {line.place for group in groups for line in group.lines}
    for place in places:
        if place not in known:
            meant = did_you_mean(place, known)
            raise ValueError(f"--fields: a recipe has no field {place}{meant}")
    shown = [
        part for place in places for group in groups if (part := _part(group, place)) is not None
    ]
    return "\n\n".join(map(str, shown)) + "\n"


def _part(group: FieldGroup, place: str) -> FieldGroup | None:
    """What of a group stands at a place or below it."""
    if f"{group.place}.".startswith(f"{place}."):
        return group
    lines = tuple(line for line in group.lines if line.place == place)
    if not lines:
        return None
    return FieldGroup(place=group.place, types=group.types, meaning=group.meaning, lines=lines)


def _find_homes(spot: Spot, place: str, homes: dict[type[BaseModel], str]) -> None:
    """Where each section is described: the first place at which it stands."""
    fresh = [model for model in _models(spot) if model not in homes]
    homes |= dict.fromkeys(fresh, place)
    for inner, below in _inside(fresh, place):
        _find_homes(inner, below, homes)


def _groups(spot: Spot, place: str, homes: Mapping[type[BaseModel], str]) -> Iterator[FieldGroup]:
    """Of the sections that are described at a place, then of those within them."""
    models = _models(spot)
    here = [model for model in models if homes[model] == place]
    lines = {model: _lines(model, place, homes) for model in here}
    shared: tuple[FieldLine, ...] = ()
    if len(here) > 1:
        first, *others = lines.values()
        shared = tuple(line for line in first if all(line in other for other in others))
    if shared:
        types = tuple(tag_of(spot_of(model)) for model in here)
        yield FieldGroup(place=place, types=types, meaning="What all types have.", lines=shared)
    for model in here:
        own = tuple(line for line in lines[model] if line not in shared)
        types = (tag_of(spot_of(model)),) if len(models) > 1 else ()
        yield FieldGroup(place=place, types=types, meaning=_plain(model.__doc__), lines=own)
    done = set[str]()
    for inner, below in _inside(here, place):
        if below not in done:
            done.add(below)
            yield from _groups(inner, below, homes)


def _models(spot: Spot) -> list[type[BaseModel]]:
    return [model for each in _sections(spot) if (model := model_of(each)) is not None]


def _inside(models: Sequence[type[BaseModel]], place: str) -> Iterator[tuple[Spot, str]]:
    """The fields of some sections with their places."""
    for model in models:
        for name in model.model_fields:
            inner = item_of(spot_of(model), name)
            assert inner is not None
            yield inner, f"{place}.{name}".removeprefix(".")


def _sections(spot: Spot) -> Iterator[Spot]:
    """The mappings with fields of their own that may stand at a spot, or in a list there."""
    for member in members_of(spot):
        if member != spot:
            yield from _sections(member)
        elif model_of(member) is not None:
            yield member
        elif (item := item_of(member, 0)) is not None:
            yield from _sections(item)


def _lines(
    model: type[BaseModel], place: str, homes: Mapping[type[BaseModel], str]
) -> list[FieldLine]:
    return [
        FieldLine(
            place=below,
            takes=_takes(spot, below, homes),
            default=_default(field),
            meaning=_meaning(field, spot),
        )
        for field, (spot, below) in zip(
            model.model_fields.values(), _inside([model], place), strict=True
        )
        if not _is_tag(spot)
    ]


def _is_tag(spot: Spot) -> bool:
    """Whether it only names the type of a section that has several."""
    return get_origin(spot.annotation) is Literal and len(get_args(spot.annotation)) == 1


def _takes(spot: Spot, place: str, homes: Mapping[type[BaseModel], str]) -> str:
    words = allowed(spot)
    if model_of(spot) is not None:
        words = "a mapping" + (", or null" if type(None) in get_args(spot.annotation) else "")
    elsewhere = dict.fromkeys(homes[model] for model in _models(spot) if homes[model] != place)
    return words + "".join(f"; fields as of `{home}`" for home in elsewhere)


def _meaning(field: FieldInfo, spot: Spot) -> str:
    model = model_of(spot)
    own = field.description or (model.__doc__ if model is not None else None)
    assert own is not None, f"{field} says nothing of itself"
    return _plain(own)


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        type_named = {"type": tag_of(spot_of(type(value)))} if _has_tag(type(value)) else {}
        value = type_named | value.model_dump(mode="json", exclude_defaults=True)
    return _as_yaml(value)


def _has_tag(model: type[BaseModel]) -> bool:
    spot = item_of(spot_of(model), "type")
    return spot is not None and _is_tag(spot)


def _as_yaml(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-")
    plain = str(value) if isinstance(value, Path) else value
    plain = list(plain) if isinstance(plain, tuple) else plain
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(text: str | None) -> str:
    return " ".join((text or "").split())
