"""What every section of a recipe is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, field_validator

from forethought.types import Arm

ARMS: tuple[Arm, ...] = get_args(Arm)
DType = Literal["float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]


class _Operational:
    """Marks a field that decides how work is done, not what comes out of it."""


Operational = _Operational()
"""`Annotated[int, Operational]`: the field may change while a run is resumed."""


class _Later:
    """Marks a field that came after works were named without it."""


Later = _Later()
"""`Annotated[str | None, Later]`: the field names the work only where it is not its default."""


class ConfigModel(BaseModel):
    """Base of all recipe sections: frozen, nothing unknown, fields documented below themselves."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def identity(self) -> dict[str, Any]:
        """The fields as JSON values, without operational ones: what names the work."""
        return {
            name: _identity(value)
            for name, value in self
            if Operational not in (marks := type(self).model_fields[name].metadata)
            and not (Later in marks and value == _default(type(self), name))
        }


def _default(section: type[ConfigModel], name: str) -> Any:
    return section.model_fields[name].get_default(call_default_factory=True)


def _identity(value: Any) -> Any:
    if isinstance(value, ConfigModel):
        return value.identity()
    if isinstance(value, tuple):
        return [_identity(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def default_type(name: str) -> BeforeValidator:
    """Of a union told apart by `type`: the variant that is meant where no `type` is given."""

    def named(given: Any) -> Any:
        return {"type": name} | given if isinstance(given, dict) else given

    return BeforeValidator(named)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """What names the files of a model, for everything that loads one.

    Example: `ModelSource(path="microsoft/Phi-4-mini-instruct", revision="5a149550068a")`
    """

    path: str
    """A Hugging Face folder or hub name, or `microworld`."""
    revision: str | None = None
    """Of a hub model: commit, tag or branch; the newest by default."""
    trust_remote_code: bool = False
    """Run modelling code that comes with the checkpoint."""
    long_context: bool = False
    """Of a longrope model: its long factors for every sequence."""

    def at(self, path: str) -> ModelSource:
        """Another folder, read in the same way."""
        return replace(self, path=path, revision=None)


class ModelConfig(ConfigModel):
    """The seed policy."""

    path: str
    """A Hugging Face folder or hub name, or `microworld` for the seed model in the package."""
    revision: Annotated[str | None, Later] = None
    """Commit, tag or branch of a hub model; the newest by default."""
    dtype: DType = "bfloat16"
    """Number type of weights while sampling; training has its own."""
    device: Device = "auto"
    """`auto` takes a GPU when there is one."""
    trust_remote_code: bool = False
    """Run modelling code that comes with the checkpoint."""
    template: Annotated[dict[str, JsonValue], Later] = Field(default_factory=dict)
    """Variables for the chat template, such as `{enable_thinking: false}`. What stands under
    `thought` or `direct` is for that arm alone: `{direct: {enable_thinking: false}}`."""

    @field_validator("template")
    @classmethod
    def _an_arm_has_variables(cls, given: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for arm in ARMS:
            if not isinstance(given.get(arm, {}), dict):
                raise ValueError(
                    f"{arm} is {given[arm]!r}; give that arm's variables, such as "
                    f"{{{arm}: {{enable_thinking: false}}}}"
                )
        return given

    def __hash__(self) -> int:
        return hash((self.path, self.dtype, self.device))

    def of_arm(self, arm: Arm) -> ModelConfig:
        """The same model with the variables of one arm's prompts."""
        shared = {name: value for name, value in self.template.items() if name not in ARMS}
        own = self.template.get(arm, {})
        assert isinstance(own, dict), "the validator has seen to it"
        return self.model_copy(update={"template": shared | own})

    long_context: Annotated[bool, Later] = False
    """Of a model with two sets of position factors (longrope: Phi-3.5, Phi-4-mini): read every
    sequence with the long ones. Without it no sequence goes beyond the length of the original
    training."""

    @property
    def source(self) -> ModelSource:
        """What its files are loaded by."""
        return ModelSource(
            path=self.path,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            long_context=self.long_context,
        )

    @classmethod
    def of(cls, source: ModelSource) -> ModelConfig:
        """Its files with the settings' defaults."""
        return cls(
            path=source.path,
            revision=source.revision,
            trust_remote_code=source.trust_remote_code,
            long_context=source.long_context,
        )

    def at(self, path: str) -> ModelConfig:
        """The same settings for other weights. A revision is one of the name it was given with."""
        revision = self.revision if path == self.path else None
        return self.model_copy(update={"path": path, "revision": revision})
