"""The recipe that `forethought init` writes: a start to read and change, each choice explained."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from forethought.config import Recipe
from forethought.config.recipe_files import load_part
from forethought.config.yaml_text import parse_yaml
from forethought.drafting.facts import Facts, gather_facts
from forethought.drafting.judge_word import judge_section
from forethought.drafting.prompt_file import graded_by_number
from forethought.drafting.warm_start import WarmStartChoice, choose_warm_start
from forethought.stages.prompts import askable_prompts

MOST_TEST, MOST_VALIDATION = 300, 200
PAPER_PROMPTS = 5000
"""Of an iteration."""
ENOUGH = {4: 250, 2: 100}
"""Iterations that are worth their training by the prompts that each of them has."""
PLACEHOLDER: dict[str, Any] = {"type": "verifier", "function": "gsm8k"}
"""While nobody is asked to judge."""
TO_FILL_IN = """\
# judge: nothing says yet what judges the responses, so this does not run. Take one of these.
# A small model that scores responses to chat prompts:
# judge: {type: reward_model, path: Skywork/Skywork-Reward-V2-Qwen3-0.6B}
# A chat model at a server, which rates each response:
# judge: {type: rating, engine: {type: openai, base_url: "http://localhost:8000/v1"}}
# A function of your own, grade(prompt, response), in my_checks.py on PYTHONPATH:
# judge: {type: verifier, function: "my_checks:grade"}
"""


def write_first_recipe(model: str, prompts: str, judge: str | None, target: Path) -> bool:
    """Write the recipe; returns whether it names a judge, so that it can be run as it stands.

    Raises: ValueError if the target exists, model or prompts cannot be read, `judge` is none, or
    there are too few prompts to hold any out.
    """
    if target.exists():
        raise ValueError(f"RECIPE: {target} exists and is not written over; name another file")
    if not target.parent.is_dir():
        raise ValueError(f"RECIPE: the folder {target.parent} does not exist; make it first")
    named = None if judge is None else judge_section(judge)
    text, judged = _text(gather_facts(model, prompts), named, target)
    target.write_text(text, encoding="utf-8")
    return judged


def _text(facts: Facts, judge: dict[str, Any] | None, target: Path) -> tuple[str, bool]:
    sections = facts.sections
    asked = sections | {"run": "runs/draft", "iterations": 0, "judge": PLACEHOLDER}
    asked["prompts"] = sections["prompts"] | {"test": {"count": 1}}
    bare = load_part(Recipe, (), asked)
    there = askable_prompts(bare)
    found = ""
    if judge is None and graded_by_number(there):
        judge, found = (
            PLACEHOLDER,
            "Every prompt has a number as reference, and this compares with it. ",
        )
    sizes = _Sizes.of(facts, bare, len(there))
    parts = [
        _head(facts, target),
        _part(
            {"run": f"runs/{facts.title}"}, "Everything the run makes; the same command resumes."
        ),
        *_model(facts, sizes.warm_start),
        *_rounds(facts, sizes),
        _sampling(facts),
        _judge(judge, found),
        *_warm_start(sizes.warm_start),
        _training(sizes.per_iteration),
        *_rest(facts),
    ]
    text = "\n".join(parts)
    # Nothing is handed over that could not be run.
    load_part(Recipe, (), {"judge": PLACEHOLDER} | parse_yaml(text))
    return text, judge is not None


def _part(section: dict[str, Any], comment: str) -> str:
    """A section below what explains it."""
    lines = textwrap.wrap(comment, 98, break_long_words=False, break_on_hyphens=False)
    shown = yaml.safe_dump(section, sort_keys=False, allow_unicode=True, width=98)
    return "".join(f"# {line}\n" for line in lines) + shown


def _head(facts: Facts, target: Path) -> str:
    return (
        f"# Made by `forethought init` of {facts.model} and {facts.file.source.path}.\n"
        "# A start: read it and change it.\n"
        f"#   forethought plan {target}     what it will do; --gpu rtx4090: memory, time, money\n"
        f"#   forethought run {target}      start it, or go on\n"
        "#   forethought config --fields     every field there is\n"
    )


def _model(facts: Facts, warm_start: WarmStartChoice) -> list[str]:
    thinking = facts.thinking
    context = "" if facts.context is None else f" It reads {facts.context:,} tokens at most."
    model = f"The model to train: {thinking.reason}.{context}"
    if thinking.template:
        model += " The variables are given to its chat template."
    format_words = {
        "tags": "Its thoughts are what stands before </think>.",
        "generic": 'It is asked to write its thoughts after "Here is my thought process:" and its '
        'response after "Here is my response:".',
    }
    words = format_words[thinking.thought_format]
    if warm_start.section is None and warm_start.reason:
        words += f" {warm_start.reason}"
    parts = [
        _part({"model": facts.sections["model"]}, model),
        _part({"thought_format": thinking.thought_format}, words),
    ]
    if "direct" not in thinking.arms:
        words = "No direct arm as a baseline: this model cannot be asked to answer at once."
        parts.append(_part({"arms": list(thinking.arms)}, words))
    return parts


def _rounds(facts: Facts, sizes: _Sizes) -> list[str]:
    behind = ", behind those of the warm start" if sizes.warm_start.prompts else ""
    rounds = (
        f"Rounds of sampling and training, each with {sizes.per_iteration} fresh prompts of the "
        f"{sizes.left} that are left to train on{behind}. The paper has 4 rounds of 5,000."
    )
    others = [name for name in facts.file.names if name not in facts.file.columns.values()]
    unused = [name for name in others if name not in ("prompt", "messages", "conversations")]
    held = (
        f"{sizes.there} distinct prompts can be asked. The test prompts give the scores of the "
        "page, the validation prompts choose among epochs; neither is trained on."
    )
    if sizes.test < 100:
        held += f" {sizes.test} test prompts show large differences only: more prompts would help."
    if unused:
        held += (
            f" Columns not used: {', '.join(unused)} (category, reference: see docs/prompts.md)."
        )
    prompts = facts.sections["prompts"]
    prompts |= {"validation": {"count": sizes.validation}, "test": {"count": sizes.test}}
    counts = {"iterations": sizes.iterations, "prompts_per_iteration": sizes.per_iteration}
    return [_part(counts, rounds), _part({"prompts": prompts}, held)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """What becomes of the prompts."""

    there: int
    test: int
    validation: int
    left: int
    """Neither for test nor for validation."""
    warm_start: WarmStartChoice
    iterations: int
    per_iteration: int

    @classmethod
    def of(cls, facts: Facts, bare: Recipe, there: int) -> _Sizes:
        """Of a recipe that trains nothing yet.

        Raises: ValueError if nothing would be left to train on.
        """
        test, validation = min(MOST_TEST, there // 5), min(MOST_VALIDATION, there // 10)
        if not test or not validation:
            raise ValueError(
                f"PROMPTS: {there} distinct prompts can be asked, too few to hold some out for a "
                "test; give 10 or more, and hundreds for a difference to be seen"
            )
        left = there - test - validation
        warm_start = choose_warm_start(facts, bare, left)
        fresh = left - warm_start.prompts
        iterations = next((n for n, enough in ENOUGH.items() if fresh // n >= enough), 1)
        return cls(
            there=there,
            test=test,
            validation=validation,
            left=left,
            warm_start=warm_start,
            iterations=iterations,
            per_iteration=min(PAPER_PROMPTS, fresh // iterations),
        )


def _sampling(facts: Facts) -> str:
    half = " (half of the model's context)" if facts.context == 2 * facts.limit else ""
    words = (
        "The paper's 8 outputs a prompt; best and worst become a pair. max_new_tokens is for "
        f"thought and response{half}: an output that is cut off has no response. Fewer rows take "
        "less memory; type: vllm is faster on a GPU."
    )
    sampling = facts.sections["sampling"]
    return _part(
        {"sampling": {"type": sampling["type"], "samples": 8} | sampling},
        words,
    )


def _judge(judge: dict[str, Any] | None, found: str) -> str:
    if judge is None:
        return TO_FILL_IN
    kinds = {
        "verifier": "A function grades each response.",
        "reward_model": "A sequence classifier scores each response.",
        "armorm": "The paper's judge scores each response.",
        "rating": "A chat model at a server rates each response from 1 to 10; pairwise compares, "
        "with more calls. A key is named by engine.api_key_env.",
    }
    words = f"{found}{kinds[judge['type']]} It never sees a thought."
    return _part({"judge": judge}, words)


def _warm_start(choice: WarmStartChoice) -> list[str]:
    if choice.section is None:
        return []
    return [_part({"warm_start": choice.section}, choice.reason)]


def _training(per: int) -> str:
    words = (
        "The paper trains 10 epochs and publishes no learning rate; 5e-7 is a start for all "
        "weights, and lora: {} trains adapters at 5e-6. Fewer tokens_per_microbatch take less "
        "memory."
    )
    training = {
        "learning_rate": 5e-7,
        "epochs": 3,
        "batch_size": min(64, max(4, per // 8)),
        "tokens_per_microbatch": 4096,
    }
    return _part({"training": training}, words)


def _rest(facts: Facts) -> list[str]:
    measures: dict[str, Any] = {"win_rate": {}, "probe": {}}
    words = (
        "Thought against direct arm, head to head and at equal tokens; and whether responses "
        "depend on their thoughts. Both for the last policy only."
    )
    if "direct" not in facts.thinking.arms:
        del measures["win_rate"]
        words = "Whether responses depend on their thoughts, for the last policy only."
    asked = {name: {"after": "last"} for name in measures}
    keep = "Of all weights those of the last policy stay on disk; best also keeps the best ones."
    return [_part({"measures": asked}, words), _part({"keep": "last"}, keep)]
