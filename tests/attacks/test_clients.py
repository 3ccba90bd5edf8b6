"""Clients of `forethought serve` that do what no good client does."""

import asyncio
import json
import socket
import time

import httpx
import pytest
import uvicorn
from scripted_backend import ScriptedBackend, script
from served import asked, metrics, refused, served, until

from forethought.serving.backends.base import AnswerDelta, AnswerEnd
from forethought.serving.http.connection import connection
from forethought.serving.http.settings import ServerSettings

SIMPLE = script("a secret thought <R> The answer is 5.", cut=5)
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_who_sends_many_requests_at_once_and_leaves_is_known_to_have_left(loop):
    wires, lost, said = [], asyncio.Event(), []

    class Watched(connection(ServerSettings(model="m"))):
        def connection_made(self, transport):
            super().connection_made(transport)
            wires.append(transport)

        def connection_lost(self, exc):
            super().connection_lost(exc)
            lost.set()

    async def application(scope, receive, send):
        assert (await receive())["type"] == "http.request"
        wires[-1].abort()
        await lost.wait()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"too late"})
            said.append((await receive())["type"])
        except RuntimeError as error:
            said.append(error)

    config = uvicorn.Config(application, http=Watched, lifespan="off", log_config=None)
    server = uvicorn.Server(config)

    async def check():
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            _, writer = await asyncio.open_connection(*listening.getsockname())
            writer.write(3 * b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while not said:
                await asyncio.sleep(0.01)
            writer.close()
            server.should_exit = True
            await serving

    if loop == "uvloop":
        uvloop = pytest.importorskip("uvloop")
        uvloop.run(check())
    else:
        asyncio.run(check())
    assert said == ["http.disconnect"]


def test_a_large_body_is_not_read(server):
    big = json.dumps(asked("x" * 10_000_000)).encode()
    json_type = {"Content-Type": "application/json"}
    refused(httpx.post(server.url + CHAT, content=big, headers=json_type), 413)
    chunks = (big[at : at + 65536] for at in range(0, len(big), 65536))
    refused(httpx.post(server.url + CHAT, content=chunks, headers=json_type), 413)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        "Content-Length: 999999999999\r\n\r\n{"
    )
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as client:
        client.sendall(head.encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")
    assert server.chat().status_code == 200


def received(client):
    """What comes, nothing where the connection was reset."""
    try:
        return client.recv(4096)
    except ConnectionResetError:
        return b""


def test_a_slow_body_and_slow_headers_are_given_up():
    with served(ScriptedBackend(SIMPLE), read_seconds=0.3) as server:
        port = int(server.url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            head = "Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
            client.sendall(f"POST {CHAT} HTTP/1.1\r\n{head}\r\n{{".encode())
            assert client.recv(4096).startswith(b"HTTP/1.1 408 ")
        whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for before in (b"", whole):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                if before:
                    client.sendall(before)
                    assert received(client).startswith(b"HTTP/1.1 200 ")
                for byte in b"GET /health HTTP/1.1\r\nX: " + b"x" * 20:
                    time.sleep(0.05)
                    try:
                        client.sendall(bytes([byte]))
                    except ConnectionError:
                        break
                else:
                    raise AssertionError("headers that never end were waited for")
        assert server.chat().status_code == 200


def test_a_connection_too_many_is_closed_and_the_others_stay():
    with served(ScriptedBackend(SIMPLE), connections=2) as server:
        port = int(server.url.rsplit(":", 1)[1])
        with httpx.Client() as client, socket.create_connection(("127.0.0.1", port)):
            assert client.get(server.url + "/health").status_code == 200
            with pytest.raises(httpx.TransportError):
                httpx.get(server.url + "/health")
            assert client.get(server.url + "/health").status_code == 200


class Talker:
    """Answers without end, or with so many pieces; counts them."""

    def __init__(self, pieces):
        self.pieces = pieces
        self.given = 0

    async def answer(self, question):
        for _ in range(self.pieces):
            self.given += 1
            yield AnswerDelta(response="x" * 1000, thought="", logprobs=())
            await asyncio.sleep(0)
        yield AnswerEnd(
            finish_reason="stop",
            prompt_tokens=1,
            completion_tokens=1,
            reasoning_tokens=0,
            attempts=1,
        )


def takes_nothing(server, **fields):
    """A client that asks and then reads nothing."""
    body = json.dumps(asked(**fields)).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    client.sendall(
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return client


def test_a_stream_that_is_not_taken_is_cut_off():
    talker = Talker(10**9)
    with served(ScriptedBackend(SIMPLE), answerer=talker, write_seconds=0.5) as server:
        with takes_nothing(server, stream=True):
            until(lambda: f'route="{CHAT}",status="499"}} 1' in metrics(server))
            held = talker.given
            time.sleep(0.2)
            assert talker.given == held, "its answer has ended"
            assert held < 10_000, "what it did not take was not gathered"
        assert "running_answers 0" in metrics(server)


def test_a_whole_answer_that_is_not_taken_is_cut_off():
    talker = Talker(10_000)
    with (
        served(ScriptedBackend(SIMPLE), answerer=talker, write_seconds=0.5) as server,
        takes_nothing(server) as client,
    ):
        until(lambda: f'route="{CHAT}",status="' in metrics(server), 10)
        time.sleep(0.8)
        client.settimeout(5)
        got = 0
        try:
            while some := client.recv(65536):
                got += len(some)
        except ConnectionResetError:
            pass
        assert got < 10_000_000
