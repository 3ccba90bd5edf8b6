"""However processes end, the run says why, none trains on, and any number of them goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sharded_cases import Case, prepare
from test_sharded import assert_alike, train_alone

from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import read_records
from forethought.training.distributed.job import Job
from forethought.training.distributed.processes import ProcessesError, run_processes
from forethought.training.results import ReferenceLogprobs

ROOT = Path(__file__).parent.parent.parent
LONG = Case(
    pairs=40,
    training={
        "epochs": 12,
        "batch_size": 8,
        "learning_rate": 1e-4,
        "tokens_per_microbatch": 64,
        "save_every": 4,
    },
)
ENDS_WITHIN = 60.0
"""Seconds; a hang would last hours."""
CHILD = """
import sys
from pathlib import Path
from forethought.training.distributed.job import Job
from forethought.training.distributed.processes import run_processes
job = Job.read(Path(sys.argv[1]))
run_processes(job, Path(sys.argv[1]).parent, lambda: None)
"""


def processes_of(path: Path) -> dict[int, str]:
    """Processes with this path among their words, and their rank (empty for torchrun itself)."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(path).encode() in (folder / "cmdline").read_bytes():
                environment = (folder / "environ").read_bytes().split(b"\0")
                ranks = [word[5:].decode() for word in environment if word.startswith(b"RANK=")]
                found[int(folder.name)] = ranks[0] if ranks else ""
        except OSError:
            continue
    return found


def wait_until_gone(path: Path) -> None:
    end = time.monotonic() + ENDS_WITHIN
    while found := processes_of(path):
        assert time.monotonic() < end, found
        time.sleep(0.05)


def done_steps(job: Job) -> int:
    path = job.directory / "steps.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.scale
def test_four_killed_then_two_killed_then_one(tmp_path: Path):
    """A rank is killed, then the process that runs the stage; what one alone ends is the same."""
    chance = random.Random(time.time_ns())
    alone = prepare(tmp_path, LONG)
    train_alone(alone, alone.directory)
    directory = tmp_path / "together"
    job = alone.model_copy(update={"directory": directory, "processes": 4})
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    after = chance.randint(5, 12)
    killed = [0.0]

    def kill_rank_2() -> None:
        if done_steps(job) >= after and not killed[0]:
            ranks = {rank: pid for pid, rank in processes_of(scratch / "job.json").items()}
            killed[0] = time.monotonic()
            os.kill(int(ranks["2"]), signal.SIGKILL)

    with pytest.raises(ProcessesError, match=r"^rank 2 was killed by SIGKILL: [^\n]*$"):
        run_processes(job, scratch, kill_rank_2)
    assert time.monotonic() - killed[0] < ENDS_WITHIN
    assert not processes_of(scratch / "job.json")
    assert not (directory / "result.json").exists()

    seen, after = done_steps(job), chance.randint(4, 12)
    job = job.model_copy(update={"processes": 2})
    job.write(scratch / "again.json")
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(scratch / "again.json")])
    while done_steps(job) < seen + after:
        assert child.poll() is None
        time.sleep(0.001)
    child.kill()
    child.wait()
    wait_until_gone(scratch / "job.json")
    assert not (directory / "result.json").exists()

    left = done_steps(job)
    assert len(train_alone(alone, directory)) >= 60 - left
    assert_alike(alone.directory, directory, 1e-5)


@pytest.mark.scale
def test_an_error_of_all_processes_is_one_line(tmp_path: Path):
    job = prepare(tmp_path, LONG)
    assert job.reference is not None
    records = read_records(job.reference, ReferenceLogprobs)
    stage = Stage(tmp_path / "wrong", name="reference", version=1, config={})
    moved = [replace(record, chosen=record.chosen - 9.0) for record in records]
    stage.write_records("reference_00000", moved, ReferenceLogprobs)
    stage.seal({})
    update = {"reference": stage.folder, "processes": 2, "directory": tmp_path / "together"}
    with pytest.raises(
        ProcessesError, match=r"^training: before the first .* training\.dtype$"
    ) as caught:
        run_processes(job.model_copy(update=update), tmp_path, lambda: None)
    assert "\n" not in str(caught.value)


@pytest.mark.scale
def test_an_interrupted_run_goes_on_with_another_number(tmp_path: Path):
    """The command itself: Ctrl-C while two train, the same recipe again with one process."""
    run = tmp_path / "run"
    words = [
        *(sys.executable, "-m", "forethought.cli", "run", str(ROOT / "recipes/quickstart.yaml")),
        *(f"run={run}", "arms=[thought]", "iterations=1", "prompts_per_iteration=48"),
        "prompts.train=[{type: microworld, split: train, count: 60}]",
        "prompts.validation={count: 8, sources: [{type: microworld, split: validation, count: 8}]}",
        *("prompts.test=null", "measures={win_rate: null, probe: null}"),
        *("sampling.samples=4", "sampling.max_new_tokens=48", "training.dtype=float32"),
        *("training.epochs=2", "training.batch_size=1", "training.save_every=3"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    launch = "launch={type: torchrun, processes: 2, threads: 1}"
    child = subprocess.Popen(
        [*words, launch], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    training = run / "thought/iteration_0/training"
    log = training / "steps.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") >= 8):
        assert child.poll() is None, child.communicate()
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=ENDS_WITHIN)
    assert child.returncode == 130
    assert errors.startswith("Interrupted. Nothing sealed is lost")
    wait_until_gone(training / "scratch" / "job.json")
    assert not (training / "manifest.json").exists()

    again = subprocess.run(
        [*words, "launch={threads: 1}"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert again.returncode == 0, again.stderr
    assert (training / "manifest.json").is_file()
    assert not (training / "scratch").exists()
    assert not (training / "state").exists()
    for epoch in ("epoch_1", "epoch_2"):
        weights = load_file(training / epoch / "model.safetensors")
        assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
        assert {tensor.dtype for tensor in weights.values()} <= {torch.float32, torch.bfloat16}
