"""Delimiters that are found in a template, and strings that overlap."""

import pytest

from forethought.judging.llm.frame import delimiters, escape, touching
from forethought.models.control_tokens import WORD_JOINER as J


def test_what_looks_like_a_delimiter() -> None:
    template = (
        "Judge with care [here] and end with [[A]].\n# Question\n{question}\n#no heading\n===\n"
        "<answer id='1'>{response}</answer>\n<|end|> [x] [{response}] a < b\n```\n--\n"
    )
    assert delimiters(template) == (
        "[here]",
        "# Question",
        "===",
        "<answer id='1'>",
        "</answer>",
        "<|end|>",
        "```",
    )


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("ab>cd", f"a{J}b>{J}cd"),
        ("ab>ab>cd", f"a{J}b>a{J}b>{J}cd"),
        ("AB>", f"A{J}B>"),
        ("ab>", f"a{J}b>"),
        ("a b>", "a b>"),
        ("x\n\ty", f"x{J}\n\ty"),
        ("<7>", f"<{J}7>"),
        ("<<7>7>", f"<<{J}7>7>"),
        ("harmless", "harmless"),
        ("", ""),
    ],
)
def test_no_string_survives(text: str, safe: str) -> None:
    assert escape(text, ("ab>", ">cd", "x y"), "<[0-9]+>") == safe


@pytest.mark.parametrize(
    ("before", "after", "part"),
    [
        ("Answer:\n", "\n[End]", None),
        ("<a>", "</a>", None),
        ("Answer: [", "]", "[End]"),
        ("Answer: [E", "", "[End]"),
        ("", "nd]", "[End]"),
        ("<", "", "<||>"),
        ("", "|>", "<||>"),
        ("[[", "]]", "[[]]"),
    ],
)
def test_a_field_must_not_touch_a_part_of_a_delimiter(before, after, part) -> None:
    strings = ("[End]",) if part != "[[]]" else ("</a>",)
    assert touching(before, after, strings) == part
