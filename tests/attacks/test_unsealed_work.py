"""Files of a stage that is not sealed yet: strays are not sealed, damage is made again."""

import json
import shutil
from pathlib import Path

import pytest
from small_run import ROOT, SMALL, small_run, unseal
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import StageError, read_manifest
from forethought.storage.written import WRITTEN
from forethought.types import Message, Prompt

SHORT = ("iterations=1", "prompts_per_iteration=12", "training.epochs=2")
STAGES = ("rollouts", "judgements", "pairs", "reference", "training", "selection")
PROMPT = Prompt(
    prompt_id="0" * 16,
    messages=(Message(role="user", content="What is 2 plus 3?"),),
    category=None,
    source="test",
    reference=None,
)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("sealed") / "run", *SHORT, "arms=[thought]").run


@pytest.fixture
def run(sealed, tmp_path):
    return shutil.copytree(sealed, tmp_path / "run")


def again(run):
    words = ["run", ROOT / "recipes" / "quickstart.yaml", f"run={run}", *SMALL, *SHORT]
    done = CliRunner().invoke(app, [*map(str, words), "arms=[thought]"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.output
    return done


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)


def cut(path):
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def fill(path):
    path.unlink()
    path.write_bytes(b"\x00\xffgarbage\n")


@pytest.mark.parametrize("damage", [flip, cut, fill, Path.unlink])
@pytest.mark.parametrize("stage", STAGES)
def test_damaged_work_is_made_again(run, stage, damage):
    folder = run / "thought/iteration_0" / stage
    before = unseal(folder)
    wanted = next(part.name for part in before.parts if part.name.endswith(("parquet", "tensors")))
    damage(folder / wanted)
    done = again(run)
    assert done.exit_code == 0, done.output
    assert read_manifest(folder).digest == before.digest
    said = done.stderr
    # Pairs and the kept policy are written in any case, and need no check of what is there.
    if damage is not Path.unlink and stage not in ("pairs", "selection"):
        assert said.count("is damaged; kept as") == 1
        assert list(folder.rglob("*.damaged")) != []


@pytest.mark.slow
def test_each_damaged_file_of_a_run_is_made_again(run):
    for stage in STAGES:
        folder = run / "thought/iteration_0" / stage
        for name in [part.name for part in read_manifest(folder).parts]:
            before = unseal(folder)
            flip(folder / name)
            done = again(run)
            assert done.exit_code == 0, (stage, name, done.output)
            assert read_manifest(folder).digest == before.digest, name


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_did_not_write_is_not_sealed(run, stage):
    folder = run / "thought/iteration_0" / stage
    before = unseal(folder)
    other = "part_99999.parquet" if stage != "rollouts" else "part_x.parquet"
    strays = [other, "left_out_more.json", "notes/read me.txt", "epoch_9/model.safetensors"]
    if stage == "training":
        strays += ["epoch_1/more.json", "more.jsonl"]
    for name in strays:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("[]")
    (folder / ".part_00000.parquet.tmp").write_text("half")
    (folder / "a link").symlink_to("/etc/passwd")
    done = again(run)
    assert done.exit_code == 0, done.output
    after = read_manifest(folder)
    assert after.digest == before.digest
    assert [part.name for part in after.parts] == [part.name for part in before.parts]
    assert after.counts == before.counts
    said = done.stderr
    for name in strays:
        top = name.split("/")[0]
        kept = [folder / f"{name}.stray", folder / f"{top}.stray" / name.split("/")[-1]]
        assert any(path.read_text() == "[]" for path in kept if path.is_file()), name
    assert "was not written by this stage; kept as" in said


def test_a_stage_that_lost_its_intent_goes_on_and_says_so(run):
    folder = run / "thought/iteration_0/rollouts"
    for damage in (Path.unlink, fill, cut):
        before = unseal(folder)
        inode = (folder / "part_00000.parquet").stat().st_ino
        damage(folder / "intent.json")
        done = again(run)
        assert done.exit_code == 0, done.output
        assert "intent.json is missing or damaged; written again" in done.stderr
        assert read_manifest(folder).digest == before.digest
        assert (folder / "part_00000.parquet").stat().st_ino == inode, "nothing was lost"


def test_a_stage_of_which_nothing_tells_what_it_is_is_named(run):
    folder = run / "thought/iteration_0/rollouts"
    unseal(folder)
    (folder / "intent.json").unlink()
    (folder / WRITTEN).unlink()
    done = again(run)
    assert done.exit_code == 1
    said = " ".join(done.output.split())
    assert f"{folder} holds files and no intent.json" in said
    assert f"mv {folder} {folder}.damaged" in said
    assert (folder / "part_00000.parquet").is_file()
    folder.rename(f"{folder}.damaged")
    assert again(run).exit_code == 0


def opened(folder):
    return Stage(folder, name="prompts", version=1, config={})


@pytest.mark.parametrize("damaged", range(4))
def test_of_a_damaged_list_nothing_behind_the_damage_counts(tmp_path, damaged):
    stage = opened(tmp_path)
    for part in range(3):
        stage.write_records(f"part_{part}", [PROMPT], Prompt)
    path = tmp_path / WRITTEN
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    lines[damaged] = lines[damaged].replace(b'": "', b'": "0', 1)
    path.write_bytes(b"".join(lines))
    stage = opened(tmp_path)
    assert [stage.has(f"part_{part}") for part in range(3)] == [
        part < damaged - 1 for part in range(3)
    ]
    for part in range(3):
        if not stage.has(f"part_{part}"):
            stage.write_records(f"part_{part}", [PROMPT], Prompt)
    assert len(stage.seal({}).parts) == 3


@pytest.mark.parametrize("tail", [b'{"name": "part_1', b"\x00" * 4096, b"[]\n", b"null\n{}\n"])
def test_a_list_that_ends_in_garbage_goes_on_behind_its_last_line(tmp_path, tail):
    stage = opened(tmp_path)
    stage.write_records("part_0", [PROMPT], Prompt)
    with (tmp_path / WRITTEN).open("ab") as file:
        file.write(tail)
    stage = opened(tmp_path)
    assert stage.has("part_0")
    stage.write_records("part_1", [PROMPT], Prompt)
    stage = opened(tmp_path)
    assert stage.has("part_0")
    assert stage.has("part_1")
    assert [part.name for part in stage.seal({}).parts] == ["part_0.parquet", "part_1.parquet"]


def test_what_changes_before_the_seal_is_not_sealed(tmp_path):
    stage = opened(tmp_path)
    stage.write_records("part_0", [PROMPT], Prompt)
    fill(tmp_path / "part_0.parquet")
    with pytest.raises(StageError, match=r"part_0\.parquet changed or vanished"):
        stage.seal({})
    stage = opened(tmp_path)
    assert not stage.has("part_0")
    stage.write_records("part_0", [PROMPT], Prompt)
    stage.seal({})
    assert json.loads((tmp_path / "manifest.json").read_text())["parts"]
