"""What needs no second process: settings refused, pairs dealt out, causes found, logs followed."""

from __future__ import annotations

import io
import json
import signal
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny_training import make_pairs, run, settings, tiny_model

from forethought.config.recipe_files import load_recipe
from forethought.pipeline.launch import launch
from forethought.progress.reporter import Reporter
from forethought.runs.layout import StageRef
from forethought.stages.training import configure_reference, configure_training
from forethought.training.batches import packed_tokens, rounds, shortest
from forethought.training.checkpoint import LogReader
from forethought.training.distributed.torchrun import failure_file, first_cause
from forethought.training.optimizer import adamw_8bit
from forethought.training.results import StepLog
from forethought.training.states import TrainingState, newest, save_whole

QUICKSTART = str(Path(__file__).parent.parent.parent / "recipes" / "quickstart.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launch.processes=2"], "launch: processes 2 needs a launcher: give launch.type torchrun"),
        (["launch={type: torchrun}"], "launch: type torchrun needs launch.processes"),
        (["launch={type: ray}"], "launch: type ray needs launch.processes"),
        (
            ["launch={type: torchrun, processes: 0}"],
            "launch.processes: give a whole number of at least 1",
        ),
        (["launch={type: slurm}"], "launch.type: give one of local, torchrun, ray"),
        (
            ["launch={type: torchrun, processes: 2}", "training.optimizer=adamw_8bit"],
            "training.optimizer: adamw_8bit works in one process; use adamw",
        ),
    ],
)
def test_settings_that_cannot_be(words: list[str], message: str):
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe([QUICKSTART, *words])
    assert str(caught.value).count("\n") == 1


def test_the_launch_is_no_part_of_what_a_stage_is_known_by():
    def known_by(*words: str) -> list[Any]:
        recipe = load_recipe([QUICKSTART, *words])
        ref = StageRef(recipe=recipe, stage="training", arm="thought", index=0)
        return [configure_training(ref), configure_reference(ref)]

    assert known_by() == known_by("launch={type: torchrun, processes: 4}")
    assert known_by() == known_by("launch={type: ray, processes: 64, threads: 2}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw_8bit"])
def test_8_bit_states_without_a_gpu_are_refused_at_the_first_stage(tmp_path: Path, optimizer: str):
    recipe = load_recipe([QUICKSTART, f"run={tmp_path}", f"training.optimizer={optimizer}"])
    ref = StageRef(recipe=recipe, stage="prompts", arm="thought", index=0)
    with pytest.raises(ValueError, match=f"training.optimizer: {optimizer} .* runs on cpu; use"):
        launch(ref, Reporter(Console(quiet=True)))
    assert not ref.folder.exists()


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw_8bit"])
def test_8_bit_states_follow_adamw_and_resume(optimizer: str):
    """The library's own code for CPUs, which says the same as its code for GPUs, but slower."""
    pytest.importorskip("bitsandbytes")
    config = settings(optimizer=optimizer, learning_rate=1e-3)

    def opened(kind: Any) -> tuple[Any, list[torch.nn.Parameter]]:
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(128, 64)), torch.nn.Parameter(torch.randn(16))]
        groups = [
            {"params": weights[:1], "weight_decay": 0.1},
            {"params": weights[1:], "weight_decay": 0.0},
        ]
        return kind(groups), weights

    def train(optimizer: Any, weights: list[torch.nn.Parameter], steps: range) -> None:
        for step in steps:
            random = torch.Generator().manual_seed(step)
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=random)
            optimizer.step()

    plain, expected = opened(lambda groups: torch.optim.AdamW(groups, lr=1e-3))
    train(plain, expected, range(10))
    ours, weights = opened(lambda groups: adamw_8bit(groups, config))
    train(ours, weights, range(5))
    held = io.BytesIO()
    torch.save([ours.state_dict(), [weight.detach() for weight in weights]], held)
    train(ours, weights, range(5, 10))
    for weight, other in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight, other, atol=1e-3, rtol=0)

    resumed, again = opened(lambda groups: adamw_8bit(groups, config))
    held.seek(0)
    state, kept = torch.load(held)
    with torch.no_grad():
        for weight, value in zip(again, kept, strict=True):
            weight.copy_(value)
    resumed.load_state_dict(state)
    train(resumed, again, range(5, 10))
    for weight, other in zip(again, weights, strict=True):
        assert torch.equal(weight, other)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("budget", [1, 64, 256])
def test_every_pair_is_dealt_once_and_evenly(ranks: int, budget: int):
    pairs = make_pairs(41)
    dealt = rounds(pairs, budget, ranks)
    groups = [group for one in dealt for group in one]
    assert sorted(p.prompt_id for group in groups for p in group) == sorted(
        p.prompt_id for p in pairs
    )
    assert all(len(one) == ranks for one in dealt)
    for group in groups:
        assert len(group) <= 1 or sum(map(packed_tokens, group)) <= budget
    longest = max(map(packed_tokens, pairs))
    for one in dealt:
        loads = [sum(map(packed_tokens, group)) for group in one]
        assert max(loads) - min(loads) <= longest
    assert all(all(one) for one in dealt[:-1])
    assert rounds(list(reversed(pairs)), budget, ranks) == dealt
    assert packed_tokens(shortest(pairs)) == min(map(packed_tokens, pairs))


def test_the_first_cause_is_told(tmp_path: Path):
    def exits(**codes: int) -> dict[int, Any]:
        return {
            int(rank[1:]): SimpleNamespace(exitcode=code, timestamp=100.0)
            for rank, code in codes.items()
        }

    def told(rank: int, message: str, *, echo: bool, time: float) -> None:
        failure = {"message": message, "echo": echo, "time": time, "explained": not echo}
        failure_file(tmp_path, rank).write_text(json.dumps(failure))

    killed = exits(r0=-signal.SIGTERM, r2=-signal.SIGKILL)
    assert first_cause(tmp_path, killed)["message"].startswith("rank 2 was killed by SIGKILL: the")
    told(1, "rank 1: RuntimeError: connection reset", echo=True, time=90.0)
    killed |= exits(r1=1)
    assert first_cause(tmp_path, killed)["message"].startswith("rank 2 was killed by SIGKILL: the")
    told(3, "the loss is not finite", echo=False, time=95.0)
    assert first_cause(tmp_path, exits(r0=-15, r1=1, r3=1))["message"] == "the loss is not finite"
    told(0, "rank 0: RuntimeError: shapes differ", echo=True, time=80.0)
    assert first_cause(tmp_path, exits(r0=1, r1=1))["message"].endswith("shapes differ")
    assert first_cause(tmp_path, exits(r5=-11))["message"] == "rank 5 was killed by SIGSEGV"
    assert first_cause(tmp_path, exits(r5=3))["message"] == "rank 5 ended with status 3"


def test_a_log_is_followed_each_step_once(tmp_path: Path):
    tiny_model().save_pretrained(tmp_path / "model")
    _, logs = run(str(tmp_path / "model"), make_pairs(4), settings(epochs=4), tmp_path / "done")
    lines = [json.dumps(asdict(log)) + "\n" for log in logs]
    path = tmp_path / "steps.jsonl"
    path.write_text("".join(lines[:2]))
    found: list[StepLog] = []
    reader = LogReader(tmp_path, StepLog)
    reader.read(found.append)
    # A resumed training cuts the log back by replacing the file, then goes on.
    (tmp_path / "cut").write_text(lines[0])
    (tmp_path / "cut").replace(path)
    reader.read(found.append)
    assert found == []
    with path.open("a") as file:
        file.write("".join(lines[1:3]) + lines[3][:20])
        file.flush()
        reader.read(found.append)
        assert found == logs[2:3]
        file.write(lines[3][20:])
    reader.read(found.append)
    assert found == logs[2:4]


def test_of_two_states_the_newest(tmp_path: Path):
    assert newest(tmp_path) is None
    (tmp_path / "step_9").mkdir()
    (tmp_path / "step_10").mkdir()
    assert newest(tmp_path) == tmp_path / "step_10"
    state = TrainingState(step=12, tokens=0, masters={}, optimizer={"state": {}})
    save_whole(tmp_path, state)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    (tmp_path / "step_10").mkdir()
    assert newest(tmp_path) == tmp_path / "state.pt"
    (tmp_path / "step_14").mkdir()
    assert newest(tmp_path) == tmp_path / "step_14"
