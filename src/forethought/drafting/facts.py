"""What a recipe can be drafted from: a model and a file of prompts, as they were found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forethought.drafting.prompt_file import PromptFile, look_at
from forethought.drafting.thinking import Thinking, thinking_of
from forethought.models import loading
from forethought.prompts.files import stem

BY_FORMAT = {"tags": 2048, "generic": 1024}
"""New tokens: thoughts of models that think by their template are the longer ones."""
ROWS = 64
"""Outputs decoded at a time: a model of a billion parameters fits a GPU of 24 GB so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A model and a file of prompts.

    Example: `Facts(model="./my-model", context=8192, thinking=Thinking(…), file=PromptFile(…))`
    """

    model: str
    context: int | None
    """Longest sequence in tokens; `None` where the model does not say."""
    thinking: Thinking
    file: PromptFile

    @property
    def title(self) -> str:
        """Of both, as a part of a path."""
        return f"{Path(self.model).expanduser().name.strip('.')}-{stem(self.file.source.path)}"

    @property
    def comparison(self) -> Path:
        """Where `forethought compare` runs, unless it is told otherwise."""
        return Path("runs") / f"compare-{self.title}"

    @property
    def limit(self) -> int:
        """New tokens of an output: at most half of the context."""
        limit = BY_FORMAT[self.thinking.thought_format]
        return limit if self.context is None else min(limit, self.context // 2)

    @property
    def sections(self) -> dict[str, Any]:
        """What every recipe on them has: no judge, and in `prompts` nothing held out yet."""
        template = {"template": self.thinking.template} if self.thinking.template else {}
        columns = {"columns": self.file.columns} if self.file.columns else {}
        source = {"type": "file", "path": str(self.file.source.path)} | columns
        return {
            "model": {"path": self.model} | template,
            "thought_format": self.thinking.thought_format,
            "prompts": {"train": [source]},
            "sampling": {"type": "transformers", "max_new_tokens": self.limit, "rows": ROWS},
        }


def gather_facts(model: str, prompts: str) -> Facts:
    """Look at both.

    Raises: ValueError if there is no such model or file, the model has no chat template, or no
    column of the file is known to hold prompts.
    """
    file, thinking = look_at(prompts), thinking_of(model)
    context = loading.context_length(loading.load_config(model))
    return Facts(model=model, context=context, thinking=thinking, file=file)
