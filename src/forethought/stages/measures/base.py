"""What a measure is given, and what names its work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forethought.config import JudgeConfig, MeasureConfig
from forethought.judging.describe import identity
from forethought.stages.policies.sampled_policy import Policy
from forethought.storage.files import sha256_file
from forethought.storage.left_out import Places
from forethought.storage.sealed_stage import Count
from forethought.types import EvaluationResult, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The policy that is measured, and what measuring it may use.

    Example: `Subject(policy=Policy(…), judge=VerifierJudge(function="microworld"), cache=None,
    account="thought policy 4 probe", prompts=(Prompt(…),))`
    """

    policy: Policy
    judge: JudgeConfig | None
    cache: Path | None
    """File of replies already paid for; in memory where `None`."""
    account: str
    """Under which replies are paid."""
    prompts: tuple[Prompt, ...]
    """Test prompts, for the measures that have no questions of their own."""
    places: Places = dict
    """Where they came from."""

    @property
    def needed_judge(self) -> JudgeConfig:
        """The judge, for measures that cannot do without.

        Raises: ValueError if none is given.
        """
        if self.judge is None:
            raise ValueError(
                "judge: this measure needs one; give a judge section, such as "
                "judge.type=reward_model judge.path=…"
            )
        return self.judge


def settings_identity(
    name: str, config: MeasureConfig, judge: JudgeConfig | None, policies: Sequence[Policy]
) -> dict[str, Any]:
    """What names a measurement besides prompts and weights: settings, judge, the named files.
    `name` is the measure's.

    Raises: ValueError if a file is not there.
    """
    measure = config.identity()
    for field, value in config:
        if isinstance(value, Path):
            if not value.is_file():
                raise ValueError(
                    f"measures.{name}.{field}: {value} does not exist; name a file that is there"
                )
            measure[field] = sha256_file(value)
    return {
        "measure": measure,
        "judge": None if judge is None else identity(judge),
        "policies": [_policy_identity(policy) for policy in policies],
    }


def _policy_identity(policy: Policy) -> dict[str, Any]:
    sampling = policy.sampling.identity()
    # How rollouts are drawn; a measure has settings of its own.
    for field in ("samples", "temperature", "top_p", "part_size"):
        del sampling[field]
    return {
        "dtype": policy.model.dtype,
        "engine": sampling,
        "thought_format": policy.thought_format.model_dump(mode="json"),
        "seed_words": list(policy.seed_words),
    }


def as_counts(results: Sequence[EvaluationResult]) -> list[Count]:
    """Results as a manifest keeps them."""
    return [
        asdict(result) | {"interval": list(result.interval) if result.interval else None}
        for result in results
    ]
