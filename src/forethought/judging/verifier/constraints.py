"""Verifier `constraints`: the share of a prompt's checkable constraints that a response meets.

A short request such as "at most 50 words, no commas, end with a question" can be graded by a
program alone (Zhou et al. 2023, Instruction-Following Evaluation; the paper's own tasks are open
ones, judged by a model). The prompt says in words what is wanted; its reference says it once more
as a JSON list, a constraint an entry:

    [{"type": "words", "at_most": 50}, {"type": "no_commas"}, {"type": "ends_with_question"}]

What a constraint means is said by its class, one a kind. Words and phrases are found whole and in
any case. The classes are ours; where IFEval has the same kind, tests say how the two compare.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from forethought.config import ConfigModel, explain
from forethought.types import Prompt

WAY_OUT = (
    'give the column of columns.reference a list such as [{"type": "words", "at_most": 50}, '
    '{"type": "no_commas"}]'
)
ABBREVIATION = re.compile(r"no|vs|etc|approx|[^\W\d_](?:\.[^\W\d_])+")
"""A full stop behind one of these, such as `e.g`, ends no sentence where a capital does not
follow."""
TITLES = frozenset({"mr", "mrs", "ms", "dr", "prof", "st"})
"""Behind one of these it ends none at all."""
ENDS = ".!?…"
BEHIND_AN_END = "\"'”’)]*_"
"""May stand between the end of a sentence and the white space after it."""
ITEM = re.compile(r"^[ \t]*(?:[*+•-]|\d+[.)])[ \t]+(\S.*)$", re.MULTILINE)
BULLET = re.compile(r"^[ \t]*[*+•-][ \t]+\S", re.MULTILINE)
CLOSING = " \t\n\r\"'”’)*_"
"""May stand behind the end of a text."""


def _has_letters(text: str) -> str:
    if not re.search(r"\w", text):
        raise ValueError("it has neither a letter nor a digit")
    return text


def _one_letter(text: str) -> str:
    if len(text) != 1 or not text.isalpha():
        raise ValueError("it must be one letter")
    return text


Phrase = Annotated[str, AfterValidator(_has_letters)]
Letter = Annotated[str, AfterValidator(_one_letter)]


class Constraint(ConfigModel):
    """One thing that a response must do."""

    @abstractmethod
    def met(self, response: str) -> bool:
        """Whether it does."""


class _Counted(Constraint):
    """There are as many of something as was asked for."""

    at_least: int | None = Field(default=None, ge=1)
    """So many or more."""
    at_most: int | None = Field(default=None, ge=0)
    """So many or fewer."""
    exactly: int | None = Field(default=None, ge=0)
    """So many."""

    @model_validator(mode="after")
    def _says_how_many(self) -> Self:
        ends = (self.at_least, self.at_most)
        if (self.exactly is None) == (ends == (None, None)):
            raise ValueError("give exactly, or at_least, at_most or both of these")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least} is more than at_most {self.at_most}")
        return self

    @abstractmethod
    def count(self, response: str) -> int:
        """How many there are."""

    def met(self, response: str) -> bool:
        number = self.count(response)
        if self.exactly is not None:
            return number == self.exactly
        return (self.at_least or 0) <= number and (self.at_most is None or number <= self.at_most)


class LowerCase(Constraint):
    """All letters are small."""

    type: Literal["lower_case"] = "lower_case"

    def met(self, response: str) -> bool:
        return response.islower()


class UpperCase(Constraint):
    """All letters are capitals."""

    type: Literal["upper_case"] = "upper_case"

    def met(self, response: str) -> bool:
        return response.isupper()


class NoCommas(Constraint):
    """There is no comma, of any script."""

    type: Literal["no_commas"] = "no_commas"

    def met(self, response: str) -> bool:
        return not re.search("[,，،、]", response)


class NoDigits(Constraint):
    """There is no digit."""

    type: Literal["no_digits"] = "no_digits"

    def met(self, response: str) -> bool:
        return not re.search(r"\d", response)


class Keywords(Constraint):
    """All of these words or phrases are there."""

    type: Literal["keywords"] = "keywords"
    words: tuple[Phrase, ...] = Field(min_length=1)
    """The words or phrases."""

    def met(self, response: str) -> bool:
        return all(_found(word, response) for word in self.words)


class ForbiddenWords(Constraint):
    """None of these words or phrases is there."""

    type: Literal["forbidden_words"] = "forbidden_words"
    words: tuple[Phrase, ...] = Field(min_length=1)
    """The words or phrases."""

    def met(self, response: str) -> bool:
        return not any(_found(word, response) for word in self.words)


class KeywordCount(_Counted):
    """A word or phrase is there so often."""

    type: Literal["keyword_count"] = "keyword_count"
    word: Phrase
    """The word or phrase."""

    def count(self, response: str) -> int:
        return len(_found(self.word, response))


class InOrder(Constraint):
    """These words or phrases are there, each behind the one before it."""

    type: Literal["in_order"] = "in_order"
    words: tuple[Phrase, ...] = Field(min_length=2)
    """The words or phrases."""

    def met(self, response: str) -> bool:
        place = 0
        for word in self.words:
            next_one = next((end for start, end in _found(word, response) if start >= place), None)
            if next_one is None:
                return False
            place = next_one
        return True


class LetterCount(_Counted):
    """A letter is there so often, small or capital."""

    type: Literal["letter_count"] = "letter_count"
    letter: Letter
    """The letter."""

    def count(self, response: str) -> int:
        return response.casefold().count(self.letter.casefold())


class Words(_Counted):
    """So many words: what white space parts and has a letter or a digit."""

    type: Literal["words"] = "words"

    def count(self, response: str) -> int:
        return _with_a_word(response.split())


class Sentences(_Counted):
    """So many sentences; a line ends one, too."""

    type: Literal["sentences"] = "sentences"

    def count(self, response: str) -> int:
        return sum(_sentences(line) for line in response.splitlines())


class Paragraphs(_Counted):
    """So many paragraphs: texts with blank lines, or lines of `***` or `---`, between them."""

    type: Literal["paragraphs"] = "paragraphs"

    def count(self, response: str) -> int:
        count, inside = 0, False
        for line in response.splitlines():
            text = line.strip()
            if not text or re.fullmatch(r"\*{3,}|-{3,}", text):
                inside = False
            elif not inside and re.search(r"\w", text):
                count, inside = count + 1, True
        return count


class Bullets(_Counted):
    """So many lines that begin with `-`, `*`, `+` or `•`."""

    type: Literal["bullets"] = "bullets"

    def count(self, response: str) -> int:
        return len(BULLET.findall(response))


class CapitalWords(_Counted):
    """So many words all of whose letters are capitals; `I` is one."""

    type: Literal["capital_words"] = "capital_words"

    def count(self, response: str) -> int:
        return sum(word.isupper() for word in re.findall(r"\w+(?:['’-]\w+)*", response))


class Placeholders(_Counted):
    """So many placeholders in square brackets, such as `[address]`."""

    type: Literal["placeholders"] = "placeholders"

    def count(self, response: str) -> int:
        return _with_a_word(re.findall(r"\[([^\[\]\n]*)\]", response))


class StartsWith(Constraint):
    """It begins with this text, in any case; quotation marks may stand before it."""

    type: Literal["starts_with"] = "starts_with"
    text: Phrase
    """The text."""

    def met(self, response: str) -> bool:
        return _plain(response).lstrip("\"'“‘(*_# ").startswith(_plain(self.text))


class EndsWith(Constraint):
    """It ends with this text, in any case; quotation marks may stand behind it."""

    type: Literal["ends_with"] = "ends_with"
    text: Phrase
    """The text."""

    def met(self, response: str) -> bool:
        wanted = _plain(self.text)
        return _plain(response).rstrip(CLOSING).endswith(wanted.rstrip(CLOSING))


class EndsWithQuestion(Constraint):
    """It ends with a question mark; quotation marks may stand behind it."""

    type: Literal["ends_with_question"] = "ends_with_question"

    def met(self, response: str) -> bool:
        return response.rstrip(CLOSING).endswith(("?", "？"))


class Title(Constraint):
    """It has a title in double angular brackets on a line, such as `<<Autumn>>`."""

    type: Literal["title"] = "title"

    def met(self, response: str) -> bool:
        return _with_a_word(re.findall(r"<<([^<>\n]*)>>", response)) > 0


class Quoted(Constraint):
    """The whole of it stands in double quotation marks."""

    type: Literal["quoted"] = "quoted"

    def met(self, response: str) -> bool:
        text = response.strip()
        return len(text) > 2 and (text[0], text[-1]) in {('"', '"'), ("“", "”"), ("„", "“")}


class Json(Constraint):
    """The whole of it is a JSON object or list; a fence of backticks may stand around it."""

    type: Literal["json"] = "json"

    def met(self, response: str) -> bool:
        lines = response.strip().splitlines()
        fenced = len(lines) > 2 and lines[-1].strip() == "```"
        if fenced and lines[0].strip().casefold() in ("```", "```json"):
            lines = lines[1:-1]
        try:
            value = json.loads("\n".join(lines))
        except (ValueError, RecursionError):
            return False
        return isinstance(value, dict | list)


class Alphabetical(Constraint):
    """Its items are in alphabetical order: bullets or numbered lines; without any, what commas
    part."""

    type: Literal["alphabetical"] = "alphabetical"

    def met(self, response: str) -> bool:
        items = ITEM.findall(response)
        if not items:
            items = re.split(r",\s*(?:and\s+)?|\s+and\s+", response.strip().rstrip("."))
        plain = [_plain(item).strip(CLOSING + "“‘(") for item in items]
        return len(plain) > 1 and all(plain) and all(a <= b for a, b in pairwise(plain))


AnyConstraint = Annotated[
    LowerCase
    | UpperCase
    | NoCommas
    | NoDigits
    | Keywords
    | ForbiddenWords
    | KeywordCount
    | InOrder
    | LetterCount
    | Words
    | Sentences
    | Paragraphs
    | Bullets
    | CapitalWords
    | Placeholders
    | StartsWith
    | EndsWith
    | EndsWithQuestion
    | Title
    | Quoted
    | Json
    | Alphabetical,
    Field(discriminator="type"),
]
Constraints = Annotated[tuple[AnyConstraint, ...], Field(min_length=1)]
_SHAPE: TypeAdapter[tuple[Constraint, ...]] = TypeAdapter(Constraints)


def grade_constraints(prompt: Prompt, response: str) -> float:
    """The share of the prompt's constraints that the response meets, in [0, 1].

    Raises: ValueError if the prompt's reference is no list of constraints.
    """
    wanted = constraints_of(prompt.reference)
    return sum(constraint.met(response) for constraint in wanted) / len(wanted)


@lru_cache(maxsize=4096)
def constraints_of(reference: str | None) -> tuple[Constraint, ...]:
    """The constraints that a prompt's reference states.

    Raises: ValueError that names the field of the reference, what was given and what is allowed.
    """
    if reference is None:
        raise ValueError(f"reference: the prompt has no constraints; {WAY_OUT}")
    try:
        given = json.loads(reference)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"reference: it is not JSON ({error}); {WAY_OUT}") from None
    try:
        return _SHAPE.validate_python(given)
    except ValidationError as error:
        mistakes = explain(error, Constraints, "reference").splitlines()
        raise ValueError("; ".join(mistakes)) from None


def _found(phrase: str, text: str) -> Sequence[tuple[int, int]]:
    """Where a phrase stands, whole, in any case and with any white space in it."""
    pattern = r"\s+".join(map(re.escape, phrase.split()))
    before = r"(?<!\w)" if re.match(r"\w", phrase.strip()) else ""
    behind = r"(?!\w)" if re.search(r"\w$", phrase.strip()) else ""
    return [
        match.span() for match in re.finditer(f"{before}{pattern}{behind}", text, re.IGNORECASE)
    ]


def _with_a_word(texts: Sequence[str]) -> int:
    """How many have a letter or a digit."""
    return sum(re.search(r"\w", text) is not None for text in texts)


def _plain(text: str) -> str:
    """In one case, with one space between words."""
    return " ".join(text.casefold().split())


def _sentences(line: str) -> int:
    """Sentences of a line; what is left behind the last end is one, if there is a word in it."""
    count, open_at = 0, None
    words = line.split()
    for index, word in enumerate(words):
        if open_at is None and re.search(r"\w", word):
            open_at = index
        inside = word.rstrip(BEHIND_AN_END)
        stem = inside.rstrip(ENDS)
        if open_at is None or stem == inside:
            continue
        behind = words[index + 1] if index + 1 < len(words) else ""
        is_number = index == open_at and stem.isdigit()
        if inside != f"{stem}." or not behind or not (is_number or _is_short(stem, behind)):
            count, open_at = count + 1, None
    return count + (open_at is not None)


def _is_short(stem: str, behind: str) -> bool:
    """Whether a word and a full stop are a short form or an initial, before the next word."""
    word = stem.lstrip("(\"'“‘").casefold()
    if word in TITLES or (re.fullmatch(r"[^\W\d_]", word) and word != "i"):
        return True
    return ABBREVIATION.fullmatch(word) is not None and not behind[0].isupper()
