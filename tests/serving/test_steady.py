"""Limits, clients that leave, hang or dribble, and the end of a server."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from httpx._config import DEFAULT_LIMITS
from scripted_backend import ScriptedBackend, script
from served import asked, events, impatient, metrics, refused, served, until

from forethought.serving.http.protocol import ChatRequest
from forethought.serving.http.server import KEPT_SECONDS
from forethought.serving.http.settings import ServerSettings

SIMPLE = script("a secret thought <R> The answer is 5.", cut=5)
SLOW = script("hmm " * 50 + "<R> " + "word " * 400, cut=5, delay=0.02)
CHAT = "/v1/chat/completions"


def test_a_client_gives_up_an_idle_connection_before_the_server_does():
    """Else a request may be sent into a connection that is just being closed."""
    assert DEFAULT_LIMITS.keepalive_expiry is not None
    assert 2 * DEFAULT_LIMITS.keepalive_expiry < KEPT_SECONDS
    assert ServerSettings(model="m").read_seconds > KEPT_SECONDS


def test_the_parser_keeps_no_text_of_clients():
    """From its cache of strings both would be one object."""
    bodies = [json.dumps(asked("a short secret")).encode() for _ in range(2)]
    first, second = (ChatRequest.model_validate_json(body) for body in bodies)
    assert first == second
    assert first.messages[-1].content is not second.messages[-1].content


def test_a_full_queue_says_when_to_come_again():
    with served(ScriptedBackend(SLOW), slots=1, queue=1, answers=3) as server:
        refused_at_once = server.chat(n=3)
        error = refused(refused_at_once, 429, code="queue_full")
        assert error["type"] == "rate_limit_error"
        assert 1 <= int(refused_at_once.headers["retry-after"]) <= 60
        threads = [threading.Thread(target=impatient, args=(server.url, 2.0)) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: server.backend.open == 1 and "waiting_answers 1" in metrics(server))
        refused(server.chat(), 429)
        assert server.backend.most == 1
        for thread in threads:
            thread.join()
        until(lambda: server.backend.open == 0 and "waiting_answers 0" in metrics(server))
        assert 'status="429"} 2' in metrics(server)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_a_client_that_leaves_ends_its_answers(stream, count):
    with served(ScriptedBackend(SLOW), slots=2) as server:
        port = int(server.url.rsplit(":", 1)[1])
        body = json.dumps(asked(stream=stream, n=count)).encode()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(
                f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            until(lambda: server.backend.open == min(count, 2))
        # Long before its end, which is 9 seconds away.
        until(lambda: server.backend.open == 0, 6)
        until(lambda: f'route="{CHAT}",status="499"}} 1' in metrics(server))
        assert "running_answers 0" in metrics(server)
        assert "waiting_answers 0" in metrics(server)
        assert " 499 " in server.log()


def test_time_runs_out():
    with served(ScriptedBackend(SLOW), seconds=0.4) as server:
        refused(server.chat(), 504, code="timeout")
        reply = server.chat(stream=True)
        assert reply.status_code == 504
    hasty = script("t <R> " + "word " * 400, cut=5, delay=0.02)
    with served(ScriptedBackend(hasty), seconds=0.6) as server:
        reply = server.chat(stream=True)
        assert reply.status_code == 200
        chunks, done = events(reply.text)
        assert done
        assert chunks[-1]["error"]["code"] == "timeout"
        assert 'status="504"' in metrics(server)
        assert server.backend.open == 0


def test_a_thinking_stream_has_comments_and_a_waiting_one_too():
    thinking = script("t" * 30 + " <R> done", cut=1, delay=0.08)
    with served(ScriptedBackend(thinking), slots=1) as server:
        waiting = threading.Thread(target=server.chat)
        waiting.start()
        until(lambda: server.backend.open == 1)
        text = server.chat(stream=True).text
        waiting.join()
    assert ": waiting\n\n" in text
    assert 1 <= text.count(": thinking\n\n") <= 4
    assert events(text)[0][-1]["choices"][0]["finish_reason"] == "stop"


PROCESS = """
import sys
from rich.console import Console
from scripted_backend import ScriptedBackend, script
from served import ANSWERS, FORMAT, MODEL
from forethought.progress.reporter import Reporter
from forethought.serving.answerer import SplittingAnswerer
from forethought.serving.http.server import run_server
from forethought.serving.http.settings import ServerSettings
backend = ScriptedBackend(script("t <R> " + "word " * int(sys.argv[2]), cut=5, delay=0.02))
settings = ServerSettings(model=MODEL, shutdown_seconds=float(sys.argv[1]))
run_server(SplittingAnswerer(backend, FORMAT, ANSWERS), backend, host="127.0.0.1", port=None,
           settings=settings, reporter=Reporter(Console(soft_wrap=True)),
           started=lambda url, stop: print("at", url, flush=True))
print("closed", backend.closed, "open", backend.open, flush=True)
"""


@contextmanager
def stream_of_a_process(seconds, words):
    """A server in a process of its own with that time to end, and the text of a running stream."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(seconds), str(words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert process.stdout is not None
    try:
        while not (line := process.stdout.readline()).startswith("at "):
            assert line, "the server did not start"
        url = line.split()[1]
        with httpx.stream("POST", url + CHAT, json=asked(stream=True), timeout=60) as reply:
            yield process, url, reply.iter_text()
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "closed True open 0" in out
        assert "Traceback" not in err
    finally:
        process.kill()
        process.wait()


def test_sigterm_lets_streams_finish_and_takes_no_new_ones():
    with stream_of_a_process(30, 150) as (process, url, pieces):
        got = [next(pieces)]
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        refused(httpx.post(url + CHAT, json=asked()), 503, code="shutting_down")
        assert httpx.get(url + "/health").status_code == 503
        got.extend(pieces)
        chunks, done = events("".join(got))
    assert done
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text.split() == ["word"] * 150


def test_a_stream_that_takes_too_long_after_sigterm_is_ended_with_an_error():
    with stream_of_a_process(1, 3000) as (process, _, pieces):
        got = [next(pieces)]
        process.send_signal(signal.SIGTERM)
        chunks, done = events("".join([*got, *pieces]))
    assert done
    assert chunks[-1]["error"]["code"] == "shutting_down"


def test_a_second_signal_ends_it_at_once():
    with stream_of_a_process(60, 3000) as (process, _, pieces):
        next(pieces)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        with pytest.raises(httpx.RemoteProtocolError):
            list(pieces)
