"""Every recipe is loaded, resolved and planned, and run whole with tiny models in place of its own.

The models have the recipe's architecture and file formats, and so have the data sets; overrides on
the command line swap paths and sizes, and vLLM for the embedded engine. Policies that must write a
generic thought are the microworld's seed model, a Llama; those that must write tags are random
Qwen3 models in which the closing tag is likely.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_run
import torch
import yaml
from datasets import Dataset, DatasetDict
from tiny import save_armorm, save_policy, save_reward_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.microworld.tasks import generate
from forethought.models import load_tokenizer
from forethought.recipe import load_recipe

RECIPES = Path(__file__).parent.parent / "recipes"
DEVICES = {
    "paper-llama3-8b.yaml": ["--gpu", "h100", "--gpus", "8"],
    "single-gpu-8b-lora.yaml": ["--gpu", "h100"],
    "qwen3-tags.yaml": ["--gpu", "l40s"],
    "maths-and-chat.yaml": ["--gpu", "h100", "--gpus", "2"],
    "near-online.yaml": ["--gpu", "cpu"],
    "ray-cluster.yaml": ["--gpu", "h100", "--gpus", "8"],
}
"""The least that a recipe's header says it needs."""
SMALL = [
    "iterations=1",
    "prompts_per_iteration=8",
    "prompts.validation.count=2",
    "sampling={type: transformers, samples: 4, max_new_tokens: 48, rows: 64}",
    "training.epochs=1",
    "training.batch_size=4",
    "launch={process_per_stage: false, threads: 1}",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Models and data sets in the formats of the originals."""
    folder = tmp_path_factory.mktemp("recipes")
    save_armorm(folder / "armorm")
    save_reward_model(folder / "reward_model", "qwen3")
    save_thinker(folder / "qwen3")
    tasks = list(generate("train", 16, 0))
    chat = Dataset.from_dict({"prompt": [task.query for task in tasks]})
    DatasetDict({"train_prefs": chat}).save_to_disk(str(folder / "chat"))
    sums = {"question": [f"What is {i} + {i}?" for i in range(8)]}
    sums["answer"] = [f"{i} + {i} = {2 * i}\n#### {2 * i}" for i in range(8)]
    maths = Dataset.from_dict(sums)
    DatasetDict({"train": maths, "test": maths}).save_to_disk(str(folder / "maths"))
    return folder


def save_thinker(folder: Path) -> None:
    """A random Qwen3 that often closes its thought."""
    save_policy(folder, "qwen3")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<think>", "</think>"])
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        model.lm_head.weight[-1] *= 3
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_every_recipe_is_tried():
    shipped = {path.name for path in RECIPES.glob("*.yaml")} - {"quickstart.yaml"}
    assert shipped >= set(DEVICES)


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_a_recipe_resolves_and_fits_what_its_header_asks_for(name, tmp_path):
    path = RECIPES / name
    words = [str(path), f"run={tmp_path}/run"]
    resolved = CliRunner().invoke(app, ["config", *words])
    assert resolved.exit_code == 0, resolved.output
    assert load_recipe(words).model_dump(mode="json") == yaml.safe_load(resolved.stdout)
    result = CliRunner().invoke(app, ["plan", *words, *DEVICES[name], "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["seconds"] > 60
    header = path.read_text().split("\nrun:")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert "Needs: " in header
    assert "For: " in header


def run(name: str, tmp_path: Path, *words: str) -> Path:
    """The recipe with small sizes; gives its run directory."""
    small = [*SMALL, f"run={tmp_path}/run", *words]
    if load_recipe([str(RECIPES / name)]).prompts.test is not None:
        small.append("prompts.test.count=2")
    result = CliRunner().invoke(app, ["run", str(RECIPES / name), *small])
    assert result.exit_code == 0, result.output
    return tmp_path / "run"


def chat(folder: Path) -> str:
    columns = "columns: {prompt: prompt}, source: chat"
    return f"{{type: datasets, name: {folder}/chat, split: train_prefs, {columns}}}"


def maths(folder: Path, split: str) -> str:
    columns = "columns: {prompt: question, reference: answer}, source: maths"
    return f"{{type: datasets, name: {folder}/maths, split: {split}, {columns}}}"


def policy_of(run: Path, arm: str = "thought") -> Path:
    folder = run / arm / "iteration_0" / "selection" / "policy"
    load_tokenizer(str(folder))
    assert json.loads((folder / "thought_format.json").read_text())
    return folder


@pytest.mark.parametrize("name", ["paper-llama3-8b.yaml", "single-gpu-8b-lora.yaml"])
def test_llama_with_armorm(name, folder, tmp_path):
    arms = ("thought", "direct") if "paper" in name else ("thought",)
    words = [
        "model.path=microworld",
        f"prompts.train=[{chat(folder)}]",
        f"arms=[{', '.join(arms)}]",
    ]
    done = run(name, tmp_path, *words, f"judge.path={folder}/armorm")
    for arm in arms:
        config = json.loads((policy_of(done, arm) / "config.json").read_text())
        assert config["architectures"] == ["LlamaForCausalLM"]
    adapter = done / "thought/iteration_0/training/epoch_1/adapter"
    assert adapter.is_dir() == ("lora" in name)


def test_qwen3_with_tags(folder, tmp_path):
    words = [f"model.path={folder}/qwen3", f"prompts.train=[{chat(folder)}]"]
    done = run("qwen3-tags.yaml", tmp_path, *words, f"judge.path={folder}/reward_model")
    assert "<think>" in (policy_of(done) / "thought_format.json").read_text()


def test_maths_and_chat(folder, tmp_path):
    routes = (
        "[{source: [maths], members: [{judge: {type: verifier, function: gsm8k}}]}, "
        f"{{source: [chat], members: [{{judge: {{type: reward_model, path: {folder}/reward_model"
        "}}]}]"
    )
    done = run(
        "maths-and-chat.yaml",
        tmp_path,
        f"model.path={folder}/qwen3",
        f"prompts.train=[{chat(folder)}, {maths(folder, 'train')}]",
        f"judge.routes={routes}",
        f"measures.gsm8k.sources=[{maths(folder, 'test')}]",
    )
    policy_of(done)
    assert (done / "measures/gsm8k/thought/policy_1/manifest.json").is_file()
    assert not (done / "measures/gsm8k/thought/policy_0").exists()


def test_near_online(tmp_path):
    words = [
        *small_run.SMALL[1:],
        "iterations=3",
        "prompts_per_iteration=16",
        "evaluation.every=2",
        "keep={every: 2}",
        "launch={keep_engines: true, threads: 1}",
    ]
    recipe = str(RECIPES / "near-online.yaml")
    result = CliRunner().invoke(app, ["run", recipe, f"run={tmp_path}/run", *words])
    assert result.exit_code == 0, result.output
    there = sorted((tmp_path / "run").glob("*/iteration_*/selection/policy/model.safetensors"))
    assert [one.relative_to(tmp_path / "run").parts[:2] for one in there] == [
        (arm, f"iteration_{number}") for arm in ("direct", "thought") for number in (1, 2)
    ]


@pytest.mark.scale
def test_a_ray_cluster(folder, tmp_path):
    """A process of its own belongs to the cluster, as one that was submitted to it does.

    Its two nodes have three CPUs: workers that sample and judge leave none to the training.
    """
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    pytest.importorskip("ray.train", reason="the extra `ray` is not installed")
    from ray.cluster_utils import Cluster

    memory = 80 * 2**20
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": memory}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=2, object_store_memory=memory)
        words = [
            *(str(RECIPES / "ray-cluster.yaml"), f"run={tmp_path}/run", *SMALL[:-1]),
            f"cache={tmp_path}/cache.sqlite",
            "model.path=microworld",
            f"prompts.train=[{chat(folder)}]",
            "arms=[thought]",
            "sampling.part_size=2",
            "sampling.workers=2",
            f"judge.path={folder}/armorm",
            "judge.workers=1",
            "launch.processes=2",
            "launch.threads=1",
            "selection.by=last",
        ]
        command = [sys.executable, "-m", "forethought.cli", "run", *words]
        environment = os.environ | {"RAY_ADDRESS": str(cluster.address)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        cluster.shutdown()
    assert not ray.is_initialized()
    policy_of(tmp_path / "run")
