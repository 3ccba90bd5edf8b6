"""A stage that is being written: what it holds is known file by file, until the seal.

The folder gets `intent.json` first and `manifest.json` last. Whatever was made before a kill is
used again only if it is as it was written (written.py); the seal covers what this stage has written
and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from forethought.storage.files import (
    content_hash,
    is_temporary,
    json_bytes,
    replacing,
    sha256_once,
    table_bytes,
    write_bytes,
    write_json,
)
from forethought.storage.records import from_table, table_schema, to_table
from forethought.storage.sealed_stage import (
    INTENT,
    MANIFEST,
    SCRATCH,
    Count,
    Manifest,
    Part,
    Record,
    StageError,
    is_begun,
    is_sealed,
    read_json,
    read_manifest,
    read_object,
    redo,
)
from forethought.storage.written import WRITTEN, Written, set_aside

ROW_GROUP = 8192
"""Rows that `Stage.write_pieces` holds before it writes them."""
NOT_ITS_OWN = frozenset({INTENT, MANIFEST, WRITTEN, "seconds.json", "lock"})
"""Files of a stage's folder that are never a part of it."""
OPEN = frozenset({SCRATCH, "state"})
"""Folders that an unsealed stage works in: whoever does so checks what is there."""


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
        self._written = Written(folder)
        self._claim(intent)
        self._started = time.monotonic()

    def _claim(self, intent: dict[str, Any]) -> None:
        path, content = self.folder / INTENT, json_bytes(intent)
        if is_sealed(self.folder):
            _refuse_unnamed(self.folder)
            _refuse_other_work(self.folder, read_object(path), intent)
            return
        files = [file for file in self.folder.rglob("*") if file.is_file()]
        begun = [file for file in files if file.name not in NOT_ITS_OWN and not is_temporary(file)]
        digest = self._written.digests().get(INTENT)
        if begun and digest == hashlib.sha256(content).hexdigest():
            # The list of what was written tells that it is this work, whatever became of the file.
            if not self._written.whole(INTENT):
                print(f"{path} is missing or damaged; written again", file=sys.stderr)
                self.write_bytes(INTENT, content)
        elif path.is_file():
            _refuse_other_work(self.folder, read_object(path), intent)
            self._written.note(INTENT)
        elif begun:
            raise StageError(
                f"{self.folder} holds files and no {INTENT}, which would say what they are of; "
                f"move it away (mv {self.folder} {self.folder}.damaged) and run the same command"
            )
        else:
            self.write_bytes(INTENT, content)

    @property
    def sealed(self) -> bool:
        """Whether all is done and the manifest written."""
        return is_sealed(self.folder)

    def has(self, part: str, *beside: str) -> bool:
        """Whether a part of an unsealed stage is there and whole, and so are the files that were
        written before it and go with it, where there are any; what is damaged is set aside.
        """
        known = self._written.digests()
        names = [f"{part}.parquet", *(name for name in beside if name in known)]
        whole = [self._written.whole(name) for name in names]
        return all(whole)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        write_bytes(self.folder / name, content)
        self._written.note(name)

    def write_json(self, name: str, value: Any) -> None:
        """The same of indented JSON."""
        self.write_bytes(name, json_bytes(value))

    def note(self, *names: str) -> None:
        """Files that something else wrote into the folder, or folders of them, belong to this
        stage. What it is not told of is not sealed.
        """
        self._written.note(*names)

    def remove(self, *names: str) -> None:
        """Remove files or folders that this stage has written and does not want any more."""
        self._written.forget(*names)
        for name in names:
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def write_records(self, part: str, records: Iterable[Any], record_type: type) -> None:
        """Write a Parquet part of one record type, whole or not at all."""
        self.write_table(part, to_table(records, record_type))

    def write_table(self, part: str, table: pa.Table) -> None:
        """Write a Parquet part, whole or not at all."""
        self.write_bytes(f"{part}.parquet", table_bytes(table))

    def write_pieces(
        self,
        part: str,
        pieces: Iterable[Iterable[Any]],
        record_type: type,
        *,
        without: Sequence[str] = (),
    ) -> None:
        """Write a Parquet part of one record type whose rows come piece by piece, whole or not at
        all. Up to `ROW_GROUP` rows it has the bytes that `write_records` gives it. `without` are
        columns that are left out, as in `to_table`.
        """
        schema = table_schema(record_type, without=without)
        with (
            replacing(self.folder / f"{part}.parquet") as file,
            pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
        ):
            held = [schema.empty_table()]
            for piece in pieces:
                held.append(to_table(piece, record_type, without=without))
                if sum(table.num_rows for table in held) >= ROW_GROUP:
                    writer.write_table(pa.concat_tables(held).combine_chunks())
                    held = []
            if held:
                writer.write_table(pa.concat_tables(held).combine_chunks())
        self._written.note(f"{part}.parquet")

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
        self._set_strays_aside()
        try:
            counts = work()
        except BaseException:
            self.add_seconds()
            raise
        self.seal(counts)

    def seal(self, counts: dict[str, Count]) -> Manifest:
        """Write the manifest over every file that this stage has written. After this nothing
        changes.

        Raises: StageError if one of them is not as it was written.
        """
        seconds = self.add_seconds()
        shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)
        parts = tuple(_part(self.folder, path) for path in self._whole_files())
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
        (self.folder / WRITTEN).unlink(missing_ok=True)
        return manifest

    def _whole_files(self) -> list[Path]:
        """What is sealed; strays are set aside, and so is damage."""
        known = {
            name: digest
            for name, digest in self._written.digests().items()
            if name != INTENT and name.split("/")[0] not in OPEN
        }
        self._set_strays_aside(logs=True)
        bad = [name for name in known if not self._written.whole(name)]
        if bad:
            raise StageError(
                f"{self.folder}: {', '.join(bad[:5])} changed or vanished before the stage was "
                "sealed; the same command makes it again"
            )
        return [self.folder / name for name in sorted(known)]

    def _set_strays_aside(self, *, logs: bool = False) -> None:
        """What this stage has not written; a log only once it must be whole, since it grows."""
        known = self._written.digests()
        folders = {name.split("/")[0] for name in known if "/" in name}
        strays: dict[Path, None] = {}
        for path in self._files():
            inside = path.relative_to(self.folder)
            if inside.as_posix() not in known and (logs or path.suffix != ".jsonl"):
                whole_folder = len(inside.parts) > 1 and str(inside.parents[-2]) not in folders
                strays[self.folder / inside.parents[-2] if whole_folder else path] = None
        for path in strays:
            set_aside(path, "stray")

    def _files(self) -> Iterator[Path]:
        """The files that may be parts: not those of storage, nor what was set aside."""
        for path in sorted(self.folder.rglob("*")):
            inside = path.relative_to(self.folder).parts
            aside = any(name.endswith((".damaged", ".stray")) for name in inside)
            hidden = any(is_temporary(Path(name)) for name in inside)
            own = not OPEN.isdisjoint(inside[:1]) or path.name in NOT_ITS_OWN
            if path.is_file() and not (aside or hidden or own):
                yield path


def refuse_changed_config(folder: Path, *, version: int, config: dict[str, Any]) -> None:
    """Check a stage that may have been begun, before any other stage is run.

    Raises: StageError if the folder holds work of another config or version, or is sealed and does
    not say of what.
    """
    if is_sealed(folder):
        _refuse_unnamed(folder)
    if is_begun(folder):
        try:
            found = read_object(folder / INTENT)
        except StageError:
            if is_sealed(folder):
                raise
            return  # whoever opens the stage can tell what it was
        wanted = {"version": version, "config": json.loads(json.dumps(config))}
        _refuse_other_work(folder, {key: found.get(key) for key in wanted}, wanted)


def _refuse_unnamed(folder: Path) -> None:
    if not is_begun(folder):
        raise StageError(f"{folder} is sealed and has no {INTENT}; {redo(folder)}")


def _part(folder: Path, path: Path) -> Part:
    rows = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
    return Part(
        name=path.relative_to(folder).as_posix(),
        rows=rows,
        bytes=path.stat().st_size,
        sha256=sha256_once(path),
    )


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
