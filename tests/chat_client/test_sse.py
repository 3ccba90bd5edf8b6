import pytest

from forethought.chat_client.sse import EventReader


def test_an_event_without_end_is_not_kept_for_ever():
    reader = EventReader()
    for _ in range(16):
        assert reader.feed(b"x" * 2**20) == []
    with pytest.raises(ValueError, match="more than"):
        reader.feed(b"x")
