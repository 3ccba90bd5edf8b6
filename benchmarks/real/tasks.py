"""What every family of prompts is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A prompt with the constraints that grade it."""

    prompt: str
    constraints: Sequence[Mapping[str, Any]]
    fillers: object
    """What tells it from other prompts of its template; hashable."""
    thought: str = ""
    """What a thought may hold that leads to the response; none where no program can write one."""
    response: str = ""
    """A right response."""


Template = Callable[[Random], Task]
"""Draws a task."""
Templates = Mapping[str, Template]
"""Templates by name."""
