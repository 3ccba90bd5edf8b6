"""Verifiers: final numbers, the microworld's grader, functions of the user's own."""

import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought.config import VerifierJudge
from forethought.judging.base import checked
from forethought.judging.open import open_judge
from forethought.judging.verifier.final_number import final_number
from forethought.judging.verifier.verifier_judge import Verifier
from forethought.microworld.tasks import generate
from forethought.types import Judgement, Message, Prompt, ResponseGroup, Unjudged


def group(
    *responses: str, query: str = "Hi", category: str | None = None, reference: str | None = None
) -> ResponseGroup:
    prompt = Prompt(
        prompt_id="p",
        messages=(Message(role="user", content=query),),
        category=category,
        source="s",
        reference=reference,
    )
    return ResponseGroup(prompt=prompt, responses=responses)


def answer(function: str, asked: ResponseGroup) -> Judgement | Unjudged:
    with open_judge(VerifierJudge(function=function)) as judge:
        [only] = checked(judge, [asked])
    return only


def scores(function: str, asked: ResponseGroup) -> tuple[float, ...]:
    judgement = answer(function, asked)
    assert isinstance(judgement, Judgement), judgement
    assert judgement.judge == f"verifier:{function}"
    return judgement.all_scores


def length_in_tens(prompt: Prompt, response: str) -> float:
    assert prompt.prompt_id == "p"
    return len(response) / 10


def is_short(prompt: Prompt, response: str) -> bool:
    return len(response) < 3


def fails_on_b(prompt: Prompt, response: str) -> float:
    if response == "b":
        raise KeyError("no b")
    return 1.0


def forgets_to_return(prompt: Prompt, response: str) -> Any:
    return None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", 42),
        ("It is 42.", 42),
        ("5 + 6 = 11", 11),
        ("She has 3 apples and 4 pears, so 7", 7),
        ("#### 42\nThat took 3 steps.", 42),
        ("The answer is 42, for 6 * 7 is just that, as 3 readers know", 42),
        ("If the answer is 5 ... no. The answer is 6. I needed 2 tries", 6),
        ("The answer is 6 * 7 = 42.", 42),
        ("The answer is 42, because 40 = 42 - 2.", 42),
        ("**Answer:** 42 (not 43)", 42),
        ("Answer: \\boxed{42} and 7", 42),
        ("the answer is 5\n#### 6 apples, 7 pears", 6),
        ("The answer is unclear. 3 or 4", 4),
        ("1,234,567.50", Fraction(2469135, 2)),
        ("$1,000", 1000),
        ("-5", -5),
        ("−5", -5),
        ("$-5", -5),
        ("-$5", -5),
        ("10-5", 5),
        ("(3)-5", 5),
        ("10 - 5", 5),
        ("50%", 50),
        ("€ 3.20", Fraction(16, 5)),
        ("42km", 42),
        ("7 litres of CO2", 7),
        ("3/4", Fraction(3, 4)),
        ("3/0", 3),
        (".5", Fraction(1, 2)),
        ("so...42", 42),
        ("答案是42", 42),
        ("٤٢", 42),
        ("1,2", 2),
        ("none", None),
        ("", None),
        ("9" * 5000, None),
    ],
)
def test_the_number_a_text_ends_on(text: str, number: Fraction | int | None) -> None:
    assert final_number(text) == number


SHE_HAS = "Answer: She has 3 boxes with 5 apples each, which gives 15 apples."


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"\boxed{9{,}500}", 9500),
        (r"So $9\,500$.", 9500),
        (r"\boxed{9\,500}", 9500),
        (r"\boxed{9,\!500}", 9500),
        (r"\boxed{9{\,}500\,\text{kg}}", 9500),
        (r"\boxed{9 500}", 9500),
        ("It is 9\u202f500 in all.", 9500),
        ("It is 1\u00a0234\u00a0567.", 1234567),
        ("9'500", 9500),
        ("9_500", 9500),
        (r"3{,}14", Fraction(157, 50)),
        (r"In 2024\,500 came.", 500),
        (r"\boxed{\frac{5}{2}}", Fraction(5, 2)),
        (r"\boxed{\frac{1}{2}}", Fraction(1, 2)),
        (r"\boxed{\dfrac{1}{2}}", Fraction(1, 2)),
        (r"\boxed{\tfrac12}", Fraction(1, 2)),
        (r"\boxed{-\frac{1}{2}}", Fraction(-1, 2)),
        (r"\boxed{\frac{-1}{2}}", Fraction(-1, 2)),
        (r"\boxed{\frac{2.5}{5}}", Fraction(1, 2)),
        (r"\boxed{2\frac{1}{2}}", Fraction(5, 2)),
        (r"\boxed{-2\dfrac{1}{2}}", Fraction(-5, 2)),
        ("2 1/2 hours", Fraction(5, 2)),
        ("2½ hours", Fraction(5, 2)),
        ("½", Fraction(1, 2)),
        (r"\boxed{\frac{x + 1}{2}}", None),
        (r"\boxed{\frac{10}{4} = 2.5}", Fraction(5, 2)),
        (r"\boxed{\boxed{5}}", 5),
        (r"\boxed{\text{Total: }\$1{,}000}", 1000),
        (r"\boxed{15\text{ apples}}", 15),
        (r"\boxed{\text{15 apples}}", 15),
        (r"\boxed{\mathbf{15}}", 15),
        (r"\boxed{15~\mathrm{cm}^2}", 15),
        (r"\boxed{90^\circ}", 90),
        (r"\boxed{50\%}", 50),
        (r"\boxed{-5}", -5),
        (r"\boxed{- 5}", -5),
        (r"\boxed{-\$5}", -5),
        (r"\boxed{x = 5}", 5),
        (r"\boxed{3 \times 5 = 15}", 15),
        (r"\boxed{15 \approx 15.0}", 15),
        (r"\boxed{3 + 4}", None),
        (r"\boxed{3, 4}", None),
        (r"\boxed{5\pi}", None),
        (r"\boxed{\sqrt{4}}", None),
        (r"\boxed{10^3}", 1000),
        (r"\boxed{1.5e3}", 1500),
        (r"\boxed 7", 7),
        (r"\boxed{15}. It took 3 steps.", 15),
        (r"Put it in \boxed{}. The answer is 15.", 15),
        (r"$$\boxed{15}$$", 15),
        (r"\[ \boxed{15.} \]", 15),
        ("x = 15 cm^2", 15),
        (SHE_HAS, 15),
        ("Answer: She makes 9 * 2 = $18 every day", 18),
        ("The answer is: **$18**", 18),
        ("The answer is about 18 dollars a day for 2 weeks", 18),
        (r"The answer is \(x = 18\) and not 3", 18),
        ("The answer is 6 boxes * 7 apples = 42 apples, not 3", 42),
        ("The answer is 42 = 6 * 7", 42),
        ("The answer is -18", -18),
        ("#### -18", -18),
        ("#### $1,018.50.", Fraction(2037, 2)),
        ("#### Step 2\nso 3 * 5 = 15", 15),
    ],
)
def test_latex_units_and_words_around_a_number(text: str, number: Fraction | int | None) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize(
    ("response", "reference", "right"),
    [
        (r"\boxed{9{,}500}", "9500", 1.0),
        (r"\boxed{9{,}500}", "9", 0.0),
        (r"\boxed{\frac{5}{2}}", "5", 0.0),
        (r"\boxed{\frac{1}{2}}", "0.5", 1.0),
        (SHE_HAS, "15", 1.0),
        (SHE_HAS, "3", 0.0),
    ],
)
def test_gsm8k_reads_latex_and_sentences(response: str, reference: str, right: float) -> None:
    assert scores("gsm8k", group(response, reference=f"#### {reference}")) == (right,)


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{}", "{:,}", "{}.", "{}.00", "#### {:,}"]))
def test_a_number_is_read_however_it_is_written(number: int, form: str) -> None:
    assert final_number(f"It took 3 steps.\n{form.format(number)}") == number


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    final_number(text)


@pytest.mark.parametrize(
    "piece",
    [
        "answer is ",
        "9,",
        "#### 1 = ",
        "- ",
        "1/",
        "(",
        "\\boxed{",
        "\\boxed{1",
        "\\frac{",
        "\\frac12",
        "answer is 1 = a ",
        "#### 1 + ",
        "{",
        "\\text{",
        "\\",
        "1 ",
        "1'000",
        "a",
        "#### ",
        "#### (",
    ],
)
def test_degenerate_outputs_are_read_in_linear_time(piece: str) -> None:
    start = time.process_time()
    final_number(piece * 10_000)
    assert time.process_time() - start < 2


def test_gsm8k_compares_final_numbers() -> None:
    asked = group(
        "so 1,000.", "1000.0", "1001", "no idea", reference="10 * 100 = <<10*100=1000>>\n#### 1,000"
    )
    assert scores("gsm8k", asked) == (1.0, 1.0, 0.0, 0.0)
    assert scores("gsm8k", group("42 apples", reference="42.0")) == (1.0,)


@pytest.mark.parametrize("reference", [None, "", "a lot"])
def test_gsm8k_without_a_number_to_compare_with(reference: str | None) -> None:
    unjudged = answer("gsm8k", group("1", reference=reference))
    assert isinstance(unjudged, Unjudged)
    assert "holds no number; set columns.reference" in unjudged.reason


def test_the_microworld_grades_its_own_tasks() -> None:
    for task in generate("validation", 32, 0):
        context = {"query": task.query, "category": task.category, "reference": task.reference}
        graded = scores("microworld", group(f"It is {task.reference}.", "", **context))
        assert graded[1] == 0.0
        if task.category == "add_up":
            assert graded[0] == 1.0


def test_the_microworld_refuses_other_prompts() -> None:
    unjudged = answer("microworld", group("1"))
    assert isinstance(unjudged, Unjudged)
    assert "it is not the microworld's" in unjudged.reason
    assert isinstance(answer("microworld", group("1", category="?", reference="1")), Unjudged)


def test_a_function_of_the_users_own() -> None:
    assert scores(f"{__name__}:length_in_tens", group("abc", "")) == (0.3, 0.0)
    assert scores(f"{__name__}:is_short", group("abc", "")) == (0.0, 1.0)


def test_a_function_that_fails_leaves_the_group_unjudged() -> None:
    unjudged = answer(f"{__name__}:fails_on_b", group("a", "b"))
    assert isinstance(unjudged, Unjudged)
    assert unjudged.reason == "response 1: KeyError: 'no b'"
    unjudged = answer(f"{__name__}:forgets_to_return", group("a"))
    assert isinstance(unjudged, Unjudged)
    assert unjudged.reason == "the score of response 0 is None, no finite number"


def test_the_floor_is_known_for_built_in_verifiers() -> None:
    floors = [
        Verifier(VerifierJudge(function=function)).floor
        for function in ("gsm8k", "microworld", f"{__name__}:is_short")
    ]
    assert floors == [0.0, 0.0, None]


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (
            "gsm8",
            r"judge\.function: 'gsm8' is no verifier; use 'gsm8k', 'microworld', 'constraints', or",
        ),
        ("math:nothing", r"judge\.function: module 'math' has no 'nothing'; it has \["),
        ("math:pi", "is a float; name a function or class"),
        ("no_such_module:f", r"judge\.function: module 'no_such_module' .* PYTHONPATH"),
        (":f", "is no import path"),
        ("math:", "is no import path"),
    ],
)
def test_mistakes_in_the_import_path_name_the_field(function: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        open_judge(VerifierJudge(function=function))
