"""The one splitter: whole text, every way of cutting it, and what is never a response."""

import pytest
from hypothesis import given
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
    "Here's my response:",
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


@given(FORMATS, TEXTS, st.data(), st.sampled_from(["stop", "length"]))
def test_streaming_equals_whole_text_for_every_cut(thought_format, text, data, reason):
    whole = thought_format.parse(text, reason)
    splitter = thought_format.stream()
    thought, response, at = "", "", 0
    while at < len(text):
        size = data.draw(st.integers(1, len(text) - at))
        delta = splitter.feed(text[at : at + size])
        thought, response, at = thought + delta.thought, response + delta.response, at + size
    assert splitter.finish(reason) == whole
    if whole.response is not None:
        assert response == whole.response
        assert thought == (whole.thought or "")


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


@pytest.mark.parametrize(
    ("thought_format", "text", "kept"),
    [
        (GENERIC, "Here is my thought process: x Here is my response: y", "y"),
        (GENERIC, "Here is my thought process: x", ""),
        (GENERIC, "Just an answer.", "Just an answer."),
        (TAGS, "<think>x</think>y", "y"),
        (TAGS, "x</think>", ""),
        (TAGS, "plain", "plain"),
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
    with pytest.raises(ValueError, match="generic, specific, tags, direct"):
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
