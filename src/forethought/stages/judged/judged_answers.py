"""Answers to held-out prompts with a judge's scores, and what is noted beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from forethought.config import JudgeConfig
from forethought.runs.layout import StageRef
from forethought.stages.judged.joint_judging import judge_sides
from forethought.stages.judged.verdict_cache import verdict_cache
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import (
    Count,
    StageError,
    read_json,
    read_object,
    read_records,
)
from forethought.types import Answer, Prompt

JUDGED = ("judge.json", "spent.jsonl")
"""What goes with scored answers: the judge's floor and what it left out; what it spent."""

Key = TypeVar("Key", int, str)


class JudgedAnswers:
    """Scores answers that were sampled; the judge is loaded only when there is something to do."""

    def __init__(
        self,
        stage: Stage,
        ref: StageRef,
        judge: JudgeConfig,
        noted_in: tuple[str, str] = JUDGED,
    ) -> None:
        self.noted_in = noted_in
        self.relative = judge.is_relative
        self._stage = stage
        self._ref = ref
        self._judge = judge

    @property
    def floor(self) -> float | None:
        """What an answer without a response is worth; `None` if the judge's scale has no end."""
        if self.relative:
            return 0.0
        return read_object(self._stage.folder / self.noted_in[0])["floor"]

    def counts(self) -> dict[str, Count]:
        """Prompts that the judge could not score, and what it spent."""
        noted = read_object(self._stage.folder / self.noted_in[0])
        spent = read_json(self._stage.folder / self.noted_in[1])
        return {
            "missing": noted["missing"],
            "unread_verdicts": noted["unread"],
            "judge_calls": spent,
        }

    def scored(
        self, sampled: Mapping[Key, Sequence[Answer]], prompts: Sequence[Prompt]
    ) -> dict[Key, list[Answer]]:
        """The same answers with scores; all of a prompt stand before the judge at once."""
        with verdict_cache(self._ref, self._judge) as cache:
            judged = judge_sides(self._judge, cache, sampled, prompts, self._ref.recipe.launch)
        self._note(judged.floor, judged.missing, judged.unread, judged.spent)
        return judged.answers

    def of_policy(self, answers: Sequence[Answer], prompts: Sequence[Prompt]) -> list[Answer]:
        """One policy's answers with scores; with a judge that only compares these are wins against
        the baseline's, which must be sealed, and of the baseline itself all are even.

        Raises: StageError if the baseline has answered none of the same prompts.
        """
        baseline = self._ref.baseline
        if not self.relative:
            return self.scored({"policy": answers}, prompts)["policy"]
        if (self._ref.arm, self._ref.index) == (baseline.arm, baseline.index):
            self._note(0.0, [], 0, None)
            return [
                answer if answer.parsed.response is None else replace(answer, score=0.5)
                for answer in answers
            ]
        sides = on_the_same_prompts(
            {"policy": answers, "baseline": read_records(baseline.folder, Answer, "answers")}
        )
        if not sides["policy"]:
            raise StageError(
                f"{self._ref.label}: no test prompt was answered by both this policy and the "
                f"baseline, {baseline.label}, so there is nothing to compare; why "
                "each is left out stands in their left_out.json"
            )
        return self.scored(sides, prompts)["policy"]

    def _note(
        self,
        floor: float | None,
        missing: list[dict[str, str]],
        unread: int,
        spent: dict[str, Any] | None,
    ) -> None:
        noted = {"floor": floor, "missing": missing, "unread": unread}
        self._stage.write_json(self.noted_in[0], noted)
        self._stage.write_bytes(self.noted_in[1], f"{json.dumps(spent)}\n".encode())


def on_the_same_prompts(sides: Mapping[Key, Sequence[Answer]]) -> dict[Key, list[Answer]]:
    """The answers to prompts that every side has answered: a comparison is on the same ones."""
    common = set.intersection(*({answer.prompt_id for answer in each} for each in sides.values()))
    return {
        side: [answer for answer in each if answer.prompt_id in common]
        for side, each in sides.items()
    }
