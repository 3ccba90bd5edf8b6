"""What an LLM judge is told: a YAML file with the words of the question and the verdicts it takes.

Built in are the prompt that the paper's pairwise judge is run with (`self_taught_evaluator`), that
of Arena-Hard v0.1 (`arena_hard`), and those in our own words for any chat model (`with_ties`,
`rating_1_to_10`, `checklist_item`, `write_checklist`). A file of your own looks the same and is
named by its path, as in `judge.prompt: judges/maths.yaml`. Its texts hold these fields:

- `{question}`: the user's last turn.
- `{conversation}`: all turns before it, each under its role; empty where there are none.
- `{response_a}` and `{response_b}` where two are compared, `{response}` where one is rated,
  `{response}` and `{item}` where it is held against an item of a checklist; `{most}`, the number of
  items, where a checklist is written.
- `{reference}` (optional): the prompt's reference; a prompt without one is not judged.

Other braces are ordinary text, unless they hold a single word: that is a field misspelt. Fields
are replaced in one pass; a content can neither end the frame around it nor give a verdict, for
which frame.py sees.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Generic, Literal, TypeVar, overload

from pydantic import Field, ValidationError, field_validator

from forethought.config import explain
from forethought.config.base import ConfigModel
from forethought.config.hints import did_you_mean
from forethought.config.yaml_text import read_yaml
from forethought.judging.llm import frame
from forethought.judging.llm.stated import stated
from forethought.types import Message, Prompt

Kind = Literal["pairwise", "rating", "checklist", "items"]

FOLDER = Path(__file__).parent / "prompts"
BUILT_IN: dict[Kind, tuple[str, ...]] = {
    "pairwise": ("self_taught_evaluator", "with_ties", "arena_hard"),
    "rating": ("rating_1_to_10",),
    "checklist": ("checklist_item",),
    "items": ("write_checklist",),
}
FIELD = re.compile(r"\{([A-Za-z_][A-Za-z_0-9]*)\}")
NUMBER = "{number}"


class PromptFile(ConfigModel):
    """What all kinds of prompt file share."""

    response_fields: ClassVar[tuple[str, ...]]

    system: str | None = None
    """The system turn; leave it out for models that have none."""
    user: str
    """The user's turn, with all that is to be judged."""
    finish: str
    """What the judge is told, as the next turn, where its reply has no verdict."""
    frame: tuple[str, ...] = ()
    """Strings that mark where contents begin and end, besides those that look like it: `[…]`,
    `<…>`, headings, and lines of `===`, `---`, `***` or backticks."""

    @field_validator("frame")
    @classmethod
    def _breakable(cls, strings: tuple[str, ...]) -> tuple[str, ...]:
        for string in strings:
            if len("".join(string.split())) < 2:
                raise ValueError(
                    f"{string!r} is too short for a delimiter; use two characters or more"
                )
        return strings

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """The verdicts as the judge writes them; of a rating one example."""

    @property
    @abstractmethod
    def verdict_pattern(self) -> str:
        """A regular expression for any verdict."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields in the texts, in order."""
        return tuple(FIELD.findall(f"{self.system or ''}\n{self.user}"))

    @property
    def delimiters(self) -> tuple[str, ...]:
        """Every string that marks where contents begin or end."""
        found = frame.delimiters(f"{self.system or ''}\n{self.user}")
        return tuple(dict.fromkeys([*found, *self.frame]))

    def messages(self, prompt: Prompt, responses: tuple[str, ...]) -> tuple[Message, ...]:
        """The judge's conversation about these responses of a prompt, or what else the file's
        `response_fields` stand for.

        The prompt has a reference if `reference` is one of the `fields`.
        """
        strings = (*self.delimiters, *frame.MARKS.values(), frame.LAST_MARK)

        def escaped(text: str) -> str:
            return frame.escape(text, strings, self.verdict_pattern)

        values = dict(zip(self.response_fields, map(escaped, responses), strict=True))
        values["question"] = escaped(prompt.messages[-1].content)
        values["conversation"] = frame.earlier_turns(prompt.messages, escaped)
        if prompt.reference is not None:
            values["reference"] = escaped(prompt.reference)

        def filled(template: str) -> str:
            return FIELD.sub(lambda field: values[field[1]], template)

        system = (
            () if self.system is None else (Message(role="system", content=filled(self.system)),)
        )
        return (*system, Message(role="user", content=filled(self.user)))


Meaning = TypeVar("Meaning")


class LabelledPrompt(PromptFile, Generic[Meaning]):
    """Every verdict is a label."""

    verdicts: dict[str, Meaning]
    """Every label as the judge writes it, and what it means."""

    @field_validator("verdicts")
    @classmethod
    def _long_enough(cls, verdicts: dict[str, Meaning]) -> dict[str, Meaning]:
        for label in verdicts:
            if len("".join(label.split())) < 2:
                raise ValueError(f"{label!r} is too short for a label; use one such as '[[A]]'")
        return verdicts

    @property
    def labels(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self.verdicts)

    @property
    def verdict_pattern(self) -> str:
        """Any label."""
        return "|".join(map(re.escape, self.verdicts))


class VerdictWeights(ConfigModel):
    """How much a verdict counts for the response shown first, and for the second."""

    first: float = Field(ge=0, le=10)
    """Wins of the first response."""
    second: float = Field(ge=0, le=10)
    """Wins of the second."""


class PairwisePrompt(LabelledPrompt[VerdictWeights]):
    """Two responses are compared."""

    response_fields: ClassVar[tuple[str, ...]] = ("response_a", "response_b")

    @field_validator("verdicts")
    @classmethod
    def _clear_and_fair(cls, verdicts: dict[str, VerdictWeights]) -> dict[str, VerdictWeights]:
        for label, weights in verdicts.items():
            within = [other for other in verdicts if label in other and label != other]
            if within:
                raise ValueError(
                    f"{label!r} is a part of {within[0]!r}, so a reply with one has both"
                )
            if weights.first + weights.second == 0:
                raise ValueError(f"{label!r} counts for nobody; a tie is first: 0.5, second: 0.5")
            if VerdictWeights(first=weights.second, second=weights.first) not in verdicts.values():
                raise ValueError(
                    f"{label!r} has no counterpart with first: {weights.second:g}, second: "
                    f"{weights.first:g}, so the two places would not be equal"
                )
        if not verdicts:
            raise ValueError("it is empty; give each label its weights")
        return verdicts

    def verdicts_in(self, text: str) -> list[str]:
        """The distinct labels with which a text states its verdict (stated.py)."""
        found = stated(text, re.compile(self.verdict_pattern))
        return list(dict.fromkeys(match.group() for match in found))


class RatingPrompt(PromptFile):
    """One response is rated by a number."""

    response_fields: ClassVar[tuple[str, ...]] = ("response",)

    scale: tuple[float, float]
    """Worst and best rating."""
    label: str = "[[{number}]]"
    """How the judge writes a rating; `{number}` stands for it."""

    @field_validator("scale")
    @classmethod
    def _rising(cls, scale: tuple[float, float]) -> tuple[float, float]:
        low, high = scale
        if not float("-inf") < low < high < float("inf"):
            raise ValueError("it must be the worst rating, then a higher best one")
        return scale

    @field_validator("label")
    @classmethod
    def _unmistakable(cls, label: str) -> str:
        before, found, after = label.partition(NUMBER)
        if not found or NUMBER in after or not before.strip() or not after.strip():
            raise ValueError(
                f"it must hold {NUMBER} once, with text on both sides: '[[{{number}}]]'"
            )
        if before[-1] in "0123456789.-+" or after[0] in "0123456789.":
            raise ValueError(f"what stands next to {NUMBER} must not look like a part of a number")
        return label

    @property
    def labels(self) -> tuple[str, ...]:
        """The label with the worst rating."""
        return (self.label.replace(NUMBER, f"{self.scale[0]:g}"),)

    @property
    def verdict_pattern(self) -> str:
        """The label with any number; the number is the group `number`."""
        before, _, after = map(re.escape, self.label.partition(NUMBER))
        return rf"{before}(?P<number>[-+]?[0-9]+(?:\.[0-9]+)?){after}"

    def verdicts_in(self, text: str) -> list[float]:
        """The distinct numbers with which a text states its rating, on the scale or not."""
        matches = stated(text, re.compile(self.verdict_pattern))
        return list(dict.fromkeys(float(match["number"]) for match in matches))


class ChecklistPrompt(LabelledPrompt[bool | None]):
    """One response is held against one item. Labels such as `[[yes]]` count in either case; they
    mean whether the response meets the item, null where it cannot be told."""

    response_fields: ClassVar[tuple[str, ...]] = ("response", "item")

    @field_validator("verdicts")
    @classmethod
    def _clear(cls, verdicts: dict[str, bool | None]) -> dict[str, bool | None]:
        labels = [label.casefold() for label in verdicts]
        for label in labels:
            if sum(label in other for other in labels) > 1:
                raise ValueError(f"{label!r} is a part of another label, so a reply has both")
        if not {True, False} <= set(verdicts.values()):
            raise ValueError('it needs a label that is true and one that is false: "[[yes]]": true')
        return verdicts

    def verdicts_in(self, text: str) -> list[str]:
        """The distinct labels with which a text states its verdict (stated.py), as in the file."""
        known = {label.casefold(): label for label in self.verdicts}
        found = stated(text, re.compile(self.verdict_pattern, re.IGNORECASE))
        return list(dict.fromkeys(known[match.group().casefold()] for match in found))


class ItemsPrompt(RatingPrompt):
    """A checklist is written: a line for each item, which begins with its weight on the scale."""

    response_fields: ClassVar[tuple[str, ...]] = ("most",)

    def lines_in(self, text: str) -> list[tuple[float, str]]:
        """Weight and words of every line that begins with a label, besides a bullet or number."""
        line = re.compile(
            rf"^[ \t]*(?:[-*•]|\d+[.)])?[ \t]*{self.verdict_pattern}(?P<item>.*)$", re.M
        )
        return [
            (float(match["number"]), match["item"].strip(" \t:")) for match in line.finditer(text)
        ]


AnyPrompt = PairwisePrompt | RatingPrompt | ChecklistPrompt


@overload
def load_prompt(name: str, kind: Literal["pairwise"]) -> PairwisePrompt: ...
@overload
def load_prompt(name: str, kind: Literal["rating"]) -> RatingPrompt: ...
@overload
def load_prompt(name: str, kind: Literal["checklist"]) -> ChecklistPrompt: ...
@overload
def load_prompt(
    name: str, kind: Literal["items"], field: Literal["judge.items_prompt"]
) -> ItemsPrompt: ...
def load_prompt(name: str, kind: Kind, field: str = "judge.prompt") -> AnyPrompt:
    """A built-in prompt file by its name, or one of the user's own by its path.

    Raises: ValueError that names file, field, value and the way out.
    """
    path = FOLDER / f"{name}.yaml" if name in BUILT_IN[kind] else Path(name).expanduser()
    if not path.is_file():
        raise ValueError(
            f"{field}: {name} is neither a file nor a {kind} prompt of the package; give a "
            f"YAML file or one of {', '.join(BUILT_IN[kind])}{did_you_mean(name, BUILT_IN[kind])}"
        )
    try:
        content = read_yaml(path)
    except ValueError as error:
        raise ValueError(
            f"{path} is not YAML: {error}; labels such as [[A]] need quotes"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} has no fields; write user, finish and so on (see {FOLDER})")
    try:
        prompt = _SHAPES[kind].model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path}:\n{explain(error, _SHAPES[kind])}") from error
    if (mistake := _mistake(prompt)) is not None:
        raise ValueError(f"{path}: {mistake}")
    return prompt


_SHAPES: dict[Kind, type[PairwisePrompt] | type[RatingPrompt] | type[ChecklistPrompt]] = {
    "pairwise": PairwisePrompt,
    "rating": RatingPrompt,
    "checklist": ChecklistPrompt,
    "items": ItemsPrompt,
}


def _mistake(prompt: AnyPrompt) -> str | None:
    """What is wrong with the texts; `None` if they can be used."""
    required = ("question", "conversation", *prompt.response_fields)
    known = (*required, "reference")
    for field in prompt.fields:
        if field not in known:
            return (
                f"there is no field {{{field}}}; the fields are {_listed(known)}; for braces that "
                f"are text write {{ {field} }}"
            )
    for field in required:
        if field not in prompt.fields:
            hint = " right before {question}: it is empty for a single turn"
            return (
                f"user: the field {{{field}}} is missing; put it"
                f"{hint if field == 'conversation' else ' where it belongs'}"
            )
    if FIELD.search(prompt.finish):
        return (
            f"finish: it takes no fields; write it without {_listed(FIELD.findall(prompt.finish))}"
        )
    if not prompt.delimiters:
        return (
            "user: nothing marks where contents begin and end; put lines such as [Answer A] and "
            "[End of answer A] around the fields, or list in frame what does"
        )
    return _seam(prompt)


def _seam(prompt: AnyPrompt) -> str | None:
    strings = (*prompt.delimiters, *prompt.labels)
    for text in (prompt.system or "", prompt.user):
        for field in FIELD.finditer(text):
            part = frame.touching(text[: field.start()], text[field.end() :], strings)
            if part is not None:
                return (
                    f"{field[0]} stands right beside a part of {part!r}, which a content could "
                    "complete; put the field on a line of its own"
                )
    return None


def _listed(fields: Sequence[str]) -> str:
    return ", ".join(f"{{{field}}}" for field in fields)
