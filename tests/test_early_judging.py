"""Judging while sampling goes on, by workers on a Ray cluster: seen to happen, and no result moves.

What shows it are notes that the judge's function takes in the workers, beside the times at which
the parts of the rollouts were written.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import early_grades
import pytest
from rich.console import Console
from small_run import small_recipe

from forethought.config import Recipe
from forethought.launch import launch
from forethought.progress import Reporter, Task
from forethought.recipe import dump
from forethought.stages.place import Place
from forethought.store import SCRATCH, read_manifest, read_records, write_json
from forethought.types import Rollout
from forethought.workers.pool import dismiss_idle

pytestmark = pytest.mark.scale
ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

PARTS = 8
STAGES = ("prompts", "rollouts", "judgements")
SMALL = [
    "iterations=1",
    "arms=[thought]",
    "prompts_per_iteration=32",
    f"sampling.part_size={32 // PARTS}",
]
SECONDS = 100.0
"""What a judge may need to be loaded while others use the machine."""


@pytest.fixture(scope="module")
def notes(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("notes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(early_grades.FOLDER, str(folder))
        yield folder


@pytest.fixture(scope="module")
def cluster(notes):
    """Room for one worker that samples and one that judges."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(autouse=True)
def _room():
    """What this process leaves idle holds the CPUs that another needs."""
    yield
    dismiss_idle(ray)


def recipe_of(run: Path, notes: Path, *overrides: str, function: str = "grade") -> Recipe:
    for old in notes.iterdir():
        old.unlink()
    (notes / "run").write_text(str(run))
    judge = f"judge={{type: verifier, function: 'early_grades:{function}'}}"
    return small_recipe(run, *SMALL, judge, *overrides)


def work(recipe: Recipe, reporter: Reporter | None = None) -> None:
    """The stages until `judgements`."""
    for stage in STAGES:
        place = Place(recipe=recipe, stage=stage, arm="thought", index=0)
        if not (place.folder / "manifest.json").is_file():
            launch(place, reporter or Reporter(Console(quiet=True)))


def marks(run: Path) -> set[Path]:
    """One of each part that was judged early."""
    return set((run / "thought/iteration_0/judgements" / SCRATCH).glob("*.json"))


class Held(Reporter):
    """Holds the sampling at its first part until something is so: by default until a part is
    judged, which would never come if judging did not go on at the same time."""

    def __init__(self, run: Path, until: Callable[[], bool] | None = None) -> None:
        super().__init__(Console(record=True, width=300, file=open(os.devnull, "w")))  # noqa: SIM115
        before = marks(run)
        self.until = until or (lambda: marks(run) > before)

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Task]:
        yield HeldTask(label, total, unit, self.until)


class HeldTask(Task):
    def __init__(self, label: str, total: int, unit: str, until: Callable[[], bool]) -> None:
        super().__init__(label, total, unit)
        self.until = until

    def advance(self, count: int = 1, *, tokens: int = 0, note: str | None = None) -> None:
        super().advance(count, tokens=tokens, note=note)
        deadline = time.monotonic() + SECONDS
        while self.label.endswith("rollouts") and not self.until():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def calls_of(notes: Path) -> list[dict]:
    lines = [line for path in notes.glob("calls_*") for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def content(run: Path) -> dict:
    stages = [run / "prompts", *(run / "thought/iteration_0" / name for name in STAGES[1:])]
    manifests = [read_manifest(folder) for folder in stages]
    return {one.stage: (one.digest, one.parts, one.counts) for one in manifests}


@pytest.fixture(scope="module")
def plain(notes, tmp_path_factory) -> dict:
    """The content of a run in one process."""
    run = tmp_path_factory.mktemp("plain") / "run"
    work(recipe_of(run, notes))
    return content(run)


def with_workers(cluster, tmp_path: Path, notes: Path, *overrides: str) -> Recipe:
    return recipe_of(
        tmp_path / "run",
        notes,
        "sampling.workers=1",
        "judge.workers=1",
        f"launch.ray.address='{cluster.address}'",
        *overrides,
    )


def responses(run: Path) -> Counter:
    """What is to be judged, each once."""
    rollouts = read_records(run / "thought/iteration_0/rollouts", Rollout)
    named = [(one.prompt_id, one.parsed.response) for one in rollouts]
    return Counter(one for one in named if one[1] is not None)


def test_parts_are_judged_while_others_are_sampled(cluster, plain, notes, tmp_path):
    recipe = with_workers(cluster, tmp_path, notes)
    work(recipe, Held(recipe.run))
    rollouts = recipe.run / "thought/iteration_0/rollouts"
    last = max(path.stat().st_mtime for path in rollouts.glob("part_*.parquet"))
    calls = calls_of(notes)
    early = [call for call in calls if call["parts"] < PARTS]
    assert early
    assert max(call["time"] for call in early) < last
    assert not any(call["sealed"] for call in early)
    # What was judged early was not judged again.
    assert Counter(tuple(call["key"]) for call in calls) == responses(recipe.run)
    assert content(recipe.run) == plain
    assert not (recipe.run / "thought/iteration_0/judgements" / SCRATCH).exists()


def test_with_a_process_for_each_stage(cluster, plain, notes, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), *sys.path]))
    recipe = with_workers(cluster, tmp_path, notes, "launch.process_per_stage=true")
    # As `forethought run` leaves it for its children.
    write_json(recipe.run / "config.json", dump(recipe))
    work(recipe)
    assert Counter(tuple(call["key"]) for call in calls_of(notes)) == responses(recipe.run)
    assert content(recipe.run) == plain


DRIVER = """
import sys
from pathlib import Path
from small_run import small_recipe
from test_early_judging import Held, work
work(small_recipe(Path(sys.argv[1]), *sys.argv[2:]), Held(Path(sys.argv[1])))
"""


def test_killed_anywhere_it_ends_with_the_same_verdicts(cluster, plain, notes, tmp_path):
    run = tmp_path / "run"
    judge = ["judge={type: verifier, function: 'early_grades:grade', workers: 1}"]
    engine = ["sampling.workers=1", f"launch.ray.address='{cluster.address}'"]
    recipe_of(run, notes)
    (notes / "slow").touch()
    words = [sys.executable, "-c", DRIVER, str(run), *SMALL, *judge, *engine]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])
    }
    iteration = run / "thought/iteration_0"
    moments = [
        lambda: len(marks(run)) >= 2,
        lambda: (iteration / "judgements/intent.json").is_file(),
    ]
    for moment in moments:
        child = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE)
        deadline = time.monotonic() + SECONDS
        while not moment():
            assert child.poll() is None, child.stderr and child.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert not (iteration / "judgements/manifest.json").exists()
    subprocess.run(words, env=environment, check=True)
    assert content(run) == plain


def test_a_judge_that_fails_fails_in_its_own_stage(cluster, notes, tmp_path):
    recipe = recipe_of(
        tmp_path / "run",
        notes,
        "sampling.workers=1",
        "judge.workers={count: 1, attempts: 1}",
        function="deadly_grade",
    )
    reporter = Held(recipe.run, until=(notes / "dead").exists)
    with pytest.raises(ValueError, match="its worker died each time"):
        work(recipe, reporter)
    assert "judgements: not begun while sampling went on" in reporter.console.export_text()
    assert read_manifest(recipe.run / "thought/iteration_0/rollouts").counts["outputs"] == 128
