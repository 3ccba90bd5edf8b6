"""What every section of a recipe is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

DType = Literal["float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]


class _Operational:
    """Marks a field that decides how work is done, not what comes out of it."""


Operational = _Operational()
"""`Annotated[int, Operational]`: the field may change while a run is resumed."""


class Shape(BaseModel):
    """Base of all recipe sections: frozen, nothing unknown, fields documented below themselves."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def identity(self) -> dict[str, Any]:
        """The fields as JSON values, without operational ones: what names the work."""
        return {
            name: _identity(value)
            for name, value in self
            if Operational not in type(self).model_fields[name].metadata
        }


def _identity(value: Any) -> Any:
    if isinstance(value, Shape):
        return value.identity()
    if isinstance(value, tuple):
        return [_identity(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def default_type(name: str) -> BeforeValidator:
    """Of a union told apart by `type`: the variant that is meant where no `type` is given."""

    def named(given: Any) -> Any:
        return {"type": name} | given if isinstance(given, dict) else given

    return BeforeValidator(named)


class ModelConfig(Shape):
    """The seed policy."""

    path: str
    """A Hugging Face folder or hub name, or `microworld` for the seed model in the package."""
    dtype: DType = "bfloat16"
    """Number type of weights while sampling; training has its own."""
    device: Device = "auto"
    """`auto` takes a GPU when there is one."""
    trust_remote_code: bool = False
    """Run modelling code that comes with the checkpoint."""
