"""A disk that takes no more: one message with the file that it refused, and nothing is lost."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from small_run import ROOT, SMALL

from forethought.cli.errors import clear_errors
from forethought.progress.reporter import Reporter
from forethought.storage.files import naming, write_bytes, write_json
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import read_manifest
from forethought.types import Message, Prompt

LIMITED = """
import resource, signal, sys
from forethought.cli.main import app
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
app(sys.argv[2:])
"""
SHORT = ("iterations=1", "prompts_per_iteration=12", "training.epochs=1", "arms=[thought]")


def run(folder, limit):
    """Under a limit on the size of each file, which fails as a full disk does."""
    recipe = str(ROOT / "recipes" / "quickstart.yaml")
    words = ["run", recipe, f"run={folder}", *SMALL, *SHORT]
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *words],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "400", "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_a_run_that_finds_no_room_names_the_file_and_goes_on_later(tmp_path):
    folder = tmp_path / "run"
    named = []
    for limit in (2_000, 20_000, 60_000, 400_000, 1_000_000, 3_000_000):
        done = run(folder, limit)
        if done.returncode == 0:
            break
        assert "Traceback" not in done.stderr, done.stderr
        said = done.stderr.strip().splitlines()[-1]
        where = re.search(r"error: (?:File too large \((.*?)\)|.*?(/\S+))", said)
        assert where is not None, said
        named.append(where[1] or where[2])
        assert str(folder) in named[-1], said
    assert len(named) >= 3, named
    assert any("epoch_1" in name for name in named), named
    assert run(folder, 2**40).returncode == 0
    assert run(tmp_path / "undisturbed", 2**40).returncode == 0
    for ended in (tmp_path / "undisturbed").rglob("manifest.json"):
        place = ended.parent.relative_to(tmp_path / "undisturbed")
        assert read_manifest(folder / place).digest == read_manifest(ended.parent).digest, place


CHILD = """
import resource, signal, sys
from pathlib import Path
from forethought.storage.open_stage import Stage
from forethought.types import Message, Prompt
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
stage = Stage(Path(sys.argv[1]), name="prompts", version=1, config={})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
turns = [Message(role="user", content=" ".join(map(str, range(5000))))]
row = Prompt(prompt_id="0", messages=tuple(turns), category=None, source="t", reference=None)
try:
    if sys.argv[2] == "pieces":
        stage.write_pieces("part", [[row]], Prompt)
    elif sys.argv[2] == "records":
        stage.write_records("part", [row], Prompt)
    else:
        for number in range(100):
            stage.write_json(f"{number}.json", number)
except OSError as error:
    print(error.errno, error.filename)
"""


@pytest.mark.parametrize(
    ("what", "name"),
    [("pieces", "part.parquet"), ("records", "part.parquet"), ("list", "written.jsonl")],
)
def test_what_a_stage_cannot_write_is_named(tmp_path, what, name):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "stage"), what], capture_output=True, text=True
    )
    assert done.stdout.split() == [str(errno.EFBIG), str(tmp_path / "stage" / name)], done.stderr
    stage = Stage(tmp_path / "stage", name="prompts", version=1, config={})
    turns = (Message(role="user", content="x"),)
    row = Prompt(prompt_id="0", messages=turns, category=None, source="t", reference=None)
    assert not stage.has("part")
    stage.write_records("part", [row], Prompt)
    assert "part.parquet" in [part.name for part in stage.seal({}).parts]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_an_error_without_a_file_gets_one(tmp_path, number):
    with pytest.raises(OSError, match=re.escape(str(tmp_path))) as error, naming(tmp_path):
        raise OSError(number, os.strerror(number))
    assert error.value.errno == number
    said = f"Error while serializing: I/O error: x (os error {number})"
    with pytest.raises(OSError, match=re.escape(str(tmp_path))) as error, naming(tmp_path):
        raise RuntimeError(said)
    assert error.value.errno == number


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")
def test_a_full_device_is_named(tmp_path):
    (tmp_path / ".a.json.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as error:
        write_json(tmp_path / "a.json", {})
    assert error.value.filename == str(tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


def test_a_full_disk_leaves_the_old_content_whole(tmp_path):
    target = tmp_path / "file"
    write_bytes(target, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_bytes(target, b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")
def test_a_log_that_is_full_is_named_and_hides_no_other_error(capsys):
    reporter = Reporter(Console(quiet=True))
    reporter.log_to(Path("/dev/full"))
    with pytest.raises(OSError, match=r"No space left.*/dev/full"):
        reporter.keep("a line")
    with pytest.raises(SystemExit), clear_errors(reporter):
        raise ValueError("what the user did wrong")
    assert "what the user did wrong" in capsys.readouterr().err
