"""What of a server's answer is read and held at most, whatever it sends and however it is packed.

httpx undoes a compression a chunk at a time, so that 64 KB become 64 MB, and several compressions
one in the other. We ask for none. Where a server compresses all the same, gzip and deflate are
undone here in small pieces, and anything else is refused.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator

import httpx

WHOLE = 16 * 1024 * 1024
"""Bytes of a body that is read whole."""
STREAM = 128 * 1024 * 1024
"""Bytes of an event stream, all its events together."""
ERROR = 1024 * 1024
"""Bytes of a body that comes with an error."""
PIECE = 64 * 1024
"""Bytes that are unpacked at once."""


class BodyTooLargeError(httpx.DecodingError):
    """An answer with more bytes than one of ours can have."""


def bound(response: httpx.Response) -> None:
    """Bound what can be read of this answer, of which nothing has been read yet.

    Reading more raises BodyTooLargeError, and httpx.DecodingError what cannot be unpacked.
    """
    unpacked = _Unpacked(response.headers.pop("Content-Encoding", ""), _most(response))
    if isinstance(response.stream, httpx.AsyncByteStream):
        response.stream = _AsyncStream(response.stream, unpacked)
    else:
        assert isinstance(response.stream, httpx.SyncByteStream), "a body is one or the other"
        response.stream = _SyncStream(response.stream, unpacked)


async def bound_async(response: httpx.Response) -> None:
    """The same as a hook of an asynchronous client."""
    bound(response)


def _most(response: httpx.Response) -> int:
    if response.is_error:
        return ERROR
    kind = response.headers.get("Content-Type", "")
    return STREAM if kind.lower().startswith("text/event-stream") else WHOLE


class _Unpacked:
    """The bytes of a body as its server meant them."""

    def __init__(self, encoding: str, most: int) -> None:
        self._encoding = encoding.strip().lower()
        self._most = self._left = most
        # Either header, gzip's or zlib's.
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 32)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What these bytes hold, piece by piece."""
        match self._encoding:
            case "" | "identity":
                yield self._counted(data)
            case "gzip" | "deflate":
                yield from map(self._counted, self._inflated(data))
            case _:
                raise httpx.DecodingError("the body is compressed in a way that was not asked for")

    def _inflated(self, data: bytes) -> Iterator[bytes]:
        # zlib keeps whatever comes behind the end.
        while not self._zlib.eof:
            try:
                piece = self._zlib.decompress(data, PIECE)
            except zlib.error as error:
                raise httpx.DecodingError(f"the body cannot be unpacked: {error}") from None
            yield piece
            data = self._zlib.unconsumed_tail
            if not data and len(piece) < PIECE:
                return

    def _counted(self, piece: bytes) -> bytes:
        self._left -= len(piece)
        if self._left < 0:
            raise BodyTooLargeError(f"the body has more than {self._most} bytes")
        return piece


class _AsyncStream(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, unpacked: _Unpacked) -> None:
        self._stream = stream
        self._unpacked = unpacked

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._stream:
            for piece in self._unpacked.feed(data):
                yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


class _SyncStream(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, unpacked: _Unpacked) -> None:
        self._stream = stream
        self._unpacked = unpacked

    def __iter__(self) -> Iterator[bytes]:
        for data in self._stream:
            yield from self._unpacked.feed(data)

    def close(self) -> None:
        self._stream.close()
