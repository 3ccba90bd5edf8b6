"""What the judge is shown of rollouts, and what is written of its answers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from forethought.storage.sealed_stage import Part, read_columns
from forethought.types import (
    Judgement,
    Prompt,
    ResponseGroup,
    ScoredGroup,
    Unjudged,
)

Key = TypeVar("Key", bound=Hashable)


class JudgeInputs:
    """The groups of each part, and whose responses stand in them; no thought leaves this class."""

    def __init__(self, rollouts: Path, parts: Sequence[Part], prompts: Sequence[Prompt]) -> None:
        self._rollouts = rollouts
        self._parts = parts
        self._prompts = {prompt.prompt_id: prompt for prompt in prompts}
        self._indices: dict[int, list[tuple[int, ...]]] = {}

    def groups(self, index: int) -> list[ResponseGroup]:
        """Every prompt of a part that has a response."""
        # Token ids and thoughts are not even read.
        columns = ("prompt_id", "sample_index", "parsed.response")
        rows = read_columns(self._rollouts, self._parts[index], columns).flatten().to_pylist()
        # The outputs of a prompt stand together in a part, as they were drawn.
        candidates = [
            (
                self._prompts[prompt_id],
                {output["sample_index"]: output["parsed.response"] for output in outputs},
            )
            for prompt_id, outputs in groupby(rows, key=lambda row: row["prompt_id"])
        ]
        self._indices[index], groups = response_groups(candidates)
        return groups

    def records(
        self, index: int, answers: Sequence[Judgement | Unjudged]
    ) -> tuple[list[ScoredGroup], list[Unjudged]]:
        """What is written of a part's answers."""
        scored: list[ScoredGroup] = []
        missing: list[Unjudged] = []
        for shown, answer in zip(self._indices.pop(index), answers, strict=True):
            if isinstance(answer, Unjudged):
                missing.append(answer)
                continue
            scored.append(scored_group(shown, answer))
        return scored, missing


def scored_group(shown: Sequence[int], judgement: Judgement) -> ScoredGroup:
    """A judgement with the sample index of each score; a response without one is not in it."""
    scores = {
        index: score
        for index, score in zip(shown, judgement.scores, strict=True)
        if score is not None
    }
    return ScoredGroup(
        prompt_id=judgement.prompt_id,
        judge=judgement.judge,
        sample_indices=tuple(scores),
        scores=tuple(scores.values()),
        evidence=judgement.evidence,
        missing=judgement.missing,
    )


def response_groups(
    candidates: Sequence[tuple[Prompt, Mapping[Key, str | None]]],
) -> tuple[list[tuple[Key, ...]], list[ResponseGroup]]:
    """For each prompt that has a response: whose are shown, and what the judge is shown."""
    keys: list[tuple[Key, ...]] = []
    groups: list[ResponseGroup] = []
    for prompt, named in candidates:
        responses = {key: text for key, text in named.items() if text is not None}
        if responses:
            keys.append(tuple(responses))
            groups.append(ResponseGroup(prompt=prompt, responses=tuple(responses.values())))
    return keys, groups
