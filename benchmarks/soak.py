"""A server under honest and hostile clients for an hour: what fails, grows, or slows down.

`forethought serve microworld` runs in a process of its own on loopback, with keys and its default
limits. Nine tenths of the clients are honest: they ask microworld questions one after another,
whole or as a stream, over a kept or a new connection, and leave one stream in ten in its middle.
The rest (hostile_clients.py) attack, in every second phase; in the others they rest, so that the
waits of honest ones with and without them are of the same minutes. An answer that is refused with
429 is asked for again after its `Retry-After`; any other refusal, error or cut connection of an
honest client counts as failed.

    OMP_NUM_THREADS=1 python benchmarks/soak.py [--minutes 60] [--clients 100] [--out soak.json]

Exits with 1 if an honest answer failed, the server's log tells of a fault of its own, or its memory
grew by more than 5 % after the warm-up (the first tenth).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from hostile_clients import ATTACKS, Target

from forethought.microworld.tasks import generate

MODEL = "microworld"
SHARE = 10
"""One client in so many is hostile."""
SAMPLE_SECONDS = 5.0
GROWTH = 0.05
CHAT = "/v1/chat/completions"
PHASES = ("quiet", "hostile")
FAULT = re.compile(r" 5\d\d \d+ms|unexpected|Traceback|Error\b")
"""A line of the server's log that tells of a fault."""


@dataclass(slots=True)
class Tally:
    """What all clients of one phase saw."""

    seconds: list[float] = field(default_factory=list)
    """Of each honest answer, from its request to its last byte."""
    left: int = 0
    """Streams that an honest client left in the middle."""
    again: int = 0
    """429 that was asked again."""
    failed: Counter[str] = field(default_factory=Counter)
    attacks: Counter[str] = field(default_factory=Counter)
    """`NAME STATUS` of each attack."""


@dataclass(slots=True)
class Soak:
    """The whole of it."""

    target: Target
    pause: float
    phase_seconds: float
    began: float
    ends: float
    tallies: dict[str, Tally] = field(default_factory=lambda: {name: Tally() for name in PHASES})

    @property
    def phase(self) -> str:
        return PHASES[int((time.monotonic() - self.began) / self.phase_seconds) % 2]

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.ends


async def honest(soak: Soak, draw: random.Random, questions: Sequence[str]) -> None:
    """One honest client, until the end."""
    headers = {"Authorization": f"Bearer {soak.target.key}"}
    url = f"http://127.0.0.1:{soak.target.port}"
    fields: dict[str, Any] = {
        "base_url": url, "headers": headers, "timeout": 120.0, "trust_env": False
    }  # fmt: skip
    kept = httpx.AsyncClient(**fields)
    try:
        while not soak.over:
            await asyncio.sleep(draw.expovariate(1 / soak.pause))
            tally = soak.tallies[soak.phase]
            client = kept if draw.random() < 0.7 else httpx.AsyncClient(**fields)
            try:
                await _ask(client, soak, tally, draw, draw.choice(questions))
            except Exception as error:
                on = "a kept" if client is kept else "a new"
                tally.failed[f"{type(error).__name__} on {on} connection: {error}"[:160]] += 1
            finally:
                if client is not kept:
                    await client.aclose()
    finally:
        await kept.aclose()


async def _ask(
    client: httpx.AsyncClient, soak: Soak, tally: Tally, draw: random.Random, question: str
) -> None:
    stream = draw.random() < 0.5
    leaves = stream and draw.random() < 0.1
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 24,
        "stream": stream,
        "temperature": 0.8,
    }
    while True:
        began = time.monotonic()
        async with client.stream("POST", CHAT, json=body) as reply:
            if reply.status_code == 429:
                await reply.aread()
                tally.again += 1
                wait = float(reply.headers["retry-after"])
            elif leaves and reply.status_code == 200:
                async for _ in reply.aiter_raw():
                    break
                tally.left += 1
                return
            else:
                text = (await reply.aread()).decode()
                _check(reply.status_code, text, stream)
                tally.seconds.append(time.monotonic() - began)
                return
        await asyncio.sleep(wait * draw.uniform(1, 1.5))


def _check(status: int, text: str, stream: bool) -> None:
    """Raises: ValueError if this is no whole answer."""
    if status != 200:
        raise ValueError(f"status {status}: {text}")
    if not stream:
        if not json.loads(text)["choices"][0]["message"]["content"]:
            raise ValueError("an empty answer")
        return
    events = [
        line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")
    ]
    if events[-1] != "[DONE]":
        raise ValueError("a stream without its end")
    chunks = [json.loads(event) for event in events[:-1]]
    if any("error" in chunk for chunk in chunks):
        raise ValueError(f"a stream with an error: {chunks[-1]}")
    if not "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks):
        raise ValueError("an empty stream")


async def hostile(soak: Soak, draw: random.Random) -> None:
    """One hostile client, until the end; it rests in quiet phases."""
    while not soak.over:
        if soak.phase != "hostile":
            await asyncio.sleep(0.2)
            continue
        attack = draw.choice(ATTACKS)
        tally = soak.tallies["hostile"]
        try:
            status: object = await attack(soak.target, draw)
        except (OSError, TimeoutError) as error:
            status = type(error).__name__
        tally.attacks[f"{attack.__name__} {status}"] += 1
        await asyncio.sleep(draw.uniform(0, 0.5))


@dataclass(slots=True)
class Watch:
    """What the kernel says of the server."""

    pid: int
    at: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    load: list[float] = field(default_factory=list)

    def status(self, name: str) -> int:
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
        return int(found[1]) if found else 0

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_seconds(self) -> float:
        words = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    async def run(self, soak: Soak) -> None:
        while not soak.over:
            self.at.append(time.monotonic() - soak.began)
            self.resident.append(self.status("VmRSS"))
            self.load.append(os.getloadavg()[0])
            await asyncio.sleep(SAMPLE_SECONDS)

    def mean_mib(self, first: float, last: float) -> float:
        """Resident MiB between two shares of the time."""
        count = len(self.resident)
        part = self.resident[int(first * count) : max(int(last * count), int(first * count) + 1)]
        return statistics.mean(part) / 1024


def served(folder: Path) -> tuple[subprocess.Popen[bytes], int, str, Path]:
    """The server in a process of its own: it, its port, a key, its log."""
    keys, log = folder / "keys", folder / "server.log"
    command = [sys.executable, "-m", "forethought.cli"]
    made = subprocess.run(
        [*command, "new-key", "soak", str(keys)], check=True, capture_output=True, text=True
    )
    key = re.search(r"\S{40,}", made.stdout)
    assert key is not None, made.stdout
    options = ["--api-keys", str(keys), "--attempts", "6"]
    process = subprocess.Popen(
        [*command, "serve", MODEL, *options],
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        env=os.environ | {"COLUMNS": "300"},
    )
    while not (found := re.search(rb"http://127.0.0.1:(\d+)/v1", log.read_bytes())):
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    return process, int(found[1]), key[0], log


async def soaked(soak: Soak, watch: Watch, clients: int) -> dict[str, Any]:
    """Run all clients to the end; what the server has open then, and says of itself."""
    questions = [task.query for task in generate("test", 500, 0)]
    bad = clients // SHARE
    tasks = [honest(soak, random.Random(i), questions) for i in range(clients - bad)]
    tasks += [hostile(soak, random.Random(10_000 + i)) for i in range(bad)]
    watching = asyncio.create_task(watch.run(soak))
    await asyncio.gather(*tasks)
    await watching
    await asyncio.sleep(8)
    async with httpx.AsyncClient(trust_env=False) as client:
        headers = {"Authorization": f"Bearer {soak.target.key}"}
        url = f"http://127.0.0.1:{soak.target.port}/metrics"
        text = (await client.get(url, headers=headers)).text
    gauges = dict(re.findall(r"^(\S*(?:running|waiting)_answers) (\d+)", text, re.MULTILINE))
    return {
        "gauges": gauges,
        "descriptors": watch.descriptors(),
        "threads": watch.status("Threads"),
    }


def milliseconds(seconds: Sequence[float], share: float) -> int | None:
    """A percentile of them."""
    if not seconds:
        return None
    return round(1000 * sorted(seconds)[min(int(share * len(seconds)), len(seconds) - 1)])


def summary(soak: Soak, watch: Watch, after: dict[str, Any], log: str) -> dict[str, Any]:
    """All figures."""
    warm = 0.1
    start, end = watch.mean_mib(warm, warm + 0.05), watch.mean_mib(0.95, 1.0)
    phases = {
        name: {
            "answers": len(tally.seconds),
            "p50_ms": milliseconds(tally.seconds, 0.5),
            "p99_ms": milliseconds(tally.seconds, 0.99),
            "left": tally.left,
            "asked_again_after_429": tally.again,
            "failed": dict(tally.failed),
        }
        for name, tally in soak.tallies.items()
    }
    return {
        "minutes": round((time.monotonic() - soak.began) / 60, 1),
        "phases": phases,
        "attacks": dict(sorted(soak.tallies["hostile"].attacks.items())),
        "resident_mib": {
            "after_warm_up": round(start, 1),
            "middle": round(watch.mean_mib(0.5, 0.55), 1),
            "end": round(end, 1),
            "peak": round(watch.status("VmHWM") / 1024, 1),
            "growth": round(end / start - 1, 4),
            "every_5_s": [round(value / 1024, 1) for value in watch.resident],
        },
        "server": after | {"cpu_seconds": round(watch.cpu_seconds(), 1)},
        "faults": [line for line in log.splitlines() if FAULT.search(line)][:50],
        "load_average": round(statistics.mean(watch.load), 2),
        "cpu": cpu(),
    }


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def show(found: dict[str, Any]) -> None:
    print(f"{found['minutes']} minutes, {found['cpu']}, load {found['load_average']}")
    print("| phase | answers | p50 ms | p99 ms | left | 429, asked again | failed |")
    print("|---|---|---|---|---|---|---|")
    for name, phase in found["phases"].items():
        failed = sum(phase["failed"].values())
        print(
            f"| {name} | {phase['answers']} | {phase['p50_ms']} | {phase['p99_ms']} | "
            f"{phase['left']} | {phase['asked_again_after_429']} | {failed} |"
        )
    memory = {k: v for k, v in found["resident_mib"].items() if k != "every_5_s"}
    print(f"attacks: {sum(found['attacks'].values())}; resident MiB: {memory}")
    print(f"server: {found['server']}; faults: {found['faults']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--pause", type=float, default=2.0, help="mean seconds between questions")
    parser.add_argument("--phase", type=float, default=60.0, help="seconds of a phase")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        process, port, key, log = served(Path(folder))
        began = time.monotonic()
        soak = Soak(
            target=Target(port=port, model=MODEL, key=key),
            pause=options.pause,
            phase_seconds=options.phase,
            began=began,
            ends=began + 60 * options.minutes,
        )
        watch = Watch(process.pid)
        try:
            after = asyncio.run(soaked(soak, watch, options.clients))
            found = summary(soak, watch, after, log.read_text(errors="replace"))
        finally:
            process.terminate()
            process.wait(60)
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    show(found)
    failed = sum(sum(phase["failed"].values()) for phase in found["phases"].values())
    grew = found["resident_mib"]["growth"] > GROWTH
    sys.exit(bool(failed or grew or found["faults"]))


if __name__ == "__main__":
    main()
