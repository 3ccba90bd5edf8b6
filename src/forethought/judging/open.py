"""The one place that opens a judge: it knows all of them, and none of them knows it."""

from __future__ import annotations

from functools import partial
from typing import assert_never

from forethought.config.judges import (
    ArmoRMJudge,
    ChecklistJudge,
    CustomJudge,
    JudgeConfig,
    MixtureJudge,
    PairwiseJudge,
    RatingJudge,
    RewardModelJudge,
    VerifierJudge,
)
from forethought.judging.base import Judge
from forethought.storage.reply_cache import Cache


def open_judge(config: JudgeConfig, cache: Cache | None = None) -> Judge:
    """The judge a recipe names. What is in the `cache` it does not ask or compute again.

    Raises: ValueError if it cannot be found, imported or loaded.
    """
    match config:
        case VerifierJudge():
            from forethought.judging.verifier.verifier_judge import Verifier

            return Verifier(config)
        case RewardModelJudge():
            from forethought.judging.scoring.reward_model import RewardModel

            return RewardModel(config, cache)
        case ArmoRMJudge():
            from forethought.judging.armorm.armorm_judge import ArmoRM

            return ArmoRM(config, cache)
        case PairwiseJudge():
            from forethought.judging.llm.pairwise import Pairwise

            return Pairwise(config, cache)
        case RatingJudge():
            from forethought.judging.llm.rating import Rating

            return Rating(config, cache)
        case ChecklistJudge():
            from forethought.judging.llm.checklist import Checklist

            return Checklist(config, cache)
        case MixtureJudge():
            from forethought.judging.mixture import Mixture

            return Mixture(config, partial(open_judge, cache=cache))
        case CustomJudge():
            from forethought.judging.custom import load_custom

            return load_custom(config)
        case _:
            assert_never(config)
