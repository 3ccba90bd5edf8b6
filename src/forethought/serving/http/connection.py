"""A connection of uvicorn, bounded in what it holds of a client's and in its patience.

uvicorn reads headers on httptools without any limit: it keeps each line, and httptools the parts of
an unfinished one, before the application, and so a key, is asked. Only its slower parser in Python
has a limit. It also waits for ever for headers and for a client that takes nothing, and takes all
connections that come. Where a client has sent several requests at once and leaves, uvicorn tells
the last of them, not the one that is being answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from forethought.serving.http.settings import ServerSettings

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

BUFFERED = 16 * 1024
"""Bytes that may wait in this process for one client before its answer waits."""
HEADER_BYTES = 64 * 1024
"""Of a request line with its headers, and of what else stands around a body."""
HEADER_LINES = 100
"""Headers of a request, those behind its body included."""


class _HeadersTooLargeError(Exception):
    """The parser goes no further."""


class _Connection(HttpToolsProtocol):
    """Cut off is who sends too many headers (431) or does not bring them to their end in time
    (408), who takes nothing of what waits for it, and who comes when there are too many.
    """

    _settings: ServerSettings

    def __init__(self, *args: Any, **fields: Any) -> None:
        super().__init__(*args, **fields)
        self._headers_due: asyncio.TimerHandle | None = None
        self._taking_due: asyncio.TimerHandle | None = None
        self._lines = 0
        self._line_bytes = 0
        """Of the request's whole header lines, and of its first one."""
        self._open_bytes = 0
        """That came since the parser last reached the end of headers or a piece of a body."""
        self._too_large = False
        self._answering: RequestResponseCycle | None = None
        """The request that is being answered; `cycle` is the last of those that wait behind it."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._settings.connections:
            transport.abort()
        transport.set_write_buffer_limits(high=BUFFERED)
        self._watch_headers()

    def data_received(self, data: bytes) -> None:
        if self._too_large:
            return
        self._open_bytes += len(data)
        super().data_received(data)
        if self._open_bytes > HEADER_BYTES and not self._too_large:
            self._too_large = True
            self._refuse(431)
        self._watch_headers()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn says where the parser gave up, which it also does because of us."""
        if self._too_large or not self._between:
            self._refuse(431)
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        self._lines = self._line_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._lines += 1
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._open_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._open_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._open_bytes = 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._taking_due = self._after(self._settings.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._taking_due is not None:
            self._taking_due.cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._after(self._settings.write_seconds, self.transport.abort)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._after(self._settings.write_seconds, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        for due in (self._headers_due, self._taking_due):
            if due is not None:
                due.cancel()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    @property
    def _between(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _count(self, size: int) -> None:
        """Raises: _HeadersTooLargeError, which ends the parsing."""
        self._line_bytes += size
        if self._line_bytes > HEADER_BYTES or self._lines > HEADER_LINES:
            self._too_large = True
            raise _HeadersTooLargeError

    def _watch_headers(self) -> None:
        if not self._between and self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None
        elif self._between and self._headers_due is None:
            self._headers_due = self._after(self._settings.read_seconds, self._headers_late)

    def _headers_late(self) -> None:
        if self._open_bytes:
            self._refuse(408)
        else:
            self.transport.abort()

    def _refuse(self, status: int) -> None:
        """Close, and say why unless that would stand in the middle of another response."""
        if not self._between or self.transport.is_closing():
            self.transport.abort()
            return
        self.transport.write(
            STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n"
        )
        self.transport.close()
        self._after(self._settings.write_seconds, self.transport.abort)

    def _after(self, seconds: float, end: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, end)


def connection(settings: ServerSettings) -> type[asyncio.Protocol]:
    """The class that uvicorn makes its connections of; uvicorn gives them no settings of ours."""

    class Connection(_Connection):
        _settings = settings

    return Connection
