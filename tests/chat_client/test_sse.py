import pytest

from forethought.chat_client.sse import LINE, LONGEST, EventReader


def test_an_event_without_end_is_not_kept_for_ever():
    reader = EventReader()
    for _ in range(LONGEST // 2**16):
        assert reader.feed(b"x" * 2**16) == []
    with pytest.raises(ValueError, match="more than"):
        reader.feed(b"x")


def test_an_event_of_empty_lines_is_not_kept_for_ever():
    with pytest.raises(ValueError, match="more than"):
        EventReader().feed(b"data:\n" * (LONGEST // LINE + 1))


def test_a_line_may_come_byte_by_byte():
    reader = EventReader()
    events = [
        event
        for byte in b"\xef\xbb\xbfdata: ab\r\n\r\ndata:c\n\n"
        for event in reader.feed(bytes([byte]))
    ]
    assert events == [b"ab", b"c"]
