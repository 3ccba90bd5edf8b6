"""Answers already paid for: one SQLite file that survives any kill and that runs may share.

What is asked is the key, hashed; the answer is any JSON value. Whoever asks does so under an
account, so that a stage can say what it spent over all its attempts.

An answer is on file when `keep` returns: a process killed afterwards has lost nothing, and a power
cut costs the last answers at most, never the file. Any number of processes on one machine may share
a file. They must be on one machine: SQLite's write-ahead log needs shared memory, so a file on a
network folder (NFS, Lustre) must not be used from two machines, and some such folders refuse it
altogether; then put the cache on a local disk.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

APPLICATION = 0x46546361
"""Marks the file as ours in SQLite's header ("FTca")."""
SCHEMA = """
CREATE TABLE answers (
    key TEXT PRIMARY KEY, value TEXT NOT NULL, account TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost REAL NOT NULL
)
"""
ANSWER = "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)"
SPENT = """
SELECT count(*), total(prompt_tokens), total(completion_tokens), total(cost)
FROM answers WHERE account = ?
"""
PATIENCE = 60.0
"""Seconds to wait while another process writes."""


class Cache:
    """Find and keep answers, from any thread.

    Example::

        with Cache(run / "cache.sqlite", account="thought iteration 0 judgements") as cache:
            if (verdict := cache.find(key)) is None:
                cache.keep(key, verdict := ask(), prompt_tokens=812, completion_tokens=230)
    """

    def __init__(self, path: Path | None = None, *, account: str = "") -> None:
        """Open the file, or make it; without a path the answers live in memory.

        Raises: ValueError if the file is something else, damaged, or cannot be written.
        """
        self.hits = 0
        """Answers found since it was opened."""
        self._account = account
        self._path = path
        self._lock = threading.Lock()
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(
                path or ":memory:",
                timeout=PATIENCE,
                isolation_level=None,
                check_same_thread=False,
            )
        except (OSError, sqlite3.Error) as error:
            raise self._mistake(error) from error
        try:
            self._claim()
            self._log_ahead()
        except sqlite3.Error as error:
            self._base.close()
            raise self._mistake(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._base.close()

    def find(self, key: str) -> Any | None:
        """The answer to a question, counted as a hit; `None` if it was never kept."""
        row = self._read("SELECT value FROM answers WHERE key = ?", key)
        if row is None:
            return None
        self.hits += 1
        return json.loads(row[0])

    def keep(
        self,
        key: str,
        value: Any,
        *,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        cost: float = 0.0,
    ) -> None:
        """Keep one answer at once, with what it cost. A key that is there stays as it is.

        `cost` is money, in the currency of the recipe's prices.

        Raises: ValueError if the file cannot be written, as on a full disk.
        """
        row = (key, json.dumps(value), self._account, prompt_tokens, completion_tokens, cost)
        self._write([row])

    def keep_all(
        self, answers: Mapping[str, Any], tokens: Mapping[str, tuple[int, int]] | None = None
    ) -> None:
        """Keep many answers that cost no money, all or none.

        `tokens` says of a key how many prompt and completion tokens it took; 0 by default.

        Raises: ValueError if the file cannot be written, as on a full disk.
        """
        spent = tokens or {}
        self._write(
            [
                (key, json.dumps(value), self._account, *spent.get(key, (0, 0)), 0.0)
                for key, value in answers.items()
            ]
        )

    def take_all(self) -> dict[str, Any]:
        """Every answer of a cache in memory, which is empty afterwards."""
        assert self._path is None, "a file's answers are paid for"
        with self._lock:
            rows = self._base.execute("DELETE FROM answers RETURNING key, value").fetchall()
        return {key: json.loads(value) for key, value in rows}

    def counts(self) -> dict[str, int | float]:
        """What this account spent over all attempts, and the answers found in this one."""
        row = self._read(SPENT, self._account)
        assert row is not None, "an aggregate always has a row"
        calls, prompt, completion, cost = row
        return {
            "calls": calls,
            "hits": self.hits,
            "prompt_tokens": int(prompt),
            "completion_tokens": int(completion),
            "cost": round(cost, 6),
        }

    def _claim(self) -> None:
        """Make the table in a new file, and refuse a data base that is not ours.

        It takes the write lock, so that a file that cannot be written is refused before anything
        is paid for.
        """
        self._base.execute("BEGIN IMMEDIATE")
        try:
            (mark,) = self._base.execute("PRAGMA application_id").fetchone()
            (tables,) = self._base.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if mark != APPLICATION:
                if tables:
                    raise sqlite3.DatabaseError("it is an SQLite file of something else")
                self._base.execute(SCHEMA)
                self._base.execute(f"PRAGMA application_id = {APPLICATION}")
            self._base.execute("COMMIT")
        finally:
            if self._base.in_transaction:
                self._base.execute("ROLLBACK")

    def _log_ahead(self) -> None:
        """Turn on the write-ahead log; SQLite does not wait here while another process does so."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self._base.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
                time.sleep(0.02)
        self._base.execute("PRAGMA synchronous=NORMAL")

    def _read(self, query: str, value: str) -> tuple[Any, ...] | None:
        try:
            with self._lock:
                return self._base.execute(query, (value,)).fetchone()
        except sqlite3.Error as error:
            raise self._mistake(error) from error

    def _write(self, rows: list[tuple[Any, ...]]) -> None:
        try:
            with self._lock:
                self._base.execute("BEGIN IMMEDIATE")
                try:
                    self._base.executemany(ANSWER, rows)
                    self._base.execute("COMMIT")
                finally:
                    if self._base.in_transaction:
                        self._base.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise self._mistake(error) from error

    def _mistake(self, error: OSError | sqlite3.Error) -> ValueError:
        match error:
            case OSError():
                way_out = "give a path where a file can be made"
            case sqlite3.OperationalError():
                way_out = (
                    "make room on its disk, make file and folder writable, or give another path on "
                    "a local disk; what it holds is safe"
                )
            case _:
                way_out = "move it away, and what it held will be asked again, or give another path"
        return ValueError(f"cache: {self._path} cannot be used: {error}; {way_out}")
