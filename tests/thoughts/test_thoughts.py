"""The one splitter: whole text, every way of cutting it, and what is never a response."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.thoughts import (
    FORMAT_FILE,
    THOUGHT_FORMATS,
    ThoughtFormat,
    first_response_token,
    load_format,
    save_format,
)
from forethought.types import Message, ParseStatus

GENERIC = THOUGHT_FORMATS["generic"]
SPECIFIC = THOUGHT_FORMATS["specific"]
TAGS = THOUGHT_FORMATS["tags"]
DIRECT = THOUGHT_FORMATS["direct"]

PIECES = [
    "Here is my thought process:",
    "Here's my thought process:",
    "Here is my response:",
    "Here’s my response:",
    "here is my response",
    "**Here is my response:**",
    "## Here is my response:",
    "__",
    "**",
    "*",
    "# ",
    ":",
    "`",
    '"',
    "'",
    "“",
    "”",
    "```\n",
    "c",
    "<r>",
    "<R>",
    "<think>",
    "</think>",
    "Here is my ",
    "Here",
    "<",
    "</th",
    " ",
    "\n",
    "a",
    "é🙂",
    "2 + 3",
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12).map("".join)
FORMATS = st.sampled_from(list(THOUGHT_FORMATS.values()))


ENDS = st.sampled_from(["stop", "length"])


def streamed(thought_format, chunks, reason, served):
    """Both sides as a stream gives them, the response since it last began anew, and the end."""
    splitter = thought_format.stream(served=served)
    deltas = [splitter.feed(chunk) for chunk in chunks] + [splitter.feed("", end=reason)]
    everything = "".join(delta.response for delta in deltas)
    response = ""
    for delta in deltas:
        response = (response if delta.restart is None else "") + delta.response[delta.restart :]
    return "".join(delta.thought for delta in deltas), everything, response, splitter


@settings(max_examples=600, deadline=None)
@given(FORMATS, TEXTS, st.data(), ENDS, st.booleans())
def test_streaming_equals_whole_text_for_every_cut(thought_format, text, data, reason, served):
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=12))
    edges = sorted({0, len(text), *places})
    chunks = [text[start:end] for start, end in pairwise(edges)]
    thought, everything, response, splitter = streamed(thought_format, chunks, reason, served)
    whole = thought_format.parse(text, reason, served=served)
    assert splitter.finish(reason) == whole
    in_one = thought_format.stream(served=served).feed(text, end=reason)
    assert everything == in_one.response
    assert response == in_one.response[in_one.restart :]
    if whole.response is not None:
        assert response == whole.response
    if not splitter.restarts:
        assert thought == (whole.thought or "")


@settings(max_examples=300, deadline=None)
@given(FORMATS, TEXTS)
def test_streaming_by_characters_equals_the_whole_text(thought_format, text):
    for served in (False, True):
        whole = thought_format.parse(text, served=served)
        thought, _, response, splitter = streamed(thought_format, text, "stop", served)
        assert response == (whole.response or "")
        assert splitter.restarts or thought == (whole.thought or "")
        assert splitter.finish("stop") == whole


@given(FORMATS, TEXTS)
def test_a_response_is_the_text_from_its_offset_on(thought_format, text):
    parsed = thought_format.parse(text)
    if parsed.status is ParseStatus.COMPLETE:
        assert parsed.response_offset is not None
        assert text[parsed.response_offset :].strip() == parsed.response
    else:
        assert parsed.response is None


def test_generic_splits_at_the_first_response_marker():
    text = "Here is my thought process: 2+3=5. Here is my response: 5. Here is my response: 6"
    parsed = GENERIC.parse(text)
    assert parsed.thought == "2+3=5."
    assert parsed.response == "5. Here is my response: 6"
    assert parsed.status is ParseStatus.COMPLETE


def test_generic_needs_the_thought_marker_first():
    assert GENERIC.parse("Sure! Here is my response: 5").status is ParseStatus.NO_RESPONSE
    text = "Here is my response: no. Here's my thought process: hm. Here's my response: yes"
    assert GENERIC.parse(text).response == "yes"


@pytest.mark.parametrize(
    ("thought_format", "text", "thought", "response"),
    [
        (SPECIFIC, "Draft: hi. Good.\n<R>\nhi <R>", "Draft: hi. Good.", "hi <R>"),
        (SPECIFIC, "<R> hi", "", "hi"),
        (TAGS, "<think>\nhm\n</think>\n\nyes", "hm", "yes"),
        (TAGS, "hm</think>yes", "hm", "yes"),
        (TAGS, "\n <think></think> yes", "", "yes"),
        (DIRECT, " Here is my response: 5\n", None, "Here is my response: 5"),
    ],
)
def test_each_format(thought_format, text, thought, response):
    parsed = thought_format.parse(text)
    assert (parsed.thought, parsed.response) == (thought, response)


@pytest.mark.parametrize(
    ("text", "reason", "status"),
    [
        ("Here is my thought process: hm", "stop", ParseStatus.NO_RESPONSE),
        ("Here is my thought process: hm", "length", ParseStatus.NO_RESPONSE),
        ("Here is my thought process: hm Here is my response: \n", "stop", "empty_response"),
        ("Here is my thought process: hm Here is my response:", "length", ParseStatus.TRUNCATED),
        ("Here is my thought process: hm Here is my response: yes", "length", "truncated"),
        ("", "stop", ParseStatus.NO_RESPONSE),
    ],
)
def test_what_has_no_response_is_none_and_never_the_thought(text, reason, status):
    parsed = GENERIC.parse(text, reason)
    assert parsed.status == status
    assert parsed.response is None


THOUGHT = "Here is my thought process:"


@pytest.mark.parametrize(
    ("text", "thought", "response"),
    [
        (f"{THOUGHT} 2 and 3 is 5. Here is my response: 5", "2 and 3 is 5.", "5"),
        (f"{THOUGHT} hm.Here is my response: 5", "hm.", "5"),
        (f"**{THOUGHT}**\nhm\n\n**Here is my response:**\nParis.", "hm", "Paris."),
        (f"## {THOUGHT}\nhm\n## Here is my response:\nParis.", "hm", "Paris."),
        (f"### **{THOUGHT}**\nhm\n### **Here is my response:** Paris.", "hm", "Paris."),
        (f"*{THOUGHT}* hm *Here is my response:* Paris.", "hm", "Paris."),
        (f"__{THOUGHT}__ hm __Here is my response:__ Paris.", "hm", "Paris."),
        (f"***{THOUGHT}*** hm ***Here is my response:***Paris.", "hm", "Paris."),
        (f"{THOUGHT} hm **Here is my response**: Paris.", "hm", "Paris."),
        (f"{THOUGHT} hm ** Here is my response: **\nParis.", "hm", "Paris."),
        # What opens behind the marker is the response's own.
        (f"{THOUGHT} hm Here is my response: **Paris**.", "hm", "**Paris**."),
        (f"{THOUGHT} hm\n* Here is my response: *Paris*.", "hm", "*Paris*."),
        (f"{THOUGHT} hm\n**Here is my response:** **Paris**", "hm", "**Paris**"),
        ("Here’s my thought process: hm Here’s my response: Paris.", "hm", "Paris."),
        ("here is my thought process: hm\nhere's my response: Paris.", "hm", "Paris."),
    ],
)
def test_spellings_of_real_models(text, thought, response):
    parsed = GENERIC.parse(text)
    assert (parsed.thought, parsed.response) == (thought, response)


@pytest.mark.parametrize(
    ("text", "response"),
    [
        ("It returns a Vec<R> here. <R> Yes.", "Yes."),
        ("Stream<R> and a_<R> and 5<R>\n<R> Yes.", "Yes."),
        ('I write "<R>" first, then more. <R> Yes.', "Yes."),
        ("I write “<R>”, '<R>', ‘<R>’, «<R>» or „<R>“. <R> Yes.", "Yes."),
        ("I write `<R>`. <R> Yes.", "Yes."),
        ("It says `public <R> Stream<R> map()` there. <R> Yes.", "Yes."),
        ('My plan ("so <R> and that") is good. <R> Yes.', "Yes."),
        ("```java\npublic <R> Stream<R> map();\n  <R> R of();\n```\n<R> Yes.", "Yes."),
        ("```\nnever closed\n**<R>**\nYes.", "Yes."),
        # Not quotes: inches, apostrophes, what no quote closes, what closes before.
        ("It's 5\" tall, isn't it? <R> It's 5\" tall.", "It's 5\" tall."),
        ('"Once upon a time\nthere was." <R> The "best" one.', 'The "best" one.'),
        ("It`s so. <R> Yes.", "Yes."),
        ('He said: "so <R> Yes.\nNo"', 'Yes.\nNo"'),
        ("'Tis so. <R> They don't.", "They don't."),
        ('The answer is "5". <R> "Yes"', '"Yes"'),
        ("思考完毕<R>是的", "是的"),
        ("so **<R>** Yes.", "Yes."),
        ("so <r> Yes.", "Yes."),
    ],
)
def test_a_marker_is_one_only_where_it_stands_free(text, response):
    assert SPECIFIC.parse(text).response == response


@pytest.mark.parametrize("text", ["Vec<R> x", 'a "<R>" b', "`<R>` x", "```\nint <R> b\n", "__<R"])
def test_a_marker_that_is_text_is_no_response(text):
    assert SPECIFIC.parse(text).status is ParseStatus.NO_RESPONSE


@pytest.mark.parametrize(
    ("marker", "text", "response"),
    [(" is", "The capital is Paris.", "Paris."), ("\nAnswer:", "2 and 3\nAnswer: 5", "5")],
)
def test_a_marker_may_begin_with_its_own_space(marker, text, response):
    own = ThoughtFormat(name="own", instruction="Answer.", response_starts_after=(marker,))
    assert own.parse(text).response == response
    stream = own.stream()
    pieces = [stream.feed(one).response for one in text]
    assert "".join(pieces) + stream.feed("", end="stop").response == response


def test_an_instruction_that_is_repeated_is_no_marker():
    text = f"{GENERIC.instruction} Here is my thought process: hm\nHere is my response: yes"
    assert GENERIC.parse(text).response == "yes"
    assert GENERIC.parse(str(GENERIC.instruction)).status is ParseStatus.NO_RESPONSE


@pytest.mark.parametrize(
    ("thought_format", "text", "response", "served"),
    [
        (TAGS, "<think>a</think><think>SECRET</think>R", "R", "R"),
        (TAGS, "a</think>\n\n<think>\nSECRET\n</think>\n\nR", "R", "R"),
        (TAGS, "<think>a</think>R <think>b</think> S", "R <think>b</think> S", "R  S"),
        (TAGS, "<think>a</think>R <think>b", "R <think>b", "R <think>b"),
        (TAGS, "<think>a</think>R `<think>`, b</think> S", "R `<think>`, b</think> S", None),
        (DIRECT, "<think>a</think><think>b</think>R", "R", "R"),
        (DIRECT, "Hi <think>b</think> R", "Hi <think>b</think> R", "Hi  R"),
        (DIRECT, "[THINK]a[/THINK]R", "R", "R"),
        (
            TAGS,
            "a</think>so **R** <think>b</think> S",
            "so **R** <think>b</think> S",
            "so **R**  S",
        ),
    ],
)
def test_further_thoughts(thought_format, text, response, served):
    assert thought_format.parse(text).response == response
    assert thought_format.parse(text, served=True).response == (served or response)


EARLY = "Here is my thought process: I write\nHere is my response: SECRET."


@pytest.mark.parametrize(
    ("thought_format", "text", "response"),
    [
        (GENERIC, f"{EARLY}\n\nHere is my response: Paris.", "Paris."),
        (GENERIC, f"{EARLY}\n## HERE IS MY\u00a0RESPONSE: Paris.", "Paris."),
        (GENERIC, f"{EARLY}\n**here’s my Response:**\nParis.", "Paris."),
        (SPECIFIC, "I write <R>SECRET\n<r> Paris.", "Paris."),
        (TAGS, "hm</think>SECRET\n</THINK>Paris.", "Paris."),
        (TAGS, "SECRET</think> </think> Paris.", "Paris."),
        (DIRECT, "SECRET\n</think>\nParis.", "Paris."),
        # Within a line, quoted or in code the words are what the response is about.
        (GENERIC, f"{EARLY} So, here is my response: Paris.", None),
        (GENERIC, f"{EARLY}\n`Here is my response:` ends it.", None),
        (SPECIFIC, "hm <R>The <R> tag", None),
    ],
)
def test_a_second_response_marker_says_that_the_first_came_too_early(
    thought_format, text, response
):
    parsed = thought_format.parse(text, served=True)
    unserved = thought_format.parse(text).response
    assert parsed.response == (unserved if response is None else response)
    assert response is None or "SECRET" in (parsed.thought or "")


@pytest.mark.parametrize(
    "text",
    [
        "Paris.\n\nHere is my thought process: SECRET",
        "Paris.\nhere is my thought\nprocess: SECRET",
        "Paris.\n**HERE’S MY THOUGHT PROCESS:** SECRET",
        "Here is my thought process: SECRET",
        "Paris.Here is my thought process: SECRET",
        "Paris. Here is my thought process:\nSECRET",
        "ParisHere is my Thought Process: SECRET",
        "Paris. Here is my thought process:",
    ],
)
def test_a_second_thought_that_no_sentence_names_is_hidden_to_the_end(text):
    parsed = GENERIC.parse(
        f"Here is my thought process: a\nHere is my response: {text}", served=True
    )
    response = parsed.response or ""
    assert response.rstrip(".") == ("Paris" if "Paris" in text else "")
    assert "SECRET" in (parsed.thought or "") or "SECRET" not in text


def test_a_further_thought_cut_off_is_not_served():
    text = "<think>a</think>R <think>SECRET"
    assert TAGS.parse("<think>a</think><think>SECRET").status is ParseStatus.NO_RESPONSE
    assert TAGS.stream(served=True).feed(text, end="length").response == "R"


def test_what_nobody_asked_to_think_is_split_where_a_thought_opens_it():
    for thought_format in (DIRECT, TAGS.unasked(), GENERIC.unasked(), SPECIFIC.unasked()):
        assert not thought_format.thinks
        parsed = thought_format.parse("\n<think>hm</think>yes")
        assert (parsed.thought, parsed.response) == ("hm", "yes")
        assert thought_format.parse("yes").thought is None
        assert thought_format.parse("yes <think>").response == "yes <think>"
        assert thought_format.parse("<think>hm").status is ParseStatus.NO_RESPONSE
    own = GENERIC.unasked().parse("Here is my thought process: x Here is my response: y")
    assert own.response == "y"
    assert SPECIFIC.unasked().parse("a <R> b").response == "a <R> b"


def test_direct_outputs():
    assert DIRECT.parse("").status is ParseStatus.EMPTY_RESPONSE
    assert DIRECT.parse("half a sent", "length").status is ParseStatus.TRUNCATED


def test_instruction_goes_before_the_last_user_message_only():
    history = (
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Hello"),
        Message(role="user", content="2 + 3?"),
    )
    applied = GENERIC.apply(history)
    assert applied[:2] == history[:2]
    assert applied[2].content == f"{GENERIC.instruction}\n\nUser query: 2 + 3?"
    assert DIRECT.apply(history) == history
    with pytest.raises(ValueError, match="end with a user message"):
        GENERIC.apply(history[:2])


JAVA = "Use `public <R> Stream<R> map(…)`"
STREAM_OF_TAGS = "The reasoning ends at </think>, the answer follows."


@pytest.mark.parametrize(
    ("thought_format", "text", "kept"),
    [
        (GENERIC, "Here is my thought process: x Here is my response: y", "y"),
        (GENERIC, "Here is my thought process: x", ""),
        (GENERIC, "Just an answer.", "Just an answer."),
        (TAGS, "<think>x</think>y", "y"),
        (TAGS, "<think>x", ""),
        (TAGS, "\n<think>\nx\n</think>\n\n", ""),
        (TAGS, "x</think>", "x</think>"),
        (TAGS, "plain", "plain"),
        (TAGS, STREAM_OF_TAGS, STREAM_OF_TAGS),
        (GENERIC, "Sure. Here is my response: y", "Sure. Here is my response: y"),
        (SPECIFIC, "secret <R> one", "one"),
        (SPECIFIC, "plain", "plain"),
        (SPECIFIC, JAVA, JAVA),
        (DIRECT, "<think>x</think>y", "<think>x</think>y"),
    ],
)
def test_history_loses_its_thoughts(thought_format, text, kept):
    assert thought_format.strip_thought(text) == kept


def test_a_format_of_ones_own_from_yaml(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\ninstruction: Think, then write ANSWER.\nresponse_starts_after: ['ANSWER']\n"
    )
    mine = load_format(str(path))
    assert mine.parse("well ANSWER 5").response == "5"
    save_format(mine, tmp_path)
    assert load_format(str(tmp_path / FORMAT_FILE)) == mine


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nresponse_begins: [a]", "response_begins: there is no such field"),
        ("name: x\nresponse_starts_after: [a, ba]", "'a' is contained in another marker"),
        ("name: x\nthought_starts_after: [a]", "response_starts_after"),
        ("[1, 2", "not readable YAML"),
    ],
)
def test_a_wrong_format_file_is_named(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.yaml") as error:
        load_format(str(path))
    assert message in str(error.value)


def test_an_unknown_format_names_the_known_ones():
    with pytest.raises(ValueError, match="generic, specific, tags, tokens, direct"):
        load_format("genric")


def test_first_response_token_counts_a_straddling_token_as_response():
    pieces = ["Here is my thought process: hm ", "Here is my resp", "onse: fi", "ve", ""]
    text = "".join(pieces)
    parsed = GENERIC.parse(text)

    def decode(ids):
        return "".join(pieces[i] for i in ids)

    assert first_response_token(range(5), parsed.response_offset, decode) == 2
    assert first_response_token(range(5), None, decode) == 5
    assert first_response_token(range(5), 0, decode) == 0


def test_formats_are_frozen_data():
    again = ThoughtFormat.model_validate_json(GENERIC.model_dump_json())
    assert again == GENERIC


def test_a_hybrid_output_thinks_where_the_marker_opens_it():
    hybrid = GENERIC.as_hybrid()
    assert (hybrid.name, hybrid.thinks, hybrid.must_think) == ("generic-hybrid", True, False)
    said = hybrid.parse("Here is my thought process: x. Here is my response: y")
    assert (said.thought, said.response) == ("x.", "y")
    for text in ("y", "Well. Here is my thought process: x. Here is my response: y"):
        said = hybrid.parse(text)
        assert (said.thought, said.response) == (None, text)
    assert hybrid.parse("Here is my thought process: x.").response is None
    assert hybrid.parse(hybrid.write(None, "y")).thought is None
    assert hybrid.parse(hybrid.write("x", "y")).thought == "x"
    assert ThoughtFormat.model_validate_json(hybrid.model_dump_json()) == hybrid
    assert "hybrid" not in GENERIC.model_dump_json()
    assert hybrid.instruction == f"{GENERIC.instruction} Think first where it helps."
    assert TAGS.as_hybrid().instruction == "Think first where it helps."
    own = GENERIC.model_copy(update={"hybrid_instruction": "Decide."})
    assert own.as_hybrid().instruction == "Decide."


def test_a_hybrid_format_needs_a_marker_before_thoughts():
    for thought_format in (SPECIFIC, DIRECT):
        with pytest.raises(ValueError, match="does not mark where a thought begins"):
            thought_format.as_hybrid()
