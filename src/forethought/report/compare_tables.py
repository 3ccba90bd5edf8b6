"""The two tables above several runs: what each came to and cost, and how their recipes differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from forethought.evaluation.scale import Scale
from forethought.report.charts.figures import Cell, Chart, Column, view
from forethought.report.charts.policy_lines import policy_name
from forethought.report.data.collect import ArmData, RunData
from forethought.report.data.scores import PolicyScore
from forethought.report.provenance import flat


def runs_table(runs: Sequence[RunData], labels: Sequence[str], scale: Scale | None) -> Chart:
    """A row for each run; `scale` is `None` where scores must not be compared."""
    rows = [_run_row(run, label, scale) for run, label in zip(runs, labels, strict=True)]
    scores: tuple[Column, ...] = ()
    if scale is not None:
        scores = (
            Column(name=f"thought score{scale.suffix}", digits=scale.digits),
            Column(name=f"direct score{scale.suffix}", digits=scale.digits),
            Column(name="difference", digits=scale.digits),
            Column(name="95 % low", digits=scale.digits),
            Column(name="95 % high", digits=scale.digits),
            Column(name="prompts"),
        )
    columns = [
        Column(name="run"),
        Column(name="policy"),
        *scores,
        Column(name="thought tokens", digits=1),
        Column(name="response tokens", digits=1),
        Column(name="wall clock, s", digits=0),
        Column(name="device hours", digits=4),
        Column(name="tokens sampled"),
        Column(name="judge calls"),
        Column(name="money", digits=2),
    ]
    used = [at for at in range(len(columns)) if any(row[at] is not None for row in rows)]
    return Chart(
        key="runs",
        title="The runs",
        caption=_runs_caption({columns[at].name for at in used}),
        views=(
            view(
                [],
                {},
                tuple(columns[at] for at in used),
                [tuple(row[at] for at in used) for row in rows],
            ),
        ),
        height=0,
        wide=True,
    )


def _runs_caption(columns: set[str]) -> str:
    """Words about the figures that the table has."""
    if "response tokens" not in columns:
        return "What each run has spent so far."
    scored = any(name.split(",")[0].endswith(" score") for name in columns)
    text = f"{'Scores and lengths' if scored else 'Lengths'} are of the last policy"
    if "difference" in columns:
        text += " that both arms have; difference is thought minus direct on the same test prompts"
    whose = " Lengths are the thought arm's, per answer." if "thought tokens" in columns else ""
    return f"{text}.{whose}"


def _run_row(run: RunData, label: str, scale: Scale | None) -> tuple[Cell, ...]:
    last = {arm.arm: _last(arm, run) for arm in run.arms}
    thought, direct = last.get("thought"), last.get("direct")
    either = thought or direct
    row: list[Cell] = [label, None if either is None else policy_name(either.policy)]
    if scale is not None:
        row += [_score(thought, scale), _score(direct, scale), *_difference_cells(run, scale)]
    row += [
        None if thought is None else thought.thought_tokens,
        None if either is None else either.response_tokens,
        run.seconds,
        sum(cost.device_seconds for cost in run.costs) / 3600,
        sum(
            iteration.rollouts.thought_tokens + iteration.rollouts.response_tokens
            for arm in run.arms
            for iteration in arm.iterations
            if iteration.rollouts is not None
        ),
    ]
    judged = [cost.judge for cost in run.costs if cost.judge is not None]
    paid = [
        calls for cost in run.costs for calls in (cost.judge, cost.sampling) if calls is not None
    ]
    row += [
        sum(calls.calls for calls in judged) if judged else None,
        sum(calls.money for calls in paid) if paid else None,
    ]
    return tuple(row)


def _last(arm: ArmData, run: RunData) -> PolicyScore | None:
    """The policy of the difference; the arm's last where there is none."""
    if run.claim.difference is not None:
        own = (policy for policy in arm.policies if policy.policy == run.claim.policy)
        return next(own, None)
    return arm.policies[-1] if arm.policies else None


def _score(policy: PolicyScore | None, scale: Scale) -> Cell:
    return None if policy is None or policy.score is None else policy.score.value * scale.factor


def _difference_cells(run: RunData, scale: Scale) -> tuple[Cell, ...]:
    mean = run.claim.difference
    if mean is None:
        return (None, None, None, None)
    low, high = mean.interval or (None, None)
    ends = (None if end is None else end * scale.factor for end in (low, high))
    return (mean.value * scale.factor, *ends, mean.count)


def differences_table(runs: Sequence[RunData], labels: Sequence[str]) -> Chart:
    """A row for each field of recipe and provenance that is not the same in all runs."""
    recipes = [_flat_recipe(run) for run in runs]
    origins = [_origin(run) for run in runs]
    rows: list[tuple[Cell, ...]] = []
    for fields in (recipes, origins):
        names = dict.fromkeys(name for each in fields for name in each)
        for name in names:
            values = [each.get(name) for each in fields]
            if any(value != values[0] for value in values):
                rows.append((name, *values))
    caption = "Fields of the recipes, versions and commits that are not the same in all runs."
    if not rows:
        caption = "Recipes, versions and commit are the same in all runs."
    columns = (Column(name="field"), *(Column(name=label) for label in labels))
    return Chart(
        key="differences",
        title="What differs",
        caption=caption,
        views=(view([], {}, columns, rows),),
        height=0,
        wide=True,
    )


def _flat_recipe(run: RunData) -> dict[str, str]:
    fields = run.recipe.model_dump(mode="json", exclude={"run"})
    return {name: _text(value) for name, value in _leaves(fields)}


def _leaves(fields: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in fields.items():
        if isinstance(value, Mapping) and value:
            found += _leaves(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _origin(run: RunData) -> dict[str, str]:
    """Versions and commit of the latest attempt."""
    attempts = run.provenance.get("attempts", [])
    if not attempts:
        return {}
    kept = {key: attempts[-1].get(key) for key in ("git_commit", "python", "versions")}
    return dict(flat(kept))
