"""What a probe puts in a thought's place, and how it reads thoughts' habits."""

import pytest

from forethought.evaluation.probe_openings import frame, habits, half
from forethought.thoughts import GENERIC, SPECIFIC
from forethought.types import Answer, Completion, FinishReason

PREFIX = "Here is my thought process: First add.\nThen carry the one.\n\nHere is my response:"
THOUGHT = "First add.\nThen carry the one."


def answer(text: str, finish_reason: FinishReason = "stop"):
    return Answer(
        prompt_id=text[:16],
        sample_index=0,
        attempts=1,
        completion=Completion(text=text, token_ids=(1, 2), finish_reason=finish_reason),
        parsed=GENERIC.parse(text, finish_reason),
        thought_tokens=0,
        response_tokens=0,
        score=None,
    )


def output(thought, response):
    return answer(f"Here is my thought process: {thought}\nHere is my response: {response}")


def test_the_frame_stays_and_the_thought_changes():
    found = frame(PREFIX, THOUGHT)
    assert found.opening("own", "x") == PREFIX
    assert found.opening("none", "x") == ("Here is my thought process: \n\nHere is my response:")
    assert found.opening("other", "No idea.") == PREFIX.replace(THOUGHT, "No idea.")
    assert found.opening("half", "x") == PREFIX.replace(THOUGHT, "First add.\nThen")


@pytest.mark.parametrize(
    ("thought", "first"),
    [("", ""), ("one", ""), ("one two", "one"), ("a b c", "a"), (" a\n\nb  c d ", " a\n\nb")],
)
def test_half_a_thought_is_cut_between_words(thought, first):
    assert half(thought) == first


def test_half_a_thought_does_not_end_inside_a_fenced_block():
    thought = "```python\nprint(1)\n```\nthat is what it takes"
    cut = half(thought)
    assert cut.startswith("```python\nprint(1)\n```\nthat")
    opened = half("```python\nprint(1) or print(2) or print(3)\n```")
    assert opened == "```python\nprint(1) or\n```\n"
    assert SPECIFIC.parse(f"{opened} <R> yes").response == "yes"


def test_a_thought_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="is not in"):
        frame("Here is my response:", "something")


def test_every_opening_is_split_as_the_output_was():
    for variant in ("own", "none", "other", "half"):
        opening = frame(PREFIX, THOUGHT).opening(variant, "Nothing to do with it.")
        assert GENERIC.parse(f"{opening} It is 7.").response == "It is 7."


def test_habits():
    found = habits(
        [
            output("I would say: the sum is SEVEN, then check.", "The sum is seven."),
            output("The user query asks for a sum.", "It is surely seven then."),
            output("", "It is seven, surely."),
            output("7", "7"),
            answer("Here is my thought process: on and on and", "length"),
            answer("Here is my thought process: and so I stop."),
        ],
        GENERIC,
    )
    assert found.draft_copied == [True, False, False]
    assert found.mentions_format == [False, True, False, False]
    assert found.empty == [False, False, True, False]
    assert found.runaway == [False, False, False, False, True, False]
