"""Whatever is wrong with a user's file, the message is in the user's words.

Every field of every section is mutated: another type, another word, null, left out, one too many.
"""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from forethought.config import (
    ConfigModel,
    EvaluatePart,
    JudgePart,
    Recipe,
    SamplePart,
    explain,
)
from forethought.config.allowed import is_tagged, item_of, members_of, model_of, spot_of, tag_of
from forethought.config.recipe_files import load_recipe
from forethought.judging.llm.prompt_file import (
    PairwisePrompt,
    RatingPrompt,
    VerdictWeights,
    load_prompt,
)
from forethought.thoughts import ThoughtFormat, load_format

QUICKSTART = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"
INSIDE = re.compile(
    r"pydantic|discriminator|lax-or-strict|function-|tagged-union|Input|inputs|[Ff]ield required"
    r"|\btuple\b|\bdict\b|\bNone\b|\bTrue\b|\bliteral|\bbool|annotation|Value error|errors\.|<class"
)
"""What no message may show: pydantic's words and Python's."""

ENGINES: list[dict[str, Any]] = [
    {"type": "transformers"},
    {"type": "vllm"},
    {"type": "openai", "base_url": "http://localhost/v1", "price": {"prompt": 1, "completion": 2}},
    {"type": "scripted", "path": "x.jsonl"},
]
VERIFIER = {"type": "verifier", "function": "gsm8k"}
REWARD = {"type": "reward_model", "path": "some/model", "workers": {"count": 2}}
MODEL = {"path": "some/model"}
JUDGES: list[dict[str, Any]] = [
    VERIFIER,
    REWARD,
    {"type": "armorm"},
    {"type": "pairwise", "engine": ENGINES[0], "model": MODEL, "comparisons": {"rounds": 2}},
    {"type": "pairwise", "engine": ENGINES[2], "comparisons": {"circles": 2}},
    {"type": "rating", "engine": ENGINES[1], "model": MODEL},
    {"type": "rating", "engine": ENGINES[3]},
    {"type": "checklist", "engine": ENGINES[2]},
    {"type": "checklist", "engine": ENGINES[3], "items": "items.jsonl"},
    {
        "type": "mixture",
        "routes": [{"members": [{"judge": VERIFIER}, {"judge": {"type": "armorm"}}]}],
    },
    {"type": "custom", "import_path": "a.b:C"},
]
SOURCES = [
    {"type": "file", "path": "p.jsonl"},
    {"type": "datasets", "name": "some/data"},
    {"type": "microworld", "count": 3},
]
MEASURES = {
    "win_rate": {},
    "gsm8k": {"sources": SOURCES},
    "probe": {},
    "second_judge": {"judge": VERIFIER},
    "alpaca_eval": {"instructions": "a", "baseline": "b", "annotator": ENGINES[2]},
    "arena_hard": {"questions": "a", "baseline": "b", "judge": ENGINES[2]},
}


def resolved(**sections: Any) -> dict[str, Any]:
    """A valid recipe, every field spelled."""
    least = {
        "run": "runs/x",
        "model": MODEL,
        "prompts": {"train": SOURCES, "validation": {"count": 2}, "test": {"count": 2}},
        "judge": VERIFIER,
    }
    return Recipe.model_validate(least | sections).model_dump(mode="json")


RECIPES = {
    **{f"sampling {engine['type']}": resolved(sampling=engine) for engine in ENGINES},
    **{f"judge {number}": resolved(judge=one) for number, one in enumerate(JUDGES)},
    "rest": resolved(
        measures=MEASURES,
        warm_start={},
        keep={"every": 2},
        trackers=[{"type": "wandb"}],
        launch={"type": "torchrun", "processes": 2},
        training={"lora": {"rank": 4}},
        sampling={"workers": 2},
    ),
}
WRONG: list[Any] = [None, "word", -7, 3.25, True, [], ["word"], {}, {"word": 1}]


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all mappings."""
    if isinstance(value, dict):
        yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in pairs:
        if isinstance(one, dict | list):
            yield from nodes(one, (*path, key))


def mutated(whole: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Dotted place, what was done, and the recipe with it."""
    for path in nodes(whole):
        # What is handed on as it is has no wrong fields.
        if path and path[-1] in ("options", "extra_body"):
            continue

        def changed(path: tuple[Any, ...] = path) -> tuple[dict[str, Any], dict[str, Any]]:
            other = copy.deepcopy(whole)
            section = other
            for step in path:
                section = section[step]
            return other, section

        def dotted(key: str, path: tuple[Any, ...] = path) -> str:
            return ".".join(map(str, (*path, key)))

        other, section = changed()
        keys = list(section)
        section["xyzzy"] = 1
        yield dotted("xyzzy"), "extra", other
        for key in keys:
            other, section = changed()
            del section[key]
            yield dotted(key), "missing", other
            for wrong in WRONG:
                other, section = changed()
                section[key] = wrong
                yield dotted(key), f"{wrong!r}", other


def complaint(shape: Any, content: Any) -> str | None:
    try:
        shape.model_validate(content)
    except ValidationError as error:
        return explain(error, shape)
    return None


def check(says: str, place: str, what: str) -> None:
    """The field by its place as it is written, what was given, and what is allowed."""
    assert not INSIDE.search(says), says
    for line in says.splitlines():
        assert len(line) < 400, line
    starts = (f"{place}:", f"{place}.", f"{place} is missing; give ")
    named = [line for line in says.splitlines() if line.startswith(starts)]
    # What does not fit another field is refused where both stand, and named there.
    assert named or re.search(rf"\b{place.rpartition('.')[2]}\b", says), (place, says)
    if what == "extra":
        assert says.startswith(f"{place}: there is no such field"), says
        assert "(given: 1)" in says
    for line in named:
        if ": give " in line and "given" not in line:
            raise AssertionError(line)


@pytest.mark.parametrize("name", RECIPES)
def test_every_mistake_in_a_recipe_is_named_in_the_users_words(name):
    refused = 0
    for place, what, content in mutated(RECIPES[name]):
        says = complaint(Recipe, content)
        if says is not None:
            refused += 1
            check(says, place, what)
    assert refused > 300


def test_the_recipes_here_have_every_section():
    seen: set[type[BaseModel]] = set()

    def look(value: Any) -> None:
        if isinstance(value, BaseModel):
            seen.add(type(value))
            for _, one in value:
                look(one)
        elif isinstance(value, tuple):
            for one in value:
                look(one)

    for recipe in RECIPES.values():
        look(Recipe.model_validate(recipe))
    assert sections_below(Recipe) <= seen


def sections_below(shape: type[BaseModel]) -> set[type[BaseModel]]:
    """Every model that stands somewhere in a shape, read from its annotations."""
    found: set[type[BaseModel]] = set()
    owed = [spot_of(shape)]
    while owed:
        spot = owed.pop()
        if (model := model_of(spot)) is not None:
            if model not in found:
                found.add(model)
                fields = [item_of(spot, name) for name in model.model_fields]
                owed += [field for field in fields if field is not None]
        else:
            members = [one for one in members_of(spot) if one != spot]
            entry = item_of(spot, 0)
            owed += [*members, *([] if entry is None else [entry])]
    return found


@pytest.mark.parametrize("part", [SamplePart, JudgePart, EvaluatePart])
def test_every_mistake_in_a_part_is_named_in_the_users_words(part):
    for name in ("sampling openai", "judge 3", "rest"):
        whole = {key: one for key, one in RECIPES[name].items() if key in part.model_fields}
        for place, what, content in mutated(part.model_validate(whole).model_dump(mode="json")):
            says = complaint(part, content)
            if says is not None:
                check(says, place, what)


FORMAT = {"name": "x", "instruction": "Think.", "response_starts_after": ["<A>"]}
PAIRWISE = yaml.safe_load(
    (Path(load_prompt.__code__.co_filename).parent / "prompts/with_ties.yaml").read_text()
)
RATING = yaml.safe_load(
    (Path(load_prompt.__code__.co_filename).parent / "prompts/rating_1_to_10.yaml").read_text()
)


@pytest.mark.parametrize(
    ("shape", "content"),
    [(ThoughtFormat, FORMAT), (PairwisePrompt, PAIRWISE), (RatingPrompt, RATING)],
)
def test_every_mistake_in_a_users_other_files_is_named(shape: type[ConfigModel], content: Any):
    whole = shape.model_validate(content).model_dump(mode="json")
    refused = 0
    for place, what, changed in mutated(whole):
        says = complaint(shape, changed)
        if says is not None:
            refused += 1
            if not place.startswith("verdicts."):
                check(says, place, what)
            assert not INSIDE.search(says), says
    assert refused > 20
    assert VerdictWeights.model_fields


@pytest.mark.parametrize("text", ["3", "[a]", "null", "name: [1", "name: 3", "nme: x", ""])
def test_a_format_file_that_is_none_says_so(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml") as error:
        load_format(str(path))
    assert not INSIDE.search(str(error.value)), error.value


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "judge=null",
            "judge: give a mapping with type, one of verifier, reward_model, armorm, pa",
        ),
        (
            "prompts.train=[{split: train}]",
            "prompts.train.0.type is missing; give one of file, datasets, microworld",
        ),
        (
            "sampling.type=tgi",
            'sampling.type: give one of transformers, vllm, openai, scripted (given: "tgi")',
        ),
        (
            "sampling={base_url: 'http://localhost/v1'}",
            "sampling.base_url: there is no such field with type transformers; it is one of type "
            'openai (given: "http://localhost/v1")',
        ),
        (
            "training.lora={target_modules: {}}",
            "training.lora.target_modules: give all-linear, or a list, each text (given: {})",
        ),
        (
            "training.lora={target_modules: [q_proj, 3]}",
            "training.lora.target_modules.1: give text (given: 3)",
        ),
        (
            "training.learning_rate=.nan",
            "training.learning_rate: give a finite number greater than",
        ),
        ("pairs.roh=1", "pairs.roh: there is no such field; did you mean rho? (given: 1)"),
        ("pairs.width=1", "pairs.width: there is no such field; the fields are rho, thought_price"),
        ("iterations=null", "iterations: give a whole number of at least 0 (given: null)"),
        ("sampling.workers=true", "give a number of workers, or a mapping with count (given: true"),
        ("trackers=[{}]", "trackers.0.type is missing; give one of tensorboard, wandb, mlflow"),
    ],
)
def test_a_mistake_says_what_is_allowed(override, says):
    with pytest.raises(ValueError, match="recipe") as error:
        load_recipe([str(QUICKSTART), override])
    assert says in str(error.value)


def test_a_judge_without_a_type_is_told_which_there_are(tmp_path):
    path = tmp_path / "mine.yaml"
    content = yaml.safe_load(QUICKSTART.read_text()) | {"judge": {"path": "some/model"}}
    path.write_text(yaml.safe_dump(content))
    says = "judge.type is missing; give one of verifier, reward_model, armorm, pairwise, rating, "
    with pytest.raises(ValueError, match=r"mine\.yaml") as error:
        load_recipe([str(path)])
    assert says in str(error.value)


def test_all_tagged_unions_have_types():
    for section in sections_below(Recipe):
        for name in section.model_fields:
            spot = item_of(spot_of(section), name)
            if spot is not None and is_tagged(spot):
                inner = (
                    members_of(spot) if len(members_of(spot)) > 1 else members_of(*members_of(spot))
                )
                assert all(tag_of(one) for one in inner)
