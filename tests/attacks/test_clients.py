"""Clients of `forethought serve` that do what no good client does."""

import asyncio
import socket

import pytest
import uvicorn

from forethought.serving.http.connection import connection
from forethought.serving.http.settings import ServerSettings


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
