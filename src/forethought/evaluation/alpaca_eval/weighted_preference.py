"""AlpacaEval 2's judgement of two outputs: the prompt, the order, and the preference.

The protocol is that of `weighted_alpaca_eval_gpt4_turbo` (tatsu-lab/alpaca_eval, Apache-2.0), its
prompt in `prompts/`. The judge names the better model by one token, `m` or `M`; the probabilities
of the two among the likeliest tokens give the preference, from 1, `output_1` is better, to 2:

    2 - P(m) / (P(m) + P(M))        for `output_1` shown first, as m; else 3 minus that

Which is shown first is drawn by a generator seeded with the instruction, so that all models are
judged in the same order. Where one identifier is not among the likeliest tokens its probability is
0; where neither is, there is no preference.

Departures: control tokens of common chat models inside an output are broken (control_tokens.py),
where the package would end the prompt; and an output that spells out `{output_2}` stays as it is.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from forethought.config.yaml_text import read_yaml
from forethought.judging.llm.frame import printable
from forethought.models.control_tokens import without_well_known

FIRST, SECOND = "m", "M"
"""Names of the models in the prompt, in the order in which they are shown."""
ORDER_SEED = 0
"""The package's default seed."""
PROMPT_FILE = Path(__file__).parent / "prompts" / "weighted_alpaca_eval_gpt4_turbo.yaml"
FIELD = re.compile(r"\{(instruction|output_1|output_2)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPair:
    """Two outputs for one instruction, without thoughts.

    Example: `OutputPair(instruction="Name a prime.", output_1="7", output_2="It is 7.")`
    """

    instruction: str
    output_1: str
    """The baseline's."""
    output_2: str
    """The model's."""


def is_switched(instruction: str) -> bool:
    """Whether `output_2` is shown first: the package's draw for this instruction."""
    seeded = random.Random(f"is_switched_outputs{instruction}{ORDER_SEED}")
    return seeded.choices([False, True])[0]


def preference_for_second(logprobs: Mapping[str, float]) -> float | None:
    """In [1, 2], 2 where the model shown second is better; `None` where neither is named."""
    first, second = (logprobs.get(name, -math.inf) for name in (FIRST, SECOND))
    if (higher := max(first, second)) == -math.inf:
        return None
    either = higher + math.log(math.exp(first - higher) + math.exp(second - higher))
    return 2 - math.exp(first - either)


def judge_messages(comparison: OutputPair) -> list[dict[str, str]]:
    """The judge's conversation, the outputs in the order that the instruction draws."""
    outputs = (comparison.output_1, comparison.output_2)
    if is_switched(comparison.instruction):
        outputs = (comparison.output_2, comparison.output_1)
    texts = (comparison.instruction, *outputs)
    fields = ("instruction", "output_1", "output_2")
    values = {
        field: without_well_known(printable(text))
        for field, text in zip(fields, texts, strict=True)
    }
    return [
        {"role": role, "content": FIELD.sub(lambda field: values[field[1]], text)}
        for role, text in _prompt().items()
    ]


@cache
def _prompt() -> dict[str, str]:
    """The text of each turn."""
    return read_yaml(PROMPT_FILE)
