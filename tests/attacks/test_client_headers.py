"""What a connection may hold and how long it may take, before any request is looked at."""

import json
import socket
from contextlib import suppress

import pytest
from scripted_backend import ScriptedBackend, script
from served import asked, served

from forethought.serving.http.connection import HEADER_BYTES, HEADER_LINES

SIMPLE = script("a secret thought <R> The answer is 5.", cut=5)
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
POST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
)


@pytest.fixture(scope="module")
def server():
    with served(ScriptedBackend(SIMPLE)) as running:
        yield running


def connected(server):
    port = int(server.url.rsplit(":", 1)[1])
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def said(server, sent, most=10_000_000):
    """What the server says until it closes; `sent` is repeated as far as it takes it."""
    said, size = b"", 0
    with connected(server) as client, suppress(ConnectionError):
        for part in sent:
            client.sendall(part)
            size += len(part)
            assert size < most, "it took all"
        while received := client.recv(65536):
            said += received
    return said


def lines(count):
    return b"".join(b"X-%d: a\r\n" % number for number in range(count))


def test_headers_within_the_limits_are_taken(server):
    close = b"Connection: close\r\n\r\n"
    for extra in (lines(HEADER_LINES - 2), b"X: " + b"x" * (HEADER_BYTES - 200) + b"\r\n"):
        assert said(server, [GET + extra + close]).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "sent",
    [
        GET + lines(HEADER_LINES + 1),
        GET + b"X: " + b"x" * HEADER_BYTES,
        GET + b"x" * (HEADER_BYTES + 1),
        GET + (b"X: " + b"x" * 1000 + b"\r\n") * 70,
        b"GET /" + b"x" * HEADER_BYTES,
        b"\r\n" * HEADER_BYTES,
    ],
    ids=["lines", "a value", "a name", "all of them", "a path", "empty lines"],
)
def test_more_headers_are_refused_before_they_end(server, sent):
    assert said(server, [sent]).startswith(b"HTTP/1.1 431 ")


def test_endless_headers_are_not_taken(server):
    for endless in (b"X: a\r\n" * 1000, b"x" * 8000):
        said(server, [GET, *[endless] * 2000])
    assert server.chat().status_code == 200


def test_headers_of_a_second_request_and_behind_a_body_count_too(server):
    whole = GET + b"\r\n"
    with connected(server) as client:
        client.sendall(whole)
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        client.sendall(GET + lines(HEADER_LINES + 1))
        assert client.recv(4096).startswith(b"HTTP/1.1 431 ")
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    for endless in (b"1;" + b"x" * 8000, b"0\r\n" + lines(HEADER_LINES), b"0\r\nX: " + b"x" * 8000):
        said(server, [chunked + endless, *[b"x" * 8000] * 2000])
    assert server.chat().status_code == 200


def test_a_body_in_many_small_chunks_is_no_header(server):
    body = json.dumps(asked("x" * 40_000)).encode()
    pieces = b"".join(b"2\r\n%b\r\n" % body[at : at + 2].ljust(2) for at in range(0, len(body), 2))
    head = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert said(server, [head, pieces + b"0\r\n\r\n"]).startswith(b"HTTP/1.1 200 ")


def test_late_headers_are_told_so():
    with served(ScriptedBackend(SIMPLE), read_seconds=0.2) as server:
        assert said(server, [GET]).startswith(b"HTTP/1.1 408 ")
        assert said(server, []) == b""
