"""The operator's own record of answers with their thoughts: one JSON object a line.

The only place where a thought is written down, off unless asked for. The file is made readable by
its owner alone; one that others can read is refused. Each line is written at once, in one piece.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from forethought.types import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateEntry:
    """One answer.

    Example: `PrivateEntry(time="2026-11-22T21:00:00Z", request_id="chatcmpl-…", choice=0,
    key="lab", messages=(Message(…),), thought="2 + 3 is 5.", response="5", outcome="stop")`
    """

    time: str
    """Of its end, UTC."""
    request_id: str
    choice: int
    key: str
    """Name of the caller's key, `-` where there are no keys."""
    messages: tuple[Message, ...]
    thought: str
    response: str
    outcome: str
    """`stop`, `length`, `cancelled` (client gone, time up) or `error`."""


class PrivateLog:
    """An open file of entries; leaving its `with` block closes it.

    Example: `PrivateLog(Path("answers.jsonl")).write(entry)`
    """

    def __init__(self, path: Path) -> None:
        """Open the file for adding to it.

        Raises: ValueError if it cannot be opened, is no plain file, or others may read it.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._file = os.open(path, flags | os.O_NONBLOCK, 0o600)
        except OSError as error:
            raise ValueError(f"private log: {path} cannot be opened ({error.strerror})") from error
        found = os.fstat(self._file)
        if not stat.S_ISREG(found.st_mode):
            self.close()
            raise ValueError(f"private log: {path} is not a plain file")
        if found.st_mode & 0o077:
            self.close()
            raise ValueError(
                f"private log: others may use {path} (mode {stat.S_IMODE(found.st_mode):03o}); "
                "`chmod 600` it or give another file"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, entry: PrivateEntry) -> None:
        """Add a line.

        Raises: OSError where the disk is full.
        """
        line = (json.dumps(asdict(entry)) + "\n").encode()
        while line:
            line = line[os.write(self._file, line) :]

    def close(self) -> None:
        """No more lines."""
        os.close(self._file)
