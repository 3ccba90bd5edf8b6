"""A small OpenAI-compatible server in a process of its own, for tests of whatever asks one.

From a test::

    server = start("--replies", str(script), log=tmp_path / "log.jsonl")
    ... server.base_url ...
    requests = server.requests()
    server.stop()

By hand: `python tests/openai_server.py --port 8000 --model microworld`.

What it answers with, the first that is given: a real model (`--model`, sampled by forethought's own
engine, with token ids on request), a function of the messages (`--judge package.module:function`),
a file of replies (`--replies`, lines of `{"match": …, "replies": […]}`), else a text made of the
last turn and the seed.

Misbehaviour is a list of rules, `--rules FILE` or as JSON in the argument. A call, counted from 0
over the life of the server, meets the first rule that fits it:

    {"calls": [0, 3], "status": 429, "headers": {"Retry-After": "1"}, "message": "slow down"}
    {"match": "too long", "status": 400, "message": "maximum context length is 8"}
    {"every": 7, "do": "drop"}                closes the connection without a word
    {"calls": [5, 6], "do": "cut"}            closes it in the middle of the body
    {"match": "x", "do": "raw", "body": "<html>"}   status 200 with this body
    {"match": "x", "do": "merge", "reply": {"choices": [{"finish_reason": "content_filter"}]}}
    {"calls": [9, 10], "do": "hang"}          never answers
    {"match": "slow", "do": "trickle"}        a byte now and then, for ever
    {"match": "late", "wait": 0.5, "do": "reply"}   answers as ever, after a while

`calls` is a half-open range, `match` a text in the body's last turn, `has` a field of the body,
`first` how many calls the rule serves; all that a rule gives must hold. `merge` lays `reply` over
the reply's own fields.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import queue
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Body = dict[str, Any]


@dataclass
class Server:
    """A server that runs.

    Example: `start("--delay", "0.1")`
    """

    process: subprocess.Popen[str]
    base_url: str
    log: Path | None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.process, self.base_url))

    def requests(self, path: str = "/v1/chat/completions") -> list[Body]:
        """What came so far, in the order of arrival: path, headers, body, live, status."""
        assert self.log is not None, "start it with a log"
        # The last line may still be under way.
        whole = self.log.read_text().rpartition("\n")[0]
        lines = [json.loads(line) for line in whole.splitlines()]
        return [line for line in lines if line["path"] == path]

    def bodies(self) -> list[Body]:
        """The bodies of the chat requests."""
        return [line["body"] for line in self.requests()]

    def stop(self) -> None:
        stop(self.process)


def start(*words: str, log: Path | None = None, port: int = 0, patience: float = 120) -> Server:
    """Start a server and wait until it answers; the log begins empty."""
    command = [sys.executable, __file__, "--port", str(port), *words]
    if log is not None:
        log.write_text("")
        command += ["--log", str(log)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], patience)
    line = process.stdout.readline() if ready else ""
    if not line.startswith("listening on "):
        process.kill()
        raise RuntimeError(f"the server did not start: {line!r}")
    return Server(process, line.removeprefix("listening on ").strip(), log)


def stop(process: subprocess.Popen[str]) -> None:
    """End it; it is gone afterwards."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


# The server's own side.


@dataclass
class Job:
    """One call for the model."""

    body: Body
    done: threading.Event = field(default_factory=threading.Event)
    answer: Body | str = ""
    """The reply, or why there is none."""


class Model:
    """A real model. Calls that wait at the same time are sampled together."""

    def __init__(self, path: str, dtype: str) -> None:
        from forethought.config import ModelConfig
        from forethought.models.loading import resolve

        self.config = ModelConfig.model_validate({"path": path, "dtype": dtype})
        self.root = resolve(path)
        self.waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.samplers: dict[str, Any] = {}
        threading.Thread(target=self.work, daemon=True).start()

    def answer(self, body: Body) -> Body | str:
        job = Job(body)
        self.waiting.put(job)
        job.done.wait()
        return job.answer

    def work(self) -> None:
        while True:
            jobs = [self.waiting.get()]
            time.sleep(0.005)
            while not self.waiting.empty():
                jobs.append(self.waiting.get())
            for key in dict.fromkeys(self.drawn_as(job.body) for job in jobs):
                alike = [job for job in jobs if self.drawn_as(job.body) == key]
                try:
                    self.sample(key, alike)
                except Exception as error:
                    for job in alike:
                        job.answer = f"{type(error).__name__}: {error}"
                for job in alike:
                    job.done.set()

    def drawn_as(self, body: Body) -> str:
        limit = body.get("max_tokens", body.get("max_completion_tokens", 256))
        return json.dumps([body.get("temperature", 1), body.get("top_p", 1), limit])

    def sample(self, key: str, jobs: list[Job]) -> None:
        from forethought.decoding.request import SamplingParams
        from forethought.sampling.transformers import TransformersSampler
        from forethought.types import Message, SampleRequest, Unsampled

        if key not in self.samplers:
            temperature, top_p, limit = json.loads(key)
            params = SamplingParams(temperature=temperature, top_p=top_p, max_new_tokens=limit)
            self.samplers[key] = TransformersSampler.load(self.config, params=params, rows=64)
        requests = [
            SampleRequest(
                prompt_id=str(place),
                messages=tuple(Message(**turn) for turn in job.body["messages"]),
                seeds=(job.body.get("seed", random.getrandbits(31)),),
            )
            for place, job in enumerate(jobs)
        ]
        for job, result in zip(jobs, self.samplers[key].sample(requests), strict=True):
            if isinstance(result, Unsampled):
                job.answer = result.reason
            else:
                (one,) = result.completions
                job.answer = reply(
                    one.text,
                    one.finish_reason,
                    usage=(len(result.prompt_token_ids), len(one.token_ids)),
                )
                if job.body.get("return_token_ids"):
                    job.answer["prompt_token_ids"] = result.prompt_token_ids
                    job.answer["choices"][0]["token_ids"] = one.token_ids


def reply(text: str, finish_reason: str = "stop", usage: tuple[int, int] | None = None) -> Body:
    prompt, completion = usage or (10, max(len(text.split()), 1))
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": int(time.time()),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": finish_reason,
            }
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        },
    }


class State:
    """What all connections share."""

    def __init__(self, words: argparse.Namespace) -> None:
        self.words = words
        rules = words.rules or "[]"
        self.rules: list[Body] = json.loads(
            rules if rules.lstrip().startswith("[") else Path(rules).read_text()
        )
        self.log = Path(words.log).open("a", buffering=1) if words.log else None  # noqa: SIM115
        self.lock = threading.Lock()
        self.calls = 0
        self.live = 0
        self.served = [0 for _ in self.rules]
        self.model = Model(words.model, words.dtype) if words.model else None
        self.speak = self.speaker()

    def speaker(self) -> Callable[[Body], Body | str]:
        """What makes a reply out of a request's body; a string is a refusal."""
        words = self.words
        if self.model is not None:
            return self.model.answer
        if words.judge:
            module, _, name = words.judge.partition(":")
            judge = vars(importlib.import_module(module))[name]
            return lambda body: reply(judge(body["messages"]))
        if words.replies:
            lines = [json.loads(line) for line in Path(words.replies).read_text().splitlines()]
            return lambda body: scripted(lines, body)
        return lambda body: reply(f"{last_turn(body)} / {body.get('seed')}")

    def cards(self) -> Body:
        served = self.words.served or [self.model.config.path if self.model else "test-model"]
        root = self.words.root or (self.model.root if self.model else None)
        cards = [{"id": name, "object": "model", "owned_by": "tests"} for name in served]
        return {
            "object": "list",
            "data": [card | ({"root": root} if root else {}) for card in cards],
        }

    def rule(self, number: int, body: Body) -> Body | None:
        """The first rule that fits a call."""
        for place, rule in enumerate(self.rules):
            start, end = rule.get("calls", (0, sys.maxsize))
            if (
                start <= number < end
                and self.served[place] < rule.get("first", sys.maxsize)
                and number % rule.get("every", 1) == 0
                and rule.get("match", "") in last_turn(body)
                and ("has" not in rule or rule["has"] in body)
            ):
                self.served[place] += 1
                return rule
        return None


def last_turn(body: Body) -> str:
    return body["messages"][-1]["content"]


def scripted(lines: list[Body], body: Body) -> Body | str:
    for line in lines:
        if line["match"] in last_turn(body):
            return reply(line["replies"][body.get("seed", 0) % len(line["replies"])])
    return "no line of the script matches"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: State

    def do_GET(self) -> None:
        entry = self.entry({})
        if self.path != "/v1/models":
            self.fail(entry, 404, f"no such path: {self.path}")
        elif self.allowed():
            self.send(entry, 200, self.state.cards())
        else:
            self.fail(entry, 401, "wrong key")

    def do_POST(self) -> None:
        state = self.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            number = state.calls
            state.calls += 1
            state.live += 1
        entry = self.entry(body)
        try:
            if self.path != "/v1/chat/completions":
                self.fail(entry, 404, f"no such path: {self.path}")
            elif not self.allowed():
                self.fail(entry, 401, f"wrong key in {self.headers.get('Authorization')}")
            else:
                self.answer(entry, number, body)
        finally:
            with state.lock:
                state.live -= 1

    def answer(self, entry: Body, number: int, body: Body) -> None:
        state = self.state
        time.sleep(state.words.delay)
        with state.lock:
            rule = state.rule(number, body) or {"do": "reply"}
        time.sleep(rule.get("wait", 0))
        match rule.get("do", "status"):
            case "status":
                self.fail(entry, rule["status"], rule.get("message", ""), rule.get("headers"))
            case "drop":
                self.write_log(entry, 0)
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            case "hang":
                self.write_log(entry, 0)
                time.sleep(3600)
            case "trickle":
                self.write_log(entry, 200)
                self.begin(200, {"Content-Length": "1000000"})
                for _ in range(100_000):
                    self.wfile.write(b" ")
                    time.sleep(0.05)
            case "cut":
                self.write_log(entry, 200)
                self.begin(200, {"Content-Length": "1000"})
                self.wfile.write(b'{"choices": [')
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            case "raw":
                self.send_bytes(entry, 200, rule["body"].encode())
            case "merge":
                spoken = state.speak(body)
                assert isinstance(spoken, dict)
                self.send(entry, 200, merged(spoken, rule["reply"]))
            case _:
                spoken = state.speak(body)
                if isinstance(spoken, str):
                    self.fail(entry, 400, spoken)
                else:
                    self.send(entry, 200, {"model": body["model"], **spoken})

    def allowed(self) -> bool:
        key = self.state.words.api_key
        return key is None or self.headers.get("Authorization") == f"Bearer {key}"

    def entry(self, body: Body) -> Body:
        return {
            "path": self.path,
            "headers": dict(self.headers.items()),
            "body": body,
            "live": self.state.live,
            "time": time.monotonic(),
        }

    def fail(
        self, entry: Body, status: int, message: str, headers: dict[str, str] | None = None
    ) -> None:
        error = {"message": message, "type": "error", "param": None, "code": status}
        self.send(entry, status, {"error": error}, headers)

    def send(
        self, entry: Body, status: int, value: Body, headers: dict[str, str] | None = None
    ) -> None:
        self.send_bytes(entry, status, json.dumps(value).encode(), headers)

    def send_bytes(
        self, entry: Body, status: int, content: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.write_log(entry, status)
        self.begin(status, {"Content-Length": str(len(content))} | (headers or {}))
        self.wfile.write(content)

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.end_headers()

    def write_log(self, entry: Body, status: int) -> None:
        """One line per request, written before its answer is."""
        state = self.state
        if state.log is not None:
            with state.lock:
                state.log.write(json.dumps(entry | {"status": status}) + "\n")

    def handle(self) -> None:
        # A client that was cancelled or killed is what some tests are about.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr: the log is a file."""


def merged(under: Any, over: Any) -> Any:
    """`over` laid upon `under`: objects by field, lists by place, all else replaced."""
    if isinstance(under, dict) and isinstance(over, dict):
        return under | {name: merged(under.get(name), value) for name, value in over.items()}
    if isinstance(under, list) and isinstance(over, list) and len(under) == len(over):
        return [merged(a, b) for a, b in zip(under, over, strict=True)]
    return over


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", help="JSONL of every request")
    parser.add_argument("--rules", help="a JSON list of rules, or a file of one")
    parser.add_argument("--replies", help="JSONL of matches and replies")
    parser.add_argument("--judge", help="package.module:function of the messages")
    parser.add_argument("--model", help="a model folder, or microworld")
    parser.add_argument("--dtype", default="float32", help="of the model")
    parser.add_argument("--served", action="append", help="id of a model at /v1/models")
    parser.add_argument("--root", help="root of every model at /v1/models")
    parser.add_argument("--api-key", help="demand this key")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    words = parser.parse_args()
    Handler.state = State(words)
    listener = Listener(("127.0.0.1", words.port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=listener.shutdown).start())
    print(f"listening on http://127.0.0.1:{listener.server_port}/v1", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        listener.serve_forever(poll_interval=0.02)
    listener.server_close()


if __name__ == "__main__":
    main()
