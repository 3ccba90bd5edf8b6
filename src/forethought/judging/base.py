"""What a judge is, and the one checked path on which its answers are read.

A judge sees a whole group, all responses of a prompt at once, so that one that scores each response
alone and one that compares them share an interface. It never sees a thought: a `ResponseGroup` has
no place for one and this package does not import the splitter. The paper does not say what becomes
of a judge's failure; here it is an `Unjudged` with its reason, never a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from math import isfinite
from numbers import Real
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from forethought.types import Judgement, ResponseGroup, Unjudged


@runtime_checkable
class Judge(Protocol):
    """Scores groups of responses. A context manager: leaving it frees the accelerator.

    Example::

        with open_judge(recipe.judge) as judge:
            for answer in checked(judge, groups):
                ...
    """

    @property
    def name(self) -> str:
        """Identity, such as `verifier:gsm8k`; it stands in every judgement."""
        ...

    @property
    def floor(self) -> float | None:
        """The worst possible score, `None` where the scale has none."""
        ...

    def judge(self, groups: Sequence[ResponseGroup]) -> Iterator[Judgement | Unjudged]:
        """One answer per group in the order of the groups, one score per response.

        A group that cannot be judged is `Unjudged` with the reason, and the others go on.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...


def checked(judge: Judge, groups: Sequence[ResponseGroup]) -> Iterator[Judgement | Unjudged]:
    """The judge's answers, one per group; what is no full set of finite scores is `Unjudged`.

    Every caller reads a judge through this function. A missing answer is `Unjudged` too.

    Raises: ValueError if the judge gives more answers than there are groups.
    """
    for group, answer in zip_longest(groups, judge.judge(groups)):
        if group is None:
            raise ValueError(
                f"judge {judge.name} gave more than {len(groups)} answers for {len(groups)} "
                "groups; its judge() must yield one per group, in their order"
            )
        yield _checked(judge.name, group, answer)


def _checked(name: str, group: ResponseGroup, answer: Any) -> Judgement | Unjudged:
    prompt_id = group.prompt.prompt_id

    def unjudged(reason: str) -> Unjudged:
        return Unjudged(prompt_id=prompt_id, judge=name, reason=reason)

    if answer is None:
        return unjudged("the judge gave no answer")
    if not isinstance(answer, Judgement | Unjudged):
        return unjudged(f"the judge's answer is a {type(answer).__name__}, no Judgement")
    if answer.prompt_id != prompt_id:
        return unjudged(f"the judge answered for prompt {answer.prompt_id} in this one's place")
    if isinstance(answer, Unjudged):
        return answer
    scores: list[Any] = list(answer.scores)
    if len(scores) != len(group.responses):
        return unjudged(f"{len(scores)} scores for {len(group.responses)} responses")
    for index, score in enumerate(scores):
        # Only a judge that says how many verdicts it lacks may leave a response without a score.
        if not (score is None and answer.missing > 0) and not _is_finite(score):
            return unjudged(f"the score of response {index} is {score!r:.80}, no finite number")
    return Judgement(
        prompt_id=prompt_id,
        judge=answer.judge,
        scores=tuple(None if score is None else float(score) for score in scores),
        evidence=answer.evidence,
        missing=answer.missing,
    )


def _is_finite(score: Any) -> bool:
    """Whether this is a number, NumPy's and bool included, that a float can hold."""
    try:
        return isinstance(score, Real) and isfinite(score)
    except OverflowError:
        return False
