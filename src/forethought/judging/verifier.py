"""A judge that is a Python function: it grades one response at a time, usually against a reference.

The paper judges with models only; a verifier makes prompts with a known answer usable, at no cost
and without a model's taste. Built in: `microworld`, the embedded world's own grader, and `gsm8k`,
1 where the final number of the response is the reference's, else 0. Any other function is named as
`package.module:function` and called as `f(prompt, response) -> float`. If it raises on a response,
the whole group is `Unjudged` with the error as its reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Self

from forethought.config import VerifierJudge
from forethought.judging.import_path import import_attribute
from forethought.types import Judgement, Prompt, ResponseGroup, Unjudged

Grade = Callable[[Prompt, str], float]

MAX_DIGITS = 400
"""A longer run of digits is a stuck model's, and Python refuses to read it from 4,300 on."""

NUMBER = re.compile(
    r"""
    (?<![A-Za-z_\d])(?<!\d\.)      # not the 2 of CO2, nor the rest of a longer number
    (?P<sign>(?<![\w)\]])[-−])?     # the sign of -5; in 10-5 and (3)-5 it is an operation
    (?:[$€£]\s?(?P<late>[-−])?)?
    (?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?<![\w.])(?=\.\d))
    (?:\.(?P<decimals>\d+))?
    (?:/(?P<over>\d+))?
    """,
    re.VERBOSE,
)
MARKERS = (r"####", r"\\boxed\s*\{", r"answer\s*(?:is\b|:)")
"""What stands before a final answer, the most telling first."""
CALCULATION = re.compile(r"[\s\d.,$%+\-−*/×÷()]*=\s*")


class Verifier:
    """Applies a grading function to each response.

    Example: `Verifier(VerifierJudge(function="gsm8k"))`
    """

    def __init__(self, config: VerifierJudge) -> None:
        self.name = f"verifier:{config.function}"
        self.floor: float | None = 0.0
        self._grade: Grade
        match config.function:
            case "gsm8k":
                self._grade = grade_gsm8k
            case "microworld":
                self._grade = grade_microworld
            case path:
                self._grade = _users_function(path)
                self.floor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to free."""

    def judge(self, groups: Sequence[ResponseGroup]) -> Iterator[Judgement | Unjudged]:
        """Each group in turn, response by response."""
        for group in groups:
            yield self._judge_group(group)

    def _judge_group(self, group: ResponseGroup) -> Judgement | Unjudged:
        prompt_id = group.prompt.prompt_id
        scores: list[float] = []
        for index, response in enumerate(group.responses):
            try:
                scores.append(self._grade(group.prompt, response))
            # A user's function may raise anything; the reason is kept, no number is made up.
            except Exception as error:
                reason = f"response {index}: {type(error).__name__}: {error}"
                return Unjudged(prompt_id=prompt_id, judge=self.name, reason=reason)
        return Judgement(prompt_id=prompt_id, judge=self.name, scores=tuple(scores), evidence="")


def grade_gsm8k(prompt: Prompt, response: str) -> float:
    """1 if the final number of the response equals the reference's, else 0.

    Raises: ValueError if the prompt has no reference with a number.
    """
    expected = None if prompt.reference is None else final_number(prompt.reference)
    if expected is None:
        raise ValueError(
            f"the prompt's reference {prompt.reference!r:.80} holds no number; set "
            "columns.reference of its source to the column with the answer"
        )
    return float(final_number(response) == expected)


def grade_microworld(prompt: Prompt, response: str) -> float:
    """The microworld's own grade, in [0, 1].

    Raises: ValueError if the prompt has no category or reference.
    """
    from forethought.microworld.verifier import grade

    if prompt.category is None or prompt.reference is None:
        raise ValueError("the prompt has no category or reference, so it is not the microworld's")
    return grade(prompt.messages[-1].content, prompt.category, prompt.reference, response)


def final_number(text: str) -> Fraction | None:
    """The number a text ends on, `None` if it has none.

    After the last `####`, else the last `\\boxed{`, else the last `answer is` or `answer:`, it is
    the first number, or the result if a calculation `… = …` stands there; without a marker it is
    the last number of the text. Currency, percent signs and thousands commas do not count.
    """
    numbers = list(NUMBER.finditer(text))
    if not numbers:
        return None
    for marker in MARKERS:
        ends = [found.end() for found in re.finditer(marker, text, re.IGNORECASE)]
        last = max((end for end in ends if end <= numbers[-1].start()), default=None)
        if last is not None:
            first = next(number for number in numbers if number.start() >= last)
            return _value(_result(text, first))
    return _value(numbers[-1])


def _result(text: str, number: re.Match[str]) -> re.Match[str]:
    """Follow `6 * 7 = 42` from its 6 to its 42."""
    while (calculation := CALCULATION.match(text, number.end())) is not None:
        following = NUMBER.match(text, calculation.end())
        if following is None:
            break
        number = following
    return number


def _value(number: re.Match[str]) -> Fraction | None:
    whole = number["whole"].replace(",", "") or "0"
    decimals, over = number["decimals"] or "0", number["over"] or "1"
    if max(len(whole), len(decimals), len(over)) > MAX_DIGITS:
        return None
    value = int(whole) + Fraction(int(decimals), 10 ** len(decimals))
    if int(over) != 0:
        value /= int(over)
    return -value if number["sign"] or number["late"] else value


def _users_function(path: str) -> Grade:
    if ":" not in path:
        raise ValueError(
            f"judge.function: {path!r} is no verifier; use 'microworld', 'gsm8k', or "
            "package.module:function for one of your own"
        )
    return import_attribute(path, "judge.function")
