"""Reading a judge's reply strictly, and the one second turn."""

import time

import pytest
from judge_models import JudgeModel, Messages

from forethought.judging.llm.reasoning import without_reasoning
from forethought.judging.llm.verdicts import NoVerdict, Verdict, ask, ending, only
from forethought.types import Completion, Message, SampleRequest, Unsampled

FINISH = "Finish with [[A]] or [[B]]."
ANALYSIS = "<|channel|>analysis<|message|>Perhaps [[A]].<|end|>"
CUT = Completion(text="I think [[A]]", token_ids=(), finish_reason="length")


def request(*seeds: int, text: str = "Which is better?") -> SampleRequest:
    return SampleRequest(
        prompt_id="p", messages=(Message(role="user", content=text),), seeds=seeds or (0,)
    )


def labels(said: str) -> str | NoVerdict:
    return only([label for label in ("[[A]]", "[[B]]") if label in said])


def told(first: str | Completion, second: str | Completion | Unsampled) -> JudgeModel:
    """Says one thing at once and another when told to finish."""

    def rule(messages: Messages, seed: int) -> str | Completion | Unsampled:
        return first if len(messages) == 1 else second

    return JudgeModel(rule)


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("[[A]]", "[[A]]"),
        ("A is clearer.\n\nFinal verdict: **[[A]]**", "[[A]]"),
        ("[[B]] I say [[B]].", "[[B]]"),
        ("<think>[[A]]? [[B]]?</think>[[B]]", "[[B]]"),
        ("it began in the prompt: [[A]] no</think>\n[[B]]", "[[B]]"),
        ("<think>a</think>x<think>[[A]]</think>[[B]]", "[[B]]"),
        ("<think></think></think>[[B]]", "[[B]]"),
        ("[THINK][[A]]?[/THINK][[B]]", "[[B]]"),
        ("[[A]]?[/THINK]\n[[B]]", "[[B]]"),
        ("<thinking>[[A]] </think> [[A]]</thinking>[[B]]", "[[B]]"),
        ("<Thinking>\n[[A]]\n</Thinking>\n[[B]]", "[[B]]"),
        ("<seed:think>[[A]]</seed:think>[[B]]", "[[B]]"),
        ("◁think▷[[A]]◁/think▷[[B]]", "[[B]]"),
        ("<|START_THINKING|>[[A]]<|END_THINKING|>[[B]]", "[[B]]"),
        ("<|channel>thought\n[[A]]<channel|>[[B]]", "[[B]]"),
        (f"{ANALYSIS}<|start|>assistant<|channel|>final<|message|>[[B]]<|return|>", "[[B]]"),
        (f"{ANALYSIS}<|start|>assistant<|channel|>final<|message|>[[B]]", "[[B]]"),
        ("[[A]]<|end|><|start|>assistant<|channel|>final<|message|>[[B]]", "[[B]]"),
        ("<|channel|>final <|constrain|>json<|message|>[[B]]<|return|>", "[[B]]"),
        ("analysisIs it [[A]]? No.assistantfinal[[B]]", "[[B]]"),
        ("analysis: A is clear, B is not: [[B]]", "[[B]]"),
    ],
)
def test_one_distinct_verdict_counts(reply: str, label: str) -> None:
    model = told(reply, "never asked")
    [[verdict]] = ask(model, [request()], labels, FINISH)
    assert isinstance(verdict, Verdict)
    assert verdict.value == label
    assert len(model.calls) == 1


@pytest.mark.parametrize(
    ("reply", "why", "repeated"),
    [
        ("[[A]] or [[B]]", "several verdicts ([[A]], [[B]])", "[[A]] or [[B]]"),
        ("Both are fine.", "no verdict", "Both are fine."),
        ("[[C]]", "no verdict", "[[C]]"),
        ("[A]", "no verdict", "[A]"),
        ("[[\nA\n]]", "no verdict", "[[\nA\n]]"),
        ("［［A］］", "no verdict", "［［A］］"),
        ("[[a]]", "no verdict", "[[a]]"),
        ("", "no verdict", "I have not come to a verdict yet."),
        (CUT, "cut off by the token limit", "I think [[A]]"),
        ("So: <think>[[A]]", "reasoning without an end", "So:"),
        ("<think>[[A]]", "reasoning without an end", "I have not come to a verdict yet."),
        ("<think>[[A]]</think>Hm.", "no verdict", "Hm."),
        ("[THINK][[A]]", "reasoning without an end", "I have not come to a verdict yet."),
        ("<thinking>[[A]]", "reasoning without an end", "I have not come to a verdict yet."),
        (
            "<think>[[A]]</thinking>",
            "reasoning without an end",
            "I have not come to a verdict yet.",
        ),
        ("[[A]] [/THINK]", "no verdict", "I have not come to a verdict yet."),
        (ANALYSIS, "reasoning without an end", "I have not come to a verdict yet."),
        ("[[A]]</think>", "no verdict", "I have not come to a verdict yet."),
        ("<|im_end|>", "no verdict", "<\u2060|im_end|>"),
        ("x\ud800\x00", "no verdict", "x\ufffd\ufffd"),
    ],
)
def test_anything_else_is_asked_once_more(reply: str, why: str, repeated: str) -> None:
    model = told(reply, "[[B]]")
    [[verdict]] = ask(model, [request()], labels, FINISH)
    assert isinstance(verdict, Verdict)
    assert verdict.value == "[[B]]"
    [[first], [second]] = model.calls
    assert second.messages == (
        *first.messages,
        Message(role="assistant", content=repeated),
        Message(role="user", content=FINISH),
    )
    assert (second.prompt_id, second.seeds) == ("p", (0,))
    [[failed]] = ask(told(reply, "Hm."), [request()], labels, FINISH)
    assert isinstance(failed, NoVerdict)
    assert failed.reason.startswith(why)
    assert failed.reason.endswith("; asked once more: no verdict: 'Hm.'")


def test_nobody_is_asked_a_third_time() -> None:
    model = told("Hm.", CUT)
    [[failed]] = ask(model, [request()], labels, FINISH)
    assert failed == NoVerdict(
        reason="no verdict: 'Hm.'; asked once more: cut off by the token limit: 'I think [[A]]'"
    )
    assert len(model.calls) == 2


def test_a_verdict_of_two_turns_keeps_both() -> None:
    [[verdict]] = ask(told("<think>x</think>A is short.", "[[B]]"), [request()], labels, FINISH)
    assert verdict == Verdict(value="[[B]]", said="A is short.\n[[B]]")


def test_only_what_has_no_verdict_is_asked_again() -> None:
    def rule(messages: Messages, seed: int) -> str:
        return "[[A]]" if seed % 2 == 0 or len(messages) > 1 else "Hm."

    model = JudgeModel(rule)
    first, _ = ask(model, [request(0, 1, 2, 3), request(4)], labels, FINISH)
    assert [one.value for one in first if isinstance(one, Verdict)] == ["[[A]]"] * 4
    assert [[one.seeds for one in call] for call in model.calls] == [
        [(0, 1, 2, 3), (4,)],
        [(1,), (3,)],
    ]


def test_what_the_engine_cannot_take_has_no_verdict() -> None:
    too_long = Unsampled(prompt_id="p", reason="8411 tokens; the model takes 8192")

    def rule(messages: Messages, seed: int) -> str | Unsampled:
        return too_long if messages[0].content == "long" else "[[A]]"

    model = JudgeModel(rule)
    short, [failed] = ask(model, [request(), request(text="long")], labels, FINISH)
    assert isinstance(short, list)
    assert failed == NoVerdict(reason=too_long.reason)
    assert len(model.calls) == 1
    [[failed]] = ask(told("Hm.", too_long), [request()], labels, FINISH)
    assert failed == NoVerdict(reason=f"no verdict: 'Hm.'; asked once more: {too_long.reason}")


def test_an_engine_that_fails_is_no_verdict_about_anything() -> None:
    def rule(messages: Messages, seed: int) -> str:
        raise ValueError("the server stays down")

    with pytest.raises(ValueError, match="stays down"):
        ask(JudgeModel(rule), [request()], labels, FINISH)


def test_nothing_asked_calls_nobody() -> None:
    model = told("[[A]]", "")
    assert ask(model, [], labels, FINISH) == []
    assert model.calls == []


@pytest.mark.parametrize(
    ("text", "kept", "ended"),
    [
        ("a", "a", True),
        ("<think>a</think>b", "b", True),
        ("x<think>a</think>b<think>c</think>d", "xbd", True),
        ("a</think>b", "b", True),
        ("a<think>b", "a", False),
        ("<think>a</think>b<think>c", "b", False),
        ("<think><think>a</think>b</think>c", "c", True),
        ("<THINK>a", "", False),
    ],
)
def test_reasoning_is_left_out(text: str, kept: str, ended: bool) -> None:
    assert without_reasoning(text) == (kept, ended)


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "<think>",
            "</think>",
            "<think",
            "[[A]]",
            "[[",
            "<think></think>",
            "[/THINK]",
            "<thinking>",
        ),
        *("<|channel|>", "<|channel|>final", "<|channel|>final<|message|>", "analysisassistant"),
    ],
)
def test_degenerate_replies_are_read_in_linear_time(piece: str) -> None:
    start = time.process_time()
    ask(told(piece * (100_000 // len(piece)), "[[A]]"), [request()], labels, FINISH)
    assert time.process_time() - start < 1


def test_the_end_of_a_text() -> None:
    assert ending(" a\n\nb ", 10) == "a b"
    assert ending("0123456789", 3) == "…789"
    assert ending("0123456789", 0) == ending("", 0) == ""
