"""The first thing a reader sees: one difference, its interval, and one honest sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from forethought.evaluation.scale import PERCENT, Scale, rests_on
from forethought.report.charts.figures import ARM_NAMES
from forethought.report.charts.measure_charts import policy_words
from forethought.report.charts.probe_charts import last_drop, probe_scale, probe_sentence
from forethought.report.data.collect import ArmData, RunData
from forethought.report.data.measure_figures import figures_of
from forethought.report.data.scores import Mean, PolicyScore
from forethought.runs.findings import findings
from forethought.types import Arm, EvaluationResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """An interval on a line through zero, in per cent of the line's width.

    Example: `Strip(zero=50.0, low=61.0, high=84.0, value=72.5)`
    """

    zero: float
    low: float
    high: float
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A number beside the headline.

    Example: `Tile(label="Thought arm", value="61.2%", note="seed 40.1%", arm="thought")`
    """

    label: str
    value: str
    note: str
    arm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """What stands at the top of the page.

    Example: `Headline(figure="+4.2", unit="points", detail="95 % interval …", sentence="…",
    findings=("Head to head …",), strip=Strip(…), tiles=(Tile(…),))`
    """

    figure: str | None
    """`None` where there is nothing to compare, or the difference is not one of thinking."""
    unit: str
    detail: str
    sentence: str
    findings: tuple[str, ...]
    """What fell, where thinking hurts, what win rate and probe say, a sentence each."""
    strip: Strip | None
    tiles: tuple[Tile, ...]


def headline(run: RunData) -> Headline:
    """The comparison of the arms, or what stands in its way.

    Raises: StageError if a sealed stage is damaged.
    """
    claim = run.claim
    scale, difference = claim.scale, claim.difference
    told = difference is not None and not claim.withheld
    sentences = (
        *findings(run.recipe, claim),
        _win_rate_sentence(run),
        probe_sentence(run, scale),
        *(_unasked_sentence(arm) for arm in run.arms if arm.arm == "direct"),
    )
    return Headline(
        figure=scale.change(difference.value) if difference is not None and told else None,
        unit=scale.points,
        detail=f"{rests_on(scale.change, difference)} test prompts" if difference else "",
        sentence=claim.sentence,
        findings=tuple(sentence for sentence in sentences if sentence is not None),
        strip=_strip(difference) if difference is not None and told else None,
        tiles=(*_tiles(run, scale), *_measure_tiles(run, scale)),
    )


def _strip(difference: EvaluationResult) -> Strip | None:
    interval = difference.interval
    if interval is None:
        return None
    # Zero is in the middle; the least reach is for an interval of two zeros.
    reach = 1.25 * max(abs(interval[0]), abs(interval[1]), 1e-9)

    def place(value: float) -> float:
        return round(50 + 50 * value / reach, 2)

    return Strip(
        zero=50.0,
        low=place(interval[0]),
        high=place(interval[1]),
        value=place(difference.value),
    )


def _tiles(run: RunData, scale: Scale) -> list[Tile]:
    tiles: list[Tile] = []
    for arm in run.arms:
        if not arm.policies:
            continue
        seed, last = arm.policies[0], arm.policies[-1]
        start = policy_words(0, run.recipe)
        note = policy_words(last.policy, run.recipe)
        if last.policy and seed.policy == 0:
            note += f", from {_score_words(seed.score, scale)} at {start}"
        value = _score_words(last.score, scale)
        tiles.append(Tile(label=ARM_NAMES[arm.arm], value=value, note=note, arm=arm.arm))
        if arm.arm != "direct":
            tiles.append(_thought_tile(arm.arm, seed, last, start))
        if last.thinks is not None:
            tiles.append(_share_tile(seed, last, start))
        if arm.arm == "thought" or last.parse_failures:
            tiles.append(_failure_tile(arm.arm, seed, last, start))
    return sorted(tiles, key=lambda tile: tile.arm == "")


def _score_words(score: Mean | None, scale: Scale) -> str:
    return "unknown" if score is None else scale.number(score.value)


def _measure_tiles(run: RunData, scale: Scale) -> list[Tile]:
    tiles: list[Tile] = []
    for name, label in (
        ("win_rate", "Win rate against direct"),
        ("win_rate_best_of_n", "Against the best of several"),
        ("win_rate_best_of_n_by_vote", "Against a vote of several"),
        ("win_rate_best_of_n_by_likelihood", "Against the likeliest of several"),
        ("win_rate_longer", "Against a longer answer"),
    ):
        points = figures_of(run.measures, name, "thought")
        if points:
            policy, mean = points[-1]
            note = _note(run, policy, PERCENT.number, mean)
            tiles.append(Tile(label=label, value=PERCENT.number(mean.value), note=note, arm=""))
    found = last_drop(run, "none")
    if found is not None:
        used = probe_scale(run, scale)
        policy, change = found[0], found[1].turned
        value = used.change(change.value)
        note = f"{used.points}, {_note(run, policy, used.change, change)}"
        tiles.append(Tile(label="Without the thought", value=value, note=note, arm=""))
    return tiles


def _note(run: RunData, policy: int, write: Callable[[float], str], mean: Mean) -> str:
    """Whose the figure of a tile is, and what it rests on; the count in one piece when narrow."""
    *interval, count = rests_on(write, mean).split(", ")
    whole = count.replace(" ", "\N{NO-BREAK SPACE}")
    return ", ".join([policy_words(policy, run.recipe), *interval, whole])


def _win_rate_sentence(run: RunData) -> str | None:
    points = figures_of(run.measures, "win_rate", "thought")
    if not points:
        return None
    policy, mean = points[-1]
    start = (
        f"Head to head, {policy_words(policy, run.recipe)} of the thought arm wins "
        f"{PERCENT.number(mean.value)} of the test prompts against the direct arm "
        f"({rests_on(PERCENT.number, mean)})"
    )
    if run.claim.withheld:
        return f"{start}; an output without a response loses, so this, too, is one of giving one."
    if mean.interval is None:
        return f"{start}."
    low, high = mean.interval
    side = "lies above" if low > 0.5 else "lies below" if high < 0.5 else "includes"
    return f"{start}; the interval {side} 50%{_length_words(run, policy)}."


def _length_words(run: RunData, policy: int) -> str:
    """Why there is no win rate at equal lengths, where that is so."""
    for measure in run.measures:
        lengths = measure.lengths.get("second")
        if measure.policy != policy or lengths is None:
            continue
        if figures_of([measure], "length_controlled_win_rate", "thought"):
            return ""
        count = sum(lengths.values())
        return (
            "; there is no figure at equal lengths, since the lengths hardly overlap: its "
            f"response is the longer one on {lengths['first_longer']} of {count} prompts, the "
            f"shorter one on {lengths['second_longer']}"
        )
    return ""


def _unasked_sentence(arm: ArmData) -> str | None:
    """How often the baseline thought, which it is not to do."""
    found = [policy for policy in arm.policies if policy.with_thought]
    if not found:
        return None
    counts = ", ".join(f"{policy.with_thought} of policy {policy.policy}" for policy in found)
    return (
        f"Answers of the direct arm that thought unasked: {counts}. The thought was split off and "
        "not judged, but a baseline that thinks is no baseline; see model.template."
    )


def _share_tile(seed: PolicyScore, last: PolicyScore, start: str) -> Tile:
    """How often a hybrid policy thinks."""
    return Tile(
        label=f"{ARM_NAMES['hybrid']}: answers that think",
        value=PERCENT.number(last.thinks or 0.0),
        note=_start_words(last, PERCENT.number(seed.thinks or 0.0), start),
        arm="",
    )


def _thought_tile(arm: Arm, seed: PolicyScore, last: PolicyScore, start: str) -> Tile:
    return Tile(
        label=f"{ARM_NAMES[arm]}: thought length",
        value=f"{last.thought_tokens:.0f} tokens",
        note=_start_words(last, f"{seed.thought_tokens:.0f}", start),
        arm="",
    )


def _start_words(last: PolicyScore, figure: str, start: str) -> str:
    """Policy 0's figure beside a later one's; beside its own there is nothing to compare."""
    return f"{figure} at {start}" if last.policy else start


def _failure_tile(arm: Arm, seed: PolicyScore, last: PolicyScore, start: str) -> Tile:
    return Tile(
        label=f"{ARM_NAMES[arm]}: no response at first",
        value=f"{last.parse_failures:.1%}",
        note=_start_words(last, f"{seed.parse_failures:.1%}", start),
        arm="",
    )
