import asyncio
import json
import re
import threading
import time
from typing import Any

import openai_server
import pytest
from questions import PARAMS, answers, asked, asking, engine, questions, texts

from forethought.config import Price
from forethought.decoding.request import SamplingParams
from forethought.progress import under_way
from forethought.progress.under_way import Drawing, listening
from forethought.sampling.open import open_sampler
from forethought.storage.reply_cache import Cache
from forethought.types import Completion, Message, SampledPrompt, SampleRequest, Unsampled


def test_replies_come_in_the_order_of_requests_and_seeds(serve):
    server = serve(rules=[{"match": "first", "wait": 0.4, "do": "reply"}])
    given = [asking("first", 3, 1, 2), asking("none"), asking("second", 9, 8)]
    given[1] = SampleRequest(prompt_id="none", messages=given[1].messages, seeds=())
    results = asked(engine(server.base_url), given)
    expected = [["first / 3", "first / 1", "first / 2"], [], ["second / 9", "second / 8"]]
    assert texts(results) == expected
    assert [result.prompt_id for result in results] == ["first", "none", "second"]
    assert asked(engine(server.base_url), []) == []


def test_calls_are_concurrent_up_to_the_limit(serve):
    server = serve("--delay", "0.1")
    begun = time.monotonic()
    assert texts(asked(engine(server.base_url, concurrency=8), questions(40))) == answers(40)
    assert time.monotonic() - begun < 40 * 0.1 * 0.75
    assert max(request["live"] for request in server.requests()) == 8


def test_calls_go_on_while_the_caller_is_busy_and_end_when_it_leaves(serve):
    server = serve("--delay", "0.05")
    threads = threading.active_count()
    with open_sampler(
        engine(server.base_url, concurrency=2), model=None, params=PARAMS, token_ids=False
    ) as sampler:
        results = iter(sampler.sample(questions(400)))
        next(results)
        before = len(server.requests())
        time.sleep(0.5)
        assert len(server.requests()) > before + 4
    assert threading.active_count() == threads
    time.sleep(0.2)
    left = len(server.requests())
    time.sleep(0.3)
    assert len(server.requests()) == left < 100


def test_it_works_in_a_thread_and_under_an_event_loop(serve):
    server = serve()
    found: list[Any] = []

    def work() -> None:
        found.append(texts(asked(engine(server.base_url), questions(3))))

    async def main() -> None:
        work()

    asyncio.run(main())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [answers(3), answers(3)]


def test_what_is_sent(serve):
    server = serve()
    seed = 2**63 - 5
    request = SampleRequest(
        prompt_id="p",
        messages=(Message(role="system", content="Be brief."), Message(role="user", content="Hi")),
        seeds=(seed,),
    )
    asked(engine(server.base_url, extra_body={"top_k": 5, "options": {"a": None}}), [request])
    asked(engine(server.base_url, extra_body={"seed": None, "temperature": 1}), [request])
    first, second = server.bodies()
    assert first == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
        ],
        "n": 1,
        "seed": seed % 2**31,
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 50,
        "top_k": 5,
        "options": {"a": None},
    }
    assert "seed" not in second
    assert second["temperature"] == 1
    assert not any("authorization" in str(one["headers"]).lower() for one in server.requests())


def test_a_content_is_sent_as_it_is_but_for_half_surrogates(serve):
    server = serve()
    said = "a <|User Prompt|> \ud83d b \0 </think>"
    (result,) = texts(asked(engine(server.base_url), [asking(said)]))
    content = server.bodies()[0]["messages"][0]["content"]
    assert content == said.replace("\ud83d", "?")
    assert result == [f"{content} / 1"]


def test_an_answer_is_asked_for_once(serve, tmp_path):
    server = serve()
    with Cache(tmp_path / "cache.sqlite") as cache:
        given = [asking("one", 1, 2), asking("two", 1), asking("one", 2, 3)]
        results = asked(engine(server.base_url), given, cache)
        assert len(server.requests()) == 4
        assert asked(engine(server.base_url, concurrency=1, attempts=1), given, cache) == results
        assert len(server.requests()) == 4
        assert texts(results)[2] == ["one / 2", "one / 3"]


@pytest.mark.parametrize(
    "other", [{"model": "other"}, {"extra_body": {"top_k": 3}}, {"params": True}, {"turn": True}]
)
def test_another_question_is_no_hit(serve, other):
    server = serve()
    with Cache() as cache:
        asked(engine(server.base_url), [asking("one")], cache)
        params = PARAMS
        given = asking("one")
        if other == {"params": True}:
            params = SamplingParams(temperature=0.7, top_p=0.9, max_new_tokens=51)
            other = {}
        if other == {"turn": True}:
            turn = Message(role="system", content="Be brief.")
            given = SampleRequest(prompt_id="p", messages=(turn, *given.messages), seeds=(1,))
            other = {}
        config = engine(server.base_url, **other)
        with open_sampler(
            config, model=None, params=params, cache=cache, token_ids=False
        ) as sampler:
            list(sampler.sample([given]))
        assert (cache.hits, len(server.requests())) == (0, 2)


def test_tokens_and_money_are_accounted_for(serve):
    usage = {"usage": {"prompt_tokens": 2000, "completion_tokens": 300}}
    rules = [
        {"match": "q1", "do": "merge", "reply": usage},
        {"match": "q2", "do": "merge", "reply": {"usage": None}},
    ]
    server = serve(rules=rules)
    price = Price(prompt=3, completion=15)
    with Cache(account="judge") as cache:
        asked(engine(server.base_url, price=price), questions(3), cache)
        tokens = {"prompt_tokens": 2010, "completion_tokens": 303}
        cost = (2010 * 3 + 303 * 15) / 1e6
        assert cache.counts() == {"calls": 3, "hits": 0, "cost": pytest.approx(cost)} | tokens
        asked(engine(server.base_url, price=price), questions(3), cache)
        assert cache.counts()["cost"] == pytest.approx(cost)
        assert cache.counts()["hits"] == 3


def test_the_only_model_is_found_and_several_must_be_chosen_from(serve):
    server = serve("--served", "alone")
    asked(engine(server.base_url, model=None), questions(1))
    assert server.bodies()[0]["model"] == "alone"
    several = serve("--served", "one", "--served", "two")
    with pytest.raises(ValueError, match=r"serves one, two; name the one to use"):
        asked(engine(several.base_url, model=None), questions(1))
    asked(engine(several.base_url, model="two"), questions(1))
    assert several.requests("/v1/models")[1:] == []
    assert several.bodies()[0]["model"] == "two"


def test_a_model_that_takes_only_the_new_limit(serve):
    message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    server = serve(rules=[{"has": "max_tokens", "status": 400, "message": message}])
    results = asked(engine(server.base_url, concurrency=1), questions(5))
    assert texts(results) == answers(5)
    limits = [[key for key in body if key.startswith("max")] for body in server.bodies()]
    assert limits == [["max_tokens"], *[["max_completion_tokens"]] * 5]
    assert server.bodies()[1]["max_completion_tokens"] == 50


def reply(**choice) -> dict[str, Any]:
    return {"do": "merge", "reply": {"choices": [choice]}}


def test_replies_of_every_kind_are_read(serve):
    rules = [
        {"match": "cut", **reply(finish_reason="length")},
        {"match": "null", **reply(message={"content": None, "reasoning": "Hm."})},
        {"match": "thinks", **reply(message={"content": "5", "reasoning_content": "Hm. 2 + 3"})},
        {"match": "broken", **reply(message={"content": "a \ud83d b"})},
    ]
    missing = {"choices": [{"message": {}, "finish_reason": "stop"}]}
    rules += [{"match": "missing", "do": "raw", "body": json.dumps(missing)}]
    server = serve(rules=rules)
    names = ("cut", "null", "thinks", "broken", "missing")
    results = asked(engine(server.base_url), [asking(name) for name in names])
    assert texts(results) == [["cut / 1"], [""], ["5"], ["a ? b"], [""]]
    (first,) = [result for result in results if result.prompt_id == "cut"]
    assert isinstance(first, SampledPrompt)
    assert first.prompt_token_ids == ()
    assert first.completions == (Completion(text="cut / 1", token_ids=(), finish_reason="length"),)


MAGISTRAL = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "2 + 3? [[A]]"}], "closed": True},
    {"type": "text", "text": "It is "},
    {"type": "text", "text": "5"},
]


@pytest.mark.parametrize(
    ("reason", "ended"),
    [
        *((name, "stop") for name in ("", None, "eos", "eos_token", "end_turn", "STOP")),
        ({"type": "stop", "matched": 2}, "stop"),
        *((name, "length") for name in ("max_tokens", "model_length", {"type": "length"})),
    ],
)
def test_ends_in_other_words_are_understood(serve, reason, ended):
    server = serve(rules=[reply(finish_reason=reason)])
    (result,) = asked(engine(server.base_url), [asking("q")])
    assert isinstance(result, SampledPrompt)
    assert result.completions == (Completion(text="q / 1", token_ids=(), finish_reason=ended),)
    assert len(server.requests()) == 1


@pytest.mark.parametrize("reason", ["", None])
def test_an_end_that_is_not_said_at_the_limit_is_a_cut(serve, reason):
    rule = {"do": "merge", "reply": {"choices": [{"finish_reason": reason}]}}
    limit = PARAMS.max_new_tokens
    rule["reply"]["usage"] = {"completion_tokens": limit}
    (result,) = asked(engine(serve(rules=[rule]).base_url), [asking("q")])
    assert isinstance(result, SampledPrompt)
    assert result.completions[0].finish_reason == "length"


@pytest.mark.parametrize("reason", ["abort", "error", "who knows", 7])
def test_an_output_that_was_broken_off_is_tried_again_and_then_owed_alone(serve, reason):
    rules = [
        {"match": "once", "first": 1, **reply(finish_reason=reason)},
        {"match": "always", **reply(finish_reason=reason)},
    ]
    server = serve(rules=rules)
    given = [asking(name) for name in ("once", "always", "good")]
    with Cache() as cache:
        once, always, good = asked(engine(server.base_url, attempts=3), given, cache)
        assert cache.counts()["calls"] == 2
    assert texts([once, good]) == [["once / 1"], ["good / 1"]]
    assert isinstance(always, Unsampled)
    assert f"3 tries, the last was an output that ended with finish_reason {reason!r}" in (
        always.reason
    )
    (alone,) = asked(engine(server.base_url, attempts=2), [asking("always")])
    assert isinstance(alone, Unsampled)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (MAGISTRAL, "It is 5"),
        ([{"type": "reasoning", "text": "[[A]]"}, {"type": "output_text", "text": "5"}], "5"),
        ([{"type": "thinking", "thinking": "[[A]]"}], ""),
        ({"type": "text", "text": "5"}, "5"),
        (["5", {"text": "6"}], "56"),
        ([], ""),
    ],
)
def test_a_content_of_parts_is_its_text_without_the_thinking(serve, content, text):
    server = serve(rules=[reply(message={"content": content})])
    assert texts(asked(engine(server.base_url), [asking("q")])) == [[text]]


@pytest.mark.parametrize("content", [5, [5], True])
def test_one_reply_that_cannot_be_read_is_owed_alone(serve, content):
    server = serve(rules=[{"match": "bad", **reply(message={"content": content})}])
    given = [asking(name) for name in ("bad", "good")]
    bad, good = asked(engine(server.base_url, attempts=2), given)
    assert texts([good]) == [["good / 1"]]
    assert isinstance(bad, Unsampled)
    assert "2 tries, the last was a body that cannot be read" in bad.reason
    other = serve(rules=[{"do": "raw", "body": "<html>"}])
    with pytest.raises(
        ValueError, match=r"2 tries, the last was a body .* <html> \(see to the ser"
    ):
        asked(engine(other.base_url, attempts=2), given)


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls"])
def test_a_reply_that_did_not_end_well_is_no_output(serve, reason):
    server = serve(rules=[{"match": "bad", **reply(finish_reason=reason)}])
    with Cache() as cache:
        bad, good = asked(engine(server.base_url), [asking("bad", 1, 2), asking("good")], cache)
        assert isinstance(bad, Unsampled)
        assert re.search(f"finish_reason {reason!r}", bad.reason)
        assert texts([good]) == [["good / 1"]]
        assert cache.counts()["calls"] == 1


def test_a_server_that_answers_others_is_not_said_to_take_no_request(serve):
    rules = [{"match": "tea", "do": "reply", "wait": 0.5}, {"status": 400, "message": "no"}]
    tea, cake = asked(engine(serve(rules=rules).base_url), [asking("tea"), asking("cake")])
    assert texts([tea]) == [["tea / 1"]]
    assert isinstance(cake, Unsampled)
    assert "status 400: no" in cake.reason


def test_the_server_of_these_tests_speaks_as_it_is_told(serve, tmp_path):
    script = tmp_path / "replies.jsonl"
    script.write_text('{"match": "tea", "replies": ["black", "green"]}\n')
    scripted = serve("--replies", str(script))
    given = [asking("more tea", 4, 5), asking("more cake")]
    tea, cake = asked(engine(scripted.base_url), given)
    assert texts([tea]) == [["black", "green"]]
    assert isinstance(cake, Unsampled)
    judged = serve("--judge", "json:dumps")
    assert texts(asked(engine(judged.base_url), [asking("hello")])) == [
        ['[{"role": "user", "content": "hello"}]']
    ]


def test_the_server_of_these_tests_ends_when_told():
    server = openai_server.start()
    process, url = server
    assert url.startswith("http://127.0.0.1:")
    server.stop()
    assert process.returncode == 0


def test_it_tells_how_far_it_is(serve, monkeypatch):
    monkeypatch.setattr(under_way, "SECOND", 0.0)
    heard: list[Drawing] = []
    server = serve("--delay", "0.02")
    with listening(lambda who, drawing: heard.append(drawing)):
        asked(engine(server.base_url, concurrency=2), questions(10))
    assert [one.done for one in heard] == list(range(11))
    assert {(one.prompts, one.outputs) for one in heard} == {(10, 10)}
    assert server.base_url in heard[0].how
