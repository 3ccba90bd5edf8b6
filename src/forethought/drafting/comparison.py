"""The recipe behind `forethought compare`: a run of no iterations.

The model as it is answers the prompts in both formats, its responses are judged as those of any
policy, and the page shows the difference: the evaluation of policy 0 with nothing after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from forethought.config import Recipe
from forethought.config.recipe_files import load_part
from forethought.drafting.facts import Facts, gather_facts
from forethought.drafting.judge_word import CHOICES, judge_section
from forethought.drafting.prompt_file import graded_by_number
from forethought.stages.prompts import askable_prompts
from forethought.types import Prompt

MOST = 300
"""Prompts of a larger file that are answered unless more are asked for."""


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
    facts = gather_facts(model, prompts)
    if "direct" not in facts.thinking.arms and not any("template" in word for word in words):
        raise ValueError(
            f"MODEL: {facts.thinking.reason}, so {model} cannot be asked to answer at once and "
            "there is nothing to compare; if the template has a switch, name it: "
            "model.template={direct: {enable_thinking: false}}"
        )
    draft = facts.sections
    draft |= {"run": str(facts.comparison), "iterations": 0}
    draft["prompts"]["test"] = {"count": 1}
    draft["measures"] = {"win_rate": {"equal_tokens": False}}
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
    return Comparison(recipe=recipe, reasons=tuple(_reasons(recipe, facts, there, named)))


def _may_name_judge(word: str) -> bool:
    return word.startswith("judge") or Path(word).is_file()


def _reasons(recipe: Recipe, facts: Facts, there: Sequence[Prompt], named: bool) -> list[str]:
    assert recipe.prompts.test is not None
    count = recipe.prompts.test.count
    columns = ", ".join(f"{field} from {name!r}" for field, name in facts.file.columns.items())
    lines = [
        f"thought_format {recipe.thought_format}: {facts.thinking.reason}",
        f"prompts: {count} of {len(there)}" + (f"; {columns}" if columns else ""),
        f"outputs: up to {recipe.sampling.max_new_tokens} tokens (sampling.max_new_tokens)",
    ]
    if not named:
        lines.append("judge: verifier gsm8k, since every reference is or ends on a number")
    return [*lines, f"run: {recipe.run}"]
