"""YAML that others wrote: a few lines that stand for more than any memory holds."""

import ast
import json

import pytest
from small_run import ROOT
from tiny import save_policy
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config.recipe_files import load_recipe
from forethought.config.yaml_text import LONGEST, NODES, parse_yaml
from forethought.judging.llm.prompt_file import load_prompt
from forethought.thoughts import load_format

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {k: v}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
BOMBS = {
    "aliases": (ALIASES, "with its aliases this stands for more than 20,000"),
    "merges": (MERGES, "with its aliases this stands for more than 20,000"),
    "itself": ("a: &a [*a]\n", "an anchor whose content has its own alias"),
    "deep": ("[" * 50_000, "nested too deeply"),
    "deep and closed": (f"a: {'[' * 5000}{']' * 5000}", "nested too deeply"),
    "many": (f"a: [{'x,' * 30_000}]", "more than 20,000 fields"),
    "long": ("a: " + "x" * 300_000, "more than 256 KiB"),
    "number": ("a: " + "9" * 10_000, "a number of more than 100 characters"),
    "base 60": ("a: 1" + ":1" * 100_000, "a number of more than 100 characters"),
    "no date": ("a: 2024-13-45", "month must be in 1..12"),
}
READERS = {
    "recipe": lambda path: load_recipe([str(path)]),
    "format": lambda path: load_format(str(path)),
    "prompt": lambda path: load_prompt(str(path), "pairwise"),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("text", "said"), BOMBS.values(), ids=BOMBS)
def test_what_a_file_stands_for_is_bounded(tmp_path, text, said, read):
    path = tmp_path / "theirs.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"theirs\.yaml is not .*YAML") as error:
        read(path)
    assert said in str(error.value)
    assert len(str(error.value)) < 500


def test_an_override_is_bounded_in_the_same_way():
    with pytest.raises(ValueError, match="not readable YAML"):
        load_recipe([str(ROOT / "recipes" / "quickstart.yaml"), "model.path=" + "[" * 50_000])


def test_a_model_folder_with_such_a_format_is_refused_in_one_message(tmp_path):
    model = save_policy(tmp_path / "model")
    (model / "thought_format.json").write_text(ALIASES)
    done = CliRunner().invoke(app, ["serve", str(model)])
    assert done.exit_code == 1
    said = " ".join(done.output.split())
    assert "thought_format.json is not readable YAML: line " in said
    assert "stands for more than 20,000" in said
    assert "Traceback" not in said


def test_aliases_as_people_write_them_are_read():
    text = "base: &base {a: 1, b: [1, 2]}\nmine:\n  <<: *base\n  a: 2\nalso: *base\n"
    assert parse_yaml(text)["mine"] == {"a": 2, "b": [1, 2]}
    assert parse_yaml("") is None
    many = list(range(NODES - 10))
    assert parse_yaml(json.dumps(many)) == many
    assert len(parse_yaml("a: " + "x" * (LONGEST - 10))["a"]) == LONGEST - 10


def test_nothing_else_reads_yaml():
    for path in (ROOT / "src").rglob("*.py"):
        if path.name == "yaml_text.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.Attribute) and ast.unparse(node).startswith("yaml.")
            assert not named or ast.unparse(node) == "yaml.safe_dump", f"{path}: use yaml_text.py"
