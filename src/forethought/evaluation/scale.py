"""How figures are written for a reader: per cent, tokens, or the judge's own numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Figure(Protocol):
    """A figure and what it rests on, such as an `EvaluationResult`."""

    @property
    def value(self) -> float:
        """The figure itself."""
        ...

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %; `None` where it cannot be told."""
        ...

    @property
    def count(self) -> int:
        """Prompts, or what else the interval is over."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How scores are written: per cent where they are shares, as they are otherwise.

    Example: `Scale(factor=100.0, digits=1, unit="%", points="points")`
    """

    factor: float
    digits: int
    unit: str
    points: str
    """What a difference is counted in."""

    @property
    def suffix(self) -> str:
        """The unit as a column's or an axis's title ends with it, such as `, %`; may be empty."""
        return f", {self.unit}" if self.unit else ""

    def number(self, value: float) -> str:
        """A score as text, with its unit: `61.2%`."""
        space = "" if self.unit == "%" else " "
        return f"{value * self.factor:.{self.digits}f}{space}{self.unit}".rstrip()

    def size(self, value: float) -> str:
        """The size of a difference as text, without its sign and unit."""
        return f"{abs(value) * self.factor:.{self.digits}f}"

    def change(self, value: float) -> str:
        """A difference as text with its sign, without a unit; one that rounds to zero has none."""
        text = f"{value * self.factor:+.{self.digits}f}"
        zero = float(text) == 0
        return (text[1:] if zero else text).replace("-", "\N{MINUS SIGN}")

    def with_interval(self, figure: Figure) -> str:
        """A score with what it rests on: `61.2% (95 % interval 57.1% to 65.0%, n = 400)`."""
        return f"{self.number(figure.value)} ({rests_on(self.number, figure)})"

    def change_with_interval(self, figure: Figure) -> str:
        """A difference with what it rests on: `+4.2 points (95 % interval +1.2 to …, n = 400)`."""
        return f"{self.change(figure.value)} {self.points} ({rests_on(self.change, figure)})"


def rests_on(write: Callable[[float], str], figure: Figure) -> str:
    """The interval and the number of prompts behind a figure; `write` is how its ends are written.

    Example: `rests_on(PERCENT.change, result) == "95 % interval +1.2 to +9.4, n = 400"`
    """
    if figure.interval is None:
        return f"without an interval, n = {figure.count:,}"
    low, high = map(write, figure.interval)
    return f"95 % interval {low} to {high}, n = {figure.count:,}"


PERCENT = Scale(factor=100.0, digits=1, unit="%", points="points")
TOKENS = Scale(factor=1.0, digits=1, unit="", points="tokens")
RAW = Scale(factor=1.0, digits=3, unit="", points="of the judge's score")
PUBLISHED = Scale(factor=1.0, digits=1, unit="%", points="points")
"""Of benchmarks that print per cent themselves."""
