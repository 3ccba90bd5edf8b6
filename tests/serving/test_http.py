"""What the endpoint says over the wire: whole answers, streams, errors, logs, metrics."""

import json
import re
import time
from datetime import datetime

import httpx
import pytest
from scripted_backend import ScriptedBackend, script
from served import FORMAT, MODEL, events, impatient, metrics, refused, served, until

from forethought.serving.backends.base import (
    AnswerDelta,
    AnswerEnd,
    AnswerSettings,
    BackendError,
    RefusedDrawError,
    TokenLogprob,
)
from forethought.serving.http.keys import new_key

SIMPLE = script("a secret thought <R> The answer is 5.", cut=5)
SLOW = script("hmm " * 50 + "<R> " + "word " * 400, cut=5, delay=0.02)
CHAT = "/v1/chat/completions"


def test_a_whole_answer_has_openais_shape(server):
    reply = server.chat("What is 2 + 3?")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert body["id"] == reply.headers["x-request-id"]
    assert body["object"] == "chat.completion"
    assert body["model"] == MODEL
    assert abs(body["created"] - time.time()) < 60
    (choice,) = body["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "The answer is 5.",
        "refusal": None,
    }
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"] is None
    usage = body["usage"]
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    assert 0 < reasoning < usage["completion_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert "secret" not in reply.text
    assert "secret" not in server.log()
    assert "2 + 3" not in server.log()


def test_a_stream_has_openais_chunks(server):
    reply = server.chat(stream=True, stream_options={"include_usage": True})
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    chunks, done = events(reply.text)
    assert done
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["id"] for chunk in chunks} == {reply.headers["x-request-id"]}
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    *parts, last, usage = chunks
    text = "".join(part["choices"][0]["delta"]["content"] for part in parts)
    assert text == "The answer is 5."
    assert last["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    assert {chunk["usage"] for chunk in (*parts, last)} == {None}
    assert "secret" not in reply.text


def test_without_include_usage_no_chunk_speaks_of_usage(server):
    chunks, done = events(server.chat(stream=True).text)
    assert done
    assert all("usage" not in chunk for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_several_answers_have_their_own_seeds_and_places():
    backend = ScriptedBackend(lambda draw: script(f"t <R> seed {draw.seed}", cut=3))
    with served(backend) as server:
        first = server.chat(n=3, seed=7).json()
        again = server.chat(n=3, seed=7, stream=True)
        alone = server.chat(seed=7).json()
        negative = server.chat(seed=-1)
        unseeded = server.chat(n=2).json()
    contents = [choice["message"]["content"] for choice in first["choices"]]
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2]
    assert len(set(contents)) == 3
    assert alone["choices"][0]["message"]["content"] == contents[0]
    assert negative.status_code == 200
    streamed = ["", "", ""]
    for chunk in events(again.text)[0]:
        for choice in chunk["choices"]:
            streamed[choice["index"]] += choice["delta"].get("content", "")
    assert streamed == contents
    assert {one["message"]["content"] for one in unseeded["choices"]} == {"seed None"}
    usage = first["usage"]
    assert usage["prompt_tokens"] == 10, "the conversation is counted once"
    assert usage["completion_tokens"] > 3 * alone["usage"]["completion_tokens"] * 0.5


def test_what_is_asked_reaches_the_model():
    backend = ScriptedBackend(SIMPLE)
    limits = {"temperature": 0.8, "top_p": 0.95, "max_tokens": 100}
    with served(backend, **limits, allow_think_off=True) as server:
        server.chat()
        server.chat(temperature=0, top_p=0.5, max_completion_tokens=7, seed=3)
        server.chat(max_tokens=5000)
        server.chat(think=False)
        server.chat(chat_template_kwargs={"enable_thinking": False, "other": 1})
        server.chat(think=True, chat_template_kwargs={"enable_thinking": False})
        parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
        turns = [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": "Hi", "name": "Ann"},
            {"role": "assistant", "content": None, "reasoning": "old thought"},
            {"role": "user", "content": parts},
        ]
        server.chat(messages=turns)
    default, own, capped, direct, kwargs, think, turned = backend.draws
    assert (default.temperature, default.top_p, default.seed) == (0.8, 0.95, None)
    assert (own.temperature, own.top_p, own.seed) == (0, 0.5, 3)
    assert FORMAT.instruction is not None
    assert FORMAT.instruction in default.messages[-1].content
    assert direct.messages[-1].content == kwargs.messages[-1].content == "Hi"
    assert FORMAT.instruction in think.messages[-1].content
    assert direct.max_tokens is not None
    assert [message.role for message in turned.messages] == ["system", "user", "assistant", "user"]
    assert turned.messages[-1].content.endswith("one two")
    assert "old thought" not in repr(turned)
    assert capped.max_tokens == default.max_tokens


def test_stop_and_limits_are_of_the_response(server):
    stopped = server.chat(stop=["secret", " 5"]).json()["choices"][0]
    assert stopped["message"]["content"] == "The answer is"
    assert stopped["finish_reason"] == "stop"
    short = server.chat(max_tokens=1).json()["choices"][0]
    assert short["finish_reason"] == "length"
    assert "The answer is 5.".startswith(short["message"]["content"])


def test_logprobs_are_of_the_response():
    with served(ScriptedBackend(script("secret <R> yes or no", cut=1, logprobs=True))) as server:
        whole = server.chat(logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]
        stream = server.chat(logprobs=True, stream=True)
        neither = server.chat().json()["choices"][0]["logprobs"]
    assert neither is None
    tokens = "".join(one["token"] for one in whole["content"])
    assert "yes or no" in tokens
    assert "secret" not in tokens
    assert whole["content"][-2]["bytes"] == list(whole["content"][-2]["token"].encode())
    streamed = [
        one["token"]
        for chunk in events(stream.text)[0]
        if (listed := chunk["choices"][0]["logprobs"])
        for one in listed["content"]
    ]
    assert streamed == [one["token"] for one in whole["content"]]


def test_numbers_that_json_cannot_say_are_clamped():
    odd = TokenLogprob(
        token="\ud83d", logprob=float("-inf"), top=(("x", float("nan")), ("y", -1.0))
    )

    class Odd:
        async def answer(self, question):
            yield AnswerDelta(response="\ud83d", thought="", logprobs=(odd,))
            yield AnswerEnd(
                finish_reason="stop",
                prompt_tokens=1,
                completion_tokens=1,
                reasoning_tokens=0,
                attempts=1,
            )

    with served(ScriptedBackend(SIMPLE), answerer=Odd()) as server:
        for stream in (False, True):
            reply = server.chat(logprobs=True, stream=stream)
            assert reply.status_code == 200
            assert "-9999.0" in reply.text
            assert "NaN" not in reply.text
            assert "Infinity" not in reply.text


def test_health_is_the_backends():
    backend = ScriptedBackend(SIMPLE)
    with served(backend) as server:
        assert httpx.get(server.url + "/health").json() == {"status": "ok"}
        backend.well = False
        assert httpx.get(server.url + "/health").status_code == 503
        refused(httpx.get(server.url + "/"), 404)
    assert backend.closed


def test_errors_of_the_model_are_told_without_its_words():
    failing = {
        "backend": (script("secret", error=BackendError("the upstream hung up"), finish=None), 502),
        "refused": (script("", error=RefusedDrawError("9 tokens; it takes 8"), finish=None), 400),
        "bug": (script("secret", error=KeyError("secret"), finish=None), 502),
        "none": (script("only a secret thought"), 502),
    }
    for name, (written, status) in failing.items():
        with served(ScriptedBackend(written)) as server:
            for stream in (False, True):
                reply = server.chat(stream=stream)
                assert reply.status_code == status, (name, reply.text)
                assert "secret" not in reply.text
            assert server.chat(n=2).status_code == status
            assert "secret" not in server.log(), name
            assert server.backend.open == 0
    late = script("t <R> a beginning", error=BackendError("gone"), finish=None)
    with served(ScriptedBackend(late)) as server:
        chunks, done = events(server.chat(stream=True).text)
    assert done
    assert chunks[-1]["error"]["code"] == "backend_failed"
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
    assert text == "a beginning"
    assert "the backend failed: gone" in server.log()


def test_an_unexpected_error_is_told_by_its_place_alone():
    class Broken:
        async def answer(self, question):
            yield AnswerDelta(response="", thought="", logprobs=())
            secret = "the secret thought"
            raise LookupError(secret)

    for stream in (False, True):
        with served(ScriptedBackend(SIMPLE), answerer=Broken()) as server:
            reply = server.chat(stream=stream)
        error = refused(reply, 500, code="internal_error")
        request = reply.headers["x-request-id"]
        assert request in error["message"]
        assert f"{request} LookupError at test_http.py:" in server.log()
        assert "secret" not in reply.text + server.log()


def test_an_empty_answer_where_that_is_wanted():
    empty = AnswerSettings(thought_budget=None, attempts=2, without_response="empty")
    with served(ScriptedBackend(script("only thought")), answer_settings=empty) as server:
        (choice,) = server.chat().json()["choices"]
        assert choice["message"]["content"] == ""
        assert choice["finish_reason"] == "length"
        chunks, _ = events(server.chat(stream=True).text)
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert len(server.backend.draws) == 4


def test_thoughts_are_for_those_who_may(tmp_path):
    seer, other = new_key("seer", {"reasoning"}), new_key("other")
    keys = tmp_path / "keys"
    keys.write_text(f"{seer.line}\n{other.line}\n")
    with served(ScriptedBackend(SIMPLE), api_keys=keys) as server:
        refused(server.chat(), 401, code="invalid_api_key")
        refused(server.chat(key="sk-wrong"), 401)
        refused(httpx.get(server.url + "/metrics"), 401)
        refused(httpx.get(server.url + "/v1/nothing"), 401)
        assert httpx.get(server.url + "/health").status_code == 200
        message = server.chat(key=seer.secret).json()["choices"][0]["message"]
        assert message["reasoning"] == message["reasoning_content"] == "a secret thought"
        chunks, _ = events(server.chat(key=seer.secret, stream=True).text)
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert "".join(delta.get("reasoning", "") for delta in deltas) == "a secret thought"
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "a secret thought"
        assert "".join(delta.get("content", "") for delta in deltas) == "The answer is 5."
        for stream in (False, True):
            reply = server.chat(key=other.secret, stream=stream)
            assert "secret" not in reply.text
            assert "reasoning" not in reply.text.replace("reasoning_tokens", "")
        log = server.log()
    assert " seer POST " in log
    assert " other POST " in log
    assert seer.secret not in log
    assert "secret" not in log


def test_an_open_server_shows_thoughts_if_told_to():
    with served(ScriptedBackend(SIMPLE), show_thoughts=True) as server:
        message = server.chat().json()["choices"][0]["message"]
    assert message["reasoning"] == "a secret thought"


def test_the_private_log_keeps_what_nothing_else_does(tmp_path):
    path = tmp_path / "private.jsonl"
    with served(ScriptedBackend(SIMPLE), private_log=path) as server:
        whole = server.chat("What is 2 + 3?", n=2)
        server.chat(stream=True)
        until(lambda: server.backend.open == 0)
    assert path.stat().st_mode & 0o777 == 0o600
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(entries) == 3
    assert {entry["thought"] for entry in entries} == {"a secret thought"}
    assert {entry["response"] for entry in entries} == {"The answer is 5."}
    assert {entry["outcome"] for entry in entries} == {"stop"}
    assert entries[0]["messages"] == [{"role": "user", "content": "What is 2 + 3?"}]
    assert {entry["choice"] for entry in entries[:2]} == {0, 1}
    assert entries[0]["request_id"] == whole.json()["id"]
    assert "2 + 3" not in server.log()


def test_a_cut_answer_is_in_the_private_log_too(tmp_path):
    path = tmp_path / "private.jsonl"
    with served(ScriptedBackend(SLOW), private_log=path) as server:
        impatient(server.url, 0.2)
        until(lambda: path.read_text() != "")
    entry = json.loads(path.read_text())
    assert entry["outcome"] == "cancelled"
    assert entry["thought"].startswith("hmm")


def test_the_metrics_add_up():
    with served(ScriptedBackend(SIMPLE)) as server:
        usages = [server.chat(n=n).json()["usage"] for n in (1, 2)]
        server.chat(n=0)
        httpx.get(server.url + "/no/such/[path]?key=hidden")
        text = metrics(server)
    thoughts = sum(usage["completion_tokens_details"]["reasoning_tokens"] for usage in usages)
    assert f"forethought_thought_tokens_total {thoughts}\n" in text
    total = sum(usage["completion_tokens"] for usage in usages)
    assert f"forethought_completion_tokens_total {total}\n" in text
    assert f'forethought_requests_total{{route="{CHAT}",status="200"}} 2\n' in text
    assert f'forethought_requests_total{{route="{CHAT}",status="400"}} 1\n' in text
    assert 'forethought_requests_total{route="other",status="404"} 1\n' in text
    assert 'forethought_answers_total{outcome="stop"} 3\n' in text
    assert "forethought_first_token_seconds_count 2\n" in text
    assert 'forethought_request_seconds_bucket{le="+Inf"} 3\n' in text
    for line in text.splitlines():
        assert line.startswith("# ") or len(line.rsplit(" ", 1)) == 2
        if not line.startswith("#"):
            float(line.rsplit(" ", 1)[1])
    wanted = r"^(\S+) chatcmpl-\w+ - GET /no/such/%5Bpath%5D 404 \d+ms$"
    line = re.search(wanted, server.log(), re.MULTILINE)
    assert line is not None
    datetime.strptime(line[1], "%Y-%m-%dT%H:%M:%SZ")
    assert "hidden" not in server.log()


@pytest.mark.parametrize("allowed", [False, True])
def test_to_turn_thinking_off_is_offered_only_where_it_is_allowed(allowed):
    soon, late = script("secret"), script("secret", cut=9, delay=0.6)
    with served(ScriptedBackend(soon, soon, late, soon), allow_think_off=allowed) as server:
        whole = refused(server.chat(), 502, code="no_response")["message"]
        streamed = events(server.chat(stream=True).text)[0][-1]["error"]["message"]
        (card,) = httpx.get(server.url + "/v1/models").json()["data"]
        alone = httpx.get(f"{server.url}/v1/models/{card['id']}").json()
        direct = server.chat(think=False)
        cut = server.chat(think=False, max_tokens=1)
    assert whole == streamed
    assert ("with think set to false" in whole) == allowed
    assert card["think_off"] == alone["think_off"] == allowed
    if allowed:
        assert direct.json()["choices"][0]["message"]["content"] == "secret"
        said = refused(cut, 502, code="no_response")["message"]
        assert "ask again, with a larger max_tokens or without think set to false" in said
    else:
        said = refused(direct, 400, "think", "unsupported_value")["message"]
        assert said == "think: this server does not let thinking be turned off; leave it out"
