"""Where prompts come from."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from forethought.config.base import ConfigModel


class ColumnsConfig(ConfigModel):
    """Which columns of a file or data set mean what."""

    prompt: str = "prompt"
    """A string, a list of messages (`{role, content}`, or ShareGPT's `{from, value}`), such a list
    as JSON, or a list of user turns. Left at its default, `messages` or `conversations` is taken
    where there is no `prompt`."""
    input: str | None = None
    """A second text column put below the prompt after a blank line, when it is not empty."""
    category: str | None = None
    """Column with a category, shown in the report."""
    reference: str | None = None
    """Column with what a verifier compares with."""


URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
"""How an address that fsspec opens begins."""


def path_or_url(given: str) -> Path | str:
    """A path of this machine as such; only an address stays a text."""
    return given if URL.match(given) else Path(given)


def _as_given(given: Path | str) -> Path | str:
    return path_or_url(given) if isinstance(given, str) else given


# Text first, and looked at afterwards: JSON knows no paths, so what has been made one too early is
# refused there.
PathOrUrl = Annotated[str | Path, AfterValidator(_as_given)]


class FilePrompts(ConfigModel):
    """JSONL, CSV or Parquet on disk, or at an address."""

    type: Literal["file"] = "file"
    path: PathOrUrl
    """A `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file, also with `.gz`, `.bz2` or `.zst`
    behind it, or the address of one that fsspec opens, such as
    `s3://bucket/prompts.jsonl` (with `pip install s3fs`) or `gs://…` (`gcsfs`). Read once: the
    prompts are kept in the run directory."""
    columns: ColumnsConfig = ColumnsConfig()
    source: str | None = None
    """Name of this source in records and reports; the file's stem by default."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first so many records."""

    @property
    def name(self) -> str:
        """The last part of its path or address."""
        return PurePosixPath(self.path).name


class DatasetPrompts(ConfigModel):
    """A Hugging Face `datasets` name or a folder that `load_dataset` or `load_from_disk` reads."""

    type: Literal["datasets"] = "datasets"
    name: str
    """Hub name or folder."""
    split: str = "train"
    """Split of the data set, also of a folder that `save_to_disk` wrote: a name, or a slice such as
    `train[:100]`."""
    subset: str | None = None
    """Configuration name of the data set."""
    columns: ColumnsConfig = ColumnsConfig()
    source: str | None = None
    """Name of this source in records and reports; the data set's name by default."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first so many records."""


class MicroworldPrompts(ConfigModel):
    """Prompts made by the embedded microworld."""

    type: Literal["microworld"] = "microworld"
    split: Literal["train", "validation", "test"] = "train"
    """The three splits share no prompt."""
    count: int = Field(ge=1)
    """How many prompts to make."""


PromptSource = Annotated[
    FilePrompts | DatasetPrompts | MicroworldPrompts, Field(discriminator="type")
]


def _as_sources(given: Any) -> Any:
    """One source is a list of one, and a path or address alone is a file."""
    several = given if isinstance(given, list | tuple) else [given]
    return [_as_source(source) for source in several]


def _as_source(given: Any) -> Any:
    if isinstance(given, str | Path):
        return {"type": "file", "path": given}
    if isinstance(given, dict) and "path" in given:
        return {"type": "file"} | given
    return given


PromptSources = Annotated[tuple[PromptSource, ...], BeforeValidator(_as_sources)]
"""`prompts.jsonl`, `[a.jsonl, {type: datasets, name: …}]` or one mapping."""


class HeldOut(ConfigModel):
    """Prompts that are never trained on."""

    count: int = Field(ge=0)
    """How many prompts."""
    sources: PromptSources = ()
    """Where they come from; empty: taken out of the training sources before any slice is made."""


class PromptsConfig(ConfigModel):
    """Where prompts come from."""

    train: PromptSources = Field(min_length=1)
    """Sources of the training prompts, concatenated and deduplicated; a path alone is a file."""
    validation: HeldOut = HeldOut(count=0)
    """Choose the epoch on these; not needed where nothing is chosen by a judge."""
    test: HeldOut | None = None
    """Reported, never used for a choice."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Leave out prompts of more tokens, rendered with the chat template and either arm's
    instruction, before anything is set aside or sliced."""

    @field_validator("test")
    @classmethod
    def _tests_something(cls, given: HeldOut | None) -> HeldOut | None:
        if given is not None and given.count == 0:
            raise ValueError("count: 0 prompts test nothing; give more, or leave prompts.test out")
        return given
