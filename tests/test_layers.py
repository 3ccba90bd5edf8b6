"""The house rules that are worth a test: layers, light imports, names of modules."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "forethought"
LAYERS = [
    {"types", "share_interval"},
    {"config", "heap", "progress"},
    {"thoughts", "workers"},
    {"storage"},
    {"models"},
    {"chat_client", "microworld"},
    {"decoding"},
    {"prompts", "sampling", "pairs", "training"},
    {"judging"},
    {"evaluation"},
    {"runs"},
    {"report", "serving"},
    {"stages"},
    {"export", "trackers"},
    {"pipeline", "planning", "drafting"},
    {"doctor"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
}


def module_of(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports(path):
    """Names of forethought's own modules that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by absolute name"
            names = [node.module or ""]
            if node.module == "forethought":
                names = [f"forethought.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("forethought."):
                yield name.split(".")[1]


def loaded_imports(path):
    """Full names of forethought's own modules that a file loads, also inside functions."""
    waiting = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        waiting.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def test_every_module_has_a_layer():
    modules = {module_of(path) for path in FILES} - {"__init__"}
    assert modules == set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_lower_layers(path):
    module = module_of(path)
    if module == "__init__":
        return
    for name in imports(path):
        if name != module:
            assert LEVEL[name] < LEVEL[module], f"{module} imports {name}"


def test_no_imports_go_in_a_circle():
    """Of modules, those of one package and those inside functions too."""
    graph = {name: set(loaded_imports(path)) for name, path in MODULES.items()}
    assert graph["forethought.judging.open"] > {"forethought.judging.mixture"}
    TopologicalSorter(graph).prepare()


def test_a_judge_cannot_see_a_thought():
    for path in (PACKAGE / "judging").rglob("*.py"):
        assert "thoughts" not in set(imports(path)), path


def test_one_package_spells_the_paths_of_a_run():
    spelled = re.compile(r"manifest\.json|(iteration|policy)_(\{[^}]*\}|\*)?[\"'/]")
    for path in FILES:
        if module_of(path) not in ("runs", "storage"):
            assert not spelled.search(path.read_text()), path


def test_no_module_has_a_name_that_says_nothing():
    assert not {path.stem for path in FILES} & {"utils", "util", "common", "helpers", "misc"}


def test_files_and_functions_stay_readable():
    for path in FILES:
        text = path.read_text()
        assert text.count("\n") <= 500, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 80, f"{path}: {node.name}"


def test_the_recipe_is_read_without_any_engine():
    code = (
        "import sys, forethought.config.recipe_files; "
        "print([m for m in ('torch', 'transformers', 'vllm', 'ray') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
