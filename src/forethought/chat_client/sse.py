"""Server-sent events, read from bytes that may be cut anywhere.

Follows the event stream format of the HTML standard (https://html.spec.whatwg.org, section 9.2):
lines end with LF, CRLF or CR, an empty line ends an event, a line that begins with a colon is a
comment, several `data` lines are one payload. Other fields mean nothing to a completion and are
passed over.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

LONGEST = 4 * 1024 * 1024
"""Bytes of one event; a stream with more is no event stream of ours."""
LINE = 64
"""Bytes that a line of an event counts for beside its own: without them empty ones had no end."""
BOM = b"\xef\xbb\xbf"


class EventTooLongError(ValueError):
    """What is sent is no event stream of ours."""


class EventReader:
    """Gives the payloads of a stream; feed it chunks in order.

    Example: `EventReader().feed(b"data: 1\\n\\n") == [b"1"]`
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._begun = False
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads of the events that this chunk completes.

        Raises: EventTooLongError.
        """
        if self._after_cr and chunk.startswith(b"\n"):
            chunk, self._after_cr = chunk[1:], False  # the second half of a CRLF
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        if self._begun and not (b"\n" in chunk or b"\r" in chunk):
            self._rest += chunk
            self._check()
            return []
        text = bytes(self._rest) + chunk
        if not self._begun:
            if len(text) < len(BOM) and BOM.startswith(text):
                self._rest = bytearray(text)
                return []
            text, self._begun = text.removeprefix(BOM), True
        lines = text.splitlines()
        whole = not lines or text.endswith((b"\n", b"\r"))
        self._rest = bytearray() if whole else bytearray(lines.pop())
        events: list[bytes] = []
        for line in lines:
            self._take(line, events)
        self._check()
        return events

    def _check(self) -> None:
        if len(self._rest) + self._size > LONGEST:
            raise EventTooLongError(f"an event has more than {LONGEST} bytes")

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
                self._size = 0
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(value) + LINE


async def payloads(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The payloads of a whole stream.

    Raises: EventTooLongError.
    """
    reader = EventReader()
    async for chunk in chunks:
        for payload in reader.feed(chunk):
            yield payload
