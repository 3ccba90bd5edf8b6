"""The table of what a warm start did: the plain seed beside policy 0, which it made."""

from __future__ import annotations

from forethought.report.charts.figures import ARM_NAMES, Cell, Chart, Column, view
from forethought.report.data.collect import RunData
from forethought.runs.comparison import evaluations, first_policy, seed_evaluations
from forethought.runs.summary import warm_start_words


def warm_start_chart(run: RunData) -> Chart | None:
    """Both on the test prompts; `None` without a warm start, or before either is evaluated."""
    seeds, policies, scale = seed_evaluations(run.recipe), evaluations(run.recipe), run.claim.scale
    rows: list[tuple[Cell, ...]] = []
    for arm in run.recipe.arms if run.recipe.warm_start is not None else ():
        for name, counts in (("seed", seeds.get(arm)), ("policy 0", policies[arm].get(0))):
            if counts is not None:
                score = counts["test_score"]
                rows.append(
                    (
                        ARM_NAMES[arm],
                        name,
                        None if score is None else score * scale.factor,
                        100 * counts["parse_failures"],
                        counts["thought_tokens"],
                        counts["response_tokens"],
                    )
                )
    if not rows:
        return None
    columns = (
        Column(name="arm"),
        Column(name="policy"),
        Column(name=f"test score{scale.suffix}", digits=scale.digits),
        Column(name="without a response at first, %", digits=1),
        Column(name="thought tokens", digits=1),
        Column(name="response tokens", digits=1),
    )
    made = " ".join(f"{line}." for line in warm_start_words(run.recipe))
    return Chart(
        key="warm-start",
        title="Before and after the warm start",
        caption=f"The plain seed and policy 0, the {first_policy(run.recipe)}, on the test "
        f"prompts. {made}",
        views=(view([], {}, columns, rows),),
        height=0,
        wide=True,
    )
