"""How figures are written for a reader: per cent, tokens, or the judge's own numbers."""

from __future__ import annotations

from dataclasses import dataclass


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


PERCENT = Scale(factor=100.0, digits=1, unit="%", points="points")
TOKENS = Scale(factor=1.0, digits=1, unit="", points="tokens")
RAW = Scale(factor=1.0, digits=3, unit="", points="of the judge's score")
PUBLISHED = Scale(factor=1.0, digits=1, unit="%", points="points")
"""Of benchmarks that print per cent themselves."""
