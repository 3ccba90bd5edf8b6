"""What a recipe may say of workers, before any of them runs; without a cluster."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from small_run import small_recipe

from forethought.config import (
    JudgeConfig,
    LaunchConfig,
    MixtureJudge,
    RayConfig,
    RewardModelJudge,
    SamplingConfig,
    Workers,
    explain,
)
from forethought.judging.describe import identity
from forethought.pipeline.loop import run_recipe
from forethought.progress.reporter import Reporter
from forethought.workers.cluster import connect

SAMPLING = TypeAdapter[Any](SamplingConfig)
JUDGE = TypeAdapter[Any](JudgeConfig)
VERIFIER = {"type": "verifier", "function": "gsm8k"}
RATING = {"type": "rating", "engine": {"type": "scripted", "path": "x.jsonl"}}


def test_a_number_is_a_count():
    config = SAMPLING.validate_python({"type": "transformers", "workers": 4})
    assert config.workers == Workers(count=4, cpus=1, gpus=None, attempts=3)
    assert SAMPLING.validate_python(config.model_dump(mode="json")) == config
    assert LaunchConfig().ray.address is None


@pytest.mark.parametrize("kind", ["transformers", "vllm"])
def test_workers_are_no_part_of_what_names_the_samples(kind):
    plain, many = (
        SAMPLING.validate_python({"type": kind} | more) for more in ({}, {"workers": {"count": 3}})
    )
    assert plain.identity() == many.identity()
    assert "workers" not in many.identity()


def test_workers_are_no_part_of_what_names_a_judge():
    for judge in (
        VERIFIER,
        {"type": "reward_model", "path": "a/b"},
        {"type": "armorm"},
        {"type": "mixture", "routes": [{"members": [{"judge": VERIFIER}]}]},
    ):
        plain, many = (JUDGE.validate_python(judge | more) for more in ({}, {"workers": 2}))
        assert identity(plain) == identity(many)
        assert (plain.pool, many.pool) == (None, Workers(count=2))
    assert JUDGE.validate_python(RATING).pool is None


@pytest.mark.parametrize(
    ("adapter", "config", "problem"),
    [
        (SAMPLING, {"type": "openai", "base_url": "http://x/v1", "workers": 2}, "`concurrency`"),
        (SAMPLING, {"type": "scripted", "path": "x", "workers": 2}, "for transformers and vllm"),
        (
            SAMPLING,
            {"type": "transformers", "workers": 0},
            "workers.count: give a whole number of at least 1",
        ),
        (
            SAMPLING,
            {"type": "vllm", "tensor_parallel": 4, "workers": {"count": 2, "gpus": 1}},
            "workers.gpus: 1 is not tensor_parallel, 4",
        ),
        (JUDGE, RATING | {"workers": 2}, "engine.concurrency"),
        (
            JUDGE,
            {
                "type": "mixture",
                "workers": 2,
                "routes": [{"members": [{"judge": VERIFIER}, {"judge": RATING}]}],
            },
            "a member of type rating",
        ),
        (
            JUDGE,
            {"type": "mixture", "routes": [{"members": [{"judge": VERIFIER | {"workers": 2}}]}]},
            "belong to the mixture",
        ),
    ],
)
def test_what_has_no_workers_says_so(adapter, config, problem):
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(config)
    assert problem in explain(caught.value, SamplingConfig if adapter is SAMPLING else JudgeConfig)


def test_gpus_may_be_shared_or_hidden():
    half = {"type": "vllm", "workers": {"count": 2, "gpus": 0.5}}
    assert SAMPLING.validate_python(half).workers.gpus == 0.5
    judge = RewardModelJudge(path="a/b", workers=Workers(count=1, gpus=0))
    assert MixtureJudge.model_validate({"routes": [{"members": [{"judge": VERIFIER}]}]})
    assert judge.workers is not None


def test_without_ray_the_extra_is_named():
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from forethought.config import LaunchConfig, Workers\n"
        "from forethought.workers.ray_executor import RayExecutor\n"
        "try: RayExecutor(print, Workers(count=1), LaunchConfig(), name='x')\n"
        "except ValueError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'forethought[ray]'" in found.stdout


def test_which_cluster_is_meant_is_not_guessed(monkeypatch):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ValueError, match=r"RAY_ADDRESS is 10.0.0.1:6379.*launch.ray.address=auto"):
        connect(RayConfig())


def test_a_closed_port_is_named_at_once_and_before_any_work(tmp_path: Path):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    launch = "launch={type: ray, processes: 2, ray: {address: '127.0.0.1:9'}}"
    recipe = small_recipe(tmp_path / "run", launch)
    with pytest.raises(
        ValueError, match=r"no Ray cluster could be reached at 127.0.0.1:9.*ray start"
    ):
        run_recipe(recipe, Reporter(Console(quiet=True)))
    assert not (tmp_path / "run" / "prompts").exists()
