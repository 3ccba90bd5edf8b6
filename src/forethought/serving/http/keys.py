"""API keys: who may ask, and who may see thoughts.

A file with one key a line, `NAME SHA256 RIGHTS`: the name shows in the access log, the hash is of
the secret, which is nowhere kept, and the rights are words with commas between them or `-` for
none. `reasoning` is the only right: its key sees thoughts. Empty lines and lines that begin with
`#` do not count. A plain SHA-256 is enough because a secret has 256 random bits.

    made = new_key("lab", {"reasoning"})
    print("give this to its user, it is not kept:", made.secret)
    print("add this line to the file:", made.line)

The file is read again when it changes. A change that cannot be read leaves the old keys in force
and is reported, once.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

REASONING = "reasoning"
RIGHTS = frozenset({REASONING})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks.

    Example: `Caller(name="lab", rights=frozenset({"reasoning"}))`
    """

    name: str
    rights: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key that was just made.

    Example: `NewKey(secret="sk-…", line="lab 9f86d081… reasoning")`
    """

    secret: str
    """Shown once; whoever has it is the caller."""
    line: str
    """For the file."""


@dataclass(frozen=True, slots=True)
class _Key:
    digest: bytes
    caller: Caller


def new_key(name: str, rights: Collection[str] = ()) -> NewKey:
    """A new key with its line for the file.

    Raises: ValueError for a name or right that cannot be.
    """
    _check(name, rights)
    secret = "sk-" + secrets.token_urlsafe(32)
    return NewKey(
        secret=secret, line=f"{name} {_digest(secret).hex()} {','.join(sorted(rights)) or '-'}"
    )


class Keys:
    """The keys of a file, as it is now.

    Example: `Keys(Path("keys"), complain=print).caller("Bearer sk-…")`
    """

    def __init__(self, path: Path, complain: Callable[[str], None]) -> None:
        """Read the file. `complain` is told later when a changed file cannot be read.

        Raises: ValueError if the file is missing, damaged or writable by everybody.
        """
        self._path = path
        self._complain = complain
        self._seen = self._state()
        self._keys = _read(path)

    def caller(self, authorization: str | None) -> Caller | None:
        """Whose key this header has; `None` if it is nobody's. All keys are compared, always."""
        self._refresh()
        scheme, _, secret = (authorization or "").partition(" ")
        digest = _digest(secret.strip())
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key.caller
        return found if scheme.lower() == "bearer" else None

    def _state(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode)

    def _refresh(self) -> None:
        now = self._state()
        if now == self._seen:
            return
        self._seen = now
        try:
            self._keys = _read(self._path)
        except ValueError as error:
            self._complain(f"{error}; the keys read before stay in force")


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _check(name: str, rights: Collection[str]) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"key name {name!r}: give 1 to 64 letters, digits, dots, dashes or underscores, "
            "beginning with a letter or digit"
        )
    for right in rights:
        if right not in RIGHTS:
            raise ValueError(f"right {right!r}: there is no such right; give {', '.join(RIGHTS)}")


def _read(path: Path) -> tuple[_Key, ...]:
    try:
        text = path.read_text(encoding="utf-8")
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"api keys: {path} cannot be read ({reason})") from error
    if mode & stat.S_IWOTH:
        raise ValueError(f"api keys: everybody can write {path}; `chmod o-w` it first")
    keys: dict[str, _Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key = _key(line)
            if key.caller.name in keys:
                raise ValueError(f"the name {key.caller.name!r} stands there twice")
        except ValueError as error:
            raise ValueError(f"api keys: {path}, line {number}: {error}") from None
        keys[key.caller.name] = key
    if not keys:
        raise ValueError(f"api keys: {path} has no key; add a line NAME SHA256 RIGHTS")
    return tuple(keys.values())


def _key(line: str) -> _Key:
    words = line.split()
    if len(words) != 3:
        raise ValueError(f"{len(words)} words where there must be three: NAME SHA256 RIGHTS")
    name, digest, listed = words
    rights = frozenset() if listed == "-" else frozenset(listed.split(","))
    _check(name, rights)
    if not _HASH.fullmatch(digest):
        raise ValueError("the second word is no SHA-256 in hexadecimal digits (the secret itself?)")
    return _Key(bytes.fromhex(digest), Caller(name=name, rights=rights))
