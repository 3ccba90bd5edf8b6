"""Secrets have no place in a recipe: it is written to the run, shown in the report, and shared."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

NAME = re.compile(
    r"^(?:key|token)$"
    r"|(?:^|[_-])(?:api[_-]?key|(?:access|auth|private|secret)[_-]?(?:key|token)|secret"
    r"|passw(?:or)?d|authorization|bearer)$",
    re.IGNORECASE,
)
"""How fields that hold a secret are called; `api_key_env`, `stop_token` and `prompt_cache_key` are
not."""
HIDDEN = "…"


def is_secret(name: str, value: Any) -> bool:
    """Whether a field looks like one that holds a secret."""
    return isinstance(value, str) and NAME.search(name) is not None


def secrets_in(value: Any, place: str) -> Iterator[str]:
    """Dotted places of what looks like a secret, in a value of JSON."""
    if isinstance(value, dict):
        for name, item in value.items():
            inside = f"{place}.{name}"
            if is_secret(str(name), item):
                yield inside
            else:
                yield from secrets_in(item, inside)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from secrets_in(item, f"{place}.{index}")


def refuse_secrets(base_url: str, extra_body: dict[str, Any]) -> None:
    """Raises: ValueError naming the place, never the secret."""
    try:
        parts = urlsplit(base_url)
        has_user = parts.username is not None or parts.password is not None
    except ValueError:
        has_user = False
    places = ["base_url"] * has_user + list(secrets_in(extra_body, "extra_body"))
    if places:
        raise ValueError(
            f"{places[0]}: it holds what looks like a secret, and a recipe is written to the run "
            "and shown in its report; put it into an environment variable and name that in "
            "api_key_env"
        )
