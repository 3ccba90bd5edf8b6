"""The recipe behind `forethought compare`: a run of no iterations.

The model as it is answers the prompts in both formats, its responses are judged as those of any
policy, and the page shows the difference: the evaluation of policy 0 with nothing after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forethought.config import Recipe
from forethought.config.recipe_files import load_part
from forethought.drafting.judge_word import CHOICES, judge_section
from forethought.drafting.prompt_file import PromptFile, graded_by_number, look_at
from forethought.drafting.thinking import Thinking, thinking_of
from forethought.models import loading
from forethought.prompts.files import stem
from forethought.stages.prompts import askable_prompts
from forethought.types import Prompt

MOST = 300
"""Prompts of a larger file that are answered unless more are asked for."""
BY_FORMAT = {"tags": 2048, "generic": 1024}
"""New tokens: thoughts of models that think by their template are the longer ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A recipe and why it is as it is.

    Example: `Comparison(recipe=Recipe(…), reasons=("thought_format: generic: …",))`
    """

    recipe: Recipe
    reasons: tuple[str, ...]
    """A line for each choice that was made for the user."""


def draft_comparison(
    model: str, prompts: str, judge: str | None, words: Sequence[str]
) -> Comparison:
    """Choose what the user has not said; `words` are recipe files and overrides, which win.

    Raises: ValueError if model or prompts cannot be read, or nothing says what is to judge.
    """
    thinking, file = thinking_of(model), look_at(prompts)
    if "direct" not in thinking.arms and not any("template" in word for word in words):
        raise ValueError(
            f"MODEL: {thinking.reason}, so {model} cannot be asked to answer at once and there is "
            "nothing to compare; if the template has a switch, name it: "
            "model.template={direct: {enable_thinking: false}}"
        )
    draft = _draft(model, thinking, file)
    named = judge is not None or any(_may_name_judge(word) for word in words)
    if judge is not None:
        draft["judge"] = judge_section(judge)
    elif not named:
        draft["judge"] = {"type": "verifier", "function": "gsm8k"}
    there = askable_prompts(load_part(Recipe, words, draft))
    if not named and not graded_by_number(there):
        raise ValueError(f"--judge: say what is to judge the responses; give {CHOICES}")
    draft["prompts"]["test"] = {"count": min(MOST, len(there))}
    recipe = load_part(Recipe, words, draft)
    return Comparison(recipe=recipe, reasons=tuple(_reasons(recipe, thinking, file, there, named)))


def output_limit(model: str, thought_format: str) -> int:
    """New tokens of an output: at most half of the model's context."""
    context = loading.context_length(loading.load_config(model))
    limit = BY_FORMAT[thought_format]
    return limit if context is None else min(limit, context // 2)


def _draft(model: str, thinking: Thinking, file: PromptFile) -> dict[str, Any]:
    source = {"type": "file", "path": str(file.source.path), "columns": file.columns}
    named = Path(model).expanduser().name.strip(".")
    return {
        "run": f"runs/compare-{named}-{stem(file.source.path)}",
        "model": {"path": model, "template": thinking.template},
        "thought_format": thinking.thought_format,
        "iterations": 0,
        "prompts": {"train": [source], "test": {"count": 1}},
        "sampling": {
            "type": "transformers",
            "max_new_tokens": output_limit(model, thinking.thought_format),
            "rows": 64,
        },
        "measures": {"win_rate": {"equal_tokens": False}},
    }


def _may_name_judge(word: str) -> bool:
    return word.startswith("judge") or Path(word).is_file()


def _reasons(
    recipe: Recipe,
    thinking: Thinking,
    file: PromptFile,
    there: Sequence[Prompt],
    named: bool,
) -> list[str]:
    assert recipe.prompts.test is not None
    count = recipe.prompts.test.count
    columns = ", ".join(f"{field} from {name!r}" for field, name in file.columns.items())
    lines = [
        f"thought_format {recipe.thought_format}: {thinking.reason}",
        f"prompts: {count} of {len(there)}" + (f"; {columns}" if columns else ""),
        f"outputs: up to {recipe.sampling.max_new_tokens} tokens (sampling.max_new_tokens)",
    ]
    if not named:
        lines.append("judge: verifier gsm8k, since every reference is or ends on a number")
    return [*lines, f"run: {recipe.run}"]
