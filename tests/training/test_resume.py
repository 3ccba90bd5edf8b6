"""A training killed at any moment ends with the weights and the log of an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import make_pairs, run, settings, tiny_model

from forethought.training import checkpoint, states

CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from tiny_training import make_pairs, run, settings
print("ready", flush=True)
run({model!r}, make_pairs(12), settings(**{options!r}), Path({directory!r}))
"""
OPTIONS: dict[str, Any] = {"epochs": 6, "save_every": 2, "batch_size": 4}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Results repeat bit for bit at equal threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("llama")
    # In bfloat16 a checkpoint has bits beside its weights.
    model: Any = tiny_model("llama")
    model.to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


def without_times(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")}
        for line in lines
    ]


def assert_same(one: Path, other: Path) -> None:
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in other.iterdir())
    assert without_times(one / "steps.jsonl") == without_times(other / "steps.jsonl")
    epochs = [path for path in one.iterdir() if path.name.startswith("epoch_")]
    assert epochs
    for epoch in epochs:
        for file in epoch.rglob("*"):
            if file.is_file():
                assert file.read_bytes() == (other / file.relative_to(one)).read_bytes(), file


def child(model: str, directory: Path, options: dict[str, Any]) -> subprocess.Popen[str]:
    code = CHILD.format(
        tests=str(Path(__file__).parent.parent),
        model=model,
        options=options,
        directory=str(directory),
    )
    started = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def wait_for(path: Path, process: subprocess.Popen[str], lines: int) -> None:
    while process.poll() is None:
        if path.exists() and len(path.read_text().splitlines()) >= lines:
            return
        time.sleep(0.001)


@pytest.mark.slow
def test_sigkill_at_several_moments(llama: str, tmp_path: Path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    run(llama, make_pairs(12), settings(**OPTIONS), undisturbed)
    for lines in (1, 6, 11):
        process = child(llama, killed, OPTIONS)
        wait_for(killed / "steps.jsonl", process, lines)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
        assert not (killed / "result.json").exists()
    run(llama, make_pairs(12), settings(**OPTIONS), killed)
    assert_same(undisturbed, killed)


class Killed(BaseException):
    """Stands for the process's end."""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, {"rank": 2, "dropout": 0.2}])
def test_a_stop_before_any_write(
    llama: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    lora: dict[str, Any] | None,
):
    """Stop before the first, second, … rename of a run; each attempt gets a little further."""
    options = {"dtype": dtype, "lora": lora, "epochs": 2, "save_every": 1}
    pairs = make_pairs(6)
    run(llama, pairs, settings(**options), tmp_path / "undisturbed")
    real = os.replace
    attempts = 0
    for allowed in range(1, 40):
        left = allowed

        def counting(source: Any, target: Any) -> None:
            nonlocal left
            if str(tmp_path / "stopped") in str(target):
                if left == 0:
                    raise Killed
                left -= 1
            real(source, target)

        monkeypatch.setattr(os, "replace", counting)
        attempts += 1
        try:
            run(llama, pairs, settings(**options), tmp_path / "stopped")
        except Killed:
            continue
        break
    monkeypatch.undo()
    assert attempts > 2
    assert_same(tmp_path / "undisturbed", tmp_path / "stopped")


def test_a_torn_last_line_of_the_log_is_cut(llama: str, tmp_path: Path):
    pairs, config = make_pairs(8), settings(epochs=2, save_every=1)
    run(llama, pairs, config, tmp_path / "whole")
    folder = checkpoint.TrainingDirectory(tmp_path / "torn", "x")
    folder.steps_path.parent.mkdir()
    folder.steps_path.write_text('{"step": 0}\n{"step": 1}\n{"st')
    folder.save_state(checkpoint.TrainingState(step=1, tokens=0, masters={}, optimizer={}))
    path = folder.newest_state(2)
    assert path is not None
    folder.cut_log(states.load_whole(path).step)
    assert folder.steps_path.read_text() == '{"step": 0}\n'
