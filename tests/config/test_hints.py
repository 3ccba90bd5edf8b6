"""The word that was probably meant, and the line of a file that is no YAML."""

import pytest
from small_run import ROOT

from forethought.config.recipe_files import load_recipe
from forethought.judging.llm.prompt_file import load_prompt
from forethought.thoughts import load_format

QUICKSTART = str(ROOT / "recipes" / "quickstart.yaml")


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("judge.type=verifer", "verifier"),
        ("sampling.type=vlm", "vllm"),
        ("arms=[thoght]", "thought"),
        ("launch.type=tochrun", "torchrun"),
        ("prompts.train=[{type: microwrld}]", "microworld"),
        ("measures.prbe={}", "probe"),
        ("model.dtype=bfloat", "bfloat16"),
    ],
)
def test_a_value_or_field_that_is_close_is_named(override, meant):
    with pytest.raises(ValueError, match="recipe") as error:
        load_recipe([QUICKSTART, override])
    assert f"did you mean {meant}?" in str(error.value)
    assert str(error.value).count("\n") == 1


def test_a_recipe_a_format_and_a_prompt_are_named():
    with pytest.raises(ValueError, match=r"did you mean .*recipes/quickstart.yaml\?"):
        load_recipe([str(ROOT / "recipes" / "quickstrat.yaml")])
    with pytest.raises(ValueError, match=r"did you mean generic\?"):
        load_format("gneric")
    with pytest.raises(ValueError, match=r"did you mean with_ties\?"):
        load_prompt("with_tie", "pairwise")


@pytest.mark.parametrize(
    "read",
    [
        lambda path: load_recipe([str(path)]),
        lambda path: load_format(str(path)),
        lambda path: load_prompt(str(path), "pairwise"),
    ],
)
def test_broken_yaml_has_its_file_and_line(tmp_path, read):
    path = tmp_path / "broken.yaml"
    path.write_text("name: a\nmodel:\n  path: x\n bad: [1\n")
    with pytest.raises(ValueError, match=r"broken\.yaml is not .*YAML: line 4, column 2: "):
        read(path)
