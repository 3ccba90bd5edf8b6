"""What an unsealed stage has written: the SHA-256 of each file, in `written.jsonl`.

A resumed attempt goes on from the files that are as they were written. Others are moved aside: one
that is `damaged`, and a `stray` that this stage never wrote. Each line holds a hash over all lines
before it, so that of a damaged list nothing behind the damage counts: what is not known to be
whole is made again. A file is written first and noted then; a kill in between costs that one file.
Files that are noted together are one line: all of them count, or none.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from forethought.storage.files import naming, sha256_once

WRITTEN = "written.jsonl"


class Written:
    """The list of one folder. Any number of these may be open in one process, and one writes.

    Example::

        written = Written(folder)
        written.note("part_00000.parquet")
        written.whole("part_00000.parquet")
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / WRITTEN
        self._digests: dict[str, str] = {}
        self._link = ""
        """Hash over all lines so far."""
        self._size = 0
        """Bytes of the lines that were read; what is behind them does not count."""

    def digests(self) -> dict[str, str]:
        """SHA-256 of every file that counts as written, by its path below the folder."""
        self._read()
        return self._digests

    def note(self, *names: str, durable: bool = False) -> None:
        """These files, or all below these folders, are written and whole. Unless it is `durable`, a
        power cut within the next seconds may take the note, and the file is made again.
        """
        lines = {}
        for name in names:
            path = self.folder / name
            inside = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in inside:
                if file.is_file():
                    lines[file.relative_to(self.folder).as_posix()] = sha256_once(file)
        self._append(lines, durable)

    def forget(self, *names: str) -> None:
        """These files, or all below these folders, are no longer wanted."""
        gone = [
            known
            for known in self.digests()
            if any(known == name or known.startswith(f"{name}/") for name in names)
        ]
        self._append(dict.fromkeys(gone))

    def whole(self, name: str) -> bool:
        """Whether a file is there as it was written; one that is there and is not is set aside."""
        digest, path = self.digests().get(name), self.folder / name
        if not path.is_file():
            return False
        if digest is None:
            set_aside(path, "stray")
            return False
        if sha256_once(path) != digest:
            set_aside(path, "damaged")
            return False
        return True

    def all_whole(self, below: str) -> bool:
        """The same of every file that was written below a folder; nothing is moved."""
        return all(
            (self.folder / name).is_file() and sha256_once(self.folder / name) == digest
            for name, digest in self.digests().items()
            if name.startswith(f"{below}/")
        )

    def _read(self) -> None:
        # Mostly this is the only writer, and the list may be long.
        there = self._path.is_file()
        if (self._path.stat().st_size if there else 0) == self._size:
            return
        content = self._path.read_bytes() if there else b""
        self._digests, self._link, self._size = {}, "", 0
        for line in content.splitlines(keepends=True):
            try:
                entry = json.loads(line)
                files, link = entry["sha256"], entry["link"]
            except (ValueError, TypeError, KeyError, RecursionError):
                return
            if not line.endswith(b"\n") or link != self._linked(files):
                return
            self._take(files, link)
            self._size += len(line)

    def _append(self, files: Mapping[str, str | None], durable: bool = False) -> None:
        self._read()
        if all(self._digests.get(name) == digest for name, digest in files.items()):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        link = self._linked(files)
        line = json.dumps({"sha256": files, "link": link}).encode() + b"\n"
        with naming(self._path), self._path.open("ab") as file:
            # What is behind the last good line was cut off by a kill, or is damage.
            file.truncate(self._size)
            file.write(line)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        self._take(files, link)
        self._size += len(line)

    def _take(self, files: Mapping[str, str | None], link: str) -> None:
        """A file of no digest is forgotten."""
        self._link = link
        for name, digest in files.items():
            if digest is None:
                self._digests.pop(name, None)
            else:
                self._digests[name] = digest

    def _linked(self, files: Mapping[str, str | None]) -> str:
        return hashlib.sha256(json.dumps([self._link, files]).encode()).hexdigest()[:16]


def set_aside(path: Path, why: str) -> None:
    """Rename a file or folder to `NAME.WHY`, or the next number that is free, and say so."""
    target, number = path.with_name(f"{path.name}.{why}"), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.{number}.{why}")
    os.rename(path, target)
    reason = "is damaged" if why == "damaged" else "was not written by this stage"
    then = ", made again" if why == "damaged" else ""
    print(f"{path} {reason}; kept as {target.name}{then}", file=sys.stderr)
