"""What the page says about a run, as numbers: read from its directory, nothing drawn yet.

A stage that is not sealed is not read; its place in the result is `None` and its name is in
`RunData.missing`. The training log is the exception: it is read while it grows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forethought.config import Recipe
from forethought.config.recipe_files import load_run
from forethought.report.data.columns import read_columns, read_rows
from forethought.report.data.measure_figures import Measured, read_measures
from forethought.report.data.scores import PolicyScore, read_policies
from forethought.report.data.stage_costs import SpentOnStage, read_costs
from forethought.runs.comparison import Claim, claim_of
from forethought.runs.schedule import (
    evaluation_refs,
    iteration_refs,
    measure_refs,
    prompts_ref,
    seed_refs,
    warm_start_refs,
)
from forethought.storage import left_out
from forethought.storage.sealed_stage import read_log, read_object
from forethought.training.results import STEPS
from forethought.types import Arm, LeftOut, ParseStatus

LogEntry = dict[str, Any]
"""A line of the training log; its fields are those of the trainer's `StepLog`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStats:
    """What an iteration sampled.

    Example: `RolloutStats(outputs=8, statuses={"complete": 7, "truncated": 1}, thought_tokens=240,
    response_tokens=96)`
    """

    outputs: int
    statuses: dict[str, int]
    """By `ParseStatus`; statuses that did not occur are there with 0."""
    thought_tokens: int
    """Sum over outputs of the tokens before the response."""
    response_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairStats:
    """What became of an iteration's prompts.

    Example: `PairStats(outcomes={"judged": 90, "tie": 10}, chosen_tokens=41.0,
    rejected_tokens=44.5, margin=0.8, margin_quartiles=(0.5, 1.0, 1.0),
    margin_ends=(0.1, 1.0), judged_pairs=90)`
    """

    outcomes: dict[str, int]
    """`PairDecision.outcome` to prompts."""
    judged_pairs: int
    """Pairs of which both sides have a response."""
    chosen_tokens: float | None
    """Mean response length over those pairs; `None` where there are none."""
    rejected_tokens: float | None
    margin: float | None
    """Mean judge score of chosen minus rejected over those pairs."""
    margin_quartiles: tuple[float, float, float] | None
    """Lower quartile, median, upper quartile."""
    margin_ends: tuple[float, float] | None
    """The least and the greatest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochScore:
    """A candidate for the next policy.

    Example: `EpochScore(epoch=2, score=0.61, parse_failures=0.02)`
    """

    epoch: int
    score: float | None
    """`None` where the judge scored nothing."""
    parse_failures: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which epoch was taken, and why.

    Example: `Selection(chosen_epoch=2, scores=(EpochScore(…),), reason="highest score")`
    """

    chosen_epoch: int
    scores: tuple[EpochScore, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationData:
    """One arm's iteration, as far as it got.

    Example: `IterationData(number=0, rollouts=None, pairs=None, steps=(), selection=None)`
    """

    number: int
    rollouts: RolloutStats | None
    pairs: PairStats | None
    steps: tuple[LogEntry, ...]
    """The training log, one entry per optimizer step; empty before training."""
    selection: Selection | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmData:
    """One arm of the run.

    Example: `ArmData(arm="thought", policies=(PolicyScore(…),), iterations=(…,))`
    """

    arm: Arm
    policies: tuple[PolicyScore, ...]
    """Test scores, the seed first."""
    iterations: tuple[IterationData, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """All numbers of the page.

    Example: `RunData(recipe=Recipe(…), arms=(…,), claim=Claim(…), measures=(), costs=(),
    seconds=None, provenance={}, missing=("direct/iteration_1/pairs",), left_out={})`
    """

    recipe: Recipe
    arms: tuple[ArmData, ...]
    claim: Claim
    measures: tuple[Measured, ...]
    costs: tuple[SpentOnStage, ...]
    """Of every sealed stage."""
    seconds: float | None
    """Wall-clock time up to the latest summary."""
    provenance: dict[str, Any]
    missing: tuple[str, ...]
    """Stage folders that the recipe asks for and that are not sealed."""
    left_out: dict[str, list[LeftOut]]
    """Prompts that sealed stages went on without, by the stage's folder."""


def collect(folder: Path) -> RunData:
    """Read a run directory.

    Raises: ValueError if it is not one; StageError if a sealed stage is damaged.
    """
    recipe = load_run(folder)
    summary = _optional(folder / "summary.json")
    policies = read_policies(recipe)
    arms = tuple(
        ArmData(
            arm=arm,
            policies=policies[arm],
            iterations=tuple(
                _iteration(recipe, arm, number) for number in range(recipe.iterations)
            ),
        )
        for arm in recipe.arms
    )
    return RunData(
        recipe=recipe,
        arms=arms,
        claim=claim_of(recipe),
        measures=read_measures(recipe),
        costs=tuple(read_costs(recipe)),
        seconds=summary.get("seconds"),
        provenance=_optional(folder / "run.json"),
        missing=tuple(_missing(recipe)),
        left_out=left_out.of_run(folder),
    )


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}


def _missing(recipe: Recipe) -> Iterator[str]:
    wanted = [prompts_ref(recipe)]
    for arm in recipe.arms:
        wanted += warm_start_refs(recipe, arm)
        for number in range(recipe.iterations):
            wanted += iteration_refs(recipe, arm, number)
        if recipe.prompts.test is not None:
            refs = evaluation_refs(recipe, arm)
            wanted += (ref for ref in refs if ref.index in recipe.evaluated)
    wanted += seed_refs(recipe)
    wanted += measure_refs(recipe)
    for ref in wanted:
        if not ref.sealed:
            yield ref.name


def _iteration(recipe: Recipe, arm: Arm, number: int) -> IterationData:
    of = {ref.stage: ref for ref in iteration_refs(recipe, arm, number)}
    rollouts, pairs, selection = of["rollouts"], of["pairs"], of["selection"]
    return IterationData(
        number=number,
        rollouts=_rollout_stats(rollouts.folder) if rollouts.sealed else None,
        pairs=_pair_stats(pairs.folder) if pairs.sealed else None,
        steps=tuple(_steps(of["training"].folder / STEPS)),
        selection=_selection(selection.folder) if selection.sealed else None,
    )


def _rollout_stats(folder: Path) -> RolloutStats:
    statuses: Counter[str] = Counter({str(status): 0 for status in ParseStatus})
    outputs = thought = response = 0
    for table in read_columns(folder, ["parsed.status", "response_start", "response_tokens"]):
        outputs += table.num_rows
        statuses.update(row["status"] for row in table["parsed"].to_pylist())
        thought += int(np.sum(table["response_start"].to_numpy()))
        response += int(np.sum(table["response_tokens"].to_numpy()))
    return RolloutStats(
        outputs=outputs,
        statuses=dict(statuses),
        thought_tokens=thought,
        response_tokens=response,
    )


def _pair_stats(folder: Path) -> PairStats:
    outcomes = Counter(row["outcome"] for row in read_rows(folder, ["outcome"], "decisions"))
    lengths: dict[str, list[int]] = defaultdict(list)
    margins: list[float] = []
    columns = ["kind", "margin", "chosen.response_tokens", "rejected.response_tokens"]
    for row in read_rows(folder, columns, "pairs"):
        if row["kind"] == "judged":
            margins.append(row["margin"])
            for side in ("chosen", "rejected"):
                lengths[side].append(row[side]["response_tokens"])
    pairs = len(lengths["chosen"])
    return PairStats(
        outcomes=dict(outcomes.most_common()),
        judged_pairs=pairs,
        chosen_tokens=float(np.mean(lengths["chosen"])) if pairs else None,
        rejected_tokens=float(np.mean(lengths["rejected"])) if pairs else None,
        margin=float(np.mean(margins)) if pairs else None,
        margin_quartiles=_quartiles(margins) if pairs else None,
        margin_ends=(min(margins), max(margins)) if pairs else None,
    )


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = (float(quartile) for quartile in np.quantile(values, (0.25, 0.5, 0.75)))
    return low, middle, high


def _steps(path: Path) -> Iterator[LogEntry]:
    yield from read_log(path) if path.is_file() else ()


def _selection(folder: Path) -> Selection:
    choice = read_object(folder / "choice.json")
    return Selection(
        chosen_epoch=choice["chosen_epoch"],
        scores=tuple(
            EpochScore(epoch=row["epoch"], score=row["score"], parse_failures=row["parse_failures"])
            for row in choice["scores"]
        ),
        reason=choice["reason"],
    )
