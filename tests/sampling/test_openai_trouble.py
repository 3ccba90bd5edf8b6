import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import openai_server
import pytest
from questions import answers, asked, asking, engine, questions, texts

from forethought.chat_client import background, retrying
from forethought.storage.reply_cache import Cache
from forethought.types import Unsampled

BODIES = {
    "html": "<html>Bad gateway</html>",
    "empty": "",
    "no choices": "{}",
    "an empty list": '{"choices": []}',
    "no message": '{"choices": [{"finish_reason": "stop"}]}',
    "an error in a good body": '{"error": {"message": "overloaded"}}',
    "a list": "[1]",
    "deep": "[" * 100_000,
}
STATUSES = (408, 409, 425, 429, 500, 502, 503, 529)


@pytest.fixture(scope="module")
def troubled(tmp_path_factory):
    """A server at which each named case fails twice, then is answered."""
    rules: list[dict[str, Any]] = [
        {"match": f"status {status}!", "first": 2, "status": status} for status in STATUSES
    ]
    rules += [
        {"match": f"{name}!", "first": 2, "do": "raw", "body": body}
        for name, body in BODIES.items()
    ]
    rules += [
        {"match": f"{do}!", "first": 2, "do": do} for do in ("drop", "cut", "hang", "trickle")
    ]
    folder = tmp_path_factory.mktemp("troubled")
    (folder / "rules.json").write_text(json.dumps(rules))
    words = ["--rules", str(folder / "rules.json")]
    server = openai_server.start(*words, log=folder / "log.jsonl")
    yield server
    server.stop()


@pytest.mark.parametrize(
    "case", [*(f"status {s}" for s in STATUSES), *BODIES, "drop", "cut", "hang", "trickle"]
)
def test_trouble_that_passes_is_tried_again(troubled, case):
    # Where the server answers, a slow machine must not use up a try.
    timeout = 1.5 if case in ("hang", "trickle") else 20
    config = engine(troubled.base_url, attempts=3, timeout=timeout)
    results = asked(config, [asking(f"{case}!", 5), asking(f"no {case}")])
    assert texts(results) == [[f"{case}! / 5"], [f"no {case} / 1"]]
    bodies = [body["messages"][0]["content"] for body in troubled.bodies()]
    assert bodies.count(f"{case}!") == 3
    assert bodies.count(f"no {case}") == 1


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_goes_first(serve, as_date):
    # A date has whole seconds only, so that of two seconds hence is more than one away.
    wish = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True) if as_date else 1
    server = serve(rules=[{"first": 1, "status": 429, "headers": {"Retry-After": str(wish)}}])
    assert texts(asked(engine(server.base_url, backoff=0.001), questions(1))) == answers(1)
    first, second = (request["time"] for request in server.requests())
    assert 1 <= second - first < 4


@pytest.mark.parametrize("wish", ["86400", "nan", "-5", "soon", "Wed, 99 Foo 2020", "inf", ""])
def test_an_odd_retry_after_does_no_harm(serve, monkeypatch, wish):
    monkeypatch.setattr(retrying, "LONGEST_RETRY_AFTER", 0.2)
    server = serve(rules=[{"first": 1, "status": 503, "headers": {"Retry-After": wish}}])
    begun = time.monotonic()
    assert texts(asked(engine(server.base_url), questions(1))) == answers(1)
    assert time.monotonic() - begun < 3


# What does not pass.


def test_a_refused_request_is_unsampled_and_the_others_are_sampled(serve):
    message = "This model's maximum context length is 8192 tokens." + " More." * 200
    rules = [{"match": "too long", "status": status, "message": message} for status in (400,)]
    rules += [{"match": "invalid", "status": 422, "message": "no"}]
    rules += [{"match": "huge", "do": "status", "status": 413}]
    server = serve(rules=rules)
    given = [asking("too long", *range(20)), *questions(3), asking("invalid"), asking("huge")]
    results = asked(engine(server.base_url, concurrency=2), given)
    assert texts(results[1:4]) == answers(3)
    refused = [result for result in results if isinstance(result, Unsampled)]
    assert [one.prompt_id for one in refused] == ["too long", "invalid", "huge"]
    assert "status 400: This model's maximum context length is 8192 tokens." in refused[0].reason
    assert len(refused[0].reason) < 400
    contents = [body["messages"][0]["content"] for body in server.bodies()]
    # Two were in flight; the other seeds of the conversation are not asked for.
    assert contents.count("too long") <= 2
    assert contents.count("invalid") == 1


def test_a_server_that_refuses_everything_is_the_recipes_mistake(serve):
    server = serve(rules=[{"status": 400, "message": "Unsupported value: 'temperature'"}])
    with pytest.raises(ValueError, match=r"takes no request at all: .*'temperature'.*extra_body"):
        asked(engine(server.base_url, concurrency=2), questions(50))
    assert len(server.requests()) <= 5


def test_a_single_refused_request_is_no_mistake_of_the_recipe(serve):
    server = serve(rules=[{"match": "too long", "status": 400, "message": "context"}])
    (result,) = asked(engine(server.base_url), [asking("too long")])
    assert isinstance(result, Unsampled)


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (401, {}, "status 401: because; put a key .* api_key_env"),
        (403, {}, "status 403: because; put a key .* api_key_env"),
        (404, {}, "status 404: because; check base_url, .*/v1"),
        (402, {}, "status 402: because; check base_url and what the server says"),
        (308, {"Location": "https://there/v1"}, "points to https://there/v1: correct base_url"),
    ],
)
def test_the_users_mistakes_are_said_once_and_at_once(serve, status, headers, words):
    server = serve(rules=[{"status": status, "headers": headers, "message": "because"}])
    with pytest.raises(ValueError, match=rf"openai engine: {server.base_url} answered .*{words}"):
        asked(engine(server.base_url, concurrency=1), questions(5))
    assert len(server.requests()) == 1


def test_a_wrong_path_is_named(serve):
    url = serve().base_url.removesuffix("/v1") + "/v2"
    with pytest.raises(ValueError, match=r"status 404: no such path: /v2/chat.*check base_url"):
        asked(engine(url), questions(1))


@pytest.mark.parametrize("url", ["localhost:8000/v1", "", "ftp://host/v1", "http://", "http://[::"])
def test_a_wrong_address_is_named(url):
    with pytest.raises(ValueError, match=r"base_url: .* is no address"):
        asked(engine(url), questions(1))


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"n": 3}, "extra_body: n is"),
        ({"stream": True}, "extra_body: stream is"),
        ({"when": datetime(2020, 1, 1)}, "extra_body: .* cannot be sent as JSON"),
        ({"x": float("nan")}, "extra_body: .* cannot be sent as JSON"),
    ],
)
def test_a_wrong_extra_body_is_named(extra, words):
    with pytest.raises(ValueError, match=words):
        asked(engine("http://localhost:1/v1", extra_body=extra), [])


def test_when_attempts_are_used_up_what_came_is_kept_and_the_rest_is_owed(serve, tmp_path):
    server = serve(rules=[{"calls": [10, 10**9], "status": 503, "message": "overloaded"}])
    settings = {"attempts": 2, "concurrency": 4}
    with Cache(tmp_path / "cache.sqlite") as cache:
        with pytest.raises(ValueError, match="2 tries, the last with status 503: over") as caught:
            asked(engine(server.base_url, **settings), questions(40), cache)
        assert "10 of 40 replies are kept and 30 are owed; the same command" in str(caught.value)
        assert cache.counts()["calls"] == 10
        # No call is begun once one has failed for good: four times two tries at most.
        assert len(server.requests()) <= 10 + 8
        other = serve()
        assert texts(asked(engine(other.base_url, **settings), questions(40), cache)) == answers(40)
        assert len(other.requests()) == 30


def test_without_a_cache_it_says_that_nothing_is_kept(serve):
    server = serve(rules=[{"calls": [3, 10**9], "status": 429}])
    with pytest.raises(ValueError, match=r"lower concurrency.*3 of 9 replies had come and none is"):
        asked(engine(server.base_url, attempts=1, concurrency=1), questions(9))


def test_calls_in_flight_are_waited_for_but_not_for_ever(serve, monkeypatch):
    rules = [
        {"match": "bad", "status": 500},
        {"match": "late", "wait": 1.0, "do": "reply"},
        {"match": "never", "do": "hang"},
    ]
    server = serve(rules=rules)
    given = [asking("bad"), asking("late"), asking("never"), *questions(50)]
    config = engine(server.base_url, attempts=1, concurrency=3)
    monkeypatch.setattr(background, "GRACE", 2.0)
    begun = time.monotonic()
    with Cache() as cache, pytest.raises(ValueError, match="1 of 53 replies are kept and 52"):
        asked(config, given, cache)
    assert 1.0 < time.monotonic() - begun < 5
    assert len(server.requests()) == 3


def test_calls_that_wait_for_another_try_are_not_waited_for(serve):
    rules = [
        {"match": "bad", "wait": 0.3, "status": 500},
        {"match": "patient", "status": 429, "headers": {"Retry-After": "60"}},
    ]
    server = serve(rules=[{**rules[0], "first": 9}, rules[1]])
    begun = time.monotonic()
    with pytest.raises(ValueError, match=r"tr(y|ies), the last with status"):
        asked(engine(server.base_url, attempts=2), [asking("bad"), asking("patient")])
    assert time.monotonic() - begun < 5


def test_a_server_that_is_not_there(serve):
    server = serve()
    server.stop()
    words = (
        rf"{server.base_url} did not answer in 2 tries.*ConnectError.*\(see that the server runs"
    )
    for settings in ({}, {"model": None}):
        with pytest.raises(ValueError, match=words) as caught:
            asked(engine(server.base_url, attempts=2, **settings), questions(40), Cache())
        assert "kept" not in str(caught.value)
