"""Recipes: merging, overrides, and errors that name the field and the way out."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from forethought.config import Recipe
from forethought.recipe import dump, load_recipe, load_run
from forethought.store import write_json

ROOT = Path(__file__).parent.parent
QUICKSTART = str(ROOT / "recipes" / "quickstart.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_every_recipe_resolves_and_survives_the_round_trip(path):
    recipe = load_recipe([str(path)])
    assert Recipe.model_validate(yaml.safe_load(yaml.safe_dump(dump(recipe)))) == recipe


def test_later_files_and_overrides_win_field_by_field(tmp_path):
    second = tmp_path / "b.yaml"
    second.write_text("pairs: {rho: 0.3}\nsampling: {samples: 4}\n")
    words = [
        QUICKSTART,
        str(second),
        "pairs.rho=0.2",
        "training.learning_rate=1e-4",
        "arms=[direct]",
    ]
    recipe = load_recipe(words)
    assert recipe.pairs.rho == 0.2
    assert recipe.sampling.samples == 4
    assert recipe.sampling.temperature == 0.8
    assert recipe.training.learning_rate == 1e-4
    assert recipe.arms == ("direct",)


def test_a_section_of_another_type_is_replaced_whole(tmp_path):
    second = tmp_path / "b.yaml"
    second.write_text("judge: {type: reward_model, path: some/model}\n")
    assert load_recipe([QUICKSTART, str(second)]).judge.type == "reward_model"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pairs.roh=0.1", "pairs.roh: there is no such field (given: 0.1)"),
        ("iterations=many", "iterations: Input should be a valid integer"),
        ("sampling.samples=1", "sampling.samples: Input should be greater than or equal to 2"),
        ("sampling.type=tgi", "tgi"),
        ("arms=[thought, thought]", "names an arm twice"),
        ("thought_format=direct", "leave the arm out"),
        ("training.beta=-1", "training.beta: Input should be greater than 0 (given: -1)"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_given(override, message):
    with pytest.raises(ValueError, match="recipe") as error:
        load_recipe([QUICKSTART, override])
    assert message in str(error.value)
    assert not isinstance(error.value, ValidationError)


@pytest.mark.parametrize(
    ("text", "message"),
    [("run: [1", "not readable YAML"), ("- run", "must be a mapping"), ("run: x", "model: Field")],
)
def test_a_wrong_file_is_named(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.yaml") as error:
        load_recipe([str(path)])
    assert message in str(error.value)


def test_missing_files_are_named():
    with pytest.raises(ValueError, match=r"recipe nope\.yaml does not exist"):
        load_recipe(["nope.yaml"])
    with pytest.raises(ValueError, match="no recipe file is given"):
        load_recipe(["seed=1"])


def test_a_run_directory_gives_its_recipe_back(tmp_path):
    recipe = load_recipe([QUICKSTART, f"run={tmp_path}"])
    write_json(tmp_path / "config.json", dump(recipe))
    assert load_run(tmp_path) == recipe
    with pytest.raises(ValueError, match="is not a run directory"):
        load_run(tmp_path / "none")


def test_an_overrides_value_may_be_a_file_and_a_files_name_may_have_an_equals_sign(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beta=1.yaml").write_text("training: {beta: 0.7}")
    recipe = load_recipe([QUICKSTART, "beta=1.yaml", "thought_format=mine.yaml"])
    assert recipe.training.beta == 0.7
    assert recipe.thought_format == "mine.yaml"
