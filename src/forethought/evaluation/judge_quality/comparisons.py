"""The single comparisons behind a pairwise judge's scores, read from its evidence."""

from __future__ import annotations

import json
from collections.abc import Iterator

from forethought.config import JudgeConfig, PairwiseJudge
from forethought.evaluation.judge_quality.cases import CaseVerdict
from forethought.judging.llm.pairwise import judge_name
from forethought.judging.llm.prompt_file import PairwisePrompt, load_prompt

Comparisons = dict[tuple[int, int], float | None]
"""By the indices of the responses shown first and second: how much more the verdict counts for the
first, below 0 where it is for the second; `None` where there is no verdict."""


class ComparisonReader:
    """Reads the comparisons of a pairwise judge, or of those in a mixture.

    Example: `ComparisonReader(PairwiseJudge(…)).read(verdict) == [{(0, 1): 1.0, (1, 0): -1.0}]`
    """

    def __init__(self, config: JudgeConfig) -> None:
        """Raises: ValueError if a prompt file cannot be read."""
        members = [member.judge for route in config.panels for member in route.members]
        self._nested = bool(members)
        self._prompts: dict[str, PairwisePrompt] = {
            judge_name(judge): load_prompt(judge.prompt, "pairwise")
            for judge in (config, *members)
            if isinstance(judge, PairwiseJudge)
        }

    @property
    def any(self) -> bool:
        """Whether the judge compares responses at all."""
        return bool(self._prompts)

    def read(self, verdict: CaseVerdict) -> list[Comparisons]:
        """Those of each judge that compares; empty where there were none."""
        if not self.any or not verdict.evidence:
            return []
        if not self._nested:
            [prompt] = self._prompts.values()
            return [_read(verdict.evidence, prompt)]
        return list(self._members(verdict.evidence))

    def _members(self, evidence: str) -> Iterator[Comparisons]:
        for member in json.loads(evidence):
            prompt = self._prompts.get(member["judge"])
            if prompt is not None and member["evidence"]:
                yield _read(member["evidence"], prompt)


def _read(evidence: str, prompt: PairwisePrompt) -> Comparisons:
    weights = {label: one.first - one.second for label, one in prompt.verdicts.items()}
    return {
        (first, second): None if label is None else weights[label]
        for first, second, label, _ in json.loads(evidence)
    }


def places_followed(comparisons: Comparisons) -> list[str | None]:
    """For each two responses: the place that won in both orders, `first` or `second`; `neither`
    where the verdict was of the responses, or a tie; `None` where an order has no verdict."""
    found: list[str | None] = []
    for (a, b), one in comparisons.items():
        if a < b:
            other = comparisons.get((b, a))
            if one is None or other is None:
                found.append(None)
            elif one * other > 0:
                found.append("first" if one > 0 else "second")
            else:
                found.append("neither")
    return found
