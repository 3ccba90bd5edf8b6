"""Workers on a Ray cluster of two nodes: the same results as without, whatever dies.

One cluster for all tests: a head without CPUs of its own and a node of two; a test may add one.
"""

import json
import os
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from small_run import small_recipe, small_run
from tiny import save_reward_model as save_judge
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config import (
    LaunchConfig,
    MixtureJudge,
    RayConfig,
    RewardModelJudge,
    Workers,
)
from forethought.judging.executor import judging_executor
from forethought.pipeline import on_files as files
from forethought.progress.under_way import Drawing, Tally, listening
from forethought.storage.reply_cache import Cache
from forethought.storage.sealed_stage import read_manifest
from forethought.types import Message, Prompt, ResponseGroup
from forethought.workers.executor import open_executor
from forethought.workers.ray_executor import RayExecutor, give_back_gpus

pytestmark = pytest.mark.scale
ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

MEMORY = 100 * 2**20
LAUNCH = LaunchConfig(threads=1, ray=RayConfig(patience=60))


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": MEMORY}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1, object_store_memory=MEMORY, resources={"second": 1})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@contextmanager
def squares(log: Path, kind: str):
    """An engine that notes who does what; some parts are the end of it, once or always."""
    with (log / f"opened_{os.getpid()}").open("a") as file:
        file.write("x")

    def do(number: int) -> tuple[int, int, str]:
        tally = Tally("squaring", prompts=1, outputs=4)
        tally.tell(done=1, tokens=10 + number)
        with (log / f"part_{number}").open("a") as file:
            file.write("x")
        tries = (log / f"part_{number}").stat().st_size
        if kind == "dies" and number == 2:
            os._exit(1)
        if kind == "dies once" and number == 2 and tries == 1:
            os._exit(1)
        if kind == "raises" and number == 1:
            raise ValueError("model: logits are NaN; check the weights")
        if kind == "breaks once" and number == 1 and tries == 1:
            raise RuntimeError("out of memory on this GPU")
        if kind == "slow" and not (log / "hurry").exists():
            time.sleep(0.5)
        if kind == "together":
            # On a busy machine the other worker takes long to begin.
            while len(list(log.glob("opened_*"))) < 2:
                time.sleep(0.1)
            time.sleep(0.5)
        return number**2, os.getpid(), ray.get_runtime_context().get_node_id()

    yield do


def workers(log: Path, kind: str = "", launch: LaunchConfig = LAUNCH, **settings) -> RayExecutor:
    config = Workers(**({"count": 2} | settings))
    return RayExecutor(partial(squares, log, kind), config, launch, name="squares")


def do_all(log: Path, kind: str = "", parts: int = 6, **settings) -> dict:
    with workers(log, kind, **settings) as executor:
        found = list(executor.each(range(parts), lambda number: number))
    assert len(found) == parts
    return dict(found)


def test_every_part_is_done_once_by_engines_opened_once(cluster, tmp_path):
    found = do_all(tmp_path)
    assert {number: square for number, (square, *_) in found.items()} == {
        number: number**2 for number in range(6)
    }
    pids = {pid for _, pid, _ in found.values()}
    opened = {path.name: path.read_text() for path in tmp_path.glob("opened_*")}
    assert {f"opened_{pid}" for pid in pids} <= set(opened)
    assert set(opened.values()) == {"x"}
    assert {path.read_text() for path in tmp_path.glob("part_*")} == {"x"}


def test_workers_tell_how_far_they_are(cluster, tmp_path):
    heard: list[tuple[str, Drawing]] = []
    with workers(tmp_path, "together") as executor, listening(lambda *said: heard.append(said)):
        assert len(list(executor.each(range(6), lambda number: number))) == 6
    assert len({who for who, _ in heard}) == 2
    assert {one.how for _, one in heard} == {"squaring"}
    assert {one.tokens - 10 for _, one in heard if one.done} <= set(range(6))


def test_workers_stay_for_the_next_stage(cluster, tmp_path):
    before = {pid for _, pid, _ in do_all(tmp_path).values()}
    after = {pid for _, pid, _ in do_all(tmp_path).values()}
    assert after & before


def test_idle_workers_give_gpus_back_to_a_training_outside_ray(cluster, tmp_path):
    node = cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=MEMORY)
    try:
        do_all(tmp_path, count=1, gpus=1)
        assert ray.available_resources().get("GPU", 0) == 0
        give_back_gpus()
        end = time.monotonic() + 30
        while ray.available_resources().get("GPU", 0) < 1:
            assert time.monotonic() < end
            time.sleep(0.2)
    finally:
        cluster.remove_node(node)


def test_a_part_whose_worker_dies_is_done_again(cluster, tmp_path):
    found = do_all(tmp_path, "dies once")
    assert [found[number][0] for number in range(6)] == [0, 1, 4, 9, 16, 25]
    assert (tmp_path / "part_2").read_text() == "xx"


def test_a_worker_that_breaks_is_not_used_again(cluster, tmp_path):
    found = do_all(tmp_path, "breaks once")
    assert found[1][0] == 1
    assert (tmp_path / "part_1").read_text() == "xx"
    assert len(list(tmp_path.glob("opened_*"))) > 1


def test_a_part_that_kills_every_worker_is_named(cluster, tmp_path):
    with pytest.raises(ValueError, match="squares: part 2 was tried 2 times") as caught:
        do_all(tmp_path, "dies", attempts=2)
    assert "worker process has died" in str(caught.value)
    assert (tmp_path / "part_2").read_text() == "xx"


def test_an_engines_own_error_is_the_stages_error(cluster, tmp_path):
    with pytest.raises(ValueError, match=r"^model: logits are NaN; check the weights$"):
        do_all(tmp_path, "raises")
    assert (tmp_path / "part_1").read_text() == "x"


@contextmanager
def unopenable(log: Path):
    with (log / "opened").open("a") as file:
        file.write("x")
    os._exit(1)
    yield


def test_engines_that_kill_their_workers_end_the_stage(cluster, tmp_path):
    config = Workers(count=1, attempts=2)
    executor = RayExecutor(partial(unopenable, tmp_path), config, LAUNCH, name="squares")
    with pytest.raises(ValueError, match="2 workers died one after the other"), executor:
        list(executor.each([0], lambda number: number))
    assert (tmp_path / "opened").read_text() == "xx"


def test_a_node_that_dies_loses_nothing(cluster, tmp_path):
    node = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    found, killed = {}, False
    with workers(tmp_path, "slow", count=3, attempts=4) as executor:
        for number, result in executor.each(range(60), lambda number: number):
            found[number] = result
            seen = {node_id for _, _, node_id in found.values()}
            # Its worker has been given another part by the time that somebody else's is done.
            if not killed and node.node_id in seen - {result[2]}:
                cluster.remove_node(node, allow_graceful=False)
                killed = True
                (tmp_path / "hurry").touch()
    assert killed
    assert {number: square for number, (square, *_) in found.items()} == {
        number: number**2 for number in range(60)
    }


def test_a_node_that_comes_late_takes_part(cluster, tmp_path):
    found, node = {}, None
    with workers(tmp_path, "slow", count=3) as executor:
        # On a busy machine a worker takes long to begin.
        for number, result in executor.each(range(600), lambda number: number):
            found[number] = result
            if node is None:
                node = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
            if node.node_id in {node_id for _, _, node_id in found.values()}:
                break
    assert node is not None
    cluster.remove_node(node)
    assert node.node_id in {node_id for _, _, node_id in found.values()}


def test_no_room_is_said_after_the_patience(cluster, tmp_path):
    impatient = LaunchConfig(threads=1, ray=RayConfig(address="auto", patience=1))
    with pytest.raises(ValueError, match="no room for a worker, which asks for 99 CPU and 0 GPU"):
        do_all(tmp_path, cpus=99, launch=impatient)
    with pytest.raises(ValueError, match=r"one asks for 99 CPU and this machine has \d"):
        do_all(tmp_path, cpus=99)


def run_content(run: Path) -> dict:
    """Digest and counts of every stage but what was measured of time."""
    manifests = {
        str(path.parent.relative_to(run)): read_manifest(path.parent)
        for path in sorted(run.rglob("manifest.json"))
    }
    return {name: (one.digest, one.counts) for name, one in manifests.items()}


def test_a_run_with_workers_is_the_run_without(cluster, tmp_path):
    save_judge(tmp_path / "judge")
    shared = [
        *("iterations=1", "sampling.part_size=6", "prompts_per_iteration=24", "arms=[thought]"),
        f"judge={{type: reward_model, path: {tmp_path}/judge, dtype: float32}}",
        "measures.probe={prompts: 6, after: last}",
    ]
    small_run(tmp_path / "alone", *shared)
    many = ["sampling.workers=2", "judge.workers={count: 2, attempts: 2}"]
    recipe = small_recipe(tmp_path / "many", *shared, *many)
    assert recipe.judge.identity().get("workers") is None
    small_run(tmp_path / "many", *shared, *many)
    alone, together = run_content(tmp_path / "alone"), run_content(tmp_path / "many")
    assert alone.keys() == together.keys()
    assert len(alone) == 10
    for name, content in alone.items():
        assert together[name] == content, name
    # A run goes on with other numbers of workers, or none.
    small_run(tmp_path / "many", *shared)


def group(number: int, *responses: str) -> ResponseGroup:
    message = Message(role="user", content=f"Question {number}")
    prompt = Prompt(
        prompt_id=str(number), messages=(message,), category=None, source="test", reference=None
    )
    return ResponseGroup(prompt=prompt, responses=responses)


@pytest.mark.parametrize("kind", ["reward_model", "mixture"])
def test_what_is_kept_is_found_and_new_scores_are_kept(cluster, tmp_path, kind):
    save_judge(tmp_path / "judge")
    plain = RewardModelJudge(path=str(tmp_path / "judge"), dtype="float32")
    judge = plain
    if kind == "mixture":
        judge = MixtureJudge.model_validate({"routes": [{"members": [{"judge": plain}]}]})
    with_workers = judge.model_copy(update={"workers": Workers(count=2)})
    first = [[group(0, "a", "bb"), group(1, "ccc")], [group(2, "d", "d")]]
    second = [[group(0, "a", "e" * 40), group(3, "f")], [group(2, "d")]]
    seen = {}
    for name, config in (("here", judge), ("ray", with_workers)):
        with Cache(tmp_path / f"{name}.sqlite", account=name) as cache:
            answers = []
            for parts in (first, second):
                with judging_executor(config, cache, LAUNCH) as executor:
                    said = dict(executor.each(range(len(parts)), parts.__getitem__))
                answers += [said[number] for number in range(len(parts))]
            seen[name] = (answers, cache.counts())
    assert seen["here"] == seen["ray"]
    assert seen["ray"][1]["hits"] == 2


def test_without_workers_this_process_does_the_parts(cluster, tmp_path):
    factory = partial(squares, tmp_path, "raises")
    with (
        open_executor(factory, None, LAUNCH, name="squares") as executor,
        pytest.raises(ValueError, match="NaN"),
    ):
        list(executor.each([0, 1], lambda number: number))


def test_files_are_the_same_with_workers(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "GROUPS", 3)
    save_judge(tmp_path / "judge")
    rows = [{"prompt": f"What is {i} + {i}?", "id": i} for i in range(11)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, workers in (("alone", []), ("many", ["sampling.workers=2", "judge.workers=2"])):
        outputs, scores = tmp_path / f"{name}.jsonl", tmp_path / f"{name}_scores.jsonl"
        command(
            *("sample", tmp_path / "prompts.jsonl", outputs, "model.path=microworld"),
            *("sampling.type=transformers", "sampling.samples=3", "sampling.part_size=2"),
            *("sampling.max_new_tokens=24", "launch.threads=1", *workers[:1]),
        )
        command(
            *("judge", outputs, scores, "judge.type=reward_model", f"judge.path={tmp_path}/judge"),
            *("judge.dtype=float32", "launch.threads=1", *workers[1:]),
        )
    alone = (tmp_path / "alone_scores.jsonl").read_bytes()
    assert alone.count(b"\n") == 11
    assert (tmp_path / "many_scores.jsonl").read_bytes() == alone


def command(*words: object) -> None:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
