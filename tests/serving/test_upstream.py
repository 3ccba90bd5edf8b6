"""Another server as backend: what it is asked, how its bytes are read, what its trouble becomes.

What an upstream may not do stands in tests/attacks/test_upstreams.py.
"""

import asyncio
import json
import logging
import socket
from contextlib import aclosing

import pytest
from raw_upstream import (
    HEAD,
    KEY,
    STOP,
    chunked,
    drawn,
    event,
    failure_of,
    pieces_of,
    plain,
    said,
    text_of,
    with_upstream,
)

from forethought.chat_client.sse import EventReader
from forethought.serving.answerer import SplittingAnswerer
from forethought.serving.backends.base import (
    AnswerDelta,
    AnswerRequest,
    AnswerSettings,
    BackendError,
    RefusedDrawError,
)
from forethought.serving.backends.upstream import (
    UpstreamBackend,
    check_continues,
    upstream_model,
)
from forethought.thoughts import SPECIFIC
from forethought.types import Message


def test_what_an_upstream_is_asked():
    async def ask(upstream, backend):
        async for _ in backend.draw(drawn(seed=None, max_tokens=None)):
            pass
        async for _ in backend.draw(drawn(top_logprobs=0, begun="hm\n<R>")):
            pass
        return upstream

    upstream = with_upstream(
        ask, chunked(*said("x")), can_continue=True, extra_body={"top_k": -1, "top_p": None}
    )
    first, second = upstream.bodies
    assert first == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "n": 1,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "temperature": 0.8,
        "top_k": -1,
    }
    assert (second["seed"], second["max_tokens"]) == (17, 32)
    assert (second["logprobs"], second["top_logprobs"]) == (True, 0)
    assert second["messages"][-1] == {"role": "assistant", "content": "hm\n<R>"}
    assert (second["continue_final_message"], second["add_generation_prompt"]) == (True, False)
    # The connection is used again.
    assert upstream.connections == 1


def test_pieces_and_their_end():
    pieces = pieces_of(chunked(event({"role": "assistant", "content": ""}), *said("It", " is")))
    assert [piece.text for piece in pieces] == ["It", " is", ""]
    assert [piece.tokens for piece in pieces] == [1, 1, 0]
    assert [piece.finish_reason for piece in pieces] == [None, None, "stop"]
    assert not any(piece.reasoning or piece.text_is_response for piece in pieces)


TEXT = 'hé 🙂\u2028<R>\r\n"x"'


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 7, 4096])
def test_bytes_may_come_in_any_parts(newline, size):
    texts = b"".join(event({"content": one}) for one in TEXT)
    stream = b"\xef\xbb\xbf: hello\n\nevent: x\nid: 3\n" + texts + b": bye\n\n"
    choice = {"index": 0, "delta": {"content": "y"}}
    lines = json.dumps({"choices": [choice]}, indent=1).encode().splitlines()
    stream += b"".join(b"data:" + line + b"\n" for line in lines) + b"\n"
    stream = (stream + event({}, "stop") + b"data: [DONE]\n\n").replace(b"\n", newline)
    parts = [stream[at : at + size] for at in range(0, len(stream), size)]
    reader = EventReader()
    payloads = [data for part in parts for data in reader.feed(part)]
    assert payloads[-1] == b"[DONE]"
    assert json.loads(payloads[-3])["choices"][0]["delta"] == {"content": "y"}
    pieces = pieces_of(chunked(*parts))
    assert text_of(pieces) == TEXT + "y"


def test_a_surrogate_pair_may_be_cut_in_two():
    halves = [b'data: {"choices": [{"delta": {"content": "a\\ud83d"}}]}\n\n']
    halves += [b'data: {"choices": [{"delta": {"content": "\\ude42b\\ud83d"}}]}\n\n']
    pieces = pieces_of(chunked(*halves, *STOP))
    assert [piece.text for piece in pieces] == ["a", "🙂b", "\ufffd"]


def usage(prompt: int, completion: int) -> dict:
    return {"usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


def test_tokens_are_counted_by_usage_where_it_comes():
    end = b"data: " + json.dumps({"choices": [], **usage(9, 7)}).encode() + b"\n\n"
    stream = [event({"content": "a b"}), event({}, "stop"), end, STOP[1]]
    pieces = pieces_of(chunked(*stream))
    assert [(piece.tokens, piece.prompt_tokens) for piece in pieces] == [(1, None), (6, 9)]
    so_far = [event({"content": "a b"}, **usage(9, 3)), event({}, "stop", **usage(9, 4))]
    pieces = pieces_of(chunked(*so_far, STOP[1]))
    assert [(piece.tokens, piece.prompt_tokens) for piece in pieces] == [(3, 9), (1, 9), (0, 9)]


def logprobs(*tokens: str) -> dict:
    rivals = [{"token": "no", "logprob": -3.0}, {"token": "\ud83d", "logprob": float("-inf")}]
    content = [{"token": token, "logprob": -0.1, "top_logprobs": rivals} for token in tokens]
    return {"content": content}


def test_logprobs_come_with_their_piece():
    choice = {"delta": {"content": "It is"}, "logprobs": logprobs("It", " is")}
    first = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
    piece, _ = pieces_of(chunked(first, *STOP), draw=drawn(top_logprobs=2))
    assert (piece.tokens, [logprob.token for logprob in piece.logprobs]) == (2, ["It", " is"])
    assert piece.logprobs[0].top == (("no", -3.0), ("\ufffd", -9999.0))


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_that_was_taken_out_travels_beside_the_text(field):
    stream = [event({field: "hm <R>"}), event({"content": "5", field: "."}), *STOP]
    pieces = pieces_of(chunked(*stream))
    found = [(piece.reasoning, piece.text) for piece in pieces]
    assert found == [("hm <R>", ""), (".", "5"), ("", "")]
    # Some servers send both names for a while.
    both = [event({"reasoning": "a", "reasoning_content": "a"}), *STOP]
    first = pieces_of(chunked(*both))[0]
    assert first.reasoning == "a"


def test_of_several_reasoning_fields_the_first_with_words_counts():
    fields = {"content": [{"type": "thinking", "thinking": "\n"}], "reasoning": " "}
    stream = [event({**fields, "reasoning_content": "hm"}), *STOP]
    assert pieces_of(chunked(*stream))[0].reasoning == "hm"


def test_other_choices_than_the_one_asked_for_are_passed_over():
    other = {"index": 1, "delta": {"content": "other"}, "finish_reason": "stop"}
    mine = {"index": 0, "delta": {"content": "mine"}}
    stream = [
        b"data: " + json.dumps({"choices": choices}).encode() + b"\n\n"
        for choices in ([other], [other, mine], [{**other, "index": "0"}])
    ]
    pieces = pieces_of(chunked(*stream, *STOP))
    assert [(piece.text, piece.finish_reason) for piece in pieces] == [("mine", None), ("", "stop")]
    choices = [
        {"index": index, "message": {"content": text}, "finish_reason": "stop"}
        for index, text in ((1, "other"), (0, "mine"))
    ]
    assert text_of(pieces_of(plain("200 OK", {"choices": choices}))) == "mine"
    assert isinstance(failure_of(plain("200 OK", {"choices": choices[:1]})), BackendError)


def whole(message: dict, total: int, **choice) -> list[bytes]:
    choices = [{"index": 0, "message": message, "finish_reason": "stop", **choice}]
    return plain("200 OK", {"choices": choices, **usage(5, total)})


def test_a_server_that_does_not_stream():
    pieces = pieces_of(whole({"content": "It is five."}, 4))
    assert text_of(pieces) == "It is five."
    assert [piece.tokens for piece in pieces] == [1, 1, 1, 1, 0]
    assert (pieces[0].prompt_tokens, pieces[-1].finish_reason) == (5, "stop")
    by_token = pieces_of(whole({"content": "It is"}, 3, logprobs=logprobs("It", " is")))
    assert [(one.text, one.tokens) for one in by_token] == [("It", 1), (" is", 1), ("", 1)]
    message = {"content": "five", "reasoning": "2 + 3 is"}
    thought, *response = pieces_of(whole(message, 6))
    assert (thought.reasoning, thought.text, thought.tokens) == ("2 + 3 is", "", 4)
    assert text_of(response) == "five"
    assert sum(one.tokens for one in response) == 2


@pytest.mark.parametrize("status", ["400 Bad Request", "413 Too Large", "422 Unprocessable"])
def test_a_refusal_is_about_the_conversation(status, monkeypatch):
    monkeypatch.setenv("UPSTREAM_KEY", KEY)
    message = {"error": {"message": f"maximum context length is 8 ({KEY})", "code": 400}}
    failure = failure_of(plain(status, message), api_key_env="UPSTREAM_KEY")
    assert isinstance(failure, RefusedDrawError)
    assert "maximum context length is 8 ([key])" in str(failure)
    going_on = drawn(begun="secret")
    echo = plain(status, {"detail": [{"input": {"content": "secret"}}]})
    failure = failure_of(echo, draw=going_on, can_continue=True)
    assert isinstance(failure, RefusedDrawError)
    assert "secret" not in str(failure)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("401 Unauthorized", "our key"),
        ("404 Not Found", "no such model"),
        ("429 Too Many Requests", "too busy"),
        ("500 Internal Server Error", "trouble"),
        ("302 Found", "no answer of a chat endpoint"),
    ],
)
def test_other_trouble_holds_nothing_of_the_body(status, words):
    failure = failure_of(plain(status, {"error": {"message": "secret"}}))
    assert isinstance(failure, BackendError)
    assert words in str(failure)
    assert status[:3] in str(failure)
    assert "secret" not in str(failure)


def test_fields_that_a_server_does_not_know_are_left_out():
    async def ask(upstream, backend):
        pieces = [piece async for piece in backend.draw(drawn())]
        pieces += [piece async for piece in backend.draw(drawn())]
        return upstream.bodies, pieces

    bodies, pieces = with_upstream(
        ask,
        plain("400 Bad", {"error": "unknown: stream_options.continuous_usage_stats"}),
        plain("400 Bad", {"error": "stream_options is not supported"}),
        plain("400 Bad", {"error": "use max_completion_tokens"}),
        chunked(*said("x")),
    )
    assert text_of(pieces) == "xx"
    assert bodies[1]["stream_options"] == {"include_usage": True}
    assert "stream_options" not in bodies[2]
    assert bodies[3]["max_completion_tokens"] == 32
    assert "max_tokens" not in bodies[3]
    assert bodies[4] == bodies[3]


@pytest.mark.parametrize(
    "stream",
    [
        [*said("secret", end=[b'data: {"error": {"message": "secret"}}\n\n'])],
        [*said("secret", end=[b"data: secret\n\n"])],
        [*said("secret", end=[b"data: [1]\n\n"])],
        [*said("secret", end=[b'data: {"choices": ["secret"]}\n\n'])],
        [*said("secret", end=[event({"content": ["secret"]})])],
        [*said("secret", end=[event({}, "content_filter")])],
        [*said("secret", end=[event({}, "secret")])],
        [*said("secret", end=[b": nothing more\n\n"])],
    ],
)
def test_a_stream_that_goes_wrong_is_an_error_without_its_words(stream):
    failure = failure_of(chunked(*stream))
    assert isinstance(failure, BackendError)
    assert "secret" not in str(failure)


@pytest.mark.parametrize("rest", [[None], [b"5\r\nda", None], [b"not a chunk\r\n", 1.0]])
def test_a_connection_that_breaks_in_the_middle_is_an_error(rest):
    failure = failure_of([*chunked(*said("x"))[:2], *rest])
    assert isinstance(failure, BackendError)
    assert "broke" in str(failure)


@pytest.mark.parametrize("body", ["", "<html>secret", "[]", '{"choices": []}'])
def test_a_whole_reply_that_is_none_is_an_error(body):
    failure = failure_of(plain("200 OK", body))
    assert isinstance(failure, BackendError)
    assert "secret" not in str(failure)


@pytest.mark.parametrize(
    ("reason", "ended"),
    [("eos", "stop"), ("eos_token", "stop"), ("end_turn", "stop"), ("max_tokens", "length")],
)
def test_ends_in_other_words_are_understood(reason, ended):
    assert pieces_of(chunked(*said("x", end=[event({}, reason)])))[-1].finish_reason == ended


def test_an_empty_finish_reason_says_nothing():
    stream = [event({"content": "x"}, ""), event({"content": "y"}, "")]
    pieces = pieces_of(chunked(*stream, *STOP))
    assert (text_of(pieces), pieces[-1].finish_reason) == ("xy", "stop")
    failure = failure_of(chunked(*stream))
    assert isinstance(failure, BackendError)


def test_an_output_that_was_broken_off_is_an_error():
    failure = failure_of(chunked(*said("secret", end=[event({}, "abort")])))
    assert isinstance(failure, BackendError)
    assert "broke an output off" in str(failure)


@pytest.mark.parametrize(("tokens", "ended"), [(31, "stop"), (32, "length")])
@pytest.mark.parametrize("reason", ["", None])
def test_a_whole_reply_that_says_no_end_was_cut_off_at_the_limit_only(reason, tokens, ended):
    choice = {"message": {"content": "x"}, "finish_reason": reason}
    body = {"choices": [choice], "usage": {"completion_tokens": tokens}}
    assert pieces_of(plain("200 OK", body))[-1].finish_reason == ended


def test_parts_that_are_thinking_travel_beside_the_text():
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "secret"}]}
    stream = [event({"content": [thinking]}), event({"content": [{"type": "text", "text": "5"}]})]
    pieces = pieces_of(chunked(*stream, event({"content": " 6"}), *STOP))
    assert text_of(pieces) == "5 6"
    assert "".join(piece.reasoning for piece in pieces) == "secret"
    choice = {"message": {"content": [thinking, {"text": "5"}]}, "finish_reason": "stop"}
    pieces = pieces_of(plain("200 OK", {"choices": [choice]}))
    assert (text_of(pieces), "".join(piece.reasoning for piece in pieces)) == ("5", "secret")


def test_done_without_a_finish_reason_is_an_end():
    assert pieces_of(chunked(*said("x", end=STOP[1:])))[-1].finish_reason == "stop"


def test_a_stream_that_is_left_open_behind_its_end_is_whole():
    pieces = pieces_of([*chunked(*said("x"))[:-1], 30.0])
    assert (text_of(pieces), pieces[-1].finish_reason) == ("x", "stop")


def test_a_connection_lost_before_the_answer_is_tried_again():
    async def ask(upstream, backend):
        return [piece async for piece in backend.draw(drawn())], upstream.connections

    pieces, connections = with_upstream(ask, [None], [None], chunked(*said("x")))
    assert (text_of(pieces), connections) == ("x", 3)
    failure = failure_of([None])
    assert isinstance(failure, BackendError)
    assert "cannot be reached" in str(failure)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_an_upstream_that_is_not_there():
    async def ask():
        backend = UpstreamBackend(f"http://127.0.0.1:{free_port()}/v1", model="m")
        assert not await backend.healthy()
        try:
            async for _ in backend.draw(drawn()):
                pass
        finally:
            await backend.close()

    with pytest.raises(BackendError, match=r"cannot be reached \(ConnectError\)"):
        asyncio.run(ask())


@pytest.mark.parametrize("sent", [[], [HEAD], chunked(*said("x", "y"))[:3]])
def test_closing_a_draw_closes_its_connection_at_once(sent):
    async def close_early(upstream, backend):
        settings = AnswerSettings(thought_budget=None, attempts=1, without_response="error")
        question = AnswerRequest(
            messages=(Message(role="user", content="Hi"),),
            think=True,
            temperature=1,
            top_p=1,
            seed=None,
            max_tokens=None,
            stop=(),
            top_logprobs=None,
        )
        answer = SplittingAnswerer(backend, SPECIFIC, settings).answer(question)
        async with aclosing(answer):
            assert isinstance(await anext(answer), AnswerDelta)
            assert not upstream.gone.is_set()
        async with asyncio.timeout(1):
            await upstream.gone.wait()

    with_upstream(close_early, [*sent, 30.0])


def test_many_closed_draws_leave_a_backend_that_works():
    async def close_many(upstream, backend):
        async def draw_a_little():
            async with aclosing(backend.draw(drawn())) as pieces:
                await anext(pieces)

        running = [asyncio.create_task(draw_a_little()) for _ in range(60)]
        await asyncio.sleep(0.02)
        for each in running[::2]:
            each.cancel()
        await asyncio.wait(running)
        upstream.scripts = [chunked(*said("fine"))]
        return text_of([piece async for piece in backend.draw(drawn())])

    stuck = [*chunked(*said("x", "y"))[:3], 30.0]
    assert with_upstream(close_many, stuck) == "fine"


def test_health_is_asked_at_the_models_or_else_at_health():
    async def ask(_, backend):
        return [await backend.healthy() for _ in range(3)]

    models = plain("200 OK", {"data": []})
    nothing = plain("404 Not Found", {})
    down = plain("503 Down", {})
    assert with_upstream(ask, models, nothing, models, down) == [True, True, False]


def test_the_key_comes_from_the_environment_and_is_sent_alone(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("UPSTREAM_KEY", KEY)

    async def ask(upstream, backend):
        async for _ in backend.draw(drawn()):
            pass
        assert KEY not in repr(vars(backend)["_client"].http.headers)
        return upstream.heads

    (head,) = with_upstream(ask, chunked(*said("x")), api_key_env="UPSTREAM_KEY")
    assert f"authorization: bearer {KEY}" in head.lower()
    assert KEY not in caplog.text
    with pytest.raises(ValueError, match="not set or empty"):
        UpstreamBackend("http://localhost/v1", model="m", api_key_env="NO_SUCH_KEY")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_url": "localhost:8000"}, "is no address"),
        ({"extra_body": {"messages": []}}, "messages is not for you to set"),
        ({"extra_body": {"x": float("nan")}}, "cannot be sent as JSON"),
    ],
)
def test_options_that_cannot_be_used(options, words):
    given = {"base_url": "http://localhost/v1", "model": "m", **options}
    with pytest.raises(ValueError, match=words):
        UpstreamBackend(**given)


@pytest.mark.parametrize(
    ("reply", "model", "found"),
    [
        ({"data": [{"id": "a"}]}, None, "a"),
        ({"data": [{"id": "a"}, {"id": "b"}]}, "b", "b"),
        ({"data": [{"id": "a"}, {"id": "b"}]}, None, "serves a, b; name the one to use"),
        ({"data": [{"id": "a"}]}, "c", "which is 'c' now"),
        ({"data": []}, None, "serves no model"),
        ("<html>", None, "is no list of models"),
    ],
)
def test_which_model_an_upstream_serves(reply, model, found):
    async def ask(upstream, _):
        def find():
            return upstream_model(upstream.url, model=model, api_key_env=None)

        return await asyncio.to_thread(find)

    script = plain("200 OK", reply)
    if len(found) == 1:
        assert with_upstream(ask, script) == found
    else:
        with pytest.raises(ValueError, match=found):
            with_upstream(ask, script)


def test_models_that_cannot_be_asked_for():
    with pytest.raises(ValueError, match=r"cannot be asked \(ConnectError\)"):
        upstream_model(f"http://127.0.0.1:{free_port()}/v1", model=None, api_key_env=None)


def counted(tokens: object, status: str = "200 OK") -> list[bytes]:
    choices = [{"index": 0, "message": {"content": "x"}, "finish_reason": "length"}]
    return plain(status, {"choices": choices, "usage": {"prompt_tokens": tokens}})


@pytest.mark.parametrize(
    ("scripts", "why"),
    [
        ([counted(12), counted(16)], None),
        ([counted(16), counted(16)], "it begins a new turn behind the text"),
        ([counted(17), counted(16)], "it begins a new turn behind the text"),
        ([counted(None)], "it does not say how long a prompt is"),
        ([plain("200 OK", "<html>")], "it does not say how long a prompt is"),
        ([counted(12, "400 Bad Request")], "status 400"),
        ([[None]], "RemoteProtocolError"),
    ],
)
def test_an_upstream_has_to_show_that_it_goes_on_from_a_text(scripts, why):
    async def ask(upstream, _):
        def check():
            extra = {"top_k": -1}
            check_continues(upstream.url, model="m", api_key_env=None, extra_body=extra)

        await asyncio.to_thread(check)
        return upstream.bodies

    if why is not None:
        with pytest.raises(ValueError, match=rf"--upstream-continues: .*\({why}\)"):
            with_upstream(ask, *scripts)
        return
    going_on, anew = with_upstream(ask, *scripts)
    assert going_on["messages"][-1]["role"] == "assistant"
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    assert going_on == anew | fields
    assert anew["top_k"] == -1
