"""One line of what doctor says: a figure, what it means, and the field that changes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from forethought.doctor.limits import Limit
from forethought.types import Arm

Verdict = Literal["ok", "look", "stop", "unknown"]
GRAVITY: tuple[Verdict, ...] = ("unknown", "ok", "look", "stop")
"""From the least to the gravest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """What to change in the recipe.

    Example: `Remedy(field="sampling.max_new_tokens", value="256")`
    """

    field: str
    value: str | None = None
    """To try first; `None` where no figure tells one."""

    def __str__(self) -> str:
        return self.field if self.value is None else f"{self.field}={self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A figure of an arm, or of the whole run, and what is to be thought of it.

    Example: `Check(name="unparsed", arm="thought", value=0.97, shown="97%", verdict="stop",
    words="124 of 128 outputs …", remedy=Remedy(field="warm_start", value="{}"), limit=UNPARSED)`
    """

    name: str
    arm: Arm | None
    """`None` where it is of the whole run."""
    value: float | None
    """`None` where nothing could be measured."""
    shown: str
    """The value for a reader."""
    verdict: Verdict
    words: str
    """What was counted, in a sentence; of what was not measured, why."""
    remedy: Remedy | None = None
    """Where the verdict is `look` or `stop`."""
    limit: Limit | None = None
    """What the verdict was made by."""


def gravest(verdicts: Iterable[Verdict]) -> Verdict:
    """The gravest of some."""
    worst: Verdict = "unknown"
    for verdict in verdicts:
        if GRAVITY.index(verdict) > GRAVITY.index(worst):
            worst = verdict
    return worst


def judged(value: float, limit: Limit, *, error: float = 0.0) -> Verdict:
    """The verdict on a value, of which more is worse.

    A look is asked for where the value is above the limit by more than its standard `error`.
    """
    if limit.stop is not None and value > limit.stop:
        return "stop"
    return "look" if value - error > limit.look else "ok"


def share_check(
    name: str,
    arm: Arm | None,
    share: float,
    limit: Limit,
    *,
    verdict: Verdict,
    words: str,
    remedy: Remedy | None = None,
) -> Check:
    """A check of a share; it keeps its `remedy` where the verdict asks for one."""
    return Check(
        name=name,
        arm=arm,
        value=share,
        shown=percent(share),
        verdict=verdict,
        words=words,
        remedy=remedy if verdict in ("look", "stop") else None,
        limit=limit,
    )


def unknown(name: str, arm: Arm | None, why: str) -> Check:
    """A check that had nothing to measure."""
    return Check(name=name, arm=arm, value=None, shown="-", verdict="unknown", words=why)


def percent(share: float) -> str:
    """A share as a reader takes it in."""
    return f"{share:.0%}"
