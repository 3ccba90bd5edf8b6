"""Import what a recipe names as `package.module:attribute`, with errors that say what to change."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def import_attribute(path: str, field: str) -> Callable[..., Any]:
    """The function or class behind an import path.

    Raises: ValueError, naming the recipe's field, if it cannot be imported or called.
    """
    module_name, colon, attribute = path.partition(":")
    if not colon or not attribute.isidentifier() or not _is_dotted(module_name):
        raise ValueError(f"{field}: {path!r} is no import path; write package.module:name")
    try:
        module = import_module(module_name)
    # A user's module may fail to import in any way.
    except Exception as error:
        raise ValueError(
            f"{field}: module {module_name!r} of {path!r} could not be imported: "
            f"{type(error).__name__}: {error}; install it, or put its folder on PYTHONPATH"
        ) from error
    found = vars(module).get(attribute)
    if found is None:
        public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ValueError(
            f"{field}: module {module_name!r} has no {attribute!r}; it has {sorted(public)[:20]}"
        )
    if not callable(found):
        raise ValueError(f"{field}: {path!r} is a {type(found).__name__}; name a function or class")
    return found


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))
