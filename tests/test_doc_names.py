"""What the documents name exists: files, classes and their parts, fields of a recipe, options.

Every span in backticks outside of code blocks is looked at. One that is neither a name nor a path,
such as a value or a formula, is no promise; a name of others stands in `FOREIGN`.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from forethought.cli.main import app
from forethought.config import EvaluatePart, JudgePart, Recipe, SamplePart
from forethought.config.allowed import Spot, item_of, members_of, model_of, spot_of

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "forethought"
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "recipes" / "README.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "benchmarks" / "real" / "README.md",
]
FOREIGN = {
    # of vLLM, torch, Ray, Prometheus and the benchmarks
    *("fully_shard", "gpt-4-0314", "gpt4_1106_preview", "ray[default]"),
    # of bitsandbytes, AlpacaEval and the trackers
    *("paged_", "alpaca_eval.json", "SummaryWriter", "wandb.init", "trackio.init"),
    # headers and variables of others
    *("Retry-After", "RAY_ADDRESS", "VLLM_CPU_KVCACHE_SPACE", "VLLM_LOGGING_LEVEL"),
    *("VLLM_NO_USAGE_STATS", "VLLM_RAISE_ON_LOGIT_NANS", "ERROR"),
    # of OpenAI's answers, and of Arena-Hard's files
    *("completion_tokens_details.reasoning_tokens", "question.jsonl"),
}
NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
DOTTED = re.compile(r"[A-Za-z_][A-Za-z_0-9]*(\.[A-Za-z_][A-Za-z_0-9]*)+(\(\))?")
FILE = re.compile(
    r"(?!.*://)[\w./<>-]*[\w-](/|\.(py|ya?ml|md|txt|html|json|jsonl|sqlite|parquet|log|jinja|css|js))"
)
OPTION = re.compile(r"--[a-z][a-zA-Z-]*")
SETTING = re.compile(r"([a-z_][a-z_.0-9]*)(: |=)\S.*")
OF_A_RUN = re.compile(
    r"(runs|thought|direct|judgements|selection|evaluation|(iteration|epoch|policy)_\w+)/.*"
)
"""Folders that a run makes; docs/run-directory.md has them all."""


def spans(document: Path) -> list[tuple[str, str]]:
    """Each span in backticks with the line that it stands in."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    found = []
    for span in re.finditer(r"`([^`]+)`", text):
        start, end = text.rfind("\n", 0, span.start()) + 1, text.find("\n", span.end())
        found.append((" ".join(span[1].split()), text[start:end]))
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def files() -> tuple[str, ...]:
    """Every file and folder of the project, from its root."""
    here = [ROOT / name for name in ("src", "tests", "docs", "recipes", "benchmarks", "examples")]
    inside = [
        path for folder in here for path in folder.rglob("*") if "__pycache__" not in str(path)
    ]
    return tuple(f"/{path.relative_to(ROOT)}" for path in [*ROOT.glob("[!.]*"), *inside])


@cache
def known() -> tuple[set[str], set[str]]:
    """Names that the package and the benchmarks define or say, and their dotted `Class.part`."""
    words: set[str] = set()
    parts: set[str] = set()
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        words.add(path.stem)
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                words.add(node.name)
                parts |= {f"{node.name}.{member}" for member in members(node)}
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                words |= {node.name, *(arg.arg for arg in node.args.args + node.args.kwonlyargs)}
            elif isinstance(node, ast.Name | ast.Attribute):
                words.add(node.id if isinstance(node, ast.Name) else node.attr)
            elif isinstance(node, ast.Constant) and "\n" not in str(node.value):
                words |= {str(node.value), *NAME.findall(str(node.value))}
    return words, parts


@cache
def made_names() -> tuple[re.Pattern[str], ...]:
    """Names that the package puts together, such as `probe_{variant}`."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
                fixed = [getattr(value, "value", "") for value in node.values]
                texts = [re.escape(one) if isinstance(one, str) else "[a-z]+" for one in fixed]
                if NAME.fullmatch("".join(texts).replace("[a-z]+", "")):
                    found.append(re.compile("".join(texts)))
    return tuple(found)


def members(node: ast.ClassDef) -> set[str]:
    """Methods and fields of a class, also those that its methods set."""
    found = set()
    for one in ast.walk(node):
        match one:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                found.add(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                found.add(name)
            case _:
                pass
    return found


@cache
def commands() -> dict[str, set[str]]:
    """Every command by its words, with its options."""
    found: dict[str, set[str]] = {}
    owed: list[tuple[str, Any]] = [("forethought", typer.main.get_command(app))]
    while owed:
        words, command = owed.pop()
        found[words] = {text for param in command.params for text in param.opts}
        owed += [(f"{words} {name}", one) for name, one in getattr(command, "commands", {}).items()]
    return found


@cache
def options() -> set[str]:
    """Of all commands, and of the benchmarks' scripts."""
    found = set().union(*commands().values())
    for path in (ROOT / "benchmarks").rglob("*.py"):
        found |= set(re.findall(r'"(--[a-z-]+)"', path.read_text()))
    return found


def variants(spot: Spot) -> list[Spot]:
    return [
        one for each in members_of(spot) for one in (variants(each) if each != spot else [each])
    ]


@cache
def sections() -> tuple[Spot, ...]:
    """Every section of a recipe that has fields of its own."""
    seen: list[Spot] = []
    owed = [spot_of(shape) for shape in (Recipe, SamplePart, JudgePart, EvaluatePart)]
    while owed:
        spot = owed.pop()
        if spot not in seen:
            seen.append(spot)
            model = model_of(spot)
            steps = [item_of(spot, one) for one in (model.model_fields if model else (0,))]
            owed += [*members_of(spot), *(step for step in steps if step is not None)]
    return tuple(one for one in seen if model_of(one) is not None)


def is_field(dotted: str) -> bool:
    """Whether it is a field of a recipe by its place, from the top or from any section."""
    here = list(sections())
    for step in dotted.split("."):
        inner = [variant for spot in here for variant in variants(spot)]
        lists = [item for one in inner if (item := item_of(one, 0)) is not None]
        inner += [variant for item in lists for variant in variants(item)]
        here = [found for one in inner if (found := item_of(one, step)) is not None]
    return bool(here)


def is_file(name: str, line: str) -> bool:
    """A file of the project by the end of its path, of the folder that its line is about, or one
    that the package writes."""
    folder = re.match(r"\| `([a-z]+/)`", line)
    inside = f"/src/forethought/{folder[1]}" if folder and name != folder[1] else "/"
    path = name.removesuffix("/")
    if any(file.startswith(inside) and file.endswith(f"/{path}") for file in files()):
        return True
    words, _ = known()
    return path in words or name in words or bool(OF_A_RUN.fullmatch(name))


def mistake(span: str, line: str) -> str | None:
    """What a span promises that is not there; `None` if it keeps its word, or gives none."""
    words, _ = known()
    if span in FOREIGN:
        return None
    if span.startswith("forethought "):
        own = max(
            (command for command in commands() if f"{span} ".startswith(f"{command} ")), key=len
        )
        wrong = set(OPTION.findall(span)) - commands()[own]
        return f"no command or option: {own} {wrong}" if wrong or own == "forethought" else None
    if OPTION.match(span):
        option = span.split()[0].split("=")[0]
        return None if option in options() else f"no option {option}"
    if FILE.fullmatch(span):
        return None if is_file(span, line) else f"no file {span}"
    if DOTTED.fullmatch(span):
        return None if is_dotted(span.removesuffix("()")) else f"no {span}"
    if setting := SETTING.fullmatch(span):
        name = setting[1]
        return None if is_field(name) or name in words else f"no field {name}"
    if NAME.fullmatch(span):
        there = span.removeprefix("_") in words or any(one.fullmatch(span) for one in made_names())
        return None if there else f"no name {span}"
    return None


def is_dotted(name: str) -> bool:
    """A recipe's field, a class with its part, or a module of the package with what it holds."""
    _, parts = known()
    if name in parts or is_field(name):
        return True
    path = PACKAGE.joinpath(*name.removeprefix("forethought.").split("."))
    if path.with_suffix(".py").is_file() or path.is_dir():
        return True
    module = path.parent.with_suffix(".py")
    held = tree(module).body if module.is_file() else []
    return path.name in {getattr(one, "name", None) for one in held}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_exists(document):
    found = [(span, wrong) for span, line in spans(document) if (wrong := mistake(span, line))]
    assert not found


@pytest.mark.parametrize(
    "span",
    [
        *(
            "StageRef.sample_seed",
            "ThoughtFormat.applied",
            "report/charts.py",
            "charts.py",
            "Rolout",
        ),
        *("sampling.sampels", "judge.engine.base_uri", "pairs.roh: 0.2", "iteratons=2"),
        *("forethought rum x.yaml", "forethought plan x.yaml --gpuz 3", "--gpuz", "docs/judge.md"),
        "forethought.microworld.make_sead",
    ],
)
def test_what_does_not_exist_is_found(span):
    assert mistake(span, f"| `report/` | `{span}` draws it |") is not None
