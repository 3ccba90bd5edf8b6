"""What a field allows, read from its annotation and said in words."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A place in a shape.

    Example: `Spot(annotation=int, rules=(Ge(ge=1),), tagged=False)`
    """

    annotation: Any
    """The type, without `Annotated`."""
    rules: tuple[Any, ...] = ()
    """Bounds and other metadata."""
    tagged: bool = False
    """It is a union whose `type` names the variant."""
    siblings: tuple[Spot, ...] = ()
    """Of such a variant: the others."""


def spot_of(annotation: Any, rules: Sequence[Any] = (), *, tagged: bool = False) -> Spot:
    """The place with this annotation."""
    found = list(rules)
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        for mark in more:
            if isinstance(mark, FieldInfo):
                tagged = tagged or mark.discriminator is not None
                found += mark.metadata
            else:
                found.append(mark)
    return Spot(annotation=annotation, rules=tuple(found), tagged=tagged)


def members_of(spot: Spot) -> list[Spot]:
    """The branches of a union without null; of anything else itself."""
    if get_origin(spot.annotation) not in (Union, types.UnionType):
        return [spot]
    kinds = [arg for arg in get_args(spot.annotation) if arg is not type(None)]
    if len(kinds) == 1:
        return [spot_of(kinds[0], spot.rules, tagged=spot.tagged)]
    return [spot_of(kind) for kind in kinds]


def is_tagged(spot: Spot) -> bool:
    """Whether it is, or may be, a union whose `type` names the variant."""
    inner = _inner(spot)
    return inner.tagged and len(members_of(inner)) > 1


def tags_of(spot: Spot) -> list[str]:
    """The types of such a union."""
    return [tag_of(variant) for variant in members_of(_inner(spot))]


def tag_of(variant: Spot) -> str:
    """The `type` of one variant."""
    model = model_of(variant)
    assert model is not None
    return get_args(model.model_fields["type"].annotation)[0]


def variant_of(spot: Spot, tag: Any) -> Spot | None:
    """The variant of that type."""
    variants = members_of(_inner(spot))
    for variant in variants:
        if tag_of(variant) == tag:
            others = tuple(other for other in variants if other is not variant)
            return dataclasses.replace(variant, siblings=others)
    return None


def model_of(spot: Spot) -> type[BaseModel] | None:
    """The model whose fields stand there, if it is one alone."""
    kind = _inner(spot).annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def fields_of(spot: Spot) -> tuple[str, ...]:
    """Names of a section's fields."""
    model = model_of(spot)
    return () if model is None else tuple(model.model_fields)


def item_of(spot: Spot | None, step: Any) -> Spot | None:
    """What a section's field, a list's entry or a mapping's value allows; `None` if unknown."""
    if spot is None:
        return None
    spot = _inner(spot)
    kind, origin, arguments = (
        spot.annotation,
        get_origin(spot.annotation),
        get_args(spot.annotation),
    )
    if (model := model_of(spot)) is not None:
        return _field(model, step)
    if dataclasses.is_dataclass(kind):
        hint = get_type_hints(kind, include_extras=True).get(str(step))
        return None if hint is None else spot_of(hint)
    if origin in (dict, Mapping):
        return spot_of(arguments[1])
    if isinstance(step, int) and origin in (tuple, list, Sequence):
        fixed = origin is tuple and arguments[-1] is not Ellipsis
        return spot_of(arguments[step] if fixed else arguments[0])
    return None


def _field(model: type[BaseModel], step: Any) -> Spot | None:
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        names = [name, *(getattr(alias, "choices", [alias]) if alias is not None else [])]
        if step in names:
            tagged = field.discriminator is not None
            return spot_of(field.annotation, field.metadata, tagged=tagged)
    return None


def _inner(spot: Spot) -> Spot:
    """Without an optional null around it."""
    members = members_of(spot)
    while len(members) == 1 and members[0] != spot:
        [spot] = members
        members = members_of(spot)
    return spot


def allowed(spot: Spot) -> str:
    """What may stand there, in words."""
    members = members_of(spot)
    if is_tagged(spot):
        words = [f"a mapping with type, one of {', '.join(tags_of(spot))}"]
    elif len(members) > 1:
        words = _choices(members)
    else:
        words = [_single(_inner(spot))]
    if type(None) in get_args(spot.annotation):
        words.append("null")
    return ", or ".join(words)


def _choices(members: Sequence[Spot]) -> list[str]:
    """The branches of a union, its words together."""
    literals = [literal for member in members for literal in _literals(member)]
    others = [allowed(member) for member in members if not _literals(member)]
    return list(dict.fromkeys([*([_one_of(literals)] if literals else []), *others]))


def _literals(spot: Spot) -> tuple[Any, ...]:
    return get_args(spot.annotation) if get_origin(spot.annotation) is Literal else ()


def _one_of(words: Sequence[Any]) -> str:
    named = ", ".join("null" if word is None else str(word) for word in words)
    return named if len(words) == 1 else f"one of {named}"


def _single(spot: Spot) -> str:
    kind, origin, arguments = (
        spot.annotation,
        get_origin(spot.annotation),
        get_args(spot.annotation),
    )
    if origin is Literal:
        return _one_of(arguments)
    if (model := model_of(spot)) is not None:
        needed = [name for name, field in model.model_fields.items() if field.is_required()]
        if needed:
            return f"a mapping with {', '.join(needed)}"
        return f"a mapping of {', '.join(model.model_fields)}"
    if origin in (tuple, list, Sequence):
        return _list(spot, origin, arguments)
    if origin in (dict, Mapping) or kind is dict or dataclasses.is_dataclass(kind):
        return "a mapping"
    plain = {bool: "true or false", Path: "a path"}
    if kind in plain:
        return plain[kind]
    if kind is str:
        return "text that is not empty" if _least_length(spot) else "text"
    if kind in (int, float):
        return f"a {'whole ' if kind is int else ''}number{_bounds(spot)}"
    return "another value"


def _list(spot: Spot, origin: Any, arguments: tuple[Any, ...]) -> str:
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)}: {', '.join(map(_each, arguments))}"
    least = _least_length(spot)
    return f"a list{f' of at least {least}' if least else ''}, each {_each(arguments[0])}"


def _each(annotation: Any) -> str:
    return allowed(spot_of(annotation))


def _least_length(spot: Spot) -> int:
    lengths = [rule.min_length for rule in spot.rules if isinstance(rule, annotated_types.MinLen)]
    return max(lengths, default=0)


def _bounds(spot: Spot) -> str:
    words = []
    for rule in spot.rules:
        match rule:
            case annotated_types.Ge():
                words.append(f"of at least {rule.ge}")
            case annotated_types.Gt():
                words.append(f"greater than {rule.gt}")
            case annotated_types.Le():
                words.append(f"of at most {rule.le}")
            case annotated_types.Lt():
                words.append(f"less than {rule.lt}")
            case _:
                pass
    return f" {' and '.join(words)}" if words else ""
