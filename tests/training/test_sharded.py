"""FSDP2 over 1, 2 and 4 processes trains what one process alone trains.

All jobs of a number of processes are done by one group of them. Float32 runs of 20 steps differ by
rounding alone; in bfloat16 microbatches of other lengths round differently at every product.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sharded_cases import CASES, prepare
from tiny_training import make_pairs, plain_token_logps

from forethought.models.loading import load_model
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import read_records
from forethought.training.distributed import ranks
from forethought.training.distributed.job import Job, read_part
from forethought.training.fine_tune import chosen_outputs, fine_tune
from forethought.training.reference import reference_logprobs
from forethought.training.results import ReferenceLogprobs, StepLog
from forethought.training.train import train
from forethought.types import PreferencePair

pytestmark = pytest.mark.scale
TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}
"""Of losses and of weights; the trained weights move by 1e-2 and more."""


def train_alone(job: Job, directory: Path, stop_after: int | None = None) -> list[StepLog]:
    """The same in this process; `stop_after` some steps it ends as if it were killed."""
    logs: list[StepLog] = []

    def on_step(log: StepLog) -> None:
        logs.append(log)
        if len(logs) == stop_after:
            raise KeyboardInterrupt

    assert job.reference is not None
    pairs = read_records(job.records, PreferencePair)
    train(
        model=job.model,
        pairs=pairs,
        reference=read_records(job.reference, ReferenceLogprobs),
        config=job.config,
        seed=job.seed,
        directory=directory,
        device="cpu",
        on_step=on_step,
    )
    return logs


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """Every case, done by this process alone."""
    found = {}
    for name, case in CASES.items():
        job = prepare(tmp_path_factory.mktemp(name), case)
        train_alone(job, job.directory)
        found[name] = job
    return found


@pytest.fixture(scope="module", params=[2, 4])
def processes(request: pytest.FixtureRequest, jobs: dict[str, Job]) -> int:
    """All cases done by so many processes, in `together_N` beside `alone`."""
    count: int = request.param
    paths = []
    for name, job in jobs.items():
        directory = job.directory.with_name(f"together_{count}")
        directory.mkdir()
        if name == "full" and count == 4:
            with pytest.raises(KeyboardInterrupt):
                train_alone(job, directory, stop_after=8)
        paths.append(directory.with_name(f"job_{count}.json"))
        here = {"directory": directory, "processes": count}
        job.model_copy(update=here).write(paths[-1])
    job = jobs["few_pairs"]
    directory = job.directory.with_name(f"reference_{count}")
    owed = ((0, 0, 2), (1, 2, 5))
    here = {"kind": "reference", "directory": directory, "processes": count, "owed": owed}
    paths.append(directory.with_name(f"reference_job_{count}.json"))
    job.model_copy(update=here).write(paths[-1])

    directory = job.directory.with_name(f"chosen_{count}")
    directory.mkdir()
    here = {"kind": "chosen", "reference": None, "directory": directory, "processes": count}
    paths.append(directory.with_name(f"chosen_job_{count}.json"))
    job.model_copy(update=here).write(paths[-1])

    script = str(Path(__file__).with_name("sharded_cases.py"))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    done = subprocess.run(
        [sys.executable, *launcher, script, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=170,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return count


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """As they are stored, or as they are read where they are exact or apart from their base."""
    whole = folder / "model.safetensors"
    if whole.exists() and not (folder / "masters").exists():
        return load_file(whole)
    model = load_model(str(folder), dtype="float32", device="cpu")
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def steps(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "steps.jsonl").read_text().splitlines()]


def assert_alike(alone: Path, together: Path, tolerance: float) -> None:
    one, other = steps(alone), steps(together)
    assert [log["step"] for log in other] == [log["step"] for log in one]
    for left, right in zip(one, other, strict=True):
        assert right["loss"] == pytest.approx(left["loss"], abs=tolerance)
        assert right["margin"] == pytest.approx(left["margin"], abs=10 * tolerance)
        assert right["grad_norm"] == pytest.approx(left["grad_norm"], rel=10 * tolerance)
        if right["step"] == len(one) - 1:
            assert right["margin_kept"] == pytest.approx(left["margin_kept"], abs=0.03)
        assert [right[key] for key in ("pairs", "tokens", "learning_rate")] == [
            left[key] for key in ("pairs", "tokens", "learning_rate")
        ]
    files = {path.relative_to(alone) for path in alone.rglob("*")}
    assert {path.relative_to(together) for path in together.rglob("*")} == files
    for folder in alone.glob("epoch_*"):
        expected, found = weights(folder), weights(together / folder.name)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype
            assert (found[name].float() - tensor.float()).abs().max() <= tolerance, name


def test_chosen_outputs_alone_are_learned_together(jobs: dict[str, Job], processes: int):
    job = jobs["few_pairs"]
    alone = job.directory.with_name(f"chosen_alone_{processes}")
    alone.mkdir()
    fine_tune(
        model=job.model,
        examples=chosen_outputs(read_records(job.records, PreferencePair, "pairs")),
        config=job.config,
        seed=job.seed,
        directory=alone,
        device="cpu",
    )
    together = job.directory.with_name(f"chosen_{processes}")
    for one, other in zip(steps(alone), steps(together), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)
    last = f"epoch_{job.config.epochs}"
    expected, found = weights(alone / last), weights(together / last)
    for name, tensor in expected.items():
        assert (found[name] - tensor).abs().max() <= 1e-5, name


@pytest.mark.parametrize("name", CASES)
def test_several_processes_train_the_same(processes: int, jobs: dict[str, Job], name: str):
    """The `full` case of four processes was begun by one, and killed after eight steps."""
    job = jobs[name]
    together = job.directory.with_name(f"together_{processes}")
    assert_alike(job.directory, together, TOLERANCES[job.config.dtype])
    start, end = weights(Path(job.model.path)), weights(together / f"epoch_{job.config.epochs}")
    # An adapter's second matrices start at 0.
    moved = [end[key] - start[key] for key in start if key in end]
    moved += [tensor for key, tensor in end.items() if "lora_B" in key]
    assert max(float(change.abs().max()) for change in moved) > 1e-3


def test_the_gathered_folder_is_an_ordinary_model(processes: int, jobs: dict[str, Job]):
    job = jobs["lora"]
    folder = job.directory.with_name(f"together_{processes}") / "epoch_2"
    model = load_model(str(folder), dtype="float32", device="cpu")
    pairs = make_pairs(6)
    with torch.no_grad():
        plain = [
            float(plain_token_logps(model, p.prompt_token_ids, p.chosen.token_ids).sum())
            for p in pairs
        ]
    trained = str(job.directory / "epoch_2")
    alone = reference_logprobs(trained, pairs, job.config, device="cpu")
    assert plain == pytest.approx([record.chosen for record in alone], abs=1e-3)


def test_the_reference_by_several_processes(processes: int, jobs: dict[str, Job]):
    job = jobs["few_pairs"]
    assert job.reference is not None
    folder = job.directory.with_name(f"reference_{processes}")
    found = [record for path in sorted(folder.iterdir()) for record in read_part(path)]
    alone = read_records(job.reference, ReferenceLogprobs)
    assert [one.prompt_id for one in found] == [one.prompt_id for one in alone]
    for one, other in zip(found, alone, strict=True):
        assert one.chosen == pytest.approx(other.chosen, abs=1e-4)
        assert one.rejected_response == pytest.approx(other.rejected_response, abs=1e-4)


def adapter_again(job: Job, folder: Path) -> Job:
    """The training of a job's adapter gone on with, done by this process alone."""
    start = str(job.directory / "epoch_2")
    pairs = read_records(job.records, PreferencePair)
    stage = Stage(folder / "reference_again", name="reference", version=1, config={})
    records = reference_logprobs(start, pairs, job.config, device="cpu")
    stage.write_records("reference_00000", records, ReferenceLogprobs)
    stage.seal({})
    here = {"reference": stage.folder, "directory": folder / "alone_again"}
    again = job.model_copy(update={"model": job.model.at(start), **here})
    train_alone(again, again.directory)
    return again


def test_one_process_under_fsdp_is_the_process_alone(
    jobs: dict[str, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also in bfloat16: the float32 shards are the master weights, rounded in the same place."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    try:
        with pytest.raises(AssertionError, match="2 processes were asked for, the group has 1"):
            ranks.join(2, "cpu")
        group = ranks.join(1, "cpu")
        again = adapter_again(jobs["lora"], tmp_path)
        for name, job in {**jobs, "again": again}.items():
            if name not in ("full", "masters", "lora", "lora_bfloat16", "bfloat16", "again"):
                continue
            assert job.reference is not None
            train(
                model=job.model,
                pairs=read_records(job.records, PreferencePair),
                reference=read_records(job.reference, ReferenceLogprobs),
                config=job.config,
                seed=job.seed,
                directory=tmp_path / name,
                device="cpu",
                ranks=group,
            )
            assert_alike(job.directory, tmp_path / name, 1e-6)
    finally:
        torch.distributed.destroy_process_group()
