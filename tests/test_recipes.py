"""Every recipe is loaded, resolved and planned as it is, and run whole with tiny models.

The models have the recipe's architecture and file formats, and so have the data sets; overrides on
the command line swap paths and sizes, and vLLM for the embedded engine. Launchers, processes and
workers are the recipe's. Policies that must write a
generic thought are the microworld's seed model, a Llama; those that must write tags are random
Qwen3 models in which the closing tag is likely.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_run
import torch
import yaml
from datasets import Dataset, DatasetDict
from tiny import save_armorm, save_policy, save_reward_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner
from warm_recipe import demonstrations

from forethought.cli.main import app
from forethought.config.recipe_files import load_recipe
from forethought.microworld.tasks import generate
from forethought.models.loading import load_tokenizer
from forethought.planning.costs import Costs, recipe_costs, stage_costs
from forethought.planning.devices import find_device
from forethought.planning.fitting import refuse_what_cannot_fit
from forethought.planning.hardware import Cluster, Setting
from forethought.planning.lengths import expected_lengths
from forethought.planning.model_shape import model_shape
from forethought.planning.plan_table import duration
from forethought.planning.rates import CpuSpeed, cpu_rates, measured_device

RECIPES = Path(__file__).parent.parent / "recipes"
NAMES = sorted(path.name for path in RECIPES.glob("*.yaml"))
WORDS = {"one": 1, "two": 2}
GIGABYTES = {"80": "h100", "48": "l40s"}
"""The device of the table for the size that a header names."""
SMALL = [
    "iterations=1",
    "prompts_per_iteration=8",
    "prompts.validation.count=2",
    "training.epochs=1",
    "training.batch_size=4",
    "launch.threads=1",
]
CPU = CpuSpeed(flops=200e9, dispatch=3e-6, threads=2)
"""In place of a measurement, which says nothing of memory and disk."""


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


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_resolves(name, tmp_path):
    path = RECIPES / name
    words = [str(path), f"run={tmp_path}/run"]
    resolved = CliRunner().invoke(app, ["config", *words])
    assert resolved.exit_code == 0, resolved.output
    assert load_recipe(words).model_dump(mode="json") == yaml.safe_load(resolved.stdout)
    assert all(line.startswith("#") for line in header(name).splitlines())
    assert "Needs: " in header(name)
    assert "For: " in header(name)


def header(name: str) -> str:
    return (RECIPES / name).read_text().split("\nrun:")[0]


def stated(name: str) -> tuple[int, str, float]:
    """GPUs, the device of their size, and bytes of disk that a header asks for; 0 GPUs of none."""
    needs = " ".join(header(name).split("Needs: ")[1].replace("#", " ").split())
    found = re.search(r"(\w+) GPUs? of (\d+) GB or more", needs)
    if found is None:
        assert "two CPU cores, 3 GiB" in needs
        return 0, "cpu", 1e9
    disk = re.search(r"([\d.]+) (GB|TB) of (?:disk|it)", needs)
    assert disk is not None, name
    size = float(disk[1]) * {"GB": 1e9, "TB": 1e12}[disk[2]]
    return WORDS.get(found[1]) or int(found[1]), GIGABYTES[found[2]], size


@pytest.mark.parametrize("name", [name for name in NAMES if stated(name)[0]])
def test_header_recipe_and_plan_say_the_same(name):
    """As it is shipped: what it launches is what its header asks for, all of it works, and fits."""
    gpus, device, disk = stated(name)
    result = CliRunner().invoke(app, ["plan", str(RECIPES / name), "--gpu", device, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found["used"].values()) == {gpus}
    assert found["gpus"] == gpus
    assert found["idle"] == []
    assert found["disk"] <= disk <= 1.25 * found["disk"], found["disk"]
    shown = re.findall(r"forethought plan (.*)", header(name))
    assert shown == [f"recipes/{name} --gpu {device}"]
    # One device less is refused by the name of a setting.
    if gpus > 1:
        words = [str(RECIPES / name), "--gpu", device, "--gpus", str(gpus - 1)]
        less = CliRunner().invoke(app, ["plan", *words])
        assert less.exit_code == 1
        assert "workers" in less.output


@pytest.mark.parametrize("name", [name for name in NAMES if not stated(name)[0]])
def test_recipes_for_a_laptop_fit_one(name):
    setting = on_cpu(name, memory=3 * 2**30)
    costs = Costs(setting=setting, stages=stage_costs(setting))
    refuse_what_cannot_fit(costs)
    assert costs.disk < stated(name)[2]


def on_cpu(name: str, memory: float) -> Setting:
    recipe = load_recipe([str(RECIPES / name)])
    shape = model_shape(recipe.model.path)
    device = replace(measured_device(find_device("cpu"), CPU), memory=memory)
    return Setting(
        recipe=recipe,
        shape=shape,
        lengths=expected_lengths(recipe),
        cluster=Cluster(device=device, gpus=1, rates=cpu_rates(shape, CPU)),
    )


def test_the_table_of_recipes_is_what_plans_say():
    text = (RECIPES / "README.md").read_text()
    rows = {
        cells[0].strip("` "): [cell.strip() for cell in cells[1:]]
        for line in text.splitlines()
        if line.startswith("| `") and (cells := line.strip("|").split("|"))
    }
    assert sorted(rows) == NAMES
    for name in NAMES:
        gpus, device, _ = stated(name)
        if not gpus:
            continue
        costs = recipe_costs(load_recipe([str(RECIPES / name)]), find_device(device))
        size = find_device(device).memory / 1e9
        hardware = f"{gpus} GPU{'s' * (gpus > 1)} of {size:.0f} GB"
        disk = f"{costs.disk / 1e9:.0f} GB" if costs.disk < 1e12 else f"{costs.disk / 1e12:.1f} TB"
        expected = [hardware, disk, f"{duration(costs.seconds)} ({device})"]
        assert rows[name][1:4] == expected, f"{name}: the plan says {expected}"


def test_the_readmes_own_model_fits_a_card_of_24_gb(tmp_path, monkeypatch):
    text = (RECIPES.parent / "README.md").read_text().split("## Your own model")[1]
    example = text.split("```yaml\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(example)
    Path("prompts.jsonl").write_text('{"instruction": "Name a river.", "topic": "world"}\n')
    result = CliRunner().invoke(app, ["plan", "mine.yaml", "--gpu", "rtx4090", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["model"]["name"] == "Qwen/Qwen3-0.6B"


def miniature(name: str, *words: str) -> list[str]:
    """A recipe with small sizes. What a machine without GPUs cannot have is replaced, vLLM and the
    workers' GPUs; its launcher, processes and workers stay, two in place of more."""
    recipe = load_recipe([str(RECIPES / name)])
    sampling: dict[str, Any] = {"type": "transformers", "samples": 4, "max_new_tokens": 48}
    sampling |= {"rows": 64, "part_size": 4}
    small = [str(RECIPES / name), *SMALL]
    if recipe.sampling.type == "vllm" and recipe.sampling.workers is not None:
        sampling["workers"] = {"count": 2, "gpus": 0}
    if recipe.judge.pool is not None:
        small.append("judge.workers={count: 2, gpus: 0}")
    if recipe.launch.processes is not None:
        small.append("launch.processes=2")
    if recipe.prompts.test is not None:
        small.append("prompts.test.count=2")
    return [*small, f"sampling={json.dumps(sampling)}", *words]


def run(name: str, tmp_path: Path, *words: str) -> Path:
    """The miniature's run directory."""
    small = miniature(name, f"run={tmp_path}/run", *words)
    result = CliRunner().invoke(app, ["run", *small])
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


IN_ONE_PROCESS = "launch.process_per_stage=false"
"""Saves the imports of each stage; the recipes for several GPUs, and
`test_a_process_per_stage_gives_the_same_run`, have them."""


def test_llama_with_armorm_and_adapters(folder, tmp_path):
    words = [
        "model.path=microworld",
        f"prompts.train=[{chat(folder)}]",
        "arms=[thought]",
        f"judge.path={folder}/armorm",
    ]
    done = run("single-gpu-8b-lora.yaml", tmp_path, *words, IN_ONE_PROCESS)
    policy_of(done)
    assert (done / "thought/iteration_0/training/epoch_1/adapter").is_dir()


def test_a_small_model_with_a_warm_start(folder, tmp_path):
    """Its demonstrations are in the microworld's words, which are all that its seed model knows."""
    shown = demonstrations(tmp_path / "shown.jsonl")
    words = [
        "model.path=microworld",
        f"prompts.train=[{chat(folder)}]",
        f"judge.path={folder}/reward_model",
        f"warm_start.demonstrations={shown}",
        "warm_start.prompts=4",
        "warm_start.samples=4",
        IN_ONE_PROCESS,
    ]
    done = run("smollm2-warm-start.yaml", tmp_path, *words)
    policy_of(done, "direct")
    assert (done / "thought/warm_start/selection/policy/thought_format.json").is_file()


def test_qwen3_with_tags(folder, tmp_path):
    words = [f"model.path={folder}/qwen3", f"prompts.train=[{chat(folder)}]", IN_ONE_PROCESS]
    done = run("qwen3-tags.yaml", tmp_path, *words, f"judge.path={folder}/reward_model")
    assert "<think>" in (policy_of(done) / "thought_format.json").read_text()


@pytest.mark.scale
def test_the_paper_on_several_devices_of_one_machine(folder, tmp_path):
    """Two workers sample, two judge, two processes train, each stage in a process of its own."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    words = ["model.path=microworld", f"prompts.train=[{chat(folder)}]", "arms=[thought]"]
    done = run("paper-llama3-8b.yaml", tmp_path, *words, f"judge.path={folder}/armorm")
    config = json.loads((policy_of(done) / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    ran = json.loads((done / "config.json").read_text())
    assert ran["launch"]["type"] == "torchrun"
    assert ran["launch"]["processes"] == 2
    assert ran["launch"]["process_per_stage"]
    assert ran["sampling"]["workers"]["count"] == ran["judge"]["workers"]["count"] == 2
    assert len(list((done / "thought/iteration_0/rollouts").glob("part_*.parquet"))) == 2


@pytest.mark.scale
def test_maths_and_chat(folder, tmp_path):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
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
            *miniature("ray-cluster.yaml", f"run={tmp_path}/run"),
            f"cache={tmp_path}/cache.sqlite",
            "model.path=microworld",
            f"prompts.train=[{chat(folder)}]",
            "arms=[thought]",
            f"judge.path={folder}/armorm",
            "judge.workers=1",
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
