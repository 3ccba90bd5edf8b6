"""An upstream server that writes whatever bytes a test gives it, so that what no library would send
is tried too; and the backend in front of it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import pytest

from forethought.serving.backends.base import (
    BackendError,
    Draw,
    Piece,
    RefusedDrawError,
)
from forethought.serving.backends.upstream import (
    UpstreamBackend,
)
from forethought.types import Message

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
KEY = "sk-this-is-the-key"


class Upstream:
    """Answers the n-th request with the n-th script, the last one again and again.

    A script is a list of byte strings, sent one by one; a number pauses, `None` closes.
    """

    def __init__(self, *scripts: Sequence[bytes | float | None]) -> None:
        self.scripts = scripts
        self.heads: list[str] = []
        self.bodies: list[dict] = []
        self.connections = 0
        self.gone = asyncio.Event()
        """A client has closed its connection."""

    async def __aenter__(self) -> "Upstream":
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = [
                    int(line.split(":")[1])
                    for line in head.splitlines()
                    if line.lower().startswith("content-length:")
                ]
                body = await reader.readexactly(length[0]) if length else b"{}"
                script = self.scripts[min(len(self.heads), len(self.scripts) - 1)]
                self.heads.append(head)
                self.bodies.append(json.loads(body))
                if not await self.write(script, reader, writer):
                    break
        self.gone.set()
        writer.close()

    async def write(self, script, reader, writer) -> bool:
        for part in script:
            if part is None:
                return False
            if isinstance(part, bytes):
                writer.write(part)
                await writer.drain()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(part):
                    if not await reader.read(1):
                        return False
        return True


def chunked(*parts: bytes) -> list[bytes]:
    """A whole streamed body, each part in a chunk of its own."""
    return [HEAD, *(b"%x\r\n%b\r\n" % (len(part), part) for part in parts), b"0\r\n\r\n"]


def event(fields=None, finish_reason=None, **more) -> bytes:
    choice = {"index": 0, "delta": fields or {}, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


def said(*texts: str, end: Sequence[bytes] = ()) -> list[bytes]:
    """The events of these texts and of an end."""
    return [*(event({"content": text}) for text in texts), *(end or STOP)]


STOP = (event({}, "stop"), b"data: [DONE]\n\n")


def plain(status: str, body: object, headers: str = "") -> list[bytes]:
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}"
    return [f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content]


def drawn(**fields) -> Draw:
    given = {
        "messages": (Message(role="user", content="Hi"),),
        "begun": "",
        "temperature": 0.8,
        "top_p": 0.95,
        "seed": 2**40 + 17,
        "max_tokens": 32,
        "top_logprobs": None,
    }
    return Draw(**{**given, **fields})


def with_upstream(
    work: Callable[[Upstream, UpstreamBackend], Awaitable], *scripts: Sequence, **options
):
    """What `work` gives with a backend at a server of these scripts."""

    async def run():
        async with Upstream(*scripts) as upstream:
            backend = UpstreamBackend(upstream.url, model="m", **options)
            try:
                async with asyncio.timeout(20):
                    return await work(upstream, backend)
            finally:
                await backend.close()

    return asyncio.run(run())


def pieces_of(*scripts: Sequence, draw: Draw | None = None, **options) -> list[Piece]:
    async def collect(_, backend):
        return [piece async for piece in backend.draw(draw or drawn())]

    return with_upstream(collect, *scripts, **options)


def text_of(pieces) -> str:
    return "".join(piece.text for piece in pieces)


def failure_of(*scripts: Sequence, draw: Draw | None = None, **options) -> Exception:
    with pytest.raises((BackendError, RefusedDrawError)) as failed:
        pieces_of(*scripts, draw=draw, **options)
    return failed.value
