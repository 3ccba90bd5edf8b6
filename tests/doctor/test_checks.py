"""What each check makes of an arm's outputs and scores, without any model."""

from typing import Any

import pytest

from forethought.config import Recipe
from forethought.doctor.check import judged
from forethought.doctor.evidence import ArmEvidence, Room
from forethought.doctor.judge_checks import judge_checks
from forethought.doctor.limits import Limit
from forethought.doctor.output_checks import output_checks
from forethought.evaluation.judge_quality.cases import Case, CaseVerdict
from forethought.evaluation.judge_quality.figures import Judged
from forethought.pairs import OUTCOMES
from forethought.thoughts import GENERIC, SPECIFIC, ThoughtFormat
from forethought.types import Completion, Message, Prompt, Rollout

LIMIT = 40
RECIPE = Recipe.model_validate(
    {
        "run": "runs/none",
        "model": {"path": "microworld"},
        "prompts": {"train": [{"type": "microworld", "count": 9}], "validation": {"count": 1}},
        "sampling": {"max_new_tokens": LIMIT, "samples": 4},
        "judge": {"type": "verifier", "function": "gsm8k"},
    }
)
Output = tuple[str, int]
"""Text and tokens; at `LIMIT` tokens it was cut off."""


def prompt(number: int) -> Prompt:
    messages = (Message(role="user", content=str(number)),)
    return Prompt(
        prompt_id=str(number), messages=messages, category=None, source="", reference=None
    )


def rollout(thought_format: ThoughtFormat, key: str, index: int, output: Output, cut: int):
    text, tokens = output
    finish: Any = "length" if tokens >= cut else "stop"
    return Rollout(
        prompt_id=key,
        sample_index=index,
        prompt_token_ids=(1, 2, 3),
        completion=Completion(text=text, token_ids=(7,) * tokens, finish_reason=finish),
        parsed=thought_format.parse(text, finish),
        response_start=0,
        response_tokens=tokens,
    )


def evidence(
    outputs: list[list[Output]] = [],  # noqa: B006
    scores: list[tuple[list[str], list[float], list[float]]] = [],  # noqa: B006
    thought_format: ThoughtFormat = GENERIC,
    context: int = 1000,
    cut: int = LIMIT,
) -> ArmEvidence:
    """Of some outputs of each prompt, or of responses with their first and second scores."""
    cases = [
        Case(prompt=prompt(number), responses=tuple(texts))
        for number, (texts, *_) in enumerate(scores)
    ]
    first = [CaseVerdict(scores=tuple(each), evidence="", reason=None) for _, each, _ in scores]
    second = [
        CaseVerdict(scores=tuple(reversed(each)), evidence="", reason=None)
        for *_, each in reversed(scores)
    ]
    return ArmEvidence(
        arm="thought",
        thought_format=thought_format,
        rollouts=tuple(
            rollout(thought_format, str(number), index, output, cut)
            for number, of_prompt in enumerate(outputs)
            for index, output in enumerate(of_prompt)
        ),
        once=Judged(cases, first),
        again=Judged([case.turned for case in reversed(cases)], second),
        outcomes=dict.fromkeys(OUTCOMES, 0),
        room=Room(context=context, sampled=(3, 3), longest=9),
        bare_tokens=3,
        examples=None,
        seconds=1.0,
        judging=(0.0, 0),
    )


def shares(found: ArmEvidence) -> dict[str, float | None]:
    checks = output_checks(found, RECIPE, spare=0, warm=False, before=False)
    return {check.name: check.value for check in checks}


WHOLE = ("Here is my thought process: x\nHere is my response: y", 9)
BEGUN = ("Here is my thought process: x", LIMIT)
ANSWERED = ("Here is my thought process: x\nHere is my response: y", LIMIT)
CHATTY = ("Sure, let me ramble on", LIMIT)
PLAIN = ("It is 5.", 4)


def test_each_output_without_a_response_has_one_cause():
    found = shares(evidence([[WHOLE, BEGUN, BEGUN, ANSWERED], [CHATTY, PLAIN, PLAIN, WHOLE]]))
    assert found["cut in thought"] == 2 / 8
    assert found["cut in response"] == 1 / 8
    # Cut off, too, but on no way to a response.
    assert found["unparsed"] == 3 / 8


@pytest.mark.parametrize(
    ("ended", "cause"), [(("x <R> y", 5), "cut in thought"), (("x", 5), "unparsed")]
)
def test_where_thoughts_have_no_marker_those_that_end_tell_of_the_others(ended, cause):
    found = shares(evidence([[ended, ("x x x", LIMIT)]], thought_format=SPECIFIC))
    assert found[cause] == (0.5 if cause == "cut in thought" else 1.0)


def test_what_the_context_cuts_off_is_no_fault_of_the_token_limit():
    found = evidence([[WHOLE, ("Here is my thought process: x", 20)]], context=23, cut=20)
    by_name = {c.name: c for c in output_checks(found, RECIPE, spare=0, warm=False, before=False)}
    assert by_name["cut in thought"].value == 0
    assert by_name["context room"].verdict == "stop"
    assert str(by_name["context room"].remedy) == "sampling.max_new_tokens=14"


def test_a_limit_is_crossed_by_more_than_chance_before_it_asks_for_a_look():
    limit = Limit(look=0.1, stop=0.5, why="")
    said = [judged(value, limit, error=0.05) for value in (0.1, 0.14, 0.16, 0.51)]
    assert said == ["ok", "ok", "look", "stop"]


def verdicts(scores) -> dict[str, Any]:
    return {check.name: check for check in judge_checks(evidence(scores=scores), RECIPE)}


TEXTS = ["a", "bb", "ccc", "dddd"]


def test_a_judge_that_says_the_reverse_has_lost_all_of_its_order():
    up, down = [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]
    assert verdicts([(TEXTS, up, up)] * 8)["judge noise"].value == 0
    assert verdicts([(TEXTS, up, down)] * 8)["judge noise"].value == 1
    # Half of it where it says that all are equal; nothing is known of what it never told apart.
    assert verdicts([(TEXTS, up, [2.0] * 4)] * 8)["judge noise"].value == 0.5
    assert verdicts([(TEXTS, [2.0] * 4, up)] * 8)["judge noise"].verdict == "unknown"


def test_equal_responses_are_no_tie_of_the_judge():
    same, told = (["a"] * 4, [1.0] * 4, [1.0] * 4), (TEXTS, [0.0, 1.0, 1.0, 1.0], [1.0] * 4)
    tied = (TEXTS, [1.0] * 4, [1.0] * 4)
    assert verdicts([same] * 9)["ties"].verdict == "unknown"
    assert verdicts([same] * 9 + [told] * 4)["ties"].value == 0
    found = verdicts([tied] * 16 + [told] * 4)["ties"]
    assert (found.value, str(found.remedy)) == (0.8, "sampling.samples=8")
    assert str(verdicts([tied] * 16)["ties"].remedy) == "judge.function"


def test_rho_takes_away_what_follows_length():
    longer = [(TEXTS, [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0])] * 8
    found = verdicts(longer)["follows length"]
    assert (found.verdict, str(found.remedy)) == ("stop", "pairs.rho=0.5")
    shorter = [(TEXTS, [4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0])] * 8
    assert str(verdicts(shorter)["follows length"].remedy) == "judge.function"


@pytest.mark.parametrize(("spare", "value"), [(0, "{}"), (90, "{prompts: 90}"), (9000, "{}")])
def test_a_warm_start_takes_the_prompts_that_are_left_over(spare, value):
    found = evidence([[PLAIN] * 4] * 4)
    first = next(iter(output_checks(found, RECIPE, spare=spare, warm=False, before=False)))
    assert (first.verdict, str(first.remedy)) == ("stop", f"warm_start={value}")
