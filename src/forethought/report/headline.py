"""The first thing a reader sees: one difference, its interval, and one honest sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forethought.evaluation.scale import PERCENT, Scale
from forethought.report.charts.figures import ARM_NAMES
from forethought.report.charts.measure_charts import policy_words
from forethought.report.charts.probe_charts import last_drop, probe_scale, probe_sentence
from forethought.report.data.collect import ArmData, RunData
from forethought.report.data.measure_figures import figures_of
from forethought.report.data.scores import Difference, Mean, PolicyScore


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
    """`None` where there is nothing to compare."""
    unit: str
    detail: str
    sentence: str
    findings: tuple[str, ...]
    """What win rate and probe say, a sentence each."""
    strip: Strip | None
    tiles: tuple[Tile, ...]


def headline(run: RunData, scale: Scale) -> Headline:
    """The comparison of the arms, or what stands in its way."""
    tiles = (*_tiles(run.arms, scale), *_measure_tiles(run, scale))
    sentences = (
        _win_rate_sentence(run),
        probe_sentence(run, scale),
        *(_unasked_sentence(arm) for arm in run.arms if arm.arm == "direct"),
    )
    findings = tuple(sentence for sentence in sentences if sentence is not None)
    difference = run.difference
    if difference is None:
        return Headline(
            figure=None,
            unit="",
            detail="",
            sentence=_nothing_to_compare(run, scale),
            findings=findings,
            strip=None,
            tiles=tiles,
        )
    mean = difference.mean
    detail = f"{mean.count} test prompts"
    if mean.interval is not None:
        low, high = (scale.change(bound) for bound in mean.interval)
        detail = f"95 % interval {low} to {high}, {detail}"
    return Headline(
        figure=scale.change(mean.value),
        unit=scale.points,
        detail=detail,
        sentence=_sentence(run, difference),
        findings=findings,
        strip=_strip(difference),
        tiles=tiles,
    )


def _sentence(run: RunData, difference: Difference) -> str:
    mean = difference.mean
    at = _after(difference.policy)
    if mean.interval is None:
        text = f"{at.capitalize()}, one prompt alone cannot tell the arms apart."
    elif mean.interval[0] > 0:
        text = (
            f"{at.capitalize()}, the thought arm scores higher than the direct arm; "
            "the interval lies above zero."
        )
    elif mean.interval[1] < 0:
        text = (
            f"{at.capitalize()}, the thought arm scores lower than the direct arm: here thinking "
            "did not pay; the interval lies below zero."
        )
    else:
        text = (
            f"{at.capitalize()}, the arms cannot be told apart: the interval contains zero. "
            "More test prompts would narrow it."
        )
    if difference.policy < run.recipe.iterations:
        done = f"{difference.policy} of {run.recipe.iterations} iterations"
        text += f" This is an intermediate result: {done} are evaluated in both arms."
    return text


def _after(policy: int) -> str:
    if policy == 0:
        return "before any training"
    return f"after {policy} iteration{'s' if policy > 1 else ''}"


def _nothing_to_compare(run: RunData, scale: Scale) -> str:
    if run.recipe.prompts.test is None:
        return "The recipe has no test prompts, so this run makes no claim about quality."
    if len(run.arms) == 1:
        arm = run.arms[0]
        other = "direct" if arm.arm == "thought" else "thought"
        gain = ""
        scored = [policy.score for policy in arm.policies if policy.score is not None]
        if len(scored) > 1:
            change = scored[-1].value - scored[0].value
            gain = (
                f" From the seed to policy {arm.policies[-1].policy} the test score changed by "
                f"{scale.change(change)} {scale.points}."
            )
        alone = f"This run has no {other} arm, so it cannot tell what thinking itself contributes."
        return alone + gain
    return "Nothing is evaluated in both arms yet, so there is no comparison to show."


def _strip(difference: Difference) -> Strip | None:
    interval = difference.mean.interval
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
        value=place(difference.mean.value),
    )


def _tiles(arms: Sequence[ArmData], scale: Scale) -> list[Tile]:
    tiles: list[Tile] = []
    for arm in arms:
        if not arm.policies:
            continue
        seed, last = arm.policies[0], arm.policies[-1]
        note = policy_words(last.policy)
        if last.policy and seed.policy == 0:
            note += f", from {_score_words(seed.score, scale)} at the seed"
        value = _score_words(last.score, scale)
        tiles.append(Tile(label=ARM_NAMES[arm.arm], value=value, note=note, arm=arm.arm))
        if arm.arm == "thought":
            tiles += [_thought_tile(seed, last), _failure_tile(seed, last)]
    return sorted(tiles, key=lambda tile: tile.arm == "")


def _score_words(score: Mean | None, scale: Scale) -> str:
    return "unknown" if score is None else scale.number(score.value)


def _measure_tiles(run: RunData, scale: Scale) -> list[Tile]:
    tiles: list[Tile] = []
    for name, label in (
        ("win_rate", "Win rate against direct"),
        ("win_rate_best_of_n", "Against the best of several"),
        ("win_rate_longer", "Against a longer answer"),
    ):
        points = figures_of(run.measures, name, "thought")
        if points:
            mean = points[-1][1]
            note = f"{_interval(mean)}{_count(mean)}"
            tiles.append(Tile(label=label, value=PERCENT.number(mean.value), note=note, arm=""))
    found = last_drop(run, "none")
    if found is not None:
        used = probe_scale(run, scale)
        mean = found[1]
        note = f"{used.points}, {_count(mean)}"
        value = used.change(-mean.value)
        tiles.append(Tile(label="Without the thought", value=value, note=note, arm=""))
    return tiles


def _count(mean: Mean) -> str:
    """In one piece on a narrow tile."""
    return f"n = {mean.count:,}".replace(" ", "\N{NO-BREAK SPACE}")


def _interval(mean: Mean) -> str:
    if mean.interval is None:
        return ""
    low, high = (PERCENT.number(end) for end in mean.interval)
    return f"{low} to {high}, "


def _win_rate_sentence(run: RunData) -> str | None:
    points = figures_of(run.measures, "win_rate", "thought")
    if not points:
        return None
    policy, mean = points[-1]
    start = (
        f"Head to head, {policy_words(policy)} of the thought arm wins "
        f"{PERCENT.number(mean.value)} of the test prompts against the direct arm"
    )
    if mean.interval is None:
        return f"{start}; that is one prompt alone."
    low, high = mean.interval
    if low <= 0.5 <= high:
        return f"{start}; the interval includes 50%."
    return f"{start}; the interval lies {'above' if low > 0.5 else 'below'} 50%."


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


def _thought_tile(seed: PolicyScore, last: PolicyScore) -> Tile:
    return Tile(
        label="Thought length",
        value=f"{last.thought_tokens:.0f} tokens",
        note=f"{seed.thought_tokens:.0f} at the seed",
        arm="",
    )


def _failure_tile(seed: PolicyScore, last: PolicyScore) -> Tile:
    return Tile(
        label="No response at first",
        value=f"{last.parse_failures:.1%}",
        note=f"{seed.parse_failures:.1%} at the seed",
        arm="",
    )
