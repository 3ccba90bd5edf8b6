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
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from forethought.config import ConfigModel, explain
from forethought.judging.verifier.final_number import final_number
from forethought.judging.verifier.text_units import (
    found_at,
    in_one_case,
    sentences_of,
    with_a_word,
)
from forethought.types import Prompt

WAY_OUT = (
    'give the column of columns.reference a list such as [{"type": "words", "at_most": 50}, '
    '{"type": "no_commas"}]'
)
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

    def share(self, response: str) -> float:
        """How far it does, in [0, 1]."""
        return float(self.met(response))


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
        return all(found_at(word, response) for word in self.words)


class ForbiddenWords(Constraint):
    """None of these words or phrases is there."""

    type: Literal["forbidden_words"] = "forbidden_words"
    words: tuple[Phrase, ...] = Field(min_length=1)
    """The words or phrases."""

    def met(self, response: str) -> bool:
        return not any(found_at(word, response) for word in self.words)


class KeywordCount(_Counted):
    """A word or phrase is there so often."""

    type: Literal["keyword_count"] = "keyword_count"
    word: Phrase
    """The word or phrase."""

    def count(self, response: str) -> int:
        return len(found_at(self.word, response))


class InOrder(Constraint):
    """These words or phrases are there, each behind the one before it."""

    type: Literal["in_order"] = "in_order"
    words: tuple[Phrase, ...] = Field(min_length=2)
    """The words or phrases."""

    def met(self, response: str) -> bool:
        place = 0
        for word in self.words:
            next_one = next(
                (end for start, end in found_at(word, response) if start >= place), None
            )
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
        return with_a_word(response.split())


class Sentences(_Counted):
    """So many sentences; a line ends one, too."""

    type: Literal["sentences"] = "sentences"

    def count(self, response: str) -> int:
        return sum(sentences_of(line) for line in response.splitlines())


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
        return with_a_word(re.findall(r"\[([^\[\]\n]*)\]", response))


class StartsWith(Constraint):
    """It begins with this text, in any case; quotation marks may stand before it."""

    type: Literal["starts_with"] = "starts_with"
    text: Phrase
    """The text."""

    def met(self, response: str) -> bool:
        return in_one_case(response).lstrip("\"'“‘(*_# ").startswith(in_one_case(self.text))


class EndsWith(Constraint):
    """It ends with this text, in any case; quotation marks may stand behind it."""

    type: Literal["ends_with"] = "ends_with"
    text: Phrase
    """The text."""

    def met(self, response: str) -> bool:
        wanted = in_one_case(self.text)
        return in_one_case(response).rstrip(CLOSING).endswith(wanted.rstrip(CLOSING))


class EndsWithQuestion(Constraint):
    """It ends with a question mark; quotation marks may stand behind it."""

    type: Literal["ends_with_question"] = "ends_with_question"

    def met(self, response: str) -> bool:
        return response.rstrip(CLOSING).endswith(("?", "？"))


class Title(Constraint):
    """It has a title in double angular brackets on a line, such as `<<Autumn>>`."""

    type: Literal["title"] = "title"

    def met(self, response: str) -> bool:
        return with_a_word(re.findall(r"<<([^<>\n]*)>>", response)) > 0


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
        plain = [in_one_case(item).strip(CLOSING + "“‘(") for item in items]
        return len(plain) > 1 and all(plain) and all(a <= b for a, b in pairwise(plain))


class Answer(Constraint):
    """This answer is there, and none of those that it might be taken for.

    So whoever lists every candidate has not answered, nor has whoever repeats the passage.
    """

    type: Literal["answer"] = "answer"
    text: Phrase
    """The answer, a word or phrase."""
    distractors: tuple[Phrase, ...] = Field(min_length=1)
    """The wrong answers that somebody might give, such as the other places of a passage."""

    @model_validator(mode="after")
    def _can_be_given(self) -> Self:
        for word in self.distractors:
            if found_at(word, self.text):
                raise ValueError(f"whoever answers {self.text!r} says the distractor {word!r}, too")
        return self

    def met(self, response: str) -> bool:
        return bool(found_at(self.text, response)) and not any(
            found_at(word, response) for word in self.distractors
        )


class FinalNumber(Constraint):
    """The number that it ends on, read as the verifier `gsm8k` reads it, is this one."""

    type: Literal["final_number"] = "final_number"
    value: int | Annotated[float, Field(allow_inf_nan=False)]
    """The number."""

    def met(self, response: str) -> bool:
        return final_number(response) == Fraction(str(self.value))


class Items(Constraint):
    """These items are listed, in this order and once each; the share of places that are right.

    An item said twice and a line of a list without any count as places that are wrong, and one of
    `others` makes it 0: listing every candidate earns nothing.
    """

    type: Literal["items"] = "items"
    items: tuple[Phrase, ...] = Field(min_length=1)
    """The items, words or phrases."""
    others: tuple[Phrase, ...] = ()
    """What must not be listed, such as the items that were to be left out."""

    @model_validator(mode="after")
    def _are_told_apart(self) -> Self:
        for index, item in enumerate(self.items):
            for word in (*self.items[:index], *self.items[index + 1 :], *self.others):
                if found_at(word, item):
                    raise ValueError(f"whoever lists {item!r} says {word!r}, too")
        return self

    def share(self, response: str) -> float:
        if any(found_at(word, response) for word in self.others):
            return 0.0
        places = [(at, item) for item in self.items for at in found_at(item, response)]
        listed = [item for _, item in sorted(places)]
        right = sum(is_at == item for is_at, item in zip(listed, self.items, strict=False))
        return right / max(len(self.items), len(listed), len(ITEM.findall(response)))

    def met(self, response: str) -> bool:
        return self.share(response) == 1


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
    | Alphabetical
    | Answer
    | FinalNumber
    | Items,
    Field(discriminator="type"),
]
Constraints = Annotated[tuple[AnyConstraint, ...], Field(min_length=1)]
_SHAPE: TypeAdapter[tuple[Constraint, ...]] = TypeAdapter(Constraints)


def grade_constraints(prompt: Prompt, response: str) -> float:
    """The share of the prompt's constraints that the response meets, in [0, 1].

    One that can be met in part, `items`, counts by its share.

    Raises: ValueError if the prompt's reference is no list of constraints.
    """
    wanted = constraints_of(prompt.reference)
    return sum(constraint.share(response) for constraint in wanted) / len(wanted)


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
