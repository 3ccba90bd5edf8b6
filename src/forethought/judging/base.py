"""What a judge is, how one is opened, and the one checked path on which its answers are read.

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
from typing import Any, Protocol, Self, assert_never, runtime_checkable

from forethought.cache import Cache
from forethought.config import (
    ArmoRMJudge,
    CustomJudge,
    JudgeConfig,
    MixtureJudge,
    PairwiseJudge,
    RatingJudge,
    RewardModelJudge,
    VerifierJudge,
)
from forethought.judging.import_path import import_attribute
from forethought.types import Judgement, ResponseGroup, Unjudged

MEMBERS = ("name", "floor", "judge", "__enter__", "__exit__")


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
        """One answer per group in the order of the groups, one score per response."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...


def open_judge(config: JudgeConfig, cache: Cache | None = None) -> Judge:
    """The judge a recipe names. What is in the `cache` it does not ask or compute again.

    Raises: ValueError if it cannot be found, imported or loaded.
    """
    match config:
        case VerifierJudge():
            from forethought.judging.verifier import Verifier

            return Verifier(config)
        case RewardModelJudge():
            from forethought.judging.reward_model import RewardModel

            return RewardModel(config, cache)
        case ArmoRMJudge():
            from forethought.judging.armorm import ArmoRM

            return ArmoRM(config, cache)
        case PairwiseJudge():
            from forethought.judging.pairwise import Pairwise

            return Pairwise(config, cache)
        case RatingJudge():
            from forethought.judging.rating import Rating

            return Rating(config, cache)
        case MixtureJudge():
            from forethought.judging.mixture import Mixture

            return Mixture(config, cache)
        case CustomJudge():
            return _custom(config)
        case _:
            assert_never(config)


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


def _custom(config: CustomJudge) -> Judge:
    factory = import_attribute(config.import_path, "judge.import_path")
    try:
        judge = factory(**config.options)
    except TypeError as error:
        raise ValueError(
            f"judge.options: {config.import_path} cannot be called with {config.options}: {error}; "
            "give it the options it takes"
        ) from error
    if not isinstance(judge, Judge):
        lacking = [member for member in MEMBERS if member not in dir(judge)]
        raise ValueError(
            f"judge.import_path: {config.import_path} gives a {type(judge).__name__} without "
            f"{', '.join(lacking)}; a judge has {', '.join(MEMBERS)} "
            "(see forethought.judging.base.Judge)"
        )
    return judge
