"""Links in folders that others gave: nothing of this machine is taken along or written over."""

import json
from pathlib import Path

import pytest
from small_run import small_run
from tiny import save_policy
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.models.model_files import model_files
from forethought.runs.lock import run_lock
from forethought.storage.sealed_stage import StageError


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path):
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    model = save_policy(tmp_path / "model")
    (model / "notes.txt").symlink_to(secret)
    (model / "vocab.json").symlink_to("/etc/passwd")
    (model / "also.json").symlink_to("config.json")
    (model / "core").write_text("not of a model")
    (model / "LICENSE").write_text("terms")
    names = {path.name for path in model_files(model)}
    assert {"config.json", "also.json", "LICENSE", "model.safetensors"} <= names
    assert not names & {"notes.txt", "vocab.json", "core"}


def test_a_snapshot_of_a_hubs_cache_is_made_of_links(tmp_path: Path):
    blob = tmp_path / "blobs" / "abc"
    blob.parent.mkdir()
    blob.write_text("{}")
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    assert [path.name for path in model_files(snapshot)] == ["config.json"]


def test_no_checkpoint_and_no_export_has_what_a_link_leads_to(tmp_path: Path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a key of this machine")
    from forethought.models.loading import resolve

    model = tmp_path / "model"
    model.mkdir()
    for path in model_files(Path(resolve("microworld"))):
        (model / path.name).write_bytes(path.read_bytes())
    (model / "notes.txt").symlink_to(secret)
    run = small_run(
        tmp_path / "run",
        *("iterations=1", "prompts_per_iteration=12", "training.epochs=1", "arms=[thought]"),
        f"model.path={model}",
    ).run
    for policy in ("0", "1"):
        target = tmp_path / f"exported_{policy}"
        done = CliRunner().invoke(app, ["export", str(run), str(target), "--policy", policy])
        assert done.exit_code == 0, done.output
    everything = [path for path in tmp_path.rglob("*") if path.is_file() and path != secret]
    assert [path for path in everything if b"a key of this" in path.read_bytes()] == [
        model / "notes.txt"
    ]
    assert json.loads((tmp_path / "exported_1/config.json").read_text())


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path: Path):
    target = tmp_path / "precious"
    target.write_text("keep me")
    run = tmp_path / "run"
    run.mkdir()
    (run / "lock").symlink_to(target)
    with pytest.raises(StageError, match=r"lock is a symbolic link"), run_lock(run):
        pass
    assert target.read_text() == "keep me"
