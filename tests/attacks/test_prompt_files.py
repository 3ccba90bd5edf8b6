"""Files of prompts that stand for more than any memory holds."""

import gzip
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forethought.config import ColumnsConfig
from forethought.prompts import files
from forethought.prompts.files import file_records
from forethought.storage import sealed_stage
from forethought.storage.sealed_stage import StageError, read_manifest, read_records
from forethought.types import Message, Prompt

LIMITED = """
import resource, sys
from pathlib import Path
from forethought.config import ColumnsConfig
from forethought.prompts.files import file_records
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
try:
    for record in file_records(Path(sys.argv[1]), ColumnsConfig(prompt="prompt")):
        pass
except ValueError as error:
    print(error)
"""


def refused(path):
    """What is said of it by a process that has 6 GiB of addresses."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert str(path) in done.stdout
    return done.stdout


def test_a_dictionary_of_one_long_text_is_not_repeated(tmp_path):
    path = tmp_path / "bomb.parquet"
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), ["x" * 1_000_000])
    pq.write_table(pa.table({"prompt": column}), path, compression="zstd")
    assert path.stat().st_size < 100_000
    assert "its values are more than 2 GiB; cut it into several files" in refused(path)


def test_turns_of_one_long_text_are_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST", 2**27)
    path = tmp_path / "bomb.parquet"
    turns = [[{"role": "user", "content": "x" * 1_000_000}] * 300]
    pq.write_table(pa.table({"messages": turns}), path, compression="zstd")
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"bomb\.parquet: its values are more than 128 MiB"):
        list(file_records(path, ColumnsConfig(prompt="messages")))


def test_what_a_file_says_of_itself_is_believed_when_it_is_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST", 2**20)
    path = tmp_path / "bomb.parquet"
    long = pa.table({"prompt": ["x"], "other": [[None] * 1_000_000]})
    for table in (
        pa.table({"prompt": ["x" * 2_000_000]}),
        pa.table({"prompt": [""] * 10**6}),
        long,
    ):
        pq.write_table(table, path, compression="zstd")
        assert path.stat().st_size < 50_000
        with pytest.raises(ValueError, match=r"bomb\.parquet: it stands for more than 1 MiB"):
            list(file_records(path, ColumnsConfig(prompt="prompt")))


def test_texts_are_read_as_before(tmp_path):
    path = tmp_path / "fine.parquet"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Question {i % 3}"},
                {"role": "x", "content": None},
            ],
            "n": i,
        }
        for i in range(1000)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    read = [record.row for record in file_records(path, ColumnsConfig(prompt="messages"))]
    assert read == [{"messages": row["messages"]} for row in rows]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_packed_file_is_unpacked_within_a_limit(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(files, "LARGEST", 2**24)
    path = tmp_path / f"bomb.{ending}.gz"
    path.write_bytes(gzip.compress(b" " * 2**25))
    with pytest.raises(ValueError, match=r"bomb\..*\.gz: it unpacks to more than 16 MiB"):
        list(file_records(path, ColumnsConfig(prompt="prompt")))


def test_a_packed_file_within_the_limit_is_read(tmp_path):
    packed = tmp_path / "fine.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps({"prompt": "x" * 10_000}).encode()))
    assert len(list(file_records(packed, ColumnsConfig(prompt="prompt")))) == 1


def test_a_part_of_a_run_of_others_is_bounded(tmp_path, monkeypatch):
    from forethought.storage.open_stage import Stage

    stage = Stage(tmp_path / "stage", name="prompts", version=1, config={})
    prompt = Prompt(
        prompt_id="0" * 16,
        messages=(Message(role="user", content="x" * 2_000_000),),
        category=None,
        source="test",
        reference=None,
    )
    stage.write_records("train", [prompt], Prompt)
    stage.seal({})
    assert read_manifest(tmp_path / "stage").parts[0].bytes < 50_000
    assert read_records(tmp_path / "stage", Prompt) == [prompt]
    monkeypatch.setattr(sealed_stage, "LARGEST_PART", 2**20)
    with pytest.raises(StageError, match=r"train\.parquet: it stands for more than 1 MiB"):
        read_records(tmp_path / "stage", Prompt)
