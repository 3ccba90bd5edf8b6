"""Read recipe files: merge them left to right, apply dotted overrides, validate.

`forethought run a.yaml b.yaml pairs.rho=0.2`: later files and overrides win field by field. Where
a section's `type` changes, the section is replaced whole, for the fields of another type mean
nothing; overrides are one layer, whichever of them names the type. There is no interpolation and no
inheritance.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from forethought.config import ConfigModel, Recipe, explain
from forethought.config.hints import did_you_mean
from forethought.config.yaml_text import parse_yaml, read_yaml

Part = TypeVar("Part", bound=ConfigModel)

OVERRIDE = re.compile(r"[A-Za-z_][A-Za-z_0-9.]*=")
"""How an override begins; a file's name may, too."""
EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
"""A number that YAML 1.1 takes for text."""


def load_recipe(arguments: Sequence[str]) -> Recipe:
    """The recipe of a command line: files, and `key=value` overrides.

    Raises: ValueError that names file, field, value and what is allowed.
    """
    if all(_is_override(argument) for argument in arguments):
        raise ValueError("no recipe file is given; for example: recipes/quickstart.yaml")
    return _validated(Recipe, _merged(arguments), arguments)


def load_part(
    part: type[Part], arguments: Sequence[str], below: dict[str, Any] | None = None
) -> Part:
    """Those sections of a recipe that one command needs; the others may be there or not.

    `below` is what the arguments are laid over, such as a run's recipe.

    Raises: ValueError that names file, field, value and what is allowed.
    """
    merged = _merge(below or {}, _merged(arguments))
    # A field that no recipe has is a typing error; let it be named.
    unknown = merged.keys() - Recipe.model_fields.keys()
    wanted = {key: merged[key] for key in merged if key in part.model_fields or key in unknown}
    return _validated(part, wanted, arguments)


def load_run(run: Path, arguments: Sequence[str] = ()) -> Recipe:
    """The resolved recipe that a run directory holds, the arguments laid over it.

    Everything that reads a run's recipe reads it here: the stages, resuming, report, view, export.

    Raises: ValueError if it is not a run directory, or an argument is wrong.
    """
    path = run / "config.json"
    if not path.is_file():
        what = "it has no config.json" if run.is_dir() else "there is no such folder"
        inside = sorted(str(config.parent) for config in run.glob("*/config.json"))
        if inside:
            what += f", and {', '.join(inside[:5])} in it have one; name one of them"
        raise ValueError(
            f"run: {run} is not a run directory: {what}. A run directory is what `forethought run` "
            "writes: it holds config.json, run.json, prompts/, and a folder per arm"
        )
    try:
        held = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(held, dict):
        raise ValueError(f"{path} is not a recipe: a mapping of fields is wanted, got {held!r:.60}")
    try:
        recipe = Recipe.model_validate(held | {"run": str(run)})
    except ValidationError as error:
        raise ValueError(f"{path} is not a recipe: {explain(error, Recipe)}") from error
    if not arguments:
        return recipe
    over = _merge(held, _merged(arguments)) | {"run": str(run)}
    return _validated(Recipe, over, [str(path), *arguments])


def dump(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as plain JSON values."""
    return recipe.model_dump(mode="json")


def _merged(arguments: Sequence[str]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for argument in arguments:
        if not _is_override(argument):
            merged = _merge(merged, _read(Path(argument)))
    overrides: dict[str, Any] = {}
    for argument in arguments:
        if _is_override(argument):
            overrides = _merge(overrides, _override(argument), types_change=False)
    return _merge(merged, overrides)


def _validated(shape: type[Part], merged: dict[str, Any], arguments: Sequence[str]) -> Part:
    try:
        return shape.model_validate(merged)
    except ValidationError as error:
        # Of an override the name: its value may be a secret, and the mistake shows what was given.
        named = (f"{_name_of(each)}=…" if _is_override(each) else each for each in arguments)
        raise ValueError(f"recipe {' + '.join(named)}:\n{explain(error, shape)}") from error


def _name_of(override: str) -> str:
    return override.partition("=")[0]


def _is_override(argument: str) -> bool:
    # Not Path.is_file, which raises for a value that is too long for a name.
    return OVERRIDE.match(argument) is not None and not os.path.isfile(argument)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        beside = [str(other) for other in path.parent.glob("*.y*ml")]
        raise ValueError(f"recipe {path} does not exist{did_you_mean(path, beside)}")
    try:
        content = read_yaml(path)
    except ValueError as error:
        raise ValueError(f"recipe {path} is not readable YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"recipe {path} must be a mapping of fields, found {content!r:.80}")
    return content


def _override(argument: str) -> dict[str, Any]:
    name, _, text = argument.partition("=")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"override {argument!r:.80}: the value is not readable YAML") from error
    # YAML 1.1 reads 1e-4 as a string.
    if isinstance(value, str) and EXPONENT.fullmatch(value):
        value = float(value)
    *sections, field = name.split(".")
    nested: dict[str, Any] = {field: value}
    for section in reversed(sections):
        nested = {section: nested}
    return nested


def _merge(
    below: dict[str, Any], above: dict[str, Any], *, types_change: bool = True
) -> dict[str, Any]:
    """Without a `type` of its own a section has a default one, or none yet: nothing is dropped."""
    if types_change and "type" in below and "type" in above and above["type"] != below["type"]:
        return above
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(old, value, types_change=types_change)
        else:
            merged[key] = value
    return merged
