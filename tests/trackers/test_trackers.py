"""Every figure of a run reaches each tracker once, also when the run is killed; none stops it."""

import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections import Counter
from importlib import import_module
from importlib.util import find_spec
from io import StringIO

import pytest
from rich.console import Console
from small_run import small_run
from warm_recipe import warm_recipe

from forethought.config import TrackerConfig
from forethought.config.recipe_files import load_recipe, load_run
from forethought.pipeline.loop import run_recipe
from forethought.progress.reporter import Reporter
from forethought.trackers.follow import Trackers
from forethought.trackers.points import METRICS, OF_WARM_START, read_points
from forethought.trackers.stores import _wandb_records, mlflow_name, open_store

WARM_LOG = "thought/warm_start/training/steps.jsonl"
OPTIONS = {"tensorboard": {}, "wandb": {"mode": "offline"}, "mlflow": {}, "trackio": {}}
NEEDS = {
    "tensorboard": ("accelerate", "tensorboard"),
    "wandb": ("accelerate", "wandb"),
    "mlflow": ("accelerate", "mlflow", "sqlalchemy", "alembic"),
    "trackio": ("accelerate", "trackio"),
}


def need(kind):
    absent = [one for one in NEEDS[kind] if find_spec(one) is None]
    if absent:
        pytest.skip(f"{', '.join(absent)} is not installed")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was followed while it went on, where TensorBoard is there."""
    run = tmp_path_factory.mktemp("finished") / "run"
    there = all(find_spec(one) for one in NEEDS["tensorboard"])
    small_run(run, f"trackers={'[{type: tensorboard}]' if there else '[]'}")
    return run


def copy_of(finished, run, *, without=()):
    """What a tracker reads of a run, without what a tracker wrote."""
    skip = shutil.ignore_patterns("*.parquet", "epoch_*", "policy", "trackers", *without)
    shutil.copytree(finished, run, ignore=skip, dirs_exist_ok=True)


def recipe_with(run, kind, **options):
    options = OPTIONS[kind] | options
    tracker = TrackerConfig(type=kind, project="thinking", name="little", options=options)
    return load_run(run).model_copy(update={"run": run, "trackers": (tracker,)})


def expected(run):
    points = list(read_points(load_run(run), {}))
    return {(name, point.step): value for point in points for name, value in point.values.items()}


def follow(recipe, folder):
    """A child process that follows the run to its end; its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.environ["TRACKIO_DIR"] = str(folder / "trackio")
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            said = StringIO()
            Trackers(recipe, Reporter(Console(file=said))).close()
            status = 3 if "warning" in said.getvalue() else 0
        finally:
            os._exit(status)
    return pid


def end_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def received(kind, run, folder):
    """(name, step) to the values that the tracker holds, read from its own files."""
    rows = []
    if kind == "tensorboard":
        module = "tensorboard.backend.event_processing.event_accumulator"
        (events,) = {path.parent for path in (run / "trackers").rglob("*tfevents*")}
        reader = import_module(module).EventAccumulator(str(events), size_guidance={"scalars": 0})
        reader.Reload()
        for tag in reader.Tags()["scalars"]:
            rows += [(tag, event.step, event.value) for event in reader.Scalars(tag)]
    elif kind == "wandb":
        rows = list(wandb_rows(run))
    elif kind == "mlflow":
        with sqlite3.connect(run / "trackers" / "mlflow.db") as database:
            assert database.execute("select count(*) from runs").fetchone() == (1,)
            names = database.execute("select name from experiments").fetchall()
            assert ("thinking",) in names
            rows = database.execute("select key, step, value from metrics").fetchall()
    else:
        with sqlite3.connect(folder / "trackio" / "thinking.db") as database:
            for step, metrics in database.execute("select step, metrics from metrics"):
                rows += [(name, step, value) for name, value in json.loads(metrics).items()]
    held = {}
    for name, step, value in rows:
        held.setdefault((name, step), []).append(value)
    return held


def wandb_rows(run):
    messages = import_module("wandb.proto.wandb_internal_pb2")
    sequence = -1
    for file in sorted(run.glob("trackers/wandb/offline-run-*/*.wandb")):
        for content in _wandb_records(file.read_bytes()):
            record = messages.Record()
            record.ParseFromString(content)
            row = {one.nested_key[0]: json.loads(one.value_json) for one in record.history.item}
            axis = [name for name in row if name.endswith("/step")]
            if axis:
                assert row["_step"] > sequence, "it drops what does not come in order"
                sequence = row["_step"]
                figures = row.keys() - {axis[0], "_step", "_runtime", "_timestamp"}
                for name in figures:
                    yield name, row[axis[0]], row[name]


def check(kind, run, folder):
    wanted = expected(run)
    if kind == "mlflow":
        wanted = {(mlflow_name(name), step): value for (name, step), value in wanted.items()}
    held = received(kind, run, folder)
    assert held.keys() == wanted.keys()
    assert Counter(len(values) for values in held.values()) == {1: len(wanted)}
    for (name, step), (value,) in held.items():
        # Event files hold 32 bits; a training step that was done again took another time.
        if not name.endswith(("training/seconds", "tokens_per_second")):
            assert value == pytest.approx(wanted[name, step], rel=1e-6, abs=1e-12), (name, step)


def test_names_and_values_are_those_of_the_run(finished):
    wanted = expected(finished)
    names = {name for name, _ in wanted}
    for arm in ("thought", "direct"):
        for stage, keys in METRICS.items():
            place = stage if stage == "prompts" else f"{arm}/{stage}"
            assert {f"{place}/{key}" for key in keys} - names == set(), stage
    summary = json.loads((finished / "summary.json").read_text())
    for arm, rows in summary["arms"].items():
        for row in rows:
            for key in ("test_score", "thought_tokens", "response_tokens", "parse_failures"):
                assert wanted[f"{arm}/evaluation/{key}", row["iteration"]] == row[key]
    difference = summary["difference"]
    assert wanted["difference/test_score", 2] == pytest.approx(difference["value"])
    assert wanted["difference/test_score_low", 2] == pytest.approx(difference["interval"][0])
    logs = [
        json.loads(line)
        for number in range(2)
        for line in (finished / f"thought/iteration_{number}/training/steps.jsonl").open()
    ]
    losses = [wanted["thought/training/loss", step] for step in range(len(logs))]
    assert losses == [log["loss"] for log in logs]


def test_a_growing_log_is_read_up_to_its_last_whole_line(finished, tmp_path):
    copy_of(finished, tmp_path / "run")
    log = tmp_path / "run" / "thought" / "iteration_1" / "training" / "steps.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:3]) + lines[3][:40])
    source = "thought/iteration_1/training/steps.jsonl"
    recipe = load_run(tmp_path / "run")
    found = [point for point in read_points(recipe, {source: 1}) if point.source == source]
    assert [one.index for one in found] == [1, 2]
    earlier = (finished / "thought/iteration_0/training/steps.jsonl").read_text().count("\n")
    assert [one.step for one in found] == [earlier + 1, earlier + 2]


@pytest.fixture(scope="module")
def warmed(tmp_path_factory):
    """A warm start of the thought arm and nothing after it, with a format of added tokens."""
    words = ("thought_format=tokens", "arms=[thought]", "iterations=0")
    recipe = warm_recipe(tmp_path_factory.mktemp("warmed"), *words, max_unparsed=1.0)
    run_recipe(recipe, Reporter(Console(file=StringIO())))
    return recipe.run


def test_every_stage_of_a_warm_start_is_shown(warmed):
    wanted = expected(warmed)
    for stage, keys in OF_WARM_START.items():
        names = {name for name, _ in wanted if name.startswith(f"thought/warm_start/{stage}/")}
        assert {name.rpartition("/")[2] for name in names} >= set(keys), stage
    logs = [json.loads(line) for line in (warmed / WARM_LOG).open()]
    assert len(logs) == wanted["thought/warm_start/trained/steps", 0] > 1
    losses = [wanted["thought/warm_start/training/loss", step] for step in range(len(logs))]
    assert losses == [log["loss"] for log in logs]
    assert not [name for name, step in wanted if step < 0]


def test_a_warm_starts_log_is_read_while_it_grows(warmed, tmp_path):
    copy_of(warmed, tmp_path / "run")
    log = tmp_path / "run" / WARM_LOG
    (log.parent / "manifest.json").unlink()
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(lines[0] + lines[1] + lines[0][:40])
    recipe = load_run(tmp_path / "run")
    found = [point for point in read_points(recipe, {WARM_LOG: 1}) if point.source == WARM_LOG]
    assert [(one.index, one.step) for one in found] == [(1, 1)]
    assert found[0].values["thought/warm_start/training/loss"] == json.loads(lines[1])["loss"]


def test_measures_are_shown_by_name_and_category(finished, tmp_path):
    run = tmp_path / "run"
    copy_of(finished, run)
    folder = run / "measures" / "accuracy" / "thought" / "policy_1"
    shutil.copytree(run / "prompts", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    result = {"name": "gsm8k", "value": 0.5, "interval": [0.4, 0.6], "count": 9, "category": None}
    manifest["counts"] = {"results": [result, result | {"category": "sums", "value": 0.25}]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    wanted = expected(run)
    assert wanted["thought/measures/accuracy/gsm8k", 1] == 0.5
    assert wanted["thought/measures/accuracy/gsm8k_high", 1] == 0.6
    assert wanted["thought/measures/accuracy/gsm8k/sums", 1] == 0.25


def test_a_run_that_is_followed_while_it_goes_on(finished, tmp_path):
    need("tensorboard")
    check("tensorboard", finished, tmp_path)


@pytest.mark.parametrize("kind", OPTIONS)
def test_killed_again_and_again_nothing_is_lost_or_doubled(finished, tmp_path, monkeypatch, kind):
    need(kind)
    run = tmp_path / "run"
    copy_of(finished, run, without=("iteration_1", "policy_2"))
    recipe = recipe_with(run, kind)
    record = run / "trackers" / f"{kind}.json"
    rng = random.Random(kind)
    for _ in range(2):
        pid = follow(recipe, tmp_path)
        while not (record.is_file() and not json.loads(record.read_text())["finished"]):
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it ended before it began"
            time.sleep(0.005)
        # The record is there before the tracker is; its first figures need a moment.
        time.sleep(rng.uniform(0, 1.5))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        copy_of(finished, run)
    assert end_of(follow(recipe, tmp_path)) == 0
    check(kind, run, tmp_path)
    again = record.read_bytes()
    assert end_of(follow(recipe, tmp_path)) == 0
    assert record.read_bytes() == again
    check(kind, run, tmp_path)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    store = open_store(recipe.trackers[0], run, json.loads(again)["run_id"])
    assert store.found() == received(kind, run, tmp_path).keys()


def test_a_tracker_without_its_package_costs_one_line(finished, tmp_path, monkeypatch):
    need("tensorboard")
    monkeypatch.setitem(sys.modules, "trackio", None)
    run = tmp_path / "run"
    shutil.copytree(finished, run, ignore=shutil.ignore_patterns("trackers"))
    both = (TrackerConfig(type="trackio"), TrackerConfig(type="tensorboard"))
    recipe = load_run(run).model_copy(update={"run": run, "trackers": both})
    said = StringIO()
    # A tracker that a finished run did not have is no other work.
    run_recipe(recipe, Reporter(Console(file=said, width=400)))
    lines = [line for line in said.getvalue().splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("warning: tracker trackio stopped: the package trackio is not inst")
    check("tensorboard", run, tmp_path)


def test_options_that_a_tracker_does_not_know_cost_one_line(finished, tmp_path):
    need("tensorboard")
    copy_of(finished, tmp_path / "run")
    said = StringIO()
    recipe = recipe_with(tmp_path / "run", "tensorboard", colour="red")
    Trackers(recipe, Reporter(Console(file=said, width=400))).close()
    (line,) = said.getvalue().splitlines()
    assert "tracker tensorboard stopped" in line
    assert "colour" in line


def test_weights_and_biases_without_a_key_asks_nobody(finished, tmp_path, monkeypatch):
    need("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    copy_of(finished, tmp_path / "run")
    began = time.monotonic()
    assert end_of(follow(recipe_with(tmp_path / "run", "wandb", mode="online"), tmp_path)) == 3
    assert time.monotonic() - began < 30


def test_a_tracker_is_named_once(finished):
    words = [str(finished / "config.json"), "trackers=[{type: wandb}, {type: wandb}]"]
    with pytest.raises(ValueError, match="names a tracker twice"):
        load_recipe(words)
    with pytest.raises(ValueError, match=r"trackers\.0\.type"):
        load_recipe([words[0], "trackers=[{type: comet}]"])
    assert "trackers" not in load_run(finished).identity()
