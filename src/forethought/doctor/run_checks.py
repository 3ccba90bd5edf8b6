"""Checks of the whole run: enough prompts, enough pairs, how fast, how long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from forethought.config import Recipe
from forethought.doctor.check import Check, Remedy, judged, percent, share_check, unknown
from forethought.doctor.evidence import ArmEvidence, PromptEvidence
from forethought.doctor.limits import HOURS, LEFT_OUT
from forethought.doctor.run_length import RunLength
from forethought.planning.plan_table import duration
from forethought.runs.cautions import FEW_PAIRS

HOUR = 3600


def prompt_checks(recipe: Recipe, prompts: PromptEvidence) -> Iterator[Check]:
    """Whether there are enough, and whether they can be asked."""
    first, per = recipe.first_prompt, recipe.prompts_per_iteration
    wanted = first + recipe.iterations * per
    warm = f"a warm start of {first} and " if first else ""
    short = prompts.there < wanted
    remedy = None
    if short:
        left = (prompts.there - first) // max(recipe.iterations, 1)
        field = "prompts_per_iteration" if left > 0 else "prompts.train"
        remedy = Remedy(field=field, value=str(left) if left > 0 else None)
    yield Check(
        name="prompts",
        arm=None,
        value=float(prompts.there),
        shown=f"{prompts.there:,} for {wanted:,}",
        verdict="stop" if short else "ok",
        words=f"there are {prompts.there:,} prompts to train on, and {warm}{recipe.iterations} "
        f"iterations of {per:,} use {wanted:,}",
        remedy=remedy,
    )
    total = prompts.there + prompts.left_out
    share = prompts.left_out / total
    verdict = judged(share, LEFT_OUT)
    yield share_check(
        "left out",
        None,
        share,
        LEFT_OUT,
        verdict=verdict,
        words=f"{prompts.left_out:,} prompts cannot be asked"
        + (f", the first: {prompts.first_left_out:.200}" if prompts.left_out else ""),
        remedy=Remedy(field="prompts.train"),
    )


def pair_check(recipe: Recipe, arm: ArmEvidence, *, explained: bool) -> Check:
    """How many prompts give a pair, and what became of the others. `explained` says that another
    check has found why they are few."""
    count = recipe.iterations * recipe.prompts_per_iteration * arm.pair_share
    why = {
        "tie": "with equal scores",
        "one_judged": "with one scored response",
        "none_judged": "without any response",
        "unjudged": "that the judge could not score",
        "unparsable_quota": "that could only reject an output without a response",
    }
    without = [f"{arm.outcomes[kind]} {said}" for kind, said in why.items() if arm.outcomes[kind]]
    words = f"{percent(arm.pair_share)} of the prompts of the {arm.arm} arm give a pair"
    words += f", {count:,.0f} in the whole run"
    if without:
        words += f"; of {sum(arm.outcomes.values())} there are {', '.join(without)}"
    few = recipe.iterations > 0 and count < FEW_PAIRS and not explained
    more = None
    if few and count:
        more = str(round(recipe.prompts_per_iteration * FEW_PAIRS / count))
    return Check(
        name="pairs",
        arm=arm.arm,
        value=arm.pair_share,
        shown=percent(arm.pair_share),
        verdict="look" if few else "ok",
        words=words,
        remedy=Remedy(field="prompts_per_iteration", value=more) if few else None,
    )


def speed_check(arm: ArmEvidence) -> Check:
    """New tokens a second while sampling."""
    speed = arm.new_tokens / max(arm.seconds, 1e-9)
    return Check(
        name="tokens a second",
        arm=arm.arm,
        value=speed,
        shown=f"{speed:,.0f}",
        verdict="ok",
        words=f"{arm.new_tokens:,} new tokens of the {arm.arm} arm took {duration(arm.seconds)}, "
        "loading the model included; more prompts at a time are faster",
    )


def length_check(recipe: Recipe, length: RunLength | str) -> Check:
    """How long the run will likely take; in place of it why nobody can tell."""
    name = "likely length"
    if isinstance(length, str):
        return unknown(name, None, length)
    hours = length.seconds / HOUR
    verdict = judged(hours, HOURS)
    parts = [f"{kind} {duration(seconds)}" for kind, seconds in length.parts.items()]
    seeds = len(recipe.seeds)
    remedy = None
    if verdict != "ok":
        fewer = max(1, int(recipe.prompts_per_iteration * HOURS.look / hours))
        remedy = Remedy(field="prompts_per_iteration", value=str(fewer))
    return Check(
        name=name,
        arm=None,
        value=length.seconds,
        shown=duration(length.seconds),
        verdict=verdict,
        words=f"{', '.join(parts)}, with what was measured here"
        + (f"; all {seeds} seeds take {seeds} times as much" if seeds > 1 else ""),
        remedy=remedy,
        limit=HOURS,
    )


def gravely(checks: Sequence[Check]) -> bool:
    """Whether one of them says look or stop."""
    return any(check.verdict in ("look", "stop") for check in checks)
