"""Checks of the judge on an arm's responses: does it score, differ, repeat itself, count words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from statistics import fmean, pstdev

from forethought.config import JudgeConfig, Recipe
from forethought.doctor.check import Check, Remedy, judged, percent, share_check, unknown
from forethought.doctor.evidence import ArmEvidence
from forethought.doctor.limits import ENOUGH, FEW, FOLLOWS_LENGTH, JUDGE_FAILURES, JUDGE_NOISE, TIES
from forethought.evaluation.judge_quality.figures import Judged, judge_figures

Scores = list[tuple[float, float]]
"""Of one prompt's responses: the first score and the second."""
FIELDS = {
    "verifier": "judge.function",
    "custom": "judge.import_path",
    "reward_model": "judge.path",
    "armorm": "judge.path",
    "pairwise": "judge.prompt",
    "rating": "judge.prompt",
    "checklist": "judge.items",
    "mixture": "judge.routes",
}
"""What a judge of each type is made of."""
MOST_RHO = 0.5
"""In the paper."""


def judge_checks(arm: ArmEvidence, recipe: Recipe) -> Iterator[Check]:
    """All of them."""
    yield _failures(arm, recipe.judge)
    yield _ties(arm, recipe)
    yield _noise(arm, recipe.judge)
    yield _length(arm, recipe)


def _failures(arm: ArmEvidence, judge: JudgeConfig) -> Check:
    name, total = "judge failures", len(arm.once.cases)
    if not total:
        return unknown(name, arm.arm, "no output has a response")
    reasons = [each.reason for each in arm.once.verdicts if each.reason is not None]
    lacking = sum(None in each.scores for each in arm.once.verdicts if each.reason is None)
    share = (len(reasons) + lacking) / total
    verdict = judged(share, JUDGE_FAILURES)
    words = f"{len(reasons)} of {total} prompts of the {arm.arm} arm have no score"
    if lacking:
        words += f", {lacking} more lack that of a response"
    if reasons:
        words += f"; the first because: {reasons[0]:.200}"
    return share_check(
        name,
        arm.arm,
        share,
        JUDGE_FAILURES,
        verdict=verdict,
        words=words,
        remedy=Remedy(field=FIELDS[judge.type]),
    )


def _ties(arm: ArmEvidence, recipe: Recipe) -> Check:
    """Prompts with different responses that all have one score. Equal responses are the sampling's
    affair."""
    name, tied, varied = "ties", 0, 0
    seen = set[float]()
    for case, verdict in arm.once:
        known = [
            (text, score)
            for text, score in zip(case.responses, verdict.scores, strict=False)
            if score is not None
        ]
        if len({text for text, _ in known}) > 1:
            varied += 1
            tied += len({score for _, score in known}) == 1
            seen.update(score for _, score in known)
    if varied < FEW:
        why = f"{varied} prompts have different responses with scores, too few to tell"
        return unknown(name, arm.arm, why)
    share = tied / varied
    verdict = judged(share, TIES)
    words = (
        f"{tied} of {varied} prompts of the {arm.arm} arm with different responses have one score "
        "for all of them"
    )
    remedy = None
    if verdict != "ok":
        if len(seen) > 1:
            samples = str(2 * recipe.sampling.samples)
            remedy = Remedy(field="sampling.samples", value=samples)
        else:
            words += f", {next(iter(seen)):g} each time"
            remedy = Remedy(field=FIELDS[recipe.judge.type])
    return share_check(
        name,
        arm.arm,
        share,
        TIES,
        verdict=verdict,
        words=words,
        remedy=remedy,
    )


def _noise(arm: ArmEvidence, judge: JudgeConfig) -> Check:
    """How much of the judge's order is lost when it is asked again: of two responses that it told
    apart, 1 where it then says the reverse and half where it says they are equal. A coin has 0.5,
    whatever its scale."""
    name, groups = "judge noise", list(_twice(arm))
    lost = [
        (a[0] - b[0]) * (a[1] - b[1])
        for scores in groups
        for a, b in combinations(scores, 2)
        if a[0] != b[0]
    ]
    if len(lost) < ENOUGH:
        why = f"the judge told {len(lost)} pairs of responses apart, too few to ask again"
        return unknown(name, arm.arm, why)
    share = sum(1.0 if each < 0 else 0.5 * (each == 0) for each in lost) / len(lost)
    difference = fmean(abs(a - b) for scores in groups for a, b in scores)
    spread = fmean(pstdev(first for first, _ in scores) for scores in groups)
    verdict = judged(share, JUDGE_NOISE)
    words = (
        f"asked again about {len(lost)} pairs of responses that it told apart, the judge lost "
        f"{percent(share)} of its order in the {arm.arm} arm (a coin loses 50%); a score moved by "
        f"{difference:.3g} on average, and those of a prompt spread by {spread:.3g}"
    )
    return share_check(
        name,
        arm.arm,
        share,
        JUDGE_NOISE,
        verdict=verdict,
        words=words,
        remedy=_surer(judge),
    )


def _surer(judge: JudgeConfig) -> Remedy:
    if judge.type == "rating":
        # Votes at temperature 0 are refused: they are all the same one.
        if judge.temperature > 0:
            return Remedy(field="judge.votes", value=str(max(4, 2 * judge.votes)))
        return Remedy(field="judge.prompt")
    if judge.type == "pairwise" and judge.comparisons != "all":
        return Remedy(field="judge.comparisons", value="all")
    return Remedy(field=FIELDS[judge.type])


def _twice(arm: ArmEvidence) -> Iterator[Scores]:
    """Both scores of every response that has two, prompt by prompt."""
    again = reversed(arm.again.verdicts)
    for first, second in zip(arm.once.verdicts, again, strict=True):
        pairs = zip(first.scores, reversed(second.scores), strict=False)
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        if known:
            yield known


def _length(arm: ArmEvidence, recipe: Recipe) -> Check:
    """Pearson's correlation of score and length within prompts, less what `pairs.rho` takes away:
    `N(s) - rho · N(l)` has none left where rho is the correlation."""
    name = "follows length"
    told = sum(len({*each.scores} - {None}) > 1 for each in arm.once.verdicts)
    figures = judge_figures(recipe.judge, arm.once, arm.again, Judged([], [])) if told else []
    found = next((each for each in figures if each.name == "length_correlation"), None)
    if found is None or found.value is None or told < ENOUGH:
        return unknown(name, arm.arm, f"{told} prompts have scores that differ, too few to tell")
    rho = recipe.pairs.rho
    left = found.value - rho
    verdict = judged(abs(left), FOLLOWS_LENGTH)
    words = (
        f"within prompts of the {arm.arm} arm the {'longer' if left > 0 else 'shorter'} response "
        f"scores higher: score and length correlate by {found.value:.2f}"
    )
    if rho:
        words += f", less pairs.rho {rho:g}"
    remedy = None
    if verdict != "ok":
        rho = min(MOST_RHO, round(found.value, 1))
        helps = left > 0 and rho > recipe.pairs.rho
        remedy = (
            Remedy(field="pairs.rho", value=f"{rho:g}")
            if helps
            else Remedy(field=FIELDS[recipe.judge.type])
        )
    return Check(
        name=name,
        arm=arm.arm,
        value=left,
        shown=f"{left:.2f}",
        verdict=verdict,
        words=words,
        remedy=remedy,
        limit=FOLLOWS_LENGTH,
    )
