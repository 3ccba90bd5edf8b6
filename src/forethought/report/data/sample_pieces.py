"""Samples as a page takes them: an index of numbers, and texts in compressed pieces.

The index is all that filters and the list need, so the page shows its first prompts before it has
unpacked the rest. Every piece holds the texts of some prompts, each distinct text once, as zlib
data in base64; the browser unpacks it with `DecompressionStream("deflate")`.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from forethought.types import Arm, Prompt

PIECE_CHARACTERS = 1_000_000
"""Text in a piece, at least; a piece ends with the prompt that reaches it."""

OUTCOMES = {
    "warm_start": "Sampled for the warm start, with demonstrations before the prompt.",
    "judged": "Pair: the best and the worst judged response.",
    "unparsable": "Pair: the best judged response against an output that has no response.",
    "tie": "No pair: the best and the worst score are equal.",
    "one_judged": "No pair: only one output was judged.",
    "none_judged": "No pair: no output has a response to judge.",
    "unjudged": "No pair: the judge could not score this prompt.",
    "unparsable_quota": "No pair: enough pairs with an output that has no response.",
    "one_mode": "No pair: all judged outputs think, or none does (pairs.counterfactual).",
}
"""`PairDecision.outcome` in words, and what is no pair's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownOutput:
    """One output as the browser shows it.

    Example: `ShownOutput(arm="thought", policy=0, index=3, status="complete",
    thought="2 + 3 is 5.", text="5", thought_tokens=12, response_tokens=1, score=1.0, shaped=1.9,
    attempts=1)`
    """

    arm: Arm
    policy: int
    index: int
    status: str
    thought: str | None
    text: str
    """The response; the whole output where there is none."""
    thought_tokens: int
    response_tokens: int
    score: float | None
    shaped: float | None
    """The score after length control or the price of thoughts, where there was any."""
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One arm's outputs to a prompt: K samples of one policy, or the answers of every policy.

    Example: `Group(arm="thought", iteration=0, outcome="judged", chosen=3, rejected=1,
    margin=1.0, unjudged=None, evidence="", outputs=(ShownOutput(…),))`
    """

    arm: Arm
    iteration: int | None
    """`None` for test answers."""
    outcome: str | None
    """`None` for test answers and before pairs are made."""
    chosen: int | None
    rejected: int | None
    margin: float | None
    """The judge's score of chosen minus rejected."""
    unjudged: str | None
    """Why the judge gave no scores."""
    evidence: str
    outputs: tuple[ShownOutput, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A prompt with all that was made of it: what the browser shows as one card.

    Example: `Case(kind="train", prompt=Prompt(…), groups=(Group(…), Group(…)))`
    """

    kind: str
    """`train` or `test`."""
    prompt: Prompt
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSamples:
    """Cases as base64 of zlib data.

    Example: `PackedSamples(index="eJyr…", pieces=("eJx9…", "eJxV…"))`
    """

    index: str
    pieces: tuple[str, ...]


def pack(cases: Sequence[Case], *, priced: bool = False) -> PackedSamples:
    """The index of the cases, and their texts in pieces in the same order; `priced` says that
    shaped scores have paid for thoughts."""
    cuts = list(_cuts(cases))
    index = {
        "counts": [end - start for start, end in cuts],
        "cases": [_numbers(case) for case in cases],
        "priced": priced,
    }
    pieces = tuple(_packed(_texts(cases[start:end])) for start, end in cuts)
    return PackedSamples(index=_packed(index), pieces=pieces)


def _packed(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode())).decode()


def _cuts(cases: Sequence[Case]) -> Iterator[tuple[int, int]]:
    """Ranges of cases, one per piece."""
    start = 0
    sizes = list(accumulate((_characters(case) for case in cases), initial=0))
    for end in range(1, len(cases) + 1):
        if sizes[end] - sizes[start] >= PIECE_CHARACTERS or end == len(cases):
            yield start, end
            start = end


def _characters(case: Case) -> int:
    size = sum(len(message.content) for message in case.prompt.messages)
    for group in case.groups:
        size += len(group.evidence)
        size += sum(len(output.thought or "") + len(output.text) for output in group.outputs)
    return size


def _numbers(case: Case) -> list[Any]:
    groups = [
        [
            group.arm,
            group.iteration,
            group.outcome,
            group.chosen,
            group.rejected,
            _finite(group.margin),
            [_output_numbers(output) for output in group.outputs],
        ]
        for group in case.groups
    ]
    return [case.kind, case.prompt.prompt_id, case.prompt.category, groups]


def _output_numbers(output: ShownOutput) -> list[Any]:
    return [
        output.policy,
        output.index,
        output.status,
        output.thought_tokens,
        output.response_tokens,
        _finite(output.score),
        _finite(output.shaped),
        output.attempts,
    ]


def _finite(value: float | None) -> float | None:
    """JSON has no name for a number that is not finite."""
    return value if value is not None and math.isfinite(value) else None


def _texts(cases: Sequence[Case]) -> dict[str, Any]:
    """Texts of cases, each text by its place among the distinct ones."""
    places: dict[str, int] = {}

    def place(text: str | None) -> int:
        return -1 if text is None else places.setdefault(text, len(places))

    packed = [
        [
            [[message.role, place(message.content)] for message in case.prompt.messages],
            place(case.prompt.reference),
            [
                [
                    place(group.unjudged),
                    place(group.evidence or None),
                    [[place(output.thought), place(output.text)] for output in group.outputs],
                ]
                for group in case.groups
            ],
        ]
        for case in cases
    ]
    return {"strings": list(places), "cases": packed}
