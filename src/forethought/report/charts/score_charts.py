"""The charts of the test prompts' answers, by policy: score, lengths, failures to parse."""

from __future__ import annotations

from collections.abc import Sequence

from forethought.evaluation.scale import PERCENT, TOKENS, Scale
from forethought.judging.describe import score_of
from forethought.report.charts.category_bars import Bars, category_chart
from forethought.report.charts.figures import ARM_NAMES, ARM_SYMBOLS, Chart
from forethought.report.charts.policy_lines import Quantity, Series, policy_chart
from forethought.report.data.collect import RunData
from forethought.report.data.scores import Mean, PolicyScore
from forethought.types import Arm

TEST_QUANTITIES = (
    Quantity(
        key="thought-length",
        title="Thought length",
        caption="Mean tokens before the response, markers included, on test prompts.",
        axis="tokens per answer",
        scale=TOKENS,
        from_zero=True,
        intervals=False,
    ),
    Quantity(
        key="response-length",
        title="Response length",
        caption="Mean tokens of the response alone, on test prompts.",
        axis="tokens per answer",
        scale=TOKENS,
        from_zero=True,
        intervals=False,
    ),
    Quantity(
        key="first-failures",
        title="Test prompts without a response at first",
        caption="Share of test prompts whose first output had no usable response. Such an output "
        "is sampled again up to evaluation.attempts times and then counts as a loss.",
        axis="prompts",
        scale=PERCENT,
        from_zero=True,
        intervals=False,
    ),
)

THINKS = Quantity(
    key="thinks",
    title="Answers that think",
    caption="Share of the hybrid arm's answers to test prompts that open with a thought; the "
    "policy decides.",
    axis="answers",
    scale=PERCENT,
    from_zero=True,
    intervals=False,
)


def score_charts(run: RunData, scale: Scale) -> list[Chart]:
    """Charts of every evaluated policy; empty before there is one."""
    if not any(arm.policies for arm in run.arms):
        return []
    charts = [policy_chart(score_quantity(run, scale), score_series(run), wide=True, height=360)]
    charts += [
        policy_chart(quantity, test_series(run, quantity.key)) for quantity in TEST_QUANTITIES
    ]
    charts += _thinking_charts(run)
    if any(policy.gains for arm in run.arms for policy in arm.policies):
        charts.append(_categories(run, scale))
    return charts


def score_quantity(run: RunData, scale: Scale) -> Quantity:
    """How the test score is drawn; the caption says what it is where a judge only compares."""
    relative = run.recipe.judge.is_relative
    what = f" The score is the {score_of(run.recipe)}." if relative else ""
    return Quantity(
        key="score",
        title="Judge score on test prompts",
        caption="Mean over prompts no policy was trained on. "
        f"An answer without a response counts as a loss.{what}",
        axis="test score",
        scale=scale,
    )


def score_series(run: RunData) -> list[Series]:
    """Test scores, a line for each arm."""
    return [
        _arm_series(
            arm.arm,
            [(policy.policy, policy.score) for policy in arm.policies if policy.score is not None],
        )
        for arm in run.arms
    ]


def test_series(run: RunData, key: str) -> list[Series]:
    """One of `TEST_QUANTITIES`, a line for each arm that has it."""
    return [
        _arm_series(
            arm.arm,
            [
                (policy.policy, Mean(value=_test_value(policy, key), interval=None, count=0))
                for policy in arm.policies
            ],
        )
        for arm in run.arms
        if arm.arm != "direct" or key != "thought-length"
    ]


def _test_value(policy: PolicyScore, key: str) -> float:
    values = {
        "thought-length": policy.thought_tokens,
        "response-length": policy.response_tokens,
        "first-failures": policy.parse_failures,
    }
    return values[key]


def _arm_series(arm: Arm, points: Sequence[tuple[int, Mean]]) -> Series:
    return Series(
        name=ARM_NAMES[arm],
        cells=(ARM_NAMES[arm],),
        colour=arm,
        symbol=ARM_SYMBOLS[arm],
        points=tuple(points),
    )


def _thinking_charts(run: RunData) -> list[Chart]:
    """How often the hybrid arm's policies think, and the last one by category."""
    shown = [arm for arm in run.arms if any(policy.thinks is not None for policy in arm.policies)]
    if not shown:
        return []
    [arm] = shown
    points = [
        (policy.policy, Mean(value=policy.thinks, interval=None, count=0))
        for policy in arm.policies
        if policy.thinks is not None
    ]
    charts = [policy_chart(THINKS, [_arm_series(arm.arm, points)])]
    last = arm.policies[-1]
    if last.thinks_by_category:
        shares = {
            category: Mean(value=share, interval=None, count=0)
            for category, share in last.thinks_by_category.items()
        }
        bars = Bars(name=ARM_NAMES[arm.arm], colour=arm.arm, by_category=shares)
        charts.append(
            category_chart(
                "thinks-by-category",
                "Answers that think, by category",
                f"Of the last policy ({last.policy}), on test prompts.",
                groups=[bars],
                axis="answers that think, %",
                scale=PERCENT,
            )
        )
    return charts


def _categories(run: RunData, scale: Scale) -> Chart:
    groups = [
        Bars(name=ARM_NAMES[arm.arm], colour=arm.arm, by_category=arm.policies[-1].gains)
        for arm in run.arms
        if arm.policies and arm.policies[-1].gains
    ]
    return category_chart(
        "categories",
        "Gain by category",
        "Last policy minus the seed of the same arm, prompt by prompt, sorted by the "
        f"{groups[0].name.lower()}; whiskers are 95 % intervals.",
        groups=groups,
        axis=f"gain, {scale.points}",
        scale=scale,
        signed=True,
    )
