"""What can be said of a judge from its recipe section and its prompt file, before any model is
loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from forethought.config import ChecklistJudge, JudgeConfig, LLMJudge, RatingJudge, Recipe
from forethought.judging.llm.checklist_items import identity_of_items
from forethought.judging.llm.prompt_file import load_prompt
from forethought.models import loading
from forethought.share_interval import SHARE, Ends
from forethought.storage.files import content_hash

READING = 2
"""Of a chat model's replies; moves when the same reply is read as another verdict."""


def identity(config: JudgeConfig) -> dict[str, Any]:
    """What names the judge in a hash: its settings and the words of its prompt file.

    Raises: ValueError if a prompt file cannot be read.
    """
    named = config.identity()
    if isinstance(config, LLMJudge):
        prompt = load_prompt(config.prompt, config.type)
        named["prompt_words"] = content_hash(prompt.model_dump(mode="json"))
        named["reading"] = READING
    if isinstance(config, ChecklistJudge):
        named["items"] = identity_of_items(config)
    if config.panels:
        named["members"] = [
            [identity(member.judge) for member in route.members] for route in config.panels
        ]
    return named


def refuse_missing_models(config: JudgeConfig, place: str = "judge") -> None:
    """Look for the folders of a judge's models, before anything is loaded or paid for; `place` is
    where the judge stands in the recipe.

    Raises: ValueError if one is named that is not there.
    """
    for field, source in config.sources:
        loading.resolve(source, field=place + field.removeprefix("judge"))


def score_ends(config: JudgeConfig, scores: Iterable[float]) -> Ends | None:
    """The ends of a prompt's score, where the judge's scale has two.

    Nobody says what a verifier of the user's own may give; while all its `scores` lie within 0 and
    1, they are taken for shares of right ones.

    Raises: ValueError if a prompt file cannot be read.
    """
    if isinstance(config, RatingJudge):
        return load_prompt(config.prompt, "rating").scale
    shares = config.gives_shares or (config.grades and all(0 <= score <= 1 for score in scores))
    return SHARE if shares else None


def difference_ends(config: JudgeConfig, scores: Iterable[float]) -> Ends | None:
    """The ends of the difference of two such scores."""
    ends = score_ends(config, scores)
    return None if ends is None else (ends[0] - ends[1], ends[1] - ends[0])


BY_JUDGE = "the judge's score"


def score_of(recipe: Recipe) -> str:
    """What a policy's test score is: the judge's own, or wins where it only compares."""
    if recipe.judge.is_relative:
        return f"share of wins against {recipe.baseline_arm} policy 0"
    return BY_JUDGE
