"""What can be said of a judge from its recipe section alone, before any model is loaded."""

from __future__ import annotations

from typing import Any, assert_never

from forethought import models
from forethought.config import (
    ArmoRMJudge,
    CustomJudge,
    JudgeConfig,
    MixtureJudge,
    PairwiseJudge,
    RatingJudge,
    Recipe,
    RewardModelJudge,
    VerifierJudge,
)
from forethought.judging.calls import model_name
from forethought.judging.pairwise import calls_per_group as comparisons_per_group
from forethought.judging.prompt_file import load_prompt
from forethought.share_interval import SHARE, Ends
from forethought.store import content_hash


def is_relative(config: JudgeConfig) -> bool:
    """Whether its scores compare the responses of one prompt only and mean nothing across prompts.

    A mixture's are normalised within each group, a pairwise judge's are made by comparing.
    """
    match config:
        case PairwiseJudge() | MixtureJudge():
            return True
        case CustomJudge():
            return config.relative
        case _:
            return False


def identity(config: JudgeConfig) -> dict[str, Any]:
    """What names the judge in a hash: its settings and the words of its prompt file.

    Raises: ValueError if a prompt file cannot be read.
    """
    named = config.identity()
    match config:
        case PairwiseJudge() | RatingJudge():
            prompt = load_prompt(config.prompt, config.type)
            named["prompt_words"] = content_hash(prompt.model_dump(mode="json"))
        case MixtureJudge():
            named["members"] = [
                [identity(member.judge) for member in route.members] for route in config.routes
            ]
        case _:
            pass
    return named


def refuse_missing_models(config: JudgeConfig) -> None:
    """Look for the folders of a judge's models, before anything is loaded or paid for.

    Raises: ValueError if one is named that is not there.
    """
    match config:
        case RewardModelJudge() | ArmoRMJudge():
            models.resolve(config.source, field="judge.path")
        case PairwiseJudge() | RatingJudge() if config.model is not None:
            models.resolve(config.model.source, field="judge.model.path")
        case MixtureJudge():
            for route in config.routes:
                for member in route.members:
                    refuse_missing_models(member.judge)
        case _:
            pass


def score_ends(config: JudgeConfig) -> Ends | None:
    """The ends of a prompt's score, where the judge's scale is known to have two.

    Raises: ValueError if a prompt file cannot be read.
    """
    if is_relative(config):
        return SHARE
    match config:
        case VerifierJudge(function="gsm8k" | "microworld"):
            return SHARE
        case RatingJudge():
            return load_prompt(config.prompt, "rating").scale
        case _:
            return None


def difference_ends(config: JudgeConfig) -> Ends | None:
    """The ends of the difference of two such scores."""
    ends = score_ends(config)
    return None if ends is None else (ends[0] - ends[1], ends[1] - ends[0])


BY_JUDGE = "the judge's score"


def score_of(recipe: Recipe) -> str:
    """What a policy's test score is: the judge's own, or wins where it only compares."""
    if is_relative(recipe.judge):
        return f"share of wins against {recipe.baseline_arm} policy 0"
    return BY_JUDGE


def asks_a_model(config: JudgeConfig) -> bool:
    """Whether its answers are worth keeping: a model gives them, not a function."""
    match config:
        case MixtureJudge():
            members = [member.judge for route in config.routes for member in route.members]
            return any(asks_a_model(judge) for judge in members)
        case VerifierJudge() | CustomJudge():
            return False
        case _:
            return True


def calls_per_group(config: JudgeConfig, responses: int) -> int:
    """Calls of a chat model for one prompt with so many responses, at most, without retries.

    A mixture counts its most expensive route.
    """
    match config:
        case PairwiseJudge():
            return comparisons_per_group(config, responses)
        case RatingJudge():
            return responses * config.votes
        case MixtureJudge():
            return max(
                sum(calls_per_group(member.judge, responses) for member in route.members)
                for route in config.routes
            )
        case VerifierJudge() | RewardModelJudge() | ArmoRMJudge() | CustomJudge():
            return 0
        case _:
            assert_never(config)


def title(config: JudgeConfig) -> str:
    """A few words for a reader."""
    match config:
        case VerifierJudge():
            return f"verifier {config.function}"
        case RewardModelJudge():
            return config.path
        case ArmoRMJudge():
            return f"ArmoRM {config.path}"
        case PairwiseJudge() | RatingJudge():
            return f"{model_name(config)}, {config.type} ({config.prompt})"
        case MixtureJudge():
            members = [member.judge for route in config.routes for member in route.members]
            return "mixture of " + ", ".join(dict.fromkeys(map(title, members)))
        case CustomJudge():
            return config.import_path
        case _:
            assert_never(config)
