"""A model's own code and its revision reach everything that loads it."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from own_code import FILES, save_own
from rich.console import Console
from small_run import small_recipe
from tiny import save_policy

from forethought.config import ModelConfig, ModelSource, RewardModelJudge
from forethought.export.policy import export_policy
from forethought.judging.scoring.score_cache import scoring_identity
from forethought.models import loading
from forethought.pipeline.loop import run_recipe
from forethought.progress.reporter import Reporter
from forethought.runs.policies import find_run_policy, weights_and_format

PACKAGE = Path(__file__).parent.parent / "src" / "forethought"


def test_no_other_module_loads_a_model():
    """transformers' `from_pretrained` stands in loading.py alone, and is given a whole source."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(
                node.func, ast.Attribute | ast.Name
            ):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            if called in ("from_pretrained", "from_config") and path.name != "loading.py":
                assert isinstance(node.func, ast.Attribute)
                assert ast.unparse(node.func.value) == "PeftModel", f"{path}:{node.lineno}"
            if called in LOADERS and node.args:
                given = ast.unparse(node.args[0])
                assert not given.endswith(".path"), f"{path}:{node.lineno}: {given}"


LOADERS = {
    name
    for name, one in vars(loading).items()
    if getattr(one, "__annotations__", {}).get("model") == "Named"
}


@pytest.mark.parametrize(
    "launch",
    [
        "{threads: 1}",
        pytest.param("{type: torchrun, processes: 2, threads: 1}", marks=pytest.mark.slow),
    ],
)
def test_a_model_with_code_of_its_own_goes_all_the_way(tmp_path: Path, launch: str):
    policy = save_own(tmp_path / "seed")
    judge = save_own(tmp_path / "judge", reward=True, seed=1)
    recipe = small_recipe(
        tmp_path / "run",
        f"launch={launch}",
        f"model={{path: {policy}, dtype: float32, trust_remote_code: true}}",
        f"judge={{type: reward_model, path: {judge}, dtype: float32, trust_remote_code: true}}",
        "arms=[direct]",
        "prompts_per_iteration=4",
        "prompts.validation={count: 2, sources: [{type: microworld, split: validation, count: 2}]}",
        "prompts.test=null",
        "sampling.max_new_tokens=8",
        "training.epochs=1",
    )
    run_recipe(recipe, Reporter(Console(quiet=True)))
    trained = recipe.run / "direct" / "iteration_1" / "selection" / "policy"
    assert {name: (trained / name).read_text() for name in FILES} == FILES
    word = f"{recipe.run}/direct/2"
    source, _ = weights_and_format(ModelSource(path=word), find_run_policy(word), "direct")
    assert source == ModelSource(path=str(trained), trust_remote_code=True)
    exported = export_policy(recipe.run, tmp_path / "exported", arm="direct", policy=2)
    shutil.rmtree(policy)
    for folder in (source, ModelSource(path=str(exported), trust_remote_code=True)):
        model = loading.load_model(folder, dtype="float32", device="cpu")
        assert type(model).__name__ == "OwnForCausalLM"
        assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    with pytest.raises(ValueError, match="trust_remote_code"):
        loading.load_model(str(exported), dtype="float32", device="cpu")


def test_a_revision_names_a_model_in_hashes_and_is_for_the_hub(tmp_path: Path):
    plain = ModelConfig(path="organisation/model")
    pinned = ModelConfig(path="organisation/model", revision="v1")
    assert "revision" not in plain.identity()
    assert pinned.identity() == plain.identity() | {"revision": "v1"}
    assert loading.identity(plain.source) == {"name": "organisation/model"}
    assert loading.identity(pinned.source) == {"name": "organisation/model", "revision": "v1"}
    judge = RewardModelJudge(path="organisation/judge")
    other = judge.model_copy(update={"revision": "v2"})
    assert "revision" not in judge.identity()
    assert scoring_identity(judge)["model"] == {"name": "organisation/judge"}
    assert scoring_identity(other)["model"] == {"name": "organisation/judge", "revision": "v2"}
    folder = save_policy(tmp_path / "policy")
    moved = pinned.at(str(folder))
    assert moved.revision is None
    assert pinned.at(pinned.path) == pinned
    with pytest.raises(ValueError, match=r"model: revision v1 is asked for and .* is a folder"):
        loading.load_model(
            ModelSource(path=str(folder), revision="v1"), dtype="float32", device="cpu"
        )


LOAD = """
import sys
from forethought.models import loading
from forethought.config import ModelSource
from forethought.planning.model_shape import model_shape

for revision in (None, "first"):
    source = ModelSource(path="organisation/own", revision=revision, trust_remote_code=True)
    model = loading.load_model(source, dtype="float32", device="cpu")
    tokenizer = loading.load_tokenizer(source)
    layers = model_shape(source).layers
    folder = loading.local_folder(source)
    print(type(model).__name__, model.config.num_hidden_layers, layers, folder.rsplit("/")[-1])
    loading.skeleton(source, dtype="float32")
"""


def test_a_revision_of_the_hub_is_what_is_loaded(tmp_path: Path):
    """A hub's cache with two revisions, used without a network."""
    repository = tmp_path / "hub" / "models--organisation--own"
    for commit, name, layers in (("a" * 40, "first", 1), ("b" * 40, "main", 3)):
        snapshot = repository / "snapshots" / commit
        save_policy(snapshot, num_hidden_layers=layers)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / name).write_text(commit)
    environment = os.environ | {
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(PACKAGE.parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", LOAD], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        "LlamaForCausalLM 3 3 own",
        f"LlamaForCausalLM 1 1 {'a' * 40}",
    ], done.stderr
