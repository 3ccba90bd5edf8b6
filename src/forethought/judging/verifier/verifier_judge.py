"""A judge that is a Python function: it grades one response at a time, usually against a reference.

The paper judges with models only; a verifier makes prompts with a known answer usable, at no cost
and without a model's taste. Built in: `microworld`, the embedded world's own grader, `gsm8k`, 1
where the final number of the response is the reference's, else 0, and `constraints`, the share of
checkable constraints that are met. Any other function is named as `package.module:function` and
called as `f(prompt, response) -> float`. If it raises on a response,
the whole group is `Unjudged` with the error as its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from typing import Self

from forethought.config import VerifierJudge
from forethought.config.hints import did_you_mean
from forethought.config.judges import GRADERS
from forethought.judging.import_path import import_attribute
from forethought.judging.verifier.constraints import grade_constraints
from forethought.judging.verifier.final_number import final_number
from forethought.types import Judgement, Prompt, ResponseGroup, Unjudged

Grade = Callable[[Prompt, str], float]


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
            case "constraints":
                self._grade = grade_constraints
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


def _users_function(path: str) -> Grade:
    if ":" not in path:
        raise ValueError(
            f"judge.function: {path!r} is no verifier; use {', '.join(map(repr, GRADERS))}, or "
            f"package.module:function for one of your own{did_you_mean(path, GRADERS)}"
        )
    function = import_attribute(path, "judge.function")
    try:
        takes = signature(function)
    except ValueError:
        # What a builtin takes cannot be asked.
        return function
    try:
        takes.bind(None, "")
    except TypeError as error:
        raise ValueError(
            f"judge.function: {path} cannot be called as f(prompt, response): {error}"
        ) from None
    return function
