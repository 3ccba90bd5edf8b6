"""The reference of all fields: docs/recipe.md is what the classes give."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config.field_reference import field_reference

PAGE = Path(__file__).parents[2] / "docs" / "recipe.md"


def config(*words):
    return CliRunner().invoke(app, ["config", "--fields", *words])


def test_the_page_is_what_the_classes_give():
    assert PAGE.read_text(encoding="utf-8") == field_reference(), (
        "run: forethought config --fields > docs/recipe.md"
    )
    assert config().output == field_reference()


def test_every_section_has_its_fields():
    lines = re.findall(r"^- `([^`]+)` \(.*\): \S", field_reference(), flags=re.MULTILINE)
    assert {"run", "judge.engine.base_url", "prompts.train.columns.reference"} <= set(lines)
    assert {"judge.routes.members.weight", "training.lora.rank", "launch.ray.address"} <= set(lines)


def test_a_line_says_what_is_allowed_and_the_default():
    line = config("training.epochs").output.splitlines()[-1]
    assert line.startswith("- `training.epochs` (a whole number of at least 1; `10`): Each ends")
    assert "(text; needed): Hugging Face folder" in config("judge.path").output
    assert "fields as of `prompts.validation`; `null`)" in config("prompts.test").output


def test_a_part_has_all_below_it_and_nothing_else():
    shown = config("training.lora").output
    assert set(re.findall(r"^- `([^`]+)`", shown, flags=re.MULTILINE)) == {
        "training.lora",
        *(f"training.lora.{name}" for name in ("rank", "alpha", "dropout", "target_modules")),
    }


@pytest.mark.parametrize("place", ["training.epoch", "trainings.epochs"])
def test_a_misspelt_place_is_named(place):
    done = config(place)
    assert done.exit_code == 1
    assert f"no field {place}; did you mean training.epochs?" in " ".join(done.output.split())
