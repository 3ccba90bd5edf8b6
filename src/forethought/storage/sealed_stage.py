"""Sealed stage directories: write whole, mark last, resume only from what is marked.

A stage's folder holds `intent.json` (what it is, written first), its parts, and `manifest.json`
(written last: the seal). A folder without a manifest cannot be read; one with it never changes.
Identity is `sha256(stage, version, config, digests of the inputs)`, so the same folder can never
hold the work of another recipe.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from forethought.storage.records import from_table, table_schema, to_table

Record = TypeVar("Record")
MANIFEST = "manifest.json"
"""File that seals a stage."""
ROW_GROUP = 8192
"""Rows that `Stage.write_pieces` holds before it writes them."""
SCRATCH = "scratch"
"""Folder in an unsealed stage for what a resumed attempt may use; the seal removes it."""
Count = int | float | str | None | list[Any] | dict[str, Any]


class Part(BaseModel):
    """One file of a sealed stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Path below the stage's folder."""
    rows: int | None
    """Records, for Parquet parts."""
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """The seal of a stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    version: int
    fingerprint: str
    digest: str
    """Hash of the fingerprint and of every part: what later stages name as their input."""
    parts: tuple[Part, ...]
    inputs: dict[str, str]
    """Input stage folder to its digest."""
    counts: dict[str, Count]
    """What the stage reports of itself: parse statuses, missing groups, tokens …"""
    seconds: float
    """Wall-clock time over all attempts."""


class StageError(ValueError):
    """A stage's folder is not what the run needs; the message names the way out."""


class ArmStoppedError(StageError):
    """An arm has nothing more to learn from. What does not build on it can still be done."""


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file so that after a crash either the old or the new content is there, whole.

    Raises: OSError if the disk is full; the target is then as it was.
    """
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """The file to write a path's new content to, which takes its place when the block ends; where
    that raises, the target is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of indented JSON."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_table(path: Path, table: pa.Table) -> None:
    """`write_bytes` of Parquet whose damage would be noticed."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    write_bytes(path, sink.getvalue().to_pybytes())


def sync_folder(folder: Path) -> None:
    """Make the folder's entries survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Content hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(value: Any) -> str:
    """Hash of a JSON value, whatever the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


class Stage:
    """A stage folder opened for writing.

    Example::

        stage = Stage(folder, name="pairs", version=1, config={"rho": 0.2}, inputs=[rollouts])
        if not stage.sealed:
            stage.write_records("part_00000", pairs, PreferencePair)
            stage.seal(counts={"pairs": 120})
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        version: int,
        config: dict[str, Any],
        inputs: Sequence[Path] = (),
    ) -> None:
        """Claim the folder for this work, or find the same work begun or done there.

        Raises: StageError if an input is not sealed, or the folder holds other work.
        """
        self.folder = folder
        self.name = name
        self._version = version
        self._inputs = {
            os.path.relpath(path, folder): read_manifest(path).digest for path in inputs
        }
        intent = {
            "stage": name,
            "version": version,
            # As it will be read back: tuples are lists there, keys are strings.
            "config": json.loads(json.dumps(config)),
            "inputs": self._inputs,
        }
        self.fingerprint = content_hash(intent)
        intent_file = folder / "intent.json"
        if is_begun(folder):
            _refuse_other_work(folder, read_object(intent_file), intent)
        elif is_sealed(folder):
            raise StageError(f"{folder} is sealed and has no intent.json; {_redo(folder)}")
        else:
            write_json(intent_file, intent)
        self._started = time.monotonic()

    @property
    def sealed(self) -> bool:
        """Whether all is done and the manifest written."""
        return is_sealed(self.folder)

    def has(self, part: str) -> bool:
        """Whether a part of an unsealed stage is there and whole; a damaged one is set aside."""
        path = self.folder / f"{part}.parquet"
        if not path.is_file():
            return False
        try:
            pq.read_table(path, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            damaged = path.with_suffix(".damaged")
            os.replace(path, damaged)
            print(
                f"{path} is damaged ({error}); kept as {damaged.name}, made again", file=sys.stderr
            )
            return False
        return True

    def write_records(self, part: str, records: Iterable[Any], record_type: type) -> None:
        """Write a Parquet part of one record type, whole or not at all."""
        self.write_table(part, to_table(records, record_type))

    def write_table(self, part: str, table: pa.Table) -> None:
        """Write a Parquet part, whole or not at all."""
        write_table(self.folder / f"{part}.parquet", table)

    def write_pieces(self, part: str, pieces: Iterable[Iterable[Any]], record_type: type) -> None:
        """Write a Parquet part of one record type whose rows come piece by piece, whole or not at
        all. Up to `ROW_GROUP` rows it has the bytes that `write_records` gives it.
        """
        schema = table_schema(record_type)
        with (
            replacing(self.folder / f"{part}.parquet") as file,
            pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
        ):
            held = [schema.empty_table()]
            for piece in pieces:
                held.append(to_table(piece, record_type))
                if sum(table.num_rows for table in held) >= ROW_GROUP:
                    writer.write_table(pa.concat_tables(held).combine_chunks())
                    held = []
            if held:
                writer.write_table(pa.concat_tables(held).combine_chunks())

    def read_records(self, part: str, record_type: type[Record]) -> list[Record]:
        """A part of this stage, before it is sealed."""
        return from_table(pq.read_table(self.folder / f"{part}.parquet"), record_type)

    def add_seconds(self) -> float:
        """Wall-clock seconds of this stage over all attempts, kept beside the parts."""
        clock = self.folder / "seconds.json"
        before = float(read_json(clock)) if clock.is_file() else 0.0
        now = time.monotonic()
        total = before + now - self._started
        self._started = now
        write_json(clock, total)
        return total

    def complete(self, work: Callable[[], dict[str, Count]]) -> None:
        """Do the work and seal its counts; a sealed stage is left as it is."""
        if self.sealed:
            return
        try:
            counts = work()
        except BaseException:
            self.add_seconds()
            raise
        self.seal(counts)

    def seal(self, counts: dict[str, Count]) -> Manifest:
        """Write the manifest over every file in the folder. After this nothing changes."""
        seconds = self.add_seconds()
        shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)
        skipped = {"intent.json", MANIFEST, "seconds.json", "lock"}
        paths = [
            path
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.suffix != ".damaged" and path.name not in skipped
        ]
        parts = tuple(_part(self.folder, path) for path in paths)
        # Logs carry clock times; the same work done twice must have the same digest.
        content = [(part.name, part.sha256) for part in parts if not part.name.endswith(".jsonl")]
        digest = content_hash([self.fingerprint, content])
        manifest = Manifest(
            stage=self.name,
            version=self._version,
            fingerprint=self.fingerprint,
            digest=digest,
            parts=parts,
            inputs=self._inputs,
            counts=counts,
            seconds=round(seconds, 3),
        )
        write_json(self.folder / MANIFEST, manifest.model_dump(mode="json"))
        (self.folder / "seconds.json").unlink(missing_ok=True)
        return manifest


def is_begun(folder: Path) -> bool:
    """Whether a stage has been claimed for some work, which may be done."""
    return (folder / "intent.json").is_file()


def is_sealed(folder: Path) -> bool:
    """Whether a stage is finished and may be read."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """The seal of a stage.

    Raises: StageError if the stage is not sealed or the manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise StageError(f"{folder} is not finished: it has no {MANIFEST}; run it first")
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise StageError(f"{path} is damaged; {_redo(folder)}") from error


def read_records(
    folder: Path, record_type: type[Record], prefix: str = "", rows: slice | None = None
) -> list[Record]:
    """All records of a sealed stage's parts whose names begin with `prefix`, in part order.

    `rows`, with a start and a stop, are those wanted of each part; there is mostly one.

    Raises: StageError if the stage is not sealed, or a part is missing or damaged.
    """
    parts = sealed_parts(folder, prefix)
    return [record for part in parts for record in read_part(folder, part, record_type, rows)]


def sealed_parts(folder: Path, prefix: str = "") -> list[Part]:
    """The Parquet parts of a sealed stage whose names begin with `prefix`, in order.

    Raises: StageError if the stage is not sealed.
    """
    parts = read_manifest(folder).parts
    return [
        part for part in parts if part.name.endswith(".parquet") and part.name.startswith(prefix)
    ]


def read_part(
    folder: Path, part: Part, record_type: type[Record], rows: slice | None = None
) -> list[Record]:
    """The records of one part of a sealed stage; `rows`, with a start and a stop, if not all.

    Raises: StageError if the part is missing or damaged.
    """
    check_part(folder, part)
    table = pq.read_table(folder / part.name)
    if rows is not None:
        table = table.slice(rows.start, rows.stop - rows.start)
    return from_table(table, record_type)


def read_columns(folder: Path, part: Part, columns: Sequence[str]) -> pa.Table:
    """Some columns of one part of a sealed stage; dots reach into records.

    Raises: StageError if the part is missing or damaged.
    """
    check_part(folder, part)
    with pq.ParquetFile(folder / part.name) as file:
        return file.read(columns=list(columns))


def check_part(folder: Path, part: Part) -> None:
    """Raises: StageError if the part is missing or does not match its seal."""
    path = folder / part.name
    if not path.is_file():
        raise StageError(f"{path} is missing though the stage is sealed; {_redo(folder)}")
    if path.stat().st_size != part.bytes or sha256_file(path) != part.sha256:
        raise StageError(f"{path} is damaged: it does not match its seal; {_redo(folder)}")


def check_files(folder: Path, below: str = "") -> None:
    """Check a sealed stage's files, or those below a folder of it, before they are used.

    What was read once in this process is not read again while it looks the same on disk.

    Raises: StageError if the stage is not sealed, or a file is missing or damaged.
    """
    for part in read_manifest(folder).parts:
        if part.name.startswith(below):
            path = folder / part.name
            if not path.is_file() or _digests.get(_seen(path)) != part.sha256:
                check_part(folder, part)
                _digests[_seen(path)] = part.sha256


_Seen = tuple[int, int, int, int]
_digests: dict[_Seen, str] = {}
"""Digest of each file whose content this process has read, by what the disk says of it."""


def _seen(path: Path) -> _Seen:
    """What tells a file's content apart without reading it."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def refuse_changed_config(folder: Path, *, version: int, config: dict[str, Any]) -> None:
    """Check a stage that may have been begun, before any other stage is run.

    Raises: StageError if the folder holds work of another config or version, or is sealed and does
    not say of what.
    """
    if is_sealed(folder) and not is_begun(folder):
        raise StageError(f"{folder} is sealed and has no intent.json; {_redo(folder)}")
    if is_begun(folder):
        found = read_object(folder / "intent.json")
        wanted = {"version": version, "config": json.loads(json.dumps(config))}
        _refuse_other_work(folder, {key: found.get(key) for key in wanted}, wanted)


def _part(folder: Path, path: Path) -> Part:
    rows = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
    digest = sha256_file(path)
    _digests[_seen(path)] = digest
    return Part(
        name=path.relative_to(folder).as_posix(),
        rows=rows,
        bytes=path.stat().st_size,
        sha256=digest,
    )


def _redo(folder: Path) -> str:
    return (
        "to make it again, move the folder away (forethought check RUN --repair does it, or "
        f"mv {folder} {folder}.damaged) and run the same command; what was made from other "
        "content will then be refused and named in the same way"
    )


def read_json(path: Path) -> Any:
    """Raises: StageError if the file is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from error


def read_object(path: Path) -> dict[str, Any]:
    """Raises: StageError if the file is no JSON object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise damaged(path, f"an object is wanted, found {value!r:.60}")
    return value


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON Lines file that may still be written; one begun is left out.

    Raises: StageError naming the line that is no JSON object.
    """
    rows: list[dict[str, Any]] = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if line.endswith(b"\n") and line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise damaged(path, f"line {number}: {error}") from error
            if not isinstance(row, dict):
                raise damaged(path, f"line {number}: an object is wanted, found {row!r:.60}")
            rows.append(row)
    return rows


def damaged(path: Path, why: str) -> StageError:
    """The error for a file that cannot be what was written, with the smallest mend."""
    if path.name == "seconds.json" or not is_begun(path.parent):
        return StageError(
            f"{path} is damaged ({why}); move it away (mv {path} {path}.damaged) and run the same "
            "command: it is written anew"
        )
    return StageError(f"{path} is damaged ({why}); {_redo(path.parent)}")


def _refuse_other_work(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    if found == wanted:
        return
    differences = list(_differences(found, wanted))
    raise StageError(
        f"{folder} holds other work than this recipe asks for:\n"
        + "\n".join(f"  {line}" for line in differences)
        + "\nWays out: give it a folder of its own (run=…, or --output), move a whole run aside "
        "(run --fresh), put the setting back, or move away what is to be made again "
        f"(mv {folder} {folder}.old)"
    )


def _differences(found: Any, wanted: Any, place: str = "") -> Iterator[str]:
    """One line per differing field, with both values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            name = f"{place}.{key}" if place else key
            yield from _differences(found.get(key, "absent"), wanted.get(key, "absent"), name)
    elif found != wanted:
        yield f"{place}: there {found!r:.120}, asked for {wanted!r:.120}"
