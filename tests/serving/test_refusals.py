"""What cannot be accepted is refused in OpenAI's shape, and the server goes on."""

import io
import json
import re
import socket

import httpx
import pytest
from rich.console import Console
from scripted_backend import ScriptedBackend, script
from served import ANSWERS, FORMAT, MODEL, asked, refused

from forethought.progress.reporter import Reporter
from forethought.serving.answerer import SplittingAnswerer
from forethought.serving.http.keys import new_key
from forethought.serving.http.server import run_server
from forethought.serving.http.settings import ServerSettings

SIMPLE = script("a secret thought <R> The answer is 5.", cut=5)
SLOW = script("hmm " * 50 + "<R> " + "word " * 400, cut=5, delay=0.02)
CHAT = "/v1/chat/completions"


def parts(*content):
    """A turn in parts."""
    return {"messages": [{"role": "user", "content": list(content)}]}


def after(turn):
    """A question behind another turn."""
    return {"messages": [turn, {"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "gpt-4"}, 404, "model"),
        ({"model": 3}, 400, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": "Hi"}, 400, "messages"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, 400, "messages"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, 400, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content"),
        ({"messages": [{"content": "Hi"}]}, 400, "messages[0].role"),
        ({"messages": [None]}, 400, "messages[0]"),
        ({"n": 0}, 400, "n"),
        ({"n": 9}, 400, "n"),
        ({"n": "2"}, 400, "n"),
        ({"n": True}, 400, "n"),
        ({"n": 10**400}, 400, "n"),
        ({"temperature": -0.1}, 400, "temperature"),
        ({"temperature": 2.5}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"top_p": 1.5}, 400, "top_p"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": -5}, 400, "max_tokens"),
        ({"max_tokens": 2**31}, 400, "max_tokens"),
        ({"max_completion_tokens": 1.5}, 400, "max_completion_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, 400, "max_tokens"),
        ({"seed": 2**63}, 400, "seed"),
        ({"seed": "x"}, 400, "seed"),
        ({"stop": ["a"] * 17}, 400, "stop"),
        ({"stop": ""}, 400, "stop"),
        ({"stop": [1]}, 400, "stop[0]"),
        ({"stop": "x" * 1001}, 400, "stop"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs"),
        ({"top_logprobs": 2}, 400, "top_logprobs"),
        ({"stream": "yes"}, 400, "stream"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
        (
            {"stream": True, "stream_options": {"include_usage": 1}},
            400,
            "stream_options.include_usage",
        ),
        ({"think": "no"}, 400, "think"),
        ({"think": False}, 400, "think"),
        (
            {"chat_template_kwargs": {"enable_thinking": False}},
            400,
            "chat_template_kwargs.enable_thinking",
        ),
        ({"user": 3}, 400, "user"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"tool_choice": "required"}, 400, "tool_choice"),
        ({"functions": [{"name": "f"}]}, 400, "functions"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"modalities": ["text", "audio"]}, 400, "modalities"),
        ({"audio": {"voice": "x"}}, 400, "audio"),
        ({"logit_bias": {"50256": -100}}, 400, "logit_bias"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty"),
        ({"presence_penalty": -1}, 400, "presence_penalty"),
        (parts({"type": "image_url"}), 400, "messages[0].content[0].type"),
        (parts({"type": "text", "text": ""}, {"type": "file"}), 400, "messages[0].content[1].type"),
        (parts({"type": "text"}), 400, "messages[0].content[0].text"),
        (after({"role": "tool", "content": "4"}), 400, "messages[0].role"),
        (after({"role": "assistant", "tool_calls": [{}]}), 400, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": "x"}] * 1001}, 400, "messages"),
    ],
)
def test_what_cannot_be_accepted_is_named(server, fields, status, param):
    draws = len(server.backend.draws)
    reply = server.chat(**fields)
    refused(reply, status, param)
    message = reply.json()["error"]["message"]
    assert not re.search("Input|valid |Field required|another value", message), message
    assert len(server.backend.draws) == draws


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"model": "\xff\xfe"}',
        json.dumps(asked()).replace("Hi", "\\ud800").encode(),
        json.dumps(asked(temperature=float("nan"))).encode(),
        json.dumps(asked(temperature=float("inf"))).encode(),
        json.dumps(asked()).replace("Hi", 'Hi", "x": 1e999999').encode()[:-2],
        b'{"model": "thinker", "seed": ' + b"9" * 5000 + b', "messages": []}',
    ],
)
def test_what_is_no_proper_json_is_refused(server, body):
    json_type = {"Content-Type": "application/json"}
    reply = httpx.post(server.url + CHAT, content=body, headers=json_type)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert server.chat().status_code == 200


def test_what_asks_for_nothing_special_is_accepted(server):
    fields = {
        "tools": [],
        "tool_choice": "none",
        "logit_bias": {},
        "response_format": {"type": "text"},
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "n": None,
        "stop": None,
        "temperature": None,
        "user": "somebody",
        "metadata": {"a": "b"},
        "something_new": [1, 2],
    }
    reply = server.chat(**fields)
    assert reply.status_code == 200
    assert "somebody" not in server.log()


def test_other_content_types_are_refused(server):
    # A page elsewhere can send these without asking the browser's leave.
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        reply = httpx.post(
            server.url + CHAT, content=json.dumps(asked()), headers={"Content-Type": kind}
        )
        refused(reply, 415)


def test_other_paths_and_methods(server):
    refused(httpx.get(server.url + CHAT), 405, code="method_not_allowed")
    refused(httpx.get(server.url + "/v1/nothing"), 404, code="not_found")
    refused(httpx.post(server.url + "/v1/completions", json={}), 404)
    refused(httpx.get(server.url + "/v1/models/other"), 404, "model", "model_not_found")
    assert httpx.get(server.url + "/v1/models/" + MODEL).json()["id"] == MODEL
    (card,) = httpx.get(server.url + "/v1/models").json()["data"]
    assert card["id"] == MODEL
    page = httpx.get(server.url + "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]


def test_an_open_server_answers_to_this_machine_alone(server):
    for header in ({"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example:80"}):
        refused(httpx.get(server.url + "/v1/models", headers=header), 403)
    refused(httpx.get(server.url + "/health", headers={"Origin": "https://evil.example"}), 403)
    refused(httpx.get(server.url + "/health", headers={"Origin": "null"}), 403)
    own = {"Origin": server.url, "Host": "localhost:99"}
    assert httpx.get(server.url + "/health", headers=own).status_code == 200


def run(backend, host="127.0.0.1", port=None, **settings):
    """Run a server here, for what is refused before it begins."""
    run_server(
        SplittingAnswerer(backend, FORMAT, ANSWERS),
        backend,
        host=host,
        port=port,
        settings=ServerSettings(model=MODEL, **settings),
        reporter=Reporter(Console(file=io.StringIO())),
    )


def test_without_keys_only_this_machine_is_listened_to(tmp_path):
    backend = ScriptedBackend(SIMPLE)
    with pytest.raises(ValueError, match=r"0\.0\.0\.0 can be reached from elsewhere"):
        run(backend, "0.0.0.0")
    with pytest.raises(ValueError, match="65535"):
        run(backend, port=70000)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ValueError, match="in use"):
        run(backend, port=taken.getsockname()[1])
    keys = tmp_path / "keys"
    with pytest.raises(ValueError, match="cannot be read"):
        run(backend, api_keys=keys)
    keys.write_text(new_key("a").line + "\n")
    with pytest.raises(ValueError, match="show_thoughts"):
        run(backend, api_keys=keys, show_thoughts=True)
    with pytest.raises(ValueError, match="no address"):
        run(backend, host="no.such.host.invalid", api_keys=keys)


def test_a_private_log_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "log"
    path.write_text("")
    path.chmod(0o644)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    backend = ScriptedBackend(SIMPLE)
    for wrong in (path, link, tmp_path, tmp_path / "no" / "log"):
        with pytest.raises(ValueError, match="private log"):
            run(backend, private_log=wrong)
