from forethought.chat_client.sse import EventReader


def test_a_line_may_come_byte_by_byte():
    reader = EventReader()
    events = [
        event
        for byte in b"\xef\xbb\xbfdata: ab\r\n\r\ndata:c\n\n"
        for event in reader.feed(bytes([byte]))
    ]
    assert events == [b"ab", b"c"]
