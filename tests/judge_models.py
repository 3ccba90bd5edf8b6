"""Judge models made of a rule, and what judges are asked about."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from forethought.config import ChecklistJudge, PairwiseJudge, RatingJudge, ScriptedEngine
from forethought.judging.base import Judge, checked
from forethought.judging.llm.checklist import Checklist
from forethought.judging.llm.pairwise import Pairwise
from forethought.judging.llm.rating import Rating
from forethought.types import (
    Completion,
    Judgement,
    Message,
    Prompt,
    ResponseGroup,
    SampledPrompt,
    SampleRequest,
    Unjudged,
    Unsampled,
)

Messages = tuple[Message, ...]
Rule = Callable[[Messages, int], str | Completion | Unsampled]
NOWHERE = ScriptedEngine(path=Path("replies.jsonl"))


class JudgeModel:
    """A sampler whose reply is a function of conversation and seed; it remembers its calls."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.calls: list[list[SampleRequest]] = []
        self.is_open: bool | None = None

    def __enter__(self) -> Self:
        self.is_open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.is_open = False

    @property
    def requests(self) -> list[SampleRequest]:
        return [request for call in self.calls for request in call]

    def sample(self, requests: Sequence[SampleRequest]) -> Iterator[SampledPrompt | Unsampled]:
        self.calls.append(list(requests))
        for request in requests:
            yield self._answer(request)

    def _answer(self, request: SampleRequest) -> SampledPrompt | Unsampled:
        completions: list[Completion] = []
        for seed in request.seeds:
            reply = self.rule(request.messages, seed)
            if isinstance(reply, Unsampled):
                return reply
            if isinstance(reply, str):
                reply = Completion(text=reply, token_ids=(), finish_reason="stop")
            completions.append(reply)
        return SampledPrompt(
            prompt_id=request.prompt_id, prompt_token_ids=(), completions=tuple(completions)
        )


def shown(messages: Messages) -> tuple[str, str]:
    """The two answers before a judge with the prompt `self_taught_evaluator`."""
    asked = next(message.content for message in messages if message.role == "user")
    parts = [
        asked.partition(f"[The Start of Assistant {name}'s Answer]\n")[2].partition(
            f"\n[The End of Assistant {name}'s Answer]"
        )[0]
        for name in "AB"
    ]
    return parts[0], parts[1]


def prefers_longer(messages: Messages, seed: int) -> str:
    """Has no taste but length; of equal length the first."""
    first, second = shown(messages)
    return f"{len(first)} against {len(second)}. [[{'A' if len(first) >= len(second) else 'B'}]]"


def prompt(
    query: str = "Hi",
    *earlier: Message,
    prompt_id: str = "p",
    reference: str | None = None,
) -> Prompt:
    return Prompt(
        prompt_id=prompt_id,
        messages=(*earlier, Message(role="user", content=query)),
        category=None,
        source="s",
        reference=reference,
    )


def group(*responses: str, prompt_id: str = "p") -> ResponseGroup:
    return ResponseGroup(prompt=prompt(prompt_id=prompt_id), responses=responses)


def pairwise(model: JudgeModel, **options: object) -> Pairwise:
    config = PairwiseJudge.model_validate({"engine": NOWHERE, **options})
    return Pairwise(config, sampler=model)


def rating(model: JudgeModel, **options: object) -> Rating:
    config = RatingJudge.model_validate({"engine": NOWHERE, **options})
    return Rating(config, sampler=model)


def checklist(model: JudgeModel, **options: object) -> Checklist:
    config = ChecklistJudge.model_validate({"engine": NOWHERE, **options})
    return Checklist(config, sampler=model)


def answers(judge: Judge, *groups: ResponseGroup) -> list[Judgement | Unjudged]:
    with judge:
        return list(checked(judge, groups))


def scores(judge: Judge, *groups: ResponseGroup) -> list[tuple[float, ...]]:
    """Of groups of which every response has one."""
    found = answers(judge, *groups)
    assert all(isinstance(one, Judgement) for one in found), found
    return [one.all_scores for one in found if isinstance(one, Judgement)]


def reason(judge: Judge, asked: ResponseGroup) -> str:
    [only] = answers(judge, asked)
    assert isinstance(only, Unjudged), only
    return only.reason
