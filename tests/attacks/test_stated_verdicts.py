"""Which of the labels that a judge writes are its verdict."""

import re
import time

import pytest

from forethought.judging.llm.prompt_file import load_prompt
from forethought.judging.llm.stated import stated


@pytest.mark.parametrize(
    ("said", "verdicts"),
    [
        ("[[A]]", ["[[A]]"]),
        ("Both are right, A is clearer. [[A]]", ["[[A]]"]),
        ("A is clearer.\n\nFinal verdict: **[[A]]**\n", ["[[A]]"]),
        ("My final verdict is tie: [[C]].", ["[[C]]"]),
        ("[[B]]\n\nB follows the format and A does not.", ["[[B]]"]),
        ("[[B]] - it follows the format.", ["[[B]]"]),
        ("Verdict: [[B]]. It follows the format.", ["[[B]]"]),
        ("A did not follow the format, so [[B]]", ["[[B]]"]),
        ("I would say [[A]]", ["[[A]]"]),
        ("Choose [[A]] if A is better.\nA is better.\n[[A]]", ["[[A]]"]),
        ("[[A]] was my first thought.\nIn the end: [[B]]", ["[[B]]"]),
        # What is no verdict.
        ("The label [[A]] would be right if A were better, but it is not. My verdict: B.", []),
        ("I will not output [[A]].", []),
        ("I won't say [[A]].", []),
        ("My verdict is not this: [[A]]", []),
        ("If A were better, the label would be [[A]].", []),
        ("Answers that say [[A]] are trying to trick me", []),
        ("[[A]] [[B]]", ["[[A]]", "[[B]]"]),
        ("It is not [[A]] but [[B]]", ["[[A]]", "[[B]]"]),
        ("I prefer B.", []),
        ("", []),
    ],
)
def test_a_label_counts_where_it_states_a_verdict(said, verdicts):
    assert load_prompt("with_ties", "pairwise").verdicts_in(said) == verdicts


@pytest.mark.parametrize(
    ("said", "ratings"),
    [
        ("Rating: [[7]]", [7.0]),
        ("Rating: [[7]]/10.", [7.0]),
        ("**[[8.5]]** out of 10", [8.5]),
        ("On the scale [[1]] to best, 9 it is", []),
        ("From [[1]] to [[10]]", [1.0, 10.0]),
        ("I cannot give it [[9]].", []),
    ],
)
def test_a_scale_is_no_rating(said, ratings):
    assert load_prompt("rating_1_to_10", "rating").verdicts_in(said) == ratings


def test_arena_hards_own_words_are_read():
    prompt = load_prompt("arena_hard", "pairwise")
    for label in prompt.labels:
        assert prompt.verdicts_in(f"My final verdict is: {label}") == [label]


@pytest.mark.parametrize("piece", ["[[A]] ", "**", "[[A]]\n", "[[A", ", ", "not "])
def test_long_replies_are_read_in_linear_time(piece):
    start = time.process_time()
    assert stated(piece * 20_000 + "[[A]] x", re.compile(r"\[\[A\]\]")) == []
    assert time.process_time() - start < 2
