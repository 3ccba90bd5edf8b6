"""Checks of an arm's outputs: do they parse, do they end, is there room, do they differ.

Every output without a response has one cause here, so that one fault is one line: the context cut
it off, the token limit did inside its thought or its response, or it did not follow the format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from statistics import median, stdev

from forethought.config import Recipe, WarmStartConfig
from forethought.doctor.check import Check, Remedy, Verdict, judged, share_check, unknown
from forethought.doctor.evidence import ArmEvidence
from forethought.doctor.limits import CUT_OFF, DUPLICATES, FEW_EXAMPLES, NO_ROOM, UNPARSED
from forethought.types import ParseStatus, Rollout

PAPER_TEMPERATURE = 0.8
HIGHER_TEMPERATURE = 1.0
PAPER_TOP_P = 0.95


def output_checks(
    arm: ArmEvidence, recipe: Recipe, *, spare: int, warm: bool, before: bool
) -> Iterator[Check]:
    """All of them. `spare` prompts are left over by the iterations. `warm` says that outputs were
    shown demonstrations, `before` that the model is trained on given thoughts before its first
    iteration: then it need not follow the format yet."""
    causes = Causes(arm, recipe.sampling.max_new_tokens)
    yield _unparsed(arm, causes, spare, taught=warm or before)
    if warm and recipe.warm_start is not None:
        yield _warm_start(arm, recipe.warm_start.prompts)
    for cause in ("thought", "response") if arm.thought_format.thinks else ("response",):
        yield _cut_off(arm, recipe, causes, cause, lenient=warm)
    yield _context(arm, recipe, causes.count("context"))
    yield _duplicates(arm, recipe)


class Causes:
    """Why outputs have no response, each for one reason."""

    def __init__(self, arm: ArmEvidence, limit: int) -> None:
        self._by_prompt: dict[str, Counter[str]] = {}
        for rollout, cause in zip(arm.rollouts, _causes(arm, limit), strict=True):
            self._by_prompt.setdefault(rollout.prompt_id, Counter())[cause] += 1

    def count(self, cause: str) -> int:
        """Outputs with this cause."""
        return sum(counts[cause] for counts in self._by_prompt.values())

    def error(self, cause: str) -> float:
        """Standard error of their share: prompts are what was drawn, not their outputs."""
        shares = [counts[cause] / counts.total() for counts in self._by_prompt.values()]
        return stdev(shares) / len(shares) ** 0.5 if len(shares) > 1 else 0.0


def _causes(arm: ArmEvidence, limit: int) -> list[str]:
    """Of each output: `complete`, or why it has no response."""
    thinks, unmarked = arm.thought_format.thinks, arm.thought_format.thinks_unmarked
    ended = [each for each in arm.rollouts if each.completion.finish_reason == "stop"]
    parsed = sum(each.parsed.response is not None for each in ended)
    # Where a thought has no marker, those that end tell whether the others were on their way.
    follows = not unmarked or 2 * parsed >= len(ended)

    def cause(rollout: Rollout) -> str:
        status, completion = rollout.parsed.status, rollout.completion
        if status is ParseStatus.COMPLETE:
            return "complete"
        in_thought = thinks and rollout.parsed.thought is not None and follows
        if completion.finish_reason == "stop" or (
            status is ParseStatus.NO_RESPONSE and not in_thought
        ):
            return "format"
        if len(completion.token_ids) < limit:
            return "context"
        return "response" if status is ParseStatus.TRUNCATED else "thought"

    return [cause(rollout) for rollout in arm.rollouts]


def _unparsed(arm: ArmEvidence, causes: Causes, spare: int, *, taught: bool) -> Check:
    total, count = len(arm.rollouts), causes.count("format")
    share = count / total
    verdict: Verdict = "unknown"
    if not taught:
        verdict = judged(share, UNPARSED, error=causes.error("format"))
    markers = " or ".join(repr(each) for each in arm.thought_format.response_starts_after[:1])
    words = f"{count} of {total} outputs of the {arm.arm} arm do not follow the format"
    if arm.thought_format.thinks:
        words += f": no {markers} where a response should begin"
    remedy = None
    if verdict in ("look", "stop"):
        remedy = Remedy(field="model.template")
        if arm.thought_format.thinks:
            fewer = 0 < spare < WarmStartConfig().prompts
            value = f"{{prompts: {spare}}}" if fewer else "{}"
            remedy = Remedy(field="warm_start", value=value)
    elif taught:
        words += "; the warm start teaches it, so this is no fault"
    return share_check(
        "unparsed",
        arm.arm,
        share,
        UNPARSED,
        verdict=verdict,
        words=words,
        remedy=remedy,
    )


def _warm_start(arm: ArmEvidence, prompts: int) -> Check:
    """What the warm start would train on."""
    name, total = "not usable", len(arm.rollouts)
    usable = 0 if arm.examples is None else int(arm.examples["usable"])
    kept = 0 if arm.examples is None else int(arm.examples["examples"])
    share = 1 - usable / total
    verdict = judged(share, FEW_EXAMPLES) if kept else "stop"
    words = (
        f"{usable} of {total} outputs of the {arm.arm} arm, shown demonstrations, can be trained "
        f"on; {kept} of them would be, and about {kept * prompts / len(arm.by_prompt):.0f} of all "
        f"{prompts:,} prompts of the warm start"
    )
    return share_check(
        name,
        arm.arm,
        share,
        FEW_EXAMPLES,
        verdict=verdict,
        words=words,
        remedy=Remedy(field="warm_start.demonstrations"),
    )


def _cut_off(
    arm: ArmEvidence, recipe: Recipe, causes: Causes, where: str, *, lenient: bool
) -> Check:
    """By the token limit, inside the thought or the response."""
    limit, total = recipe.sampling.max_new_tokens, len(arm.rollouts)
    count = causes.count(where)
    share = count / total
    verdict = judged(share, CUT_OFF, error=causes.error(where))
    if lenient and verdict == "stop":
        # A warm start keeps what ends, and teaches to end.
        verdict = "look"
    words = (
        f"{count} of {total} outputs of the {arm.arm} arm were cut off inside the {where} by "
        f"sampling.max_new_tokens ({limit})"
    )
    remedy = None
    if verdict != "ok":
        more = limit * (4 if share > CUT_OFF.look * 5 else 2)
        if arm.room.context is not None:
            more = min(more, arm.room.context - max(arm.room.sampled))
        value = str(more) if more > limit else None
        remedy = Remedy(field="sampling.max_new_tokens", value=value)
    return share_check(
        f"cut in {where}",
        arm.arm,
        share,
        CUT_OFF,
        verdict=verdict,
        words=words,
        remedy=remedy,
    )


def _context(arm: ArmEvidence, recipe: Recipe, cut: int) -> Check:
    """Whether the longest prompt leaves room for max_new_tokens, and what it cost that others do
    not."""
    name, room, limit = "context room", arm.room, recipe.sampling.max_new_tokens
    if room.context is None:
        return unknown(name, arm.arm, "only the engine knows the model's context")
    needed = room.longest + limit
    share = cut / len(arm.rollouts)
    verdict = judged(share, NO_ROOM)
    if verdict == "ok" and needed > room.context:
        verdict = "look"
    words = (
        f"the longest prompt of the {arm.arm} arm has {room.longest:,} tokens, and with "
        f"sampling.max_new_tokens ({limit:,}) that is {needed:,} of the context's {room.context:,}"
    )
    if cut:
        words += f"; {cut} of {len(arm.rollouts)} outputs were cut off by it"
    remedy = None
    if verdict != "ok":
        left = room.context - limit
        if left >= median(room.sampled):
            remedy = Remedy(field="prompts.max_tokens", value=str(left))
        else:
            fits = room.context - room.longest
            remedy = Remedy(field="sampling.max_new_tokens", value=str(fits))
    return Check(
        name=name,
        arm=arm.arm,
        value=float(needed),
        shown=f"{needed:,} of {room.context:,}",
        verdict=verdict,
        words=words,
        remedy=remedy,
        limit=NO_ROOM,
    )


def _duplicates(arm: ArmEvidence, recipe: Recipe) -> Check:
    """Outputs of a prompt that say the same as an earlier one."""
    name, repeated, could = "duplicates", 0, 0
    for rollouts in arm.by_prompt.values():
        repeated += len(rollouts) - len({each.completion.text for each in rollouts})
        could += len(rollouts) - 1
    if not could:
        return unknown(name, arm.arm, "no prompt has two outputs")
    share = repeated / could
    verdict = judged(share, DUPLICATES)
    sampling = recipe.sampling
    words = (
        f"{repeated} of {len(arm.rollouts)} outputs of the {arm.arm} arm are the same as an "
        f"earlier one of their prompt, at sampling.temperature {sampling.temperature:g}"
    )
    return share_check(
        name,
        arm.arm,
        share,
        DUPLICATES,
        verdict=verdict,
        words=words,
        remedy=_livelier(sampling.temperature, sampling.top_p),
    )


def _livelier(temperature: float, top_p: float) -> Remedy:
    if temperature < PAPER_TEMPERATURE:
        return Remedy(field="sampling.temperature", value=f"{PAPER_TEMPERATURE:g}")
    if top_p < PAPER_TOP_P:
        return Remedy(field="sampling.top_p", value=f"{PAPER_TOP_P:g}")
    return Remedy(field="sampling.temperature", value=f"{max(HIGHER_TEMPERATURE, temperature):g}")
