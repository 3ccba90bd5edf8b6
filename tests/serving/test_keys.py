"""The file of keys: what a line means, who is who, what happens when it changes."""

import hashlib
import re

import pytest

from forethought.serving.http.keys import REASONING, Keys, new_key


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys"


def bearer(key):
    return f"Bearer {key.secret}"


def opened(path, complaints=None):
    return Keys(path, (complaints if complaints is not None else []).append)


def test_a_key_is_known_by_its_secret_and_kept_by_its_hash(path):
    seer, other = new_key("seer", {REASONING}), new_key("other.key_2")
    path.write_text(f"# keys\n\n{seer.line}\n  {other.line}\n")
    keys = opened(path)
    found = keys.caller(bearer(seer))
    assert found is not None
    assert (found.name, found.rights) == ("seer", {"reasoning"})
    found = keys.caller(bearer(other))
    assert found is not None
    assert (found.name, found.rights) == ("other.key_2", frozenset())
    assert seer.secret not in path.read_text()
    assert hashlib.sha256(seer.secret.encode()).hexdigest() in path.read_text()
    assert len(seer.secret) > 40
    assert seer.secret != other.secret


def test_nobody_else_is_let_in(path):
    key = new_key("a")
    path.write_text(key.line)
    keys = opened(path)
    digest = key.line.split()[1]
    for header in (
        None,
        "",
        "Bearer",
        "Bearer ",
        key.secret,
        f"Basic {key.secret}",
        f"Bearer {key.secret}x",
        f"Bearer {key.secret[:-1]}",
        f"Bearer {digest}",
        "Bearer \xff\udce4",
    ):
        assert keys.caller(header) is None, header
    assert keys.caller(f"bearer  {key.secret} ") is not None


def test_a_change_holds_from_the_next_request(path):
    first, second = new_key("first"), new_key("second")
    path.write_text(first.line)
    keys = opened(path)
    path.write_text(second.line + "\n")
    assert keys.caller(bearer(first)) is None
    assert keys.caller(bearer(second)) is not None


def test_a_change_that_cannot_be_read_leaves_the_old_keys_and_is_reported_once(path):
    key = new_key("first")
    path.write_text(key.line)
    complaints = []
    keys = opened(path, complaints)
    path.write_text(key.line + "\nnonsense\n")
    for _ in range(3):
        assert keys.caller(bearer(key)) is not None
    path.unlink()
    assert keys.caller(bearer(key)) is not None
    assert len(complaints) == 2
    assert "line 2" in complaints[0]
    assert "cannot be read" in complaints[1]
    path.write_text(new_key("later").line)
    assert keys.caller(bearer(key)) is None


HASH = "a" * 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no key"),
        ("# only a comment", "has no key"),
        ("a " + HASH, "line 1: 2 words"),
        (f"a {HASH} - extra", "line 1: 4 words"),
        (f"a {HASH} -\na {HASH} -", "line 2: the name 'a' stands there twice"),
        ("a sk-secret -", "no SHA-256"),
        (f"a {HASH[1:]} -", "no SHA-256"),
        (f"a {HASH} thoughts", "there is no such right"),
        (f"a {HASH} reasoning,", "there is no such right"),
        (f"[a] {HASH} -", "key name '[a]'"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(path, text, message):
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        opened(path)


def test_a_file_that_is_missing_binary_or_everybodys_is_refused(path):
    with pytest.raises(ValueError, match="No such file"):
        opened(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8"):
        opened(path)
    path.write_text(new_key("a").line)
    path.chmod(0o646)
    with pytest.raises(ValueError, match="chmod o-w"):
        opened(path)


def test_names_and_rights_are_checked():
    for name in ("", "two words", "-a", "a" * 65, "a\n", "ä"):
        with pytest.raises(ValueError, match="key name"):
            new_key(name)
    with pytest.raises(ValueError, match="no such right"):
        new_key("a", {"everything"})
