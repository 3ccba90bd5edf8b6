"""ArmoRM's objectives: their names, and a judgement's evidence as a table for a reader.

Evidence is compact JSON: the objectives once, then for each response of the group its score, its
reward in each objective, the gate, and the weights that the gate becomes through the transform.
Numbers have four significant digits. Reading it needs no model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from forethought.judging.scoring.score_cache import Scored

OBJECTIVES = (
    "helpsteer-helpfulness",
    "helpsteer-correctness",
    "helpsteer-coherence",
    "helpsteer-complexity",
    "helpsteer-verbosity",
    "ultrafeedback-overall_score",
    "ultrafeedback-instruction_following",
    "ultrafeedback-truthfulness",
    "ultrafeedback-honesty",
    "ultrafeedback-helpfulness",
    "beavertails-is_safe",
    "prometheus-score",
    "argilla-overall_quality",
    "argilla-judge_lm",
    "code-complexity",
    "code-style",
    "code-explanation",
    "code-instruction-following",
    "code-readability",
)
"""Names of the published checkpoint's objectives, in its order."""
PARTS = ("rewards", "gate", "weights")
SIDE_BY_SIDE = 3
"""Responses up to which reward and share stand in one line."""


def objective_names(count: int) -> list[str]:
    """The published names for 19 objectives, else numbers."""
    if count == len(OBJECTIVES):
        return list(OBJECTIVES)
    return [f"objective-{index}" for index in range(count)]


def rounded(numbers: Sequence[float]) -> list[float]:
    """To four significant digits."""
    return [float(f"{number:.4g}") for number in numbers]


def evidence(scored: Sequence[Scored]) -> str:
    """What is kept of a group's ratings, one of `scored` per response."""
    count = len(scored[0].details["rewards"]) if scored else 0
    content = {
        "objectives": objective_names(count),
        "responses": [{"score": rounded([rating.score])[0]} | rating.details for rating in scored],
    }
    return json.dumps(content, separators=(",", ":"))


def explanation(evidence: str) -> Table:
    """A row per objective: gate and weight, each response's reward and its share of the score.

    A share is the reward times the weight; a response's shares sum to its score. The gate
    reads the prompt alone, so it is the same for all responses of a group.

    Raises: ValueError if this is not the evidence of an ArmoRM.
    """
    names, responses = _read(evidence)
    between = " " if len(responses) <= SIDE_BY_SIDE else "\n"
    title = "ArmoRM: score = sum of reward x weight"
    table = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("objective")
    for name in ("gate", "weight"):
        table.add_column(name, justify="right", no_wrap=True)
    for index in range(len(responses)):
        heading = f"response {index}" if between == " " else f"{index}"
        table.add_column(f"{heading}\nreward{between}share", justify="right", no_wrap=True)
    for row, name in enumerate(names):
        weights = (f"{responses[0][part][row]:.3f}" if responses else "" for part in PARTS[1:])
        cells = (
            f"{reward:.3f}{between}{reward * weight:+.3f}"
            for reward, weight in (
                (response["rewards"][row], response["weights"][row]) for response in responses
            )
        )
        table.add_row(name, *weights, *cells)
    table.add_section()
    table.add_row("score", "", "", *(f"{response['score']:.4g}" for response in responses))
    return table


def _read(evidence: str) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        content = json.loads(evidence)
        names, responses = content["objectives"], content["responses"]
        whole = all(len(response[part]) == len(names) for response in responses for part in PARTS)
        if whole and all(isinstance(response["score"], float | int) for response in responses):
            return names, responses
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"this is not the evidence of an ArmoRM: {evidence!r:.120}")
