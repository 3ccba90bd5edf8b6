"""What the README says is what there is: its commands, its recipes, its files."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config import Recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
NAMES = {
    *("run", "check", "runs", "init", "compare", "status", "plan", "config", "report", "view"),
    *("sample", "judge", "evaluate", "export", "doctor"),
    *("serve", "chat", "vllm-plugin", "new-key"),
}
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_ci_runs_the_readmes_test_command():
    tests = re.findall(r"^make test\S*", "\n".join(blocks("sh")), flags=re.MULTILINE)
    script = (ROOT / ".ci" / "run").read_text()
    run = re.findall(r"^(?:make|suite) (\S+)", script, flags=re.MULTILINE)
    assert "make test" in tests
    assert [f"make {name}" for name in run] == tests


@pytest.mark.parametrize(
    ("seconds", "run"),
    [
        (900, ["test", "test-slow", "test-real", "test-vllm"]),
        (2300, ["test", "test-real", "test-vllm"]),
    ],
)
def test_ci_leaves_out_what_would_not_end_in_time(tmp_path, seconds, run):
    """A `make` that says its target; `make test` took so long."""
    (tmp_path / ".ci").mkdir()
    script = (ROOT / ".ci" / "run").read_text()
    slow = script.replace("pace=$SECONDS", f"pace={seconds}; SECONDS={seconds}")
    (tmp_path / ".ci" / "run").write_text(slow)
    (tmp_path / "make").write_text('#!/bin/sh\necho "made $1"\n')
    (tmp_path / "make").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", tmp_path / ".ci" / "run"],
        env=os.environ | {"PATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    assert re.findall(r"^made (\S+)", done.stdout, flags=re.MULTILINE) == run
    left_out = re.findall(r"^left out: make (\S+)", done.stdout, flags=re.MULTILINE)
    assert {*run, *left_out} == {"test", "test-slow", "test-real", "test-vllm"}


@pytest.mark.parametrize("target", ["quickstart", "test"])
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", MAKEFILE, flags=re.MULTILINE)


def test_the_quickstart_installs_what_a_run_needs_and_no_more(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints-cpu.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def installs(target: str) -> list[str]:
        words = ["make", "--dry-run", "--no-print-directory", "-C", str(tmp_path), target]
        shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        return [line.split("install")[1] for line in shown.splitlines() if "/pip install" in line]

    [run] = installs("quickstart")
    assert run.endswith("-c constraints-cpu.txt -e .")
    before, developers = installs("test")
    assert before == run
    assert developers.endswith("-c constraints-cpu.txt -e '.[dev]'")


def test_every_command_of_the_readme_exists():
    commands = re.findall(r"^forethought ([\w-]+)", "\n".join(blocks("sh")), flags=re.MULTILINE)
    shown = CliRunner().invoke(app, ["--help"]).output
    assert set(commands) == {name for name in NAMES if f" {name} " in shown}
    for command in set(commands):
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0, command


def test_the_readmes_recipe_is_valid():
    whole, judge, trackers = map(yaml.safe_load, blocks("yaml"))
    assert len(Recipe.model_validate(whole | trackers).trackers) == 2
    assert Recipe.model_validate(whole).judge.type == "reward_model"
    assert Recipe.model_validate(whole | judge).judge.type == "pairwise"


def test_the_example_override_resolves(monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ["recipes/quickstart.yaml", "run=runs/shorter", "pairs.rho=0.2", "iterations=2"]
    assert " ".join(words) in README
    result = CliRunner().invoke(app, ["config", *words])
    assert result.exit_code == 0
    assert yaml.safe_load(result.stdout)["pairs"]["rho"] == 0.2


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_every_recipe_is_planned_and_listed(recipe, tmp_path):
    result = CliRunner().invoke(app, ["plan", str(recipe), f"run={tmp_path}/run"])
    assert result.exit_code == 0, result.output
    assert "rollouts" in result.output
    assert recipe.name in (ROOT / "recipes" / "README.md").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_named_files_exist(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (document.parent / target).exists(), target


def test_the_life_of_a_pair_fits_80_lines():
    assert (ROOT / "docs" / "structures.md").read_text().count("\n") <= 80
