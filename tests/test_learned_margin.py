"""What is learned in whole runs: kept by default, measured always, said where it is lost."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from small_run import small_run
from test_near_online import digests
from text_recipe import run, write_recipe
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config import LoraSettings, ModelConfig, TrainingConfig
from forethought.config.recipe_files import load_recipe
from forethought.export.policy import export_policy
from forethought.models.loading import find_adapter, load_model, merged
from forethought.pipeline.loop import run_recipe
from forethought.progress.reporter import Reporter
from forethought.report.page import write_report
from forethought.runs.summary import summarise, summary_table
from forethought.serving.backends.embedded import EmbeddedBackend
from forethought.storage.sealed_stage import read_manifest

ONE_ARM = ["arms=[thought]", "prompts.test={count: 4}", "pairs.max_unparsable=1"]


def bfloat16_recipe(folder: Path) -> Path:
    """A recipe whose seed is stored in bfloat16, and sampled and trained in it."""
    path = write_recipe(folder)
    seed: Any = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.bfloat16)
    seed.save_pretrained(folder / "policy")
    return path


def plain(console: Console) -> str:
    return " ".join(console.export_text(clear=False).split())


def test_what_rounding_takes_is_said_everywhere(tmp_path: Path):
    words = ["training.checkpoint_dtype=bfloat16", "training.learning_rate=1e-5", "iterations=1"]
    console = Console(record=True, width=200, force_terminal=False)
    recipe = small_run(tmp_path / "run", *words, "arms=[thought]", console=console)
    trained: Any = read_manifest(recipe.run / "thought/iteration_0/training").counts
    shares = trained["margin_kept"]
    assert len(shares) == 2
    assert min(shares) < 0.9
    warning = f"of the margin that was learned, {min(shares):.0%} is left in the policy"
    assert warning in plain(console)
    assert "use training.checkpoint_dtype: masters" in plain(console)
    summary = json.loads((recipe.run / "summary.json").read_text())
    seed, first = summary["arms"]["thought"]
    assert seed["margin_kept"] is None
    assert first["margin_kept"] in shares
    console.print(summary_table(summary))
    assert f"at least: thought {first['margin_kept']:.1%}" in plain(console)
    page = write_report(recipe.run).read_text()
    assert f"Of the margin that was learned, {min(shares):.0%} is left in a policy" in page
    assert "Learned margin that is left when sampled" in page


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two iterations of one adapter on a bfloat16 model."""
    folder = tmp_path_factory.mktemp("adapters")
    words = ["iterations=2", "prompts_per_iteration=11", "training.lora={rank: 4}"]
    types = ["model.dtype=bfloat16", "training.dtype=bfloat16"]
    return run(bfloat16_recipe(folder), *words, *types, *ONE_ARM).run


def test_adapters_go_on_through_iterations(adapters: Path):
    policies = [adapters / f"thought/iteration_{i}/selection/policy" for i in range(2)]
    for policy in policies:
        found = find_adapter(str(policy))
        assert found is not None
        assert Path(found.base.path) == adapters.parent / "policy"
        assert not list(policy.glob("*.safetensors"))
    rows = summarise(load_recipe([str(adapters.parent / "recipe.yaml"), *WORDS]))["arms"]
    assert [row["margin_kept"] is None for row in rows["thought"]] == [True, False, False]
    assert all(row["margin_kept"] > 0.9 for row in rows["thought"][1:])


WORDS = ["iterations=2", "prompts_per_iteration=11", "training.lora={rank: 4}", *ONE_ARM]


def test_an_exported_adapter_is_whole_and_in_the_models_own_type(adapters: Path, tmp_path: Path):
    policy = str(adapters / "thought/iteration_1/selection/policy")
    out = export_policy(adapters, tmp_path / "out")
    assert not (out / "adapter").exists()
    model: Any = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    whole = dict(merged(policy).named_parameters())
    seed = load_model(str(adapters.parent / "policy"), dtype="float32", device="cpu")
    learned = kept = 0.0
    for name, start in seed.named_parameters():
        change = (whole[name] - start).double()
        learned += float((change * change).sum())
        kept += float(((model.get_parameter(name).double() - start) * change).sum())
    assert kept / learned == pytest.approx(1, abs=0.05)
    beside = export_policy(adapters, tmp_path / "beside", keep_adapter=True)
    assert (beside / "adapter" / "adapter_model.safetensors").is_file()
    assert "was left in the weights as the run sampled them" in (out / "README.md").read_text()


def test_an_adapter_is_served(adapters: Path):
    policy = str(adapters / "thought/iteration_1/selection/policy")
    backend = EmbeddedBackend(ModelConfig(path=policy, device="cpu"), slots=2, name="policy")
    try:
        assert backend.slow_reason is None
    finally:
        asyncio.run(backend.close())


def test_vllm_is_told_of_base_and_adapter(adapters: Path, tmp_path: Path):
    words = ["vllm-plugin", f"{adapters}/thought/2", str(tmp_path / "hide.py")]
    said = CliRunner().invoke(app, words).output.replace("\n", "")
    assert f"vllm serve {adapters.parent}/policy " in said
    folder = adapters / "thought/iteration_1/selection/policy/adapter"
    assert f"--enable-lora --max-lora-rank 8 --lora-modules policy={folder}" in said


def test_an_export_of_masters_is_an_ordinary_folder(tmp_path: Path):
    recipe = run(bfloat16_recipe(tmp_path), "model.dtype=bfloat16", *ONE_ARM)
    policy = recipe.run / "thought/iteration_0/selection/policy"
    assert (policy / "masters" / "rests.safetensors").is_file()
    out = export_policy(recipe.run, tmp_path / "out")
    assert not (out / "masters").exists()
    assert (out / "model.safetensors").read_bytes() == (policy / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        ["training.dtype=bfloat16"],
        pytest.param(["training.dtype=float32"], marks=pytest.mark.slow),
        pytest.param(["training.lora={rank: 4}"], marks=pytest.mark.slow),
    ],
)
def test_kept_engines_change_no_bit_of_masters(tmp_path: Path, words: list[str]):
    """Sampled and trained weights are rounded differently, in one module by turns."""
    path = bfloat16_recipe(tmp_path)
    more = ["iterations=2", "prompts_per_iteration=11", "model.dtype=bfloat16", *ONE_ARM, *words]
    alone = digests(run(path, *more))
    (tmp_path / "run").rename(tmp_path / "alone")
    assert digests(run(path, *more, "launch.keep_engines=true")) == alone


def test_a_resumed_run_has_the_same_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = bfloat16_recipe(tmp_path)
    more = ["model.dtype=bfloat16", "training.save_every=1", "training.epochs=3", *ONE_ARM]
    alone = digests(run(path, *more))
    (tmp_path / "run").rename(tmp_path / "alone")
    from forethought.training import checkpoint

    real = checkpoint.TrainingDirectory.save_state

    def stop_late(self: Any, state: Any) -> None:
        real(self, state)
        if state.step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.TrainingDirectory, "save_state", stop_late)
        with pytest.raises(KeyboardInterrupt):
            run(path, *more)
    recipe = load_recipe([str(path), *more])
    run_recipe(recipe, Reporter(Console(quiet=True)))
    assert digests(recipe) == alone


def test_adapters_have_a_rate_of_their_own():
    assert TrainingConfig().learning_rate == 5e-7
    assert TrainingConfig(lora=LoraSettings()).learning_rate == 5e-6
    assert TrainingConfig.model_validate({"lora": {}, "learning_rate": 1e-5}).learning_rate == 1e-5
    asked = {"lora": {"rank": 4}, "learning_rate": None}
    assert TrainingConfig.model_validate(asked).learning_rate == 5e-6


def test_a_server_of_whole_folders_is_not_given_adapters(tmp_path: Path):
    server = "{type: openai, base_url: 'http://localhost:{port}/v1', command: 'x {model} {port}'}"
    words = [str(write_recipe(tmp_path)), f"sampling={server}", "training.lora={rank: 4}"]
    with pytest.raises(ValueError, match="checkpoint_dtype: float32, which merges them"):
        load_recipe(words)
    load_recipe([*words, "training.checkpoint_dtype=float32"])
