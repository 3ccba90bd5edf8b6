"""Who is let in: one host, one origin, and no keys by trying."""

import hashlib
import socket

import httpx
import pytest
from scripted_backend import ScriptedBackend, script
from served import refused, served

from forethought.serving.http.gate import ADDRESSES, GUESSES, PAUSE, Guesses
from forethought.serving.http.keys import new_key

SIMPLE = script("a secret thought <R> The answer is 5.", cut=5)
MODELS = "/v1/models"


@pytest.fixture(scope="module")
def server():
    with served(ScriptedBackend(SIMPLE)) as running:
        yield running


def status(server, *headers):
    """Of a request with these headers and no others."""
    head = "".join(f"{header}\r\n" for header in headers)
    port = int(server.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(f"GET {MODELS} HTTP/1.1\r\n{head}\r\n".encode())
        return int(client.recv(4096).split()[1])


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:80"])
def test_the_names_of_this_machine_are_answered_to(server, host):
    assert status(server, f"Host: {host}") == 200
    assert status(server, f"Host: {host}", f"Origin: http://{host}") == 200


@pytest.mark.parametrize(
    "host",
    [
        *("", "evil@localhost", "localhost@evil", "localhost/evil", "localhost:80:80"),
        *("localhost#", "[localhost", "localhost evil", "localhost:x", "\\localhost", "localhost?"),
    ],
)
def test_what_only_looks_like_them_is_not(server, host):
    assert status(server, f"Host: {host}") == 403
    assert status(server, "Host: localhost", f"Origin: http://{host}") == 403
    assert status(server, "Host: localhost", f"Origin: {host}") == 403


def test_two_hosts_or_two_keys_are_none(server):
    assert status(server, "Host: evil.example", "Host: localhost") == 400
    for name in ("Origin: http://localhost", "Authorization: Bearer a"):
        assert status(server, "Host: localhost", name, name) == 400


def test_keys_are_not_found_by_trying(tmp_path):
    key = new_key("made")
    weak = hashlib.sha256(b"weak").hexdigest()
    (tmp_path / "keys").write_text(f"{key.line}\nweak {weak} -\n")

    def asked(secret):
        headers = {"Authorization": f"Bearer {secret}"}
        return httpx.get(server.url + MODELS, headers=headers)

    with served(ScriptedBackend(SIMPLE), api_keys=tmp_path / "keys") as server:
        assert asked("weak").status_code == 200
        for number in range(GUESSES):
            refused(asked(f"guess{number}"), 401)
        reply = asked("another")
        refused(reply, 429, code="too_many_wrong_keys")
        assert 1 <= int(reply.headers["Retry-After"]) <= PAUSE
        refused(asked("weak"), 429)
        assert asked(key.secret).status_code == 200
        assert httpx.get(server.url + MODELS).status_code == 401
        assert httpx.get(server.url + "/health").status_code == 200


def test_wrong_keys_are_forgotten_one_after_the_other():
    now = [100.0]
    guesses = Guesses(clock=lambda: now[0])
    for _ in range(GUESSES):
        assert guesses.pause("a") == 0
        guesses.wrong("a")
    assert guesses.pause("a") == PAUSE
    assert guesses.pause("b") == 0
    now[0] += PAUSE
    assert guesses.pause("a") == 0
    guesses.wrong("a")
    assert guesses.pause("a") == PAUSE
    now[0] += GUESSES * PAUSE
    for _ in range(GUESSES):
        assert guesses.pause("a") == 0
        guesses.wrong("a")


def test_no_more_addresses_are_remembered_than_there_is_room_for():
    guesses = Guesses(clock=lambda: 0.0)
    for number in range(ADDRESSES + 50):
        guesses.wrong(str(number))
    assert len(guesses._forgotten) == ADDRESSES
