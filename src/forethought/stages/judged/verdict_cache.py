"""Where the answers of a run's judge models are kept."""

from __future__ import annotations

from pathlib import Path

from forethought.config import JudgeConfig, Recipe
from forethought.runs.layout import StageRef
from forethought.storage.reply_cache import Cache


def verdict_cache(ref: StageRef, judge: JudgeConfig) -> Cache:
    """The run's kept answers of judge models, or those that several runs share.

    For a judge that asks no model they are in memory and end with the stage.

    Raises: ValueError if the file cannot be used.
    """
    recipe = ref.recipe
    path = verdict_cache_file(recipe) if judge.asks_a_model else None
    return Cache(path, account=f"{recipe.run.resolve()} {ref.label}")


def verdict_cache_file(recipe: Recipe) -> Path:
    """Where a run keeps what judge models said."""
    return recipe.cache or recipe.run / "cache.sqlite"
