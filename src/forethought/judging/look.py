"""What is wrong with a judge, or with a prompt for it, as far as it can be told without loading a
model or asking for a verdict."""

from __future__ import annotations

from collections.abc import Iterator

from forethought.config import (
    ChecklistJudge,
    CustomJudge,
    JudgeConfig,
    LLMJudge,
    ScoringJudge,
    VerifierJudge,
)
from forethought.judging.import_path import import_attribute
from forethought.judging.llm.checklist_items import item_file
from forethought.judging.scoring.kinds import refuse_other_kinds
from forethought.judging.verifier.constraints import constraints_of
from forethought.judging.verifier.verifier_judge import Verifier
from forethought.models.hub import UnreachableError
from forethought.sampling.look import look_at_engine
from forethought.types import Prompt


def look_at_judge(judge: JudgeConfig) -> Iterator[str]:
    """What the judge lacks on this machine: a server, a package, the hub's files. Members of a
    mixture are looked at by themselves.

    Raises: ValueError for what would be wrong on any machine: a function that is not there, another
    kind of model.
    """
    match judge:
        case VerifierJudge():
            Verifier(judge)
        case CustomJudge():
            import_attribute(judge.import_path, "judge.import_path")
        case ScoringJudge():
            try:
                refuse_other_kinds(judge)
            except UnreachableError as error:
                yield str(error)
        case LLMJudge():
            if isinstance(judge, ChecklistJudge) and (items := item_file(judge)) is not None:
                items.verifiers()
            yield from look_at_engine(judge.engine, judge.model, field="judge.model.path")
        case _:
            pass


def mistake_in(prompt: Prompt, judge: JudgeConfig) -> str | None:
    """Why the judge could score no response to this prompt; `None` where nothing is known to be
    wrong with it.
    """
    if isinstance(judge, VerifierJudge) and judge.function == "constraints":
        try:
            constraints_of(prompt.reference)
        except ValueError as error:
            return str(error)
    if isinstance(judge, ChecklistJudge) and (items := item_file(judge)) is not None:
        return items.mistake_in(prompt)
    route = next((route for route in judge.panels if route.fits(prompt)), None)
    members = () if route is None else route.members
    mistakes = (mistake_in(prompt, member.judge) for member in members)
    return next((mistake for mistake in mistakes if mistake is not None), None)
