"""A server of ours in a thread, for tests that speak to it.

with served(ScriptedBackend(script("a thought <R> an answer"))) as server:
    httpx.get(server.url + "/health")
server.log()    # all that it said
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from rich.console import Console
from scripted_backend import ScriptedBackend

from forethought.progress.reporter import Reporter
from forethought.serving.answerer import SplittingAnswerer
from forethought.serving.backends.base import Answerer, AnswerSettings
from forethought.serving.http.server import run_server
from forethought.serving.http.settings import ServerSettings
from forethought.thoughts import ThoughtFormat

MODEL = "thinker"
FORMAT = ThoughtFormat(
    name="test", instruction="Think, then answer after <R>.", response_starts_after=("<R>",)
)
ANSWERS = AnswerSettings(thought_budget=None, attempts=2, without_response="error")


@dataclass
class Served:
    """A server that runs.

    Example: `Served(url="http://127.0.0.1:8000", backend=backend, said=io.StringIO(), stop=stop)`
    """

    url: str
    backend: ScriptedBackend
    said: io.StringIO
    stop: Callable[[], None]
    """Asks it to end, as SIGTERM does."""

    def log(self) -> str:
        return self.said.getvalue()

    def chat(self, text: str = "Hi", key: str | None = None, **fields: Any) -> httpx.Response:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.post(
            self.url + "/v1/chat/completions", json=asked(text, **fields), headers=headers
        )


def asked(text: str = "Hi", **fields: Any) -> dict[str, Any]:
    """A body."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


@contextmanager
def served(
    backend: ScriptedBackend,
    *,
    answerer: Answerer | None = None,
    answer_settings: AnswerSettings = ANSWERS,
    page: str | None = None,
    **settings: Any,
) -> Iterator[Served]:
    """A server at a free port of this machine; it has ended after the block."""
    said = io.StringIO()
    ready = threading.Event()
    found: list[Served] = []

    def started(url: str, stop: Callable[[], None]) -> None:
        found.append(Served(url, backend, said, stop))
        ready.set()

    def work() -> None:
        run_server(
            answerer or SplittingAnswerer(backend, FORMAT, answer_settings),
            backend,
            host="127.0.0.1",
            port=None,
            settings=ServerSettings(model=MODEL, **settings),
            reporter=Reporter(Console(file=said, width=500)),
            page=page,
            started=started,
        )

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(20), "the server did not start"
    try:
        yield found[0]
    finally:
        found[0].stop()
        thread.join(20)
        assert not thread.is_alive(), "the server did not end"


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)


def events(text: str) -> tuple[list[dict[str, Any]], bool]:
    """The JSON of a stream's events, and whether it ended with DONE."""
    data = [block[6:] for block in text.split("\n\n") if block.startswith("data: ")]
    return [json.loads(one) for one in data if one != "[DONE]"], data[-1:] == ["[DONE]"]


def refused(
    reply: httpx.Response, status: int, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """An error in OpenAI's shape, all four fields there."""
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["param"] == param
    if code is not None:
        assert error["code"] == code
    return error


def metrics(server: Served) -> str:
    """A scrape."""
    return httpx.get(server.url + "/metrics").text


def impatient(url: str, seconds: float) -> None:
    """Read a stream for a while, then leave."""
    end = time.monotonic() + seconds
    body = asked(stream=True)
    with httpx.stream("POST", url + "/v1/chat/completions", json=body, timeout=60) as reply:
        for _ in reply.iter_raw():
            if time.monotonic() > end:
                return
