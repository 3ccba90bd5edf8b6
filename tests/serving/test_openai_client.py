"""The official client, which we did not write: it must need nothing special."""

import asyncio
from typing import Any

import openai
import pytest
from scripted_backend import ScriptedBackend, script
from served import MODEL, served

from forethought.serving.backends.base import BackendError
from forethought.serving.http.keys import new_key

TALK = script("a secret thought <R> one two three", cut=4, logprobs=True)
ASKED: Any = [{"role": "user", "content": "Count."}]


@pytest.fixture(scope="module")
def keys():
    return {"plain": new_key("plain"), "seer": new_key("seer", {"reasoning"})}


@pytest.fixture(scope="module")
def server(keys, tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text("".join(key.line + "\n" for key in keys.values()))
    with served(ScriptedBackend(TALK), api_keys=path) as running:
        yield running


@pytest.fixture
def client(server, keys):
    with openai.OpenAI(
        base_url=server.url + "/v1", api_key=keys["plain"].secret, max_retries=0
    ) as one:
        yield one


def test_a_completion(client):
    reply = client.chat.completions.create(
        model=MODEL,
        messages=ASKED,
        n=2,
        seed=1,
        temperature=0.5,
        top_p=0.9,
        max_completion_tokens=50,
        user="me",
    )
    assert [choice.message.content for choice in reply.choices] == ["one two three"] * 2
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens_details.reasoning_tokens > 0
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply._request_id == reply.id
    assert not hasattr(reply.choices[0].message, "reasoning")


def test_a_stream(client):
    parts = client.chat.completions.create(
        model=MODEL, messages=ASKED, stream=True, n=2, stream_options={"include_usage": True}
    )
    texts, usage, ends = {0: "", 1: ""}, None, []
    for part in parts:
        usage = part.usage or usage
        for choice in part.choices:
            texts[choice.index] += choice.delta.content or ""
            ends.append(choice.finish_reason)
    assert texts == {0: "one two three", 1: "one two three"}
    assert ends.count("stop") == 2
    assert usage is not None
    assert usage.completion_tokens_details.reasoning_tokens > 0


def test_the_clients_own_stream_helper(client):
    with client.chat.completions.stream(model=MODEL, messages=ASKED) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_completion().choices[0].message.content == "one two three"
    assert "content.delta" in kinds
    assert kinds[-1] == "content.done"


def test_stop_and_logprobs(client):
    reply = client.chat.completions.create(
        model=MODEL, messages=ASKED, stop=[" three"], logprobs=True, top_logprobs=2
    )
    (choice,) = reply.choices
    assert choice.message.content == "one two"
    assert choice.logprobs.content[-1].top_logprobs[-1].token == "rival"
    assert "secret" not in reply.model_dump_json()


def test_the_async_client(server, keys):
    async def ask():
        key = keys["plain"].secret
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key=key) as client:
            whole = client.chat.completions.create(model=MODEL, messages=ASKED)
            parts = await client.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
            streamed = [part.choices[0].delta.content or "" async for part in parts]
            return (await whole).choices[0].message.content, "".join(streamed)

    assert asyncio.run(ask()) == ("one two three", "one two three")


def test_a_key_with_the_right_sees_the_thought(server, keys):
    with openai.OpenAI(base_url=server.url + "/v1", api_key=keys["seer"].secret) as client:
        reply = client.chat.completions.create(model=MODEL, messages=ASKED)
        assert reply.choices[0].message.model_dump()["reasoning"] == "a secret thought"
        parts = client.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
        deltas = [part.choices[0].delta.model_dump() for part in parts]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "a secret thought"


def test_models(client):
    assert [one.id for one in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "forethought"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_errors_are_the_clients_own(client, server):
    create = client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as missing:
        create(model="gpt-4", messages=ASKED)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        create(model=MODEL, messages=ASKED, temperature=-1)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as unsupported:
        create(model=MODEL, messages=ASKED, tools=[{"type": "function"}])
    assert unsupported.value.code == "unsupported_value"
    with (
        openai.OpenAI(base_url=server.url + "/v1", api_key="sk-wrong") as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.chat.completions.create(model=MODEL, messages=ASKED)


def test_a_stream_that_fails_midway_raises():
    broken = script("t <R> a beginning", error=BackendError("gone"), finish=None)
    got = []
    with served(ScriptedBackend(broken)) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        with client:
            parts = client.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
            texts = (part.choices[0].delta.content or "" for part in parts)
            with pytest.raises(openai.APIError, match="failed") as failed:
                got.extend(texts)
    assert failed.value.code == "backend_failed"
    assert "".join(got) == "a beginning"


def test_a_busy_server_is_tried_again():
    slow = script("t <R> one", cut=1, delay=0.1)
    with served(ScriptedBackend(slow), slots=1, queue=0) as server:

        async def ask():
            async with openai.AsyncOpenAI(
                base_url=server.url + "/v1", api_key="none", max_retries=8
            ) as client:
                ask_once = client.chat.completions.create
                replies = [ask_once(model=MODEL, messages=ASKED) for _ in range(2)]
                return [one.choices[0].message.content for one in await asyncio.gather(*replies)]

        assert asyncio.run(ask()) == ["one", "one"]
        assert " 429 " in server.log()
