"""What a streamed reply costs in our own client and in the `openai` package's.

A server in a process of its own streams chunks as fast as they are read. Both clients read the same
streams in turn, ours up to the proxy's pieces, the package's up to its objects; what counts is the
reader's processor time, which another process on the machine does not lengthen. Streams of one
chunk give the time per request. Then each is imported in a fresh process.

    python benchmarks/chat_client.py [--chunks 5000] [--requests 300] [--rounds 7]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache

import httpx
from openai import AsyncOpenAI

from forethought.chat_client.client import ChatClient
from forethought.chat_client.sse import payloads
from forethought.serving.backends.upstream_reply import UpstreamReply

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TURNS = [{"role": "user", "content": "Hi"}]
IMPORTS = {
    "ours": "forethought.serving.backends.upstream",
    "openai": "openai",
    "httpx alone": "httpx",
}


@cache
def events(count: int) -> list[bytes]:
    """The bytes of a stream of so many chunks, as vLLM writes them."""
    fields = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    ends = [None] * (count - 1) + ["stop"]
    choices = [{"index": 0, "delta": {"content": " word"}, "finish_reason": end} for end in ends]
    lines = [json.dumps(fields | {"choices": [choice]}) for choice in choices]
    whole = [f"data: {line}\n\n".encode() for line in (*lines, "[DONE]")]
    return [b"%x\r\n%b\r\n" % (len(event), event) for event in whole] + [b"0\r\n\r\n"]


async def serve() -> None:
    """Stream as many chunks as `max_tokens` says to whoever asks."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                writer.write(HEAD)
                for event in events(body["max_tokens"]):
                    writer.write(event)
                    await writer.drain()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


async def read_ours(client: ChatClient, count: int) -> int:
    """Read one stream of `count` tokens with our client; returns the tokens of its pieces."""
    body = {"model": "m", "messages": TURNS, "stream": True, "max_tokens": count}
    response = await client.begin(body)
    reply = UpstreamReply(text_is_response=False)
    pieces = [reply.read(data) async for data in payloads(response.aiter_bytes())]
    await response.aclose()
    return sum(piece.tokens for piece in pieces if piece is not None)


async def read_openai(client: AsyncOpenAI, count: int) -> int:
    """Read one stream of `count` tokens with the package; returns how many objects it gave."""
    stream = await client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "Hi"}],
        stream=True,
        max_tokens=count,
    )
    return len([chunk.choices[0].delta.content async for chunk in stream])


async def microseconds(read: Callable[[int], Awaitable[int]], chunks: int, times: int) -> float:
    """Microseconds of processor time per chunk, over `times` streams of so many chunks."""
    begun = time.process_time()
    for _ in range(times):
        assert await read(chunks) == chunks
    return (time.process_time() - begun) / (times * chunks) * 1e6


async def measure(url: str, chunks: int, requests: int, rounds: int) -> None:
    """Print the medians of all rounds."""
    ours = ChatClient(url, key=None, timeout=httpx.Timeout(60))
    theirs = AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    readers = {
        "ours": lambda count: read_ours(ours, count),
        "openai": lambda count: read_openai(theirs, count),
    }
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds + 1):
        for name, read in readers.items():
            found.setdefault((name, "chunk"), []).append(await microseconds(read, chunks, 1))
            found.setdefault((name, "request"), []).append(await microseconds(read, 1, requests))
    for (name, unit), times in found.items():
        # The first round warms up.
        print(f"{name:12} {statistics.median(times[1:]):8.1f} µs of processor per {unit}")
    await ours.close()
    await theirs.close()


def import_seconds(module: str) -> float:
    """The median of five imports in fresh processes, in seconds."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    return statistics.median(float(subprocess.check_output(command)) for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=5000)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", action="store_true", help="be the server")
    words = parser.parse_args()
    if words.serve:
        asyncio.run(serve())
        return
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            asyncio.run(measure(url, words.chunks, words.requests, words.rounds))
        finally:
            server.terminate()
    for name, module in IMPORTS.items():
        print(f"{name:12} {import_seconds(module):8.2f} s to import {module}")


if __name__ == "__main__":
    main()
