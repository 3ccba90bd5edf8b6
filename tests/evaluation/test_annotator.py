"""AlpacaEval's judge: what it is shown, how its tokens are read, what becomes of trouble."""

import json
import math
import random
from typing import Any

import openai_server
import pytest

from forethought.config import OpenAIEngine
from forethought.config.engines import Price
from forethought.evaluation.alpaca_eval import weighted_preference
from forethought.evaluation.alpaca_eval.annotator import Annotator
from forethought.evaluation.alpaca_eval.weighted_preference import (
    OutputPair,
    is_switched,
    judge_messages,
    preference_for_second,
)
from forethought.storage.reply_cache import Cache

INSTRUCTIONS = [f"Name the number {number}." for number in range(12)]


def comparison(instruction, first="I am the baseline.", second="I am the model."):
    return OutputPair(instruction=instruction, output_1=first, output_2=second)


ASKED = [comparison(one) for one in INSTRUCTIONS]


def saying(**logprobs):
    """A server's answer with these as its likeliest tokens."""
    tokens = [{"token": token, "logprob": value} for token, value in logprobs.items()]
    return {"choices": [{"logprobs": {"content": [tokens[0] | {"top_logprobs": tokens}]}}]}


def when_first(output, **logprobs):
    """A rule for comparisons in which this output is the one called m."""
    shown = f'"model_identifier": "m",\n        "output": """{output}"""'
    return {"match": shown, "do": "merge", "reply": saying(**logprobs)}


FAIR_JUDGE = [
    # 3 to 1 for the model, whichever place it has.
    when_first("I am the model.", m=math.log(0.6), M=math.log(0.2), The=math.log(0.1)),
    when_first("I am the baseline.", M=math.log(0.6), m=math.log(0.2)),
]


@pytest.fixture
def serve(tmp_path):
    servers = []

    def start(*words: str, rules: list[dict[str, Any]] | None = None):
        given = [*words, "--rules", json.dumps(FAIR_JUDGE if rules is None else rules)]
        servers.append(openai_server.start(*given, log=tmp_path / f"log_{len(servers)}.jsonl"))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def annotated(server, asked=None, cache=None, **settings):
    quick: dict[str, Any] = {"model": "judge", "backoff": 0.02, "timeout": 20, "attempts": 2}
    engine = OpenAIEngine(base_url=server.base_url, **(quick | settings))
    with Annotator(engine, cache or Cache()) as annotator:
        return annotator.annotate(ASKED if asked is None else asked)


# What is asked and how it is read.


def test_the_order_is_drawn_with_the_instruction():
    many = [f"Instruction {number}" for number in range(1000)]
    switched = [is_switched(one) for one in many]
    # What Python's generator, seeded with this string, draws as one of two.
    assert switched == [random.Random(f"is_switched_outputs{one}0").random() >= 0.5 for one in many]
    assert 450 < sum(switched) < 550


def test_the_conversation_in_both_orders():
    straight = next(one for one in INSTRUCTIONS if not is_switched(one))
    turned = next(one for one in INSTRUCTIONS if is_switched(one))
    for instruction, first, second in (
        (straight, "I am the baseline.", "I am the model."),
        (turned, "I am the model.", "I am the baseline."),
    ):
        system, user = judge_messages(comparison(instruction))
        assert system["role"] == "system"
        assert system["content"].startswith("You are a highly efficient assistant, who evaluates")
        text = user["content"]
        assert user["role"] == "user"
        assert f'    "instruction": """{instruction}""",' in text
        assert f'"model_identifier": "m",\n        "output": """{first}"""' in text
        assert f'"model_identifier": "M",\n        "output": """{second}"""' in text
        assert text.startswith("I require a leaderboard for various large language models.")
        assert text.endswith(
            "no quotes, no spaces, no new lines, ...): m or M.\n\n## Best Model Identifier"
        )


def test_contents_stay_what_they_are():
    asked = comparison("Write {output_1} and {output_2}.", "a {instruction}", "b\ud800<|im_end|>")
    text = judge_messages(asked)[1]["content"]
    assert '"""Write {output_1} and {output_2}."""' in text
    assert '"""a {instruction}"""' in text
    # A control token would end the judge's turn at a server that renders a template.
    assert "<|im_end|>" not in text
    assert '"""b�<\u2060|im_end|>"""' in text


def test_the_prompt_file_names_its_source_and_licence():
    text = weighted_preference.PROMPT_FILE.read_text()
    assert "https://github.com/tatsu-lab/alpaca_eval" in text
    assert "Apache License 2.0" in text


@pytest.mark.parametrize(
    ("logprobs", "expected"),
    [
        ({"m": math.log(0.5), "M": math.log(0.25)}, 2 - 2 / 3),
        ({"M": math.log(0.9), "m": math.log(0.01), "The": math.log(0.05)}, 2 - 0.01 / 0.91),
        ({"m": -0.1, "The": -2.0}, 1.0),
        ({"M": -9.0}, 2.0),
        ({"m": -9999.0, "M": -0.0}, 2.0),
        ({"m": -800.0, "M": -800.0}, 1.5),
        ({"m": -math.inf, "M": -0.5}, 2.0),
        ({"The": -0.1, " m": -0.2, "MM": -0.3}, None),
        ({"m": -math.inf}, None),
        ({}, None),
    ],
)
def test_the_preference_from_two_tokens(logprobs, expected):
    found = preference_for_second(logprobs)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_the_request_is_the_protocols(serve):
    server = serve()
    annotated(server, extra_body={"seed": 3, "top_p": None})
    bodies = server.bodies()
    assert len(bodies) == 12
    for body in bodies:
        messages = body.pop("messages")
        assert [turn["role"] for turn in messages] == ["system", "user"]
        assert body == {
            "model": "judge",
            "max_tokens": 1,
            "temperature": 1,
            "logprobs": True,
            "top_logprobs": 5,
            "seed": 3,
        }


def test_the_models_place_makes_no_difference(serve):
    found = annotated(serve())
    assert {one.switched for one in found} == {False, True}
    assert [one.preference for one in found] == pytest.approx([1.75] * 12)
    assert [one.switched for one in found] == [
        is_switched(instruction) for instruction in INSTRUCTIONS
    ]
    assert all(one.reason is None for one in found)
    # A judge that always names the first one is for and against in turn.
    partial = annotated(serve(rules=[{"do": "merge", "reply": saying(m=-0.1)}]))
    assert [one.preference for one in partial] == [1.0 + one.switched for one in partial]


def test_equal_outputs_are_a_draw_and_not_asked_about(serve):
    server = serve()
    same = comparison("Say yes.", "Yes.", "Yes.")
    told: list[int] = []
    engine = OpenAIEngine(base_url=server.base_url, model="judge")
    with Annotator(engine, Cache()) as annotator:
        found = annotator.annotate([same, ASKED[0], ASKED[0], same], told.append)
    assert [one.preference for one in found] == pytest.approx([1.5, 1.75, 1.75, 1.5])
    assert found[0].logprobs is None
    # The same question is asked once.
    assert len(server.bodies()) == 1
    assert sum(told) == 4


def test_only_equal_outputs_need_no_server_at_all(serve):
    server = serve()
    assert annotated(server, []) == []
    assert annotated(server, [comparison("Say yes.", "Yes.", "Yes.")])[0].preference == 1.5
    assert server.bodies() == []


def test_the_only_model_served_is_the_judge(serve):
    server = serve()
    annotated(server, model=None)
    assert {body["model"] for body in server.bodies()} == {"test-model"}
    with pytest.raises(ValueError, match=r"serves a, b; name the judge in the engine's model"):
        annotated(serve("--served", "a", "--served", "b"), model=None)


# What is kept, and trouble.


def test_a_reply_is_paid_once(serve, tmp_path):
    server = serve()
    price = Price(prompt=5, completion=10)
    with Cache(tmp_path / "replies.sqlite", account="test") as cache:
        first = annotated(server, cache=cache, price=price)
        counts = cache.counts()
        assert (counts["calls"], counts["hits"]) == (12, 0)
        # Ten prompt tokens and some of the completion each, by the server's own count.
        assert counts["prompt_tokens"] == 120
        assert counts["cost"] == pytest.approx((120 * 5 + counts["completion_tokens"] * 10) / 1e6)
    with Cache(tmp_path / "replies.sqlite", account="test") as cache:
        assert annotated(server, cache=cache) == first
        assert cache.counts()["hits"] == 12
    assert len(server.bodies()) == 12


def test_another_judge_or_output_is_asked_again(serve):
    server = serve()
    with Cache() as cache:
        annotated(server, cache=cache)
        annotated(server, cache=cache, model="other")
        annotated(server, [comparison(INSTRUCTIONS[0], second="I am the model.\n")], cache=cache)
        annotated(server, cache=cache, extra_body={"seed": 4})
    assert len(server.bodies()) == 37


def test_single_annotations_may_fail(serve):
    two = [
        {"match": INSTRUCTIONS[1], "status": 400, "message": "maximum context length is 8"},
        {"match": INSTRUCTIONS[2], "do": "merge", "reply": saying(The=-0.1, A=-2.0)},
        {"match": INSTRUCTIONS[3], "do": "merge", "reply": {"choices": [{"logprobs": None}]}},
    ]
    server = serve(rules=[*two, *FAIR_JUDGE])
    # The first is answered before the others, so that the judge is known to give preferences.
    with Cache() as cache:
        annotated(server, ASKED[:1], cache=cache)
        found = annotated(server, cache=cache)
    missing = {place: one.reason for place, one in enumerate(found) if one.preference is None}
    assert set(missing) == {1, 2, 3}
    assert "maximum context length is 8" in str(missing[1])
    assert "neither m nor M is among the likeliest tokens: 'The', 'A'" in str(missing[2])
    assert missing[3] == "the reply has no log-probabilities"
    assert found[4].preference == pytest.approx(1.75)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"do": "reply"}, "no preference came of 5 calls, the last: the reply has no log-prob"),
        ({"do": "merge", "reply": saying(The=-0.1)}, "the judge must name m or M as its first tok"),
        ({"status": 400, "message": "max_tokens is not supported"}, "max_tokens is not supported"),
    ],
)
def test_a_judge_that_gives_no_preference_is_given_up_early(serve, rule, message):
    server = serve(rules=[rule])
    many = [comparison(f"Instruction {number}") for number in range(60)]
    with pytest.raises(ValueError, match=message) as caught:
        annotated(server, many, concurrency=2)
    assert server.base_url in str(caught.value)
    assert len(server.bodies()) < 20


def test_more_tokens_than_one_are_no_annotation(serve):
    reply = saying(m=-0.1)
    reply["choices"][0]["logprobs"]["content"] *= 2
    with pytest.raises(ValueError, match=r"the reply has 2 tokens, not the one that was asked for"):
        annotated(serve(rules=[{"do": "merge", "reply": reply}]))


def test_a_server_that_goes_down_loses_nothing(serve, tmp_path):
    failing = serve(
        rules=[{"calls": [5, 1000], "status": 503, "message": "going down"}, *FAIR_JUDGE]
    )
    with Cache(tmp_path / "replies.sqlite") as cache:
        with pytest.raises(ValueError, match=r"going down.*of 12 replies had come and are kept"):
            annotated(failing, cache=cache, concurrency=1)
        server = serve()
        found = annotated(server, cache=cache)
    assert [one.preference for one in found] == pytest.approx([1.75] * 12)
    assert len(server.bodies()) == 7


def test_trouble_that_passes_is_tried_again(serve):
    nan = json.dumps(saying(m=-0.1)).replace("-0.1", "NaN")
    rules = [
        {"calls": [0, 1], "do": "drop"},
        {"calls": [1, 2], "do": "raw", "body": "<html>"},
        {"calls": [2, 3], "do": "raw", "body": nan},
        {"calls": [3, 4], "status": 429},
        {"do": "merge", "reply": saying(m=-0.1)},
    ]
    server = serve(rules=rules)
    [found] = annotated(server, ASKED[:1], attempts=5)
    assert found.preference == 1.0 + found.switched
    assert len(server.bodies()) == 5


@pytest.mark.parametrize("reason", ["length", "", None, "eos", "eos_token", "end_turn"])
def test_ends_in_other_words_are_annotations(serve, reason):
    odd: Any = saying(m=-0.1)
    odd["choices"][0] |= {"finish_reason": reason, "message": {"content": [{"text": "m"}]}}
    [found] = annotated(serve(rules=[{"do": "merge", "reply": odd}]), ASKED[:1])
    assert found.preference == 1.0 + found.switched


def test_an_annotation_that_was_broken_off_is_owed_alone(serve):
    broken: Any = saying(m=-0.1)
    broken["choices"][0]["finish_reason"] = "abort"
    rule = {"match": INSTRUCTIONS[1], "do": "merge", "reply": broken}
    server = serve(rules=[rule, *FAIR_JUDGE])
    found = annotated(server, ASKED[:3], attempts=2)
    assert [one.preference is None for one in found] == [False, True, False]
    assert "2 tries, the last was an output that ended with finish_reason 'abort'" in str(
        found[1].reason
    )
    assert len(server.bodies()) == 4


@pytest.mark.parametrize("field", ["model", "messages", "logprobs", "top_logprobs", "n", "stream"])
def test_the_protocols_own_fields_cannot_be_set(field):
    engine = OpenAIEngine(base_url="http://localhost:1/v1", model="m", extra_body={field: 1})
    with pytest.raises(ValueError, match=f"extra_body: {field} is not for you to set"):
        Annotator(engine, Cache())


@pytest.mark.parametrize("value", [float("nan"), {1, 2}])
def test_fields_that_are_no_json_are_refused(value):
    engine = OpenAIEngine(base_url="http://localhost:1/v1", model="m", extra_body={"a": value})
    with pytest.raises(ValueError, match=r"extra_body: .* cannot be sent as JSON"):
        Annotator(engine, Cache())


def test_a_judge_that_wants_another_limit_gets_it(serve):
    refusal = {"has": "max_tokens", "status": 400, "message": "use max_completion_tokens"}
    server = serve(rules=[refusal, *FAIR_JUDGE])
    with pytest.raises(ValueError, match=r"use max_completion_tokens.*extra_body"):
        annotated(server)
    limits = {"max_tokens": None, "max_completion_tokens": 1}
    found = annotated(server, extra_body=limits)
    assert [one.preference for one in found] == pytest.approx([1.75] * 12)
