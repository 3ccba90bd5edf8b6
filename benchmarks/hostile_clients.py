"""What the hostile tenth of `soak.py` sends: one function an attack, over a bare socket.

Each returns the status of the first reply, 0 where the server cut the connection without one or
the attack itself left. What a server may say to any of them: a refusal (4xx) or, where what was
asked is allowed after all, an answer; a 500 would be a fault of its own.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

PATIENCE = 90.0
"""Seconds for a reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server under attack. Example: `Target(port=8000, model="microworld", key="sk-…")`."""

    port: int
    model: str
    key: str
    """A right one: the worst client is one that is let in."""

    def head(self, length: int | None, *more: str, key: str | None = None) -> bytes:
        """Request line and headers of a chat; without a length they are left open."""
        lines = [
            "POST /v1/chat/completions HTTP/1.1",
            "Host: 127.0.0.1",
            "Content-Type: application/json",
            f"Authorization: Bearer {self.key if key is None else key}",
            *more,
        ]
        if length is None:
            return ("\r\n".join(lines) + "\r\n").encode()
        return ("\r\n".join([*lines, f"Content-Length: {length}"]) + "\r\n\r\n").encode()

    def body(self, text: str = "Name the capital of Poland.", **fields: object) -> bytes:
        """A chat of one turn."""
        turns = [{"role": "user", "content": text}]
        asked = {"model": self.model, "messages": turns, "max_tokens": 16} | fields
        return json.dumps(asked).encode()


class Connection:
    """A socket that is closed at its block's end, with a reset where `abort` is called."""

    def __init__(self, target: Target) -> None:
        self._port = target.port

    async def __aenter__(self) -> Connection:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def status(self) -> int:
        """Of the reply that comes; 0 if the connection ends first."""
        try:
            line = await asyncio.wait_for(self.reader.readline(), PATIENCE)
        except (ConnectionError, ValueError):
            return 0
        words = line.split()
        return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") else 0

    def abort(self) -> None:
        self.writer.transport.abort()


Attack = Callable[[Target, random.Random], Awaitable[int]]


async def _sent(target: Target, *pieces: bytes) -> int:
    async with Connection(target) as connection:
        try:
            for piece in pieces:
                await connection.send(piece)
        except ConnectionError:
            # Refused before all was sent: what was said is still there, or the reset took it.
            pass
        return await connection.status()


async def huge_header(target: Target, draw: random.Random) -> int:
    size = draw.choice([100_000, 5_000_000])
    return await _sent(target, target.head(None), b"X-Filler: " + b"x" * size + b"\r\n\r\n")


async def many_headers(target: Target, draw: random.Random) -> int:
    lines = b"".join(b"X-%d: y\r\n" % number for number in range(draw.choice([200, 50_000])))
    return await _sent(target, target.head(None), lines + b"\r\n")


async def slow_headers(target: Target, draw: random.Random) -> int:
    async with Connection(target) as connection:
        try:
            await connection.send(target.head(None))
            for _ in range(draw.choice([5, 80])):
                await connection.send(b"X")
                await asyncio.sleep(0.5)
        except ConnectionError:
            pass
        return await connection.status()


async def slow_body(target: Target, draw: random.Random) -> int:
    async with Connection(target) as connection:
        try:
            await connection.send(target.head(100_000))
            for _ in range(draw.choice([5, 80])):
                await connection.send(b" ")
                await asyncio.sleep(0.5)
        except ConnectionError:
            pass
        return await connection.status()


async def huge_body(target: Target, draw: random.Random) -> int:
    if draw.random() < 0.3:
        return await _sent(target, target.head(10**12), b"{")
    body = target.body("x" * 12_000_000)
    pieces = [body[at : at + 65536] for at in range(0, len(body), 65536)]
    if draw.random() < 0.5:
        return await _sent(target, target.head(len(body)), *pieces)
    chunks = [b"%x\r\n" % len(piece) + piece + b"\r\n" for piece in pieces]
    return await _sent(target, target.head(None) + b"Transfer-Encoding: chunked\r\n\r\n", *chunks)


async def wrong_key(target: Target, draw: random.Random) -> int:
    key = "sk-" + "".join(draw.choices("abcdef0123456789", k=draw.choice([4, 43, 4000])))
    body = target.body()
    return await _sent(target, target.head(len(body), key=key), body)


async def malformed(target: Target, draw: random.Random) -> int:
    body = draw.choice(
        [
            b"",
            b"{",
            target.body()[:-5],
            b"\xff\xfe" + target.body(),
            b'{"model": NaN}',
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b"0" * 1_000_000,
            json.dumps({"model": target.model, "messages": "hello"}).encode(),
            target.body(temperature=1e308, top_p=-1),
            target.body("\ud800"),
            b'{"model": "'
            + target.model.encode()
            + b'", "messages": ['
            + b"{}," * 100_000
            + b"1]}",
        ]
    )
    return await _sent(target, target.head(len(body)), body)


async def stop_strings(target: Target, draw: random.Random) -> int:
    body = target.body(stop=[f"stop {number}" for number in range(draw.choice([5, 5000, 100_000]))])
    return await _sent(target, target.head(len(body)), body)


async def long_conversation(target: Target, draw: random.Random) -> int:
    """Near the body's limit, in few turns or in as many as are taken."""
    kind = draw.randrange(3)
    if kind == 0:
        words = " ".join(
            draw.choices(["Name", "the", "capital", "of", "Poland", "12", "x"], k=1000)
        )
        body = target.body((words + " ") * (1_800_000 // len(words)))
    elif kind == 1:
        body = target.body("\N{GRINNING FACE}" * 160_000)
    else:
        turns = [{"role": "user", "content": "a " * 900} for _ in range(999)]
        body = target.body(messages=[*turns, {"role": "user", "content": "Hello"}])
    return await _sent(target, target.head(len(body)), body)


async def greedy(target: Target, draw: random.Random) -> int:
    """All that a client with a key may ask for at once."""
    body = target.body("a " * 300, n=8, max_tokens=1000, temperature=2.0, stop=["zzz"] * 4)
    return await _sent(target, target.head(len(body)), body)


async def aborted_stream(target: Target, draw: random.Random) -> int:
    body = target.body(stream=True, max_tokens=500)
    async with Connection(target) as connection:
        await connection.send(target.head(len(body)) + body)
        await asyncio.sleep(draw.random())
        connection.abort()
    return 0


async def taken_by_nobody(target: Target, draw: random.Random) -> int:
    """A stream that is asked for and not read."""
    body = target.body(stream=True, n=4, max_tokens=1000)
    async with Connection(target) as connection:
        connection.reader._limit = 1  # type: ignore[attr-defined]
        await connection.send(target.head(len(body)) + body)
        await asyncio.sleep(draw.uniform(1, 40))
        connection.abort()
    return 0


async def half_closed(target: Target, draw: random.Random) -> int:
    body = target.body(stream=draw.random() < 0.5)
    cut = len(body) if draw.random() < 0.5 else len(body) // 2
    async with Connection(target) as connection:
        await connection.send(target.head(len(body)) + body[:cut])
        connection.writer.write_eof()
        return await connection.status()


async def idle_connections(target: Target, draw: random.Random) -> int:
    connections = [Connection(target) for _ in range(30)]
    try:
        for connection in connections:
            await connection.__aenter__()
        await asyncio.sleep(draw.uniform(1, 20))
    finally:
        for connection in connections:
            if hasattr(connection, "writer"):
                connection.abort()
    return 0


async def pipelined(target: Target, draw: random.Random) -> int:
    one = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    body = target.body()
    chat = target.head(len(body)) + body
    return await _sent(target, (one * 200) + (chat * 20))


async def smuggled(target: Target, draw: random.Random) -> int:
    """Two lengths, or pieces of no length."""
    body = target.body()
    head = target.head(None)
    rest = draw.choice(
        [
            b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n",
            b"Content-Length: 5\r\nContent-Length: 50\r\n\r\n" + body,
            b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 200_000 + b"\r\n{\r\n0\r\n\r\n",
        ]
    )
    return await _sent(target, head + rest)


ATTACKS: tuple[Attack, ...] = (
    huge_header,
    many_headers,
    slow_headers,
    slow_body,
    huge_body,
    wrong_key,
    malformed,
    stop_strings,
    long_conversation,
    greedy,
    aborted_stream,
    taken_by_nobody,
    half_closed,
    idle_connections,
    pipelined,
    smuggled,
)
