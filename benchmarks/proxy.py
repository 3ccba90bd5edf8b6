"""What the proxy costs over its upstream, and whether it holds under load.

Two processes on loopback: an upstream that streams a thought and a response in chunks, as fast as
it can, and `forethought serve --upstream` in front of it. First one client asks both in turn,
A B A B, and reads each stream to its end: the difference is the proxy's time per request, over the
chunks its time per chunk. Then many clients stream at once for a while; each thought holds a secret
that is searched in every byte that comes back.

    python benchmarks/proxy.py [--requests 200] [--clients 200] [--seconds 60]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import httpx
import psutil

SECRET = "xylophonesecret"
THOUGHT, RESPONSE = 40, 60
"""Chunks of each."""


def chunks() -> list[str]:
    """The texts of a stream: a thought with the secret in every word, then a response."""
    thought = [f"{SECRET}{index} " for index in range(THOUGHT)]
    response = [f"word{index} " for index in range(RESPONSE)]
    return ["Here is my thought process: ", *thought, "\nHere is my response: ", *response]


def upstream(port: int, pause: float) -> None:
    """The server in front of which the proxy stands."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    events = [
        b"data: "
        + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode()
        + b"\n\n"
        for text in chunks()
    ]
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    events += [b"data: " + json.dumps(last).encode() + b"\n\n", b"data: [DONE]\n\n"]

    async def stream() -> AsyncIterator[bytes]:
        for event in events:
            yield event
            await asyncio.sleep(pause)

    async def chat(_: Request) -> Response:
        return StreamingResponse(stream(), media_type="text/event-stream")

    async def models(_: Request) -> Response:
        return JSONResponse({"data": [{"id": "fixed"}]})

    routes = [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/models", models),
    ]
    uvicorn.run(Starlette(routes=routes), port=port, log_level="error")


@contextmanager
def servers(pause: float) -> Iterator[tuple[str, str, int]]:
    """Start both servers: their URLs, upstream first, and the proxy's process id."""
    port = 18_431
    base = f"http://127.0.0.1:{port}/v1"
    words = [sys.executable, __file__, "--upstream", str(port), "--pause", str(pause)]
    behind = subprocess.Popen(words)
    wait_for(f"{base}/models")
    words = [sys.executable, "-m", "forethought.cli", "serve", "microworld", "--upstream", base]
    words += ["--thought-format", "generic", "--slots", "512", "--queue", "512", "--name", "policy"]
    before = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert before.stdout is not None
    found = re.search(r"http://\S+/v1", before.stdout.readline())
    assert found, "the proxy did not start"
    # Nobody else reads the proxy's output, and a full pipe would stop it.
    drain = subprocess.Popen(["cat"], stdin=before.stdout, stdout=subprocess.DEVNULL)
    try:
        yield base, found[0], before.pid
    finally:
        for child in (before, behind, drain):
            child.terminate()
            child.wait()


def wait_for(url: str) -> None:
    """Return when the address answers.

    Raises: SystemExit if it does not in 200 tries, some ten seconds.
    """
    for _ in range(200):
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise SystemExit(f"{url} did not answer")


def body(stream: bool = True) -> dict[str, object]:
    """The fields of every request."""
    turns = [{"role": "user", "content": "Say sixty words."}]
    return {"model": "policy", "messages": turns, "stream": stream}


def one_request(client: httpx.Client, base: str) -> float:
    """Seconds of one request, its stream read to the end."""
    start = time.perf_counter()
    with client.stream("POST", f"{base}/chat/completions", json=body()) as reply:
        assert reply.status_code == 200
        text = b"".join(reply.iter_raw())
    assert b"word59" in text
    return time.perf_counter() - start


def overhead(base: str, proxy: str, count: int) -> None:
    """Ask both servers in turn, `count` times, and print what the proxy adds."""
    with httpx.Client() as client:
        for _ in range(10):
            one_request(client, base)
            one_request(client, proxy)
        pairs = [(one_request(client, base), one_request(client, proxy)) for _ in range(count)]
    extra = sorted(1000 * (through - direct) for direct, through in pairs)
    direct = 1000 * statistics.median(seconds for seconds, _ in pairs)
    p50, p99 = extra[len(extra) // 2], extra[int(len(extra) * 0.99)]
    print(
        f"{count} requests of {THOUGHT + RESPONSE} chunks: direct p50 {direct:.2f} ms; the proxy "
        f"adds p50 {p50:.2f} ms, p99 {p99:.2f} ms; per chunk {p50 / (THOUGHT + RESPONSE):.3f} ms"
    )


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> bytes:
    """Send one request over an open connection; returns every byte of the answer."""
    content = json.dumps(body()).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json"
    writer.write(f"{head}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    return await reader.readuntil(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def load(proxy: str, clients: int, seconds: float, pid: int) -> None:
    """Stream to many clients at once; print failures, leaks, times and the proxy's memory."""
    host = proxy.removeprefix("http://").removesuffix("/v1")
    address, port = host.split(":")
    process = psutil.Process(pid)
    done, failed, leaked = 0, 0, 0
    taken: list[float] = []
    until = time.monotonic() + seconds

    async def client() -> None:
        nonlocal done, failed, leaked
        reader, writer = await asyncio.open_connection(address, int(port), limit=2**22)
        while time.monotonic() < until:
            start = time.perf_counter()
            try:
                text = await asyncio.wait_for(ask(reader, writer, host), 60)
            except (OSError, EOFError, TimeoutError):
                failed += 1
                return
            taken.append(time.perf_counter() - start)
            done += 1
            failed += b"word59" not in text or not text.startswith(b"HTTP/1.1 200")
            leaked += SECRET.encode() in text
        writer.close()

    async def watch() -> list[float]:
        sizes = []
        while time.monotonic() < until:
            sizes.append(process.memory_info().rss / 2**20)
            await asyncio.sleep(1)
        return sizes

    watched = asyncio.create_task(watch())
    await asyncio.gather(*(client() for _ in range(clients)))
    sizes = await watched
    taken.sort()
    print(
        f"{clients} clients for {seconds:.0f} s: {done} answers, {failed} failed, {leaked} leaked; "
        f"p50 {taken[len(taken) // 2]:.2f} s, p99 {taken[int(len(taken) * 0.99)]:.2f} s; "
        f"memory {sizes[min(5, len(sizes) - 1)]:.0f} MiB after 5 s, {sizes[-1]:.0f} MiB at the end"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pause", type=float, default=0)
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.upstream is not None:
        upstream(options.upstream, options.pause)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with servers(options.pause) as (base, proxy, pid):
        overhead(base, proxy, options.requests)
        asyncio.run(load(proxy, options.clients, options.seconds, pid))


if __name__ == "__main__":
    main()
