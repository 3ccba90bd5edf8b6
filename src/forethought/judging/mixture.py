"""A judge made of judges: each kind of prompt goes to its own, or several judge it together.

Maths goes to a verifier, chat to a reward model, so that training on chat does not cost maths.
Every member's scores are normalised within the prompt's group (population mean and standard
deviation; no spread makes all of them 0) and averaged by weight, so that scales do not matter. The
scores therefore compare the responses of one prompt and nothing else. The paper has one judge.

A group that any of its members cannot score is `Unjudged`: an average of fewer would be another
judge. So a response that one member could not score has no score either, and the others are
normalised without it. A prompt that fits no route is `Unjudged` too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from forethought.config import MixtureJudge, Route, SingleJudge
from forethought.judging.base import Judge, checked
from forethought.types import Judgement, Prompt, ResponseGroup, Unjudged


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    route: Route
    members: tuple[tuple[Judge, float], ...]


class Mixture:
    """Routes groups to panels of judges.

    Example: `Mixture(MixtureJudge(routes=[Route(members=[Member(judge=…)])]), open_judge)`
    """

    name = "mixture"
    floor: float | None = None

    def __init__(self, config: MixtureJudge, open_member: Callable[[SingleJudge], Judge]) -> None:
        """Open all members, each with `open_member`.

        Raises: ValueError if one cannot be opened; those opened before it are closed again.
        """
        with ExitStack() as opening:
            panels = []
            for route in config.routes:
                members = []
                for member in route.members:
                    judge = opening.enter_context(open_member(member.judge))
                    members.append((judge, member.weight))
                panels.append(_Panel(route=route, members=tuple(members)))
            self._panels = tuple(panels)
            self._open = opening.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def judge(self, groups: Sequence[ResponseGroup]) -> Iterator[Judgement | Unjudged]:
        """Each member sees all groups of its route at once, so that it can batch them."""
        panels = [self._panel(group.prompt) for group in groups]
        answers: dict[int, Judgement | Unjudged] = {}
        for panel in self._panels:
            mine = [index for index, other in enumerate(panels) if other is panel]
            judged = self._ask(panel, [groups[index] for index in mine])
            answers |= dict(zip(mine, judged, strict=True))
        for index, group in enumerate(groups):
            yield answers[index] if index in answers else self._unroutable(group.prompt)

    def _panel(self, prompt: Prompt) -> _Panel | None:
        return next((panel for panel in self._panels if panel.route.fits(prompt)), None)

    def _ask(
        self, panel: _Panel, groups: Sequence[ResponseGroup]
    ) -> Iterator[Judgement | Unjudged]:
        verdicts = [list(checked(judge, groups)) for judge, _ in panel.members]
        weights = [weight for _, weight in panel.members]
        for index, group in enumerate(groups):
            yield self._combine(group.prompt, [answers[index] for answers in verdicts], weights)

    def _combine(
        self, prompt: Prompt, answers: Sequence[Judgement | Unjudged], weights: Sequence[float]
    ) -> Judgement | Unjudged:
        judgements: list[Judgement] = []
        for answer in answers:
            if isinstance(answer, Unjudged):
                reason = f"{answer.judge}: {answer.reason}"
                return Unjudged(prompt_id=prompt.prompt_id, judge=self.name, reason=reason)
            judgements.append(answer)
        scores, reason = _averaged([judgement.scores for judgement in judgements], weights)
        if reason is not None:
            return Unjudged(prompt_id=prompt.prompt_id, judge=self.name, reason=reason)
        evidence: list[dict[str, Any]] = [
            {
                "judge": judgement.judge,
                "scores": judgement.scores,
                "weight": weight,
                "evidence": judgement.evidence,
            }
            for judgement, weight in zip(judgements, weights, strict=True)
        ]
        return Judgement(
            prompt_id=prompt.prompt_id,
            judge=self.name,
            scores=scores,
            evidence=json.dumps(evidence, ensure_ascii=False),
            missing=sum(judgement.missing for judgement in judgements),
        )

    def _unroutable(self, prompt: Prompt) -> Unjudged:
        reason = (
            f"no route fits source {prompt.source!r} and category {prompt.category!r}; add a last "
            "route without source and category"
        )
        return Unjudged(prompt_id=prompt.prompt_id, judge=self.name, reason=reason)


def _averaged(
    members: Sequence[Sequence[float | None]], weights: Sequence[float]
) -> tuple[tuple[float | None, ...], str | None]:
    """Each response's score, `None` where a member has none; and why they cannot be compared."""
    count = len(members[0])
    known = [k for k in range(count) if all(member[k] is not None for member in members)]
    if len(known) < min(count, 2):
        return (), f"its members have scores in common for {len(known)} of {count} responses"
    normal = np.stack([normalised([member[k] or 0.0 for k in known]) for member in members])
    means = np.average(normal, axis=0, weights=weights).tolist()
    scores = dict(zip(known, means, strict=True))
    return tuple(scores.get(k) for k in range(count)), None


def normalised(scores: Sequence[float]) -> np.ndarray:
    """Scores minus their mean, over their population standard deviation; all 0 without spread."""
    array = np.asarray(scores, dtype=np.float64)
    # Equal scores may differ from their mean by a rounding.
    if array.size == 0 or array.max() == array.min():
        return np.zeros_like(array)
    return (array - array.mean()) / array.std()
