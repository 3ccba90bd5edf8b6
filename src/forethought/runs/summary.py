"""`summary.json` and the table at the end: both arms by policy, and their difference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table

from forethought.config import Recipe
from forethought.judging.describe import BY_JUDGE, score_of
from forethought.runs.comparison import Claim, claim_of, evaluations, seed_evaluations
from forethought.runs.layout import StageRef
from forethought.runs.schedule import warm_start_refs
from forethought.runs.second_opinion import SecondOpinion, second_opinion
from forethought.storage import left_out
from forethought.storage.files import write_json
from forethought.storage.sealed_stage import read_manifest, read_object
from forethought.training.results import LEAST_KEPT
from forethought.types import Arm

FIELDS = ("test_score", "interval", "count", "thought_tokens", "response_tokens", "parse_failures")


def write_summary(recipe: Recipe) -> None:
    """Write what the evaluated policies show so far."""
    write_json(recipe.run / "summary.json", summarise(recipe))


def summarise(recipe: Recipe) -> dict[str, Any]:
    """Figures of every evaluated policy; 0 is the seed, or what the warm start made of it."""
    arms, claim = evaluations(recipe), claim_of(recipe)
    second = second_opinion(recipe, arms)
    rows = {
        arm: [
            {"iteration": i}
            | _row(counts)
            | {
                "margin_kept": margin_kept(recipe, arm, i),
                "second_judge": second.means.get(arm, {}).get(i) if second else None,
            }
            for i, counts in each.items()
        ]
        for arm, each in arms.items()
    }
    return {
        "seconds": _seconds(recipe.run),
        "arms": rows,
        "warm_start": warm_start_figures(recipe),
        "score_of": score_of(recipe),
        "difference": _difference(claim),
        "second_judge": _said_by(second),
        "left_out": {
            stage: {
                "count": len(gone),
                "first": [asdict(omission) for omission in gone[: left_out.SHOWN]],
            }
            for stage, gone in left_out.of_run(recipe.run).items()
        },
    }


def warm_start_figures(recipe: Recipe) -> dict[Arm, dict[str, Any]]:
    """Of each arm's warm start: what was sampled with demonstrations and trained on, and the plain
    seed on the test prompts; empty where there is no warm start."""
    seeds = seed_evaluations(recipe)
    found: dict[Arm, dict[str, Any]] = {}
    for arm in recipe.arms if recipe.warm_start is not None else ():
        sealed = {
            ref.stage: read_manifest(ref.folder).counts
            for ref in warm_start_refs(recipe, arm)
            if ref.sealed
        }
        taught, drawn = sealed.get("examples", {}), sealed.get("rollouts", {})
        found[arm] = {
            "outputs": drawn.get("outputs"),
            "parse_failures_with_demonstrations": drawn.get("parse_failures"),
            "examples": taught.get("examples"),
            "parse_failures": sealed.get("selection", {}).get("parse_failures"),
            "seed": _row(seeds[arm]) if arm in seeds else None,
        }
    return found


def _row(counts: dict[str, Any]) -> dict[str, Any]:
    own = {field: counts[field] for field in FIELDS}
    hybrid = {name: counts[name] for name in ("thinks", "thinks_by_category") if name in counts}
    return {"with_thought": counts.get("with_thought", 0)} | own | hybrid


def summary_table(summary: dict[str, Any]) -> Table:
    """The one table at the end of a run; it fits 80 columns."""
    first = "the warm-started seed" if summary["warm_start"] else "the seed"
    table = Table(title=f"Scores on the test prompts; policy 0 is {first}", title_justify="left")
    table.add_column("policy", justify="right")
    table.add_column("arm")
    for column in ("score", "95 % interval", "thought", "response", "unparsed"):
        table.add_column(column, justify="right", no_wrap=True)
    seeds = {
        arm: warm["seed"] for arm, warm in summary["warm_start"].items() if warm["seed"] is not None
    }
    for arm, row in seeds.items():
        table.add_row("seed", arm, *_cells(row))
    if seeds:
        table.add_section()
    rows = [(row["iteration"], arm, row) for arm, each in summary["arms"].items() for row in each]
    for policy, group in groupby(
        sorted(rows, key=lambda entry: entry[0]), key=lambda entry: entry[0]
    ):
        for _, arm, row in group:
            table.add_row(str(policy), arm, *_cells(row))
        table.add_section()
    table.caption = "thought and response: mean tokens"
    table.caption += _kept_line(summary)
    table.caption += _second_lines(summary)
    table.caption += _thinking_lines(summary)
    table.caption += "".join(f"\n{line}" for line in _warm_start_lines(summary["warm_start"]))
    if summary["score_of"] != BY_JUDGE:
        table.caption += f"\nscore: {summary['score_of']}"
    for row in summary["arms"].get("direct", []):
        if row["with_thought"]:
            table.caption += (
                f"\ndirect policy {row['iteration']}: {row['with_thought']} answers thought unasked"
            )
    table.caption_justify = "left"
    return table


def margin_kept(recipe: Recipe, arm: Any, policy: int) -> float | None:
    """The share of what its training learned that a policy has when it is sampled."""
    if policy == 0:
        return None
    trained = StageRef(recipe=recipe, stage="training", arm=arm, index=policy - 1)
    selection = StageRef(recipe=recipe, stage="selection", arm=arm, index=policy - 1)
    if not (trained.sealed and selection.sealed):
        # One of them is being made again, below a policy that was evaluated.
        return None
    shares: Any = read_manifest(trained.folder).counts.get("margin_kept")
    if shares is None:
        # Trained before it was measured, or not on preferences.
        return None
    chosen: Any = read_manifest(selection.folder).counts["chosen_epoch"]
    return shares[chosen - 1]


def _kept_line(summary: dict[str, Any]) -> str:
    """The least of each arm, in the caption: the table is as wide as it may be."""
    least = {}
    for arm, rows in summary["arms"].items():
        shares = [row["margin_kept"] for row in rows if row["margin_kept"] is not None]
        if shares:
            least[arm] = min(shares)
    if not least:
        return ""
    words = ", ".join(f"{arm} {share:.1%}" for arm, share in least.items())
    low = " (little: see the warnings)" if min(least.values()) < LEAST_KEPT else ""
    return f"\nlearned margin that is left when sampled, at least: {words}{low}"


def _thinking_lines(summary: dict[str, Any]) -> str:
    """How often each hybrid policy thinks, and in which categories the last one does most and
    least."""
    rows = summary["arms"].get("hybrid", [])
    if not rows:
        return ""
    shares = ", ".join(f"policy {row['iteration']} {row['thinks']:.0%}" for row in rows)
    lines = f"\nhybrid, answers that think: {shares}"
    ordered = sorted(rows[-1]["thinks_by_category"].items(), key=lambda entry: -entry[1])
    if len(ordered) > 1:
        (most, high), (least, low) = ordered[0], ordered[-1]
        lines += f"\n  most in {most} ({high:.0%}), least in {least} ({low:.0%})"
    return lines


def _second_lines(summary: dict[str, Any]) -> str:
    """The second judge's scores by policy, in the caption as well."""
    if summary["second_judge"] is None:
        return ""
    lines = [f"\nsecond judge ({summary['second_judge']['judge']}), mean score:"]
    for arm, rows in summary["arms"].items():
        scores = [
            f"policy {row['iteration']} {row['second_judge']:.3f}"
            for row in rows
            if row["second_judge"] is not None
        ]
        lines += [f"\n  {arm}: {', '.join(scores)}"] if scores else []
    return "".join(lines)


def warm_start_words(recipe: Recipe) -> list[str]:
    """What each arm's warm start was made of, a line each."""
    return list(_warm_start_lines(warm_start_figures(recipe)))


def _warm_start_lines(figures: dict[Arm, dict[str, Any]]) -> Iterator[str]:
    for arm, warm in figures.items():
        if warm["examples"] is None:
            continue
        sampled = ""
        if warm["outputs"] is not None:
            share = warm["parse_failures_with_demonstrations"]
            sampled = f", of {warm['outputs']} sampled, {share:.0%} of them without a response"
        yield f"{arm} warm start: {warm['examples']} outputs trained on{sampled}"


def last_in_all_arms(summary: dict[str, Any]) -> tuple[int, dict[Arm, float | None]] | None:
    """The last policy that all arms have, and its scores; `None` before there is one."""
    by_arm: dict[Arm, dict[int, float | None]] = {
        arm: {row["iteration"]: row["test_score"] for row in rows}
        for arm, rows in summary["arms"].items()
    }
    common = set.intersection(*(set(own) for own in by_arm.values()))
    if not common:
        return None
    last = max(common)
    return last, {arm: own[last] for arm, own in by_arm.items()}


def left_out_lines(summary: dict[str, Any]) -> list[str]:
    """How many prompts each stage goes without, and the first of them."""
    return [
        f"Left out of {stage}: {gone['count']} prompts, such as {gone['first'][0]['where']}: "
        f"{gone['first'][0]['reason']}"
        for stage, gone in summary["left_out"].items()
    ]


def _cells(row: dict[str, Any]) -> list[str]:
    score = ["unknown", ""]
    if row["test_score"] is not None:
        ends = row["interval"] or []
        # Scores in hundreds, too, leave room for the other columns.
        digits = 3 if max(map(abs, (row["test_score"], *ends))) < 10 else 1
        bounds = ", ".join(f"{end:.{digits}f}" for end in ends)
        score = [f"{row['test_score']:.{digits}f}", f"[{bounds}]" if ends else "unknown"]
    return [
        *score,
        f"{row['thought_tokens']:.1f}",
        f"{row['response_tokens']:.1f}",
        f"{row['parse_failures']:.1%}",
    ]


def _difference(claim: Claim) -> dict[str, Any] | None:
    if claim.difference is None:
        return None
    ends = claim.difference.interval
    return {
        "iteration": claim.policy,
        "value": claim.difference.value,
        "interval": None if ends is None else list(ends),
        "count": claim.difference.count,
        "withheld": claim.withheld,
    }


def _said_by(opinion: SecondOpinion | None) -> dict[str, Any] | None:
    """Its means stand in the rows of the policies."""
    if opinion is None:
        return None
    whole = asdict(opinion) | {"scale": opinion.scale.unit}
    del whole["means"]
    return whole


def _seconds(run: Path) -> float:
    path = run / "run.json"
    if not path.is_file():
        return 0.0
    return round(sum(attempt["seconds"] for attempt in read_object(path)["attempts"]), 1)
