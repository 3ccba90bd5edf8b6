"""Upstream servers that send more than anything can hold, or what cannot be."""

import gzip
import json

import pytest
from raw_upstream import HEAD, STOP, chunked, event, failure_of, pieces_of, said, text_of

from forethought.chat_client.bounds import ERROR, STREAM, WHOLE
from forethought.chat_client.sse import LINE, LONGEST, EventReader
from forethought.serving.backends.base import RefusedDrawError


def packed(content: bytes, kind: str, *, encoding: str = "gzip", status: str = "200 OK") -> list:
    """An answer that is compressed though nobody asked for it."""
    content = gzip.compress(content)
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Encoding: {encoding}\r\n"
    return [f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content]


def test_a_compressed_answer_is_read_all_the_same():
    assert text_of(pieces_of(packed(b"".join(said("It ", "is")), "text/event-stream"))) == "It is"
    reply = {"choices": [{"message": {"content": "five"}, "finish_reason": "stop"}]}
    assert text_of(pieces_of(packed(json.dumps(reply).encode(), "application/json"))) == "five"
    once = packed(b"".join(said("It ", "is")), "text/event-stream", encoding="gzip, gzip")
    assert "DecodingError" in str(failure_of(once))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b" " * WHOLE + b"{}", "application/json"),
        ((b": " + b"x" * 2**20 + b"\n") * (STREAM // 2**20), "text/event-stream"),
    ],
)
def test_more_than_an_answer_can_have_is_not_read(content, kind):
    assert "BodyTooLargeError" in str(failure_of(packed(content, kind)))


def test_more_than_an_error_can_have_is_not_read():
    words = b'{"error": "too long"}'
    refusal = packed(words, "application/json", status="400 Bad Request")
    assert "too long" in str(failure_of(refusal))
    refusal = packed(b" " * ERROR + words, "application/json", status="400 Bad Request")
    failure = failure_of(refusal)
    assert isinstance(failure, RefusedDrawError)
    assert "too long" not in str(failure)


def test_an_event_without_end_is_given_up():
    failure = failure_of([HEAD, *chunked(b"data:\n" * 100_000)[1:]])
    assert "an event that is too long" in str(failure)


@pytest.mark.parametrize("wrong", [10**30, 10**23, 1e300, -5, True, "7"])
def test_counts_that_cannot_be_are_not_believed(wrong):
    usage = {"prompt_tokens": wrong, "completion_tokens": wrong}
    pieces = pieces_of(chunked(event({"content": "It is"}, usage=usage), *STOP))
    assert sum(piece.tokens for piece in pieces) == 1
    assert {piece.prompt_tokens for piece in pieces} == {None}


def test_log_probabilities_beyond_any_number_are_an_error():
    huge = {"content": [{"token": "It", "logprob": -(10**400)}]}
    choice = {"delta": {"content": "It"}, "logprobs": huge}
    data = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
    assert "log-probabilities" in str(failure_of(chunked(data, *STOP)))


def test_an_event_without_end_is_not_kept_for_ever():
    reader = EventReader()
    for _ in range(LONGEST // 2**16):
        assert reader.feed(b"x" * 2**16) == []
    with pytest.raises(ValueError, match="more than"):
        reader.feed(b"x")


def test_an_event_of_empty_lines_is_not_kept_for_ever():
    with pytest.raises(ValueError, match="more than"):
        EventReader().feed(b"data:\n" * (LONGEST // LINE + 1))
