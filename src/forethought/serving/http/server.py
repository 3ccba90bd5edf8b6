"""Runs the application on uvicorn: where it listens, how it stops.

The first SIGTERM or Ctrl-C begins a graceful end: new requests get 503, `/health` says so, running
answers go on for `shutdown_seconds` and are then ended with an error. A second one ends it at once.

    run_server(answerer, backend, host="127.0.0.1", port=8000,
               settings=ServerSettings(model="microworld"), reporter=reporter)
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any

import uvicorn

from forethought.heap import trimmed_heap
from forethought.progress.reporter import Reporter
from forethought.serving.backends.base import Answerer, Backend
from forethought.serving.http.application import Application, Parts
from forethought.serving.http.completions import ChatEndpoint
from forethought.serving.http.connection import connection
from forethought.serving.http.failures import WithoutValues, where
from forethought.serving.http.gate import LOCAL
from forethought.serving.http.private_log import PrivateLog
from forethought.serving.http.settings import ServerSettings

WITHOUT_VALUES = WithoutValues()
KEPT_SECONDS = 20
"""An idle connection is kept. Clients give theirs up after 5 s (httpx, and so OpenAI's client): one
that the server closes first may just be used again, and that request is lost."""
LAST_WORDS = 2
"""Seconds for ended answers to say so."""


def run_server(
    answerer: Answerer,
    backend: Backend,
    *,
    host: str,
    port: int | None,
    settings: ServerSettings,
    reporter: Reporter,
    page: str | None = None,
    started: Callable[[str, Callable[[], None]], None] | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then close the backend. `port=None` takes a free one.

    `page` is the HTML at `/`. `started` is told the server's URL once connections are taken, and
    gets a function that does what SIGTERM does and may be called in any thread; signals reach the
    server in the main thread only.

    Raises: ValueError if host, port, keys or private log cannot be used so.
    """
    if settings.api_keys is None and host not in LOCAL:
        raise ValueError(
            f"host: {host} can be reached from elsewhere and there are no keys; give --api-keys "
            "FILE, or serve at 127.0.0.1"
        )
    if settings.api_keys is not None and settings.show_thoughts:
        raise ValueError(
            "show_thoughts: is for a server without keys; give a key the right `reasoning` instead"
        )
    with ExitStack() as stack:
        private = None
        if settings.private_log is not None:
            private = stack.enter_context(PrivateLog(settings.private_log))

        def say(line: str) -> None:
            # Not as the console's markup: a path may hold brackets.
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            reporter.console.out(f"{now} {line}", highlight=False)
            reporter.keep(line)

        application = Application(
            Parts(
                answerer=answerer,
                settings=settings,
                healthy=backend.healthy,
                say=say,
                private_log=private,
                page=page,
            )
        )
        listening = stack.enter_context(_listen(host, port))
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listening.getsockname()[1]}"
        reporter.say(f"serving {settings.model} at {url}/v1")
        server = _Server(application, application.chat, backend, settings, say)
        if started is not None:
            started(url, lambda: server.handle_exit(signal.SIGTERM, None))
        with trimmed_heap():
            server.run(sockets=[listening])
        reporter.say("The server has ended.")


def _listen(host: str, port: int | None) -> socket.socket:
    """A listening socket, so that a port that cannot be had is known at once."""
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"port: {port} is none; give 1 to 65535, or leave it out for a free one")
    try:
        found = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(f"host: {host} is no address of this machine") from error
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(1024)
    except OSError as error:
        listening.close()
        reason = "in use" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        raise ValueError(f"port: {host}:{port} cannot be had ({reason}); give another") from error
    return listening


class _Server(uvicorn.Server):
    """Ends when its answers have ended, and lets no value get into a log."""

    def __init__(
        self,
        application: Application,
        chat: ChatEndpoint,
        backend: Backend,
        settings: ServerSettings,
        say: Callable[[str], None],
    ) -> None:
        config = uvicorn.Config(
            application,
            http=connection(settings),
            ws="none",
            lifespan="off",
            # Its access log would hold query strings; ours does not.
            access_log=False,
            log_config=None,
            log_level="error",
            server_header=False,
            timeout_keep_alive=KEPT_SECONDS,
            timeout_graceful_shutdown=LAST_WORDS,
        )
        super().__init__(config)
        self._chat = chat
        self._backend = backend
        self._settings = settings
        self._say = say
        self._stop_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take requests."""
        logging.getLogger("uvicorn.error").addFilter(WITHOUT_VALUES)
        asyncio.get_running_loop().set_exception_handler(self._astray)
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal asks for an end, the second one demands it."""
        if self._stop_at is not None:
            self.should_exit = self.force_exit = True
            return
        self._stop_at = time.monotonic() + self._settings.shutdown_seconds
        self._chat.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Whether to close; ten times a second."""
        if self._stop_at is not None and not self.should_exit:
            late = time.monotonic() > self._stop_at
            if late:
                self._chat.stop()
            self.should_exit = late or not self._chat.running
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the connections, then the backend."""
        await super().shutdown(sockets)
        await self._backend.close()

    def _astray(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that nobody waited for; its message may hold anything, so it is not said."""
        error = context.get("exception")
        self._say(f"unexpected: {where(error) if error else 'an error of the event loop'}")
