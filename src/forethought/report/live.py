"""`forethought view RUN`: the page of a run while the run goes on, for this machine's user alone.

The server listens on 127.0.0.1 and answers only who brings the token of its URL, or the cookie
that the token is exchanged for; a request to another host name is refused, so no other page can
reach it by a name that points here. The page is made again when a stage was sealed or a training
log grew. Whatever is wrong with a run directory that is being written is shown on the page, which
goes on. Samples are fetched in pieces, so more of them are shown than a file could hold.

    from forethought.report.live import serve_view
    serve_view(Path("runs/quickstart"), port=None, reporter=Reporter(Console()))
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import secrets
import socket
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

import uvicorn
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from forethought.config.recipe_files import load_run
from forethought.progress.reporter import Reporter
from forethought.report.compare import run_labels
from forethought.report.data.collect import collect
from forethought.report.data.sample_pieces import OUTCOMES
from forethought.report.data.samples import Samples, collect_samples
from forethought.report.embed import script_json
from forethought.report.page import render
from forethought.storage.sealed_stage import MANIFEST, SCRATCH

OUTPUT_LIMIT = 300_000
"""Outputs that the view offers; all of them pass through this process's memory once."""
HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
WATCHED = frozenset({"config.json", "run.json", "summary.json", MANIFEST})
"""Files that say something new is there; training logs are watched too."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
POLICY = "default-src 'none';"
DATA = '<script type="application/json" id="sample-data">'


def serve_view(
    run: Path, *, port: int | None, reporter: Reporter, open_browser: bool = False
) -> None:
    """Serve the page of a run until Ctrl-C; `port=None` takes a free one.

    Raises: ValueError if `run` is not a run directory, nor an empty folder that is to become one,
    or the port cannot be had.
    """
    _refuse_other_folders(run)
    listening = _listen(port)
    number: int = listening.getsockname()[1]
    token = secrets.token_urlsafe(24)
    url = f"http://127.0.0.1:{number}/?token={token}"
    config = uvicorn.Config(
        application(LivePage(run), token, f"forethought_view_{number}"),
        # An access log would hold the token.
        access_log=False,
        log_level="warning",
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    reporter.say(f"view of {run}: {url}")
    reporter.say("Ctrl-C ends it. Who has this address can read the run, thoughts included.")
    if open_browser:
        webbrowser.open(url)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        reporter.say("The view has ended; the run is not touched by it.")
    finally:
        listening.close()


def _refuse_other_folders(run: Path) -> None:
    if not run.is_dir():
        raise ValueError(
            f"run: {run} is not a folder; give the run directory that `forethought run` writes"
        )
    others = [path.name for path in run.iterdir() if path.name not in {"lock", "log"}]
    if others and not (run / "config.json").is_file():
        # It raises, and names the runs inside.
        load_run(run)


def _listen(port: int | None) -> socket.socket:
    """A listening socket that this machine alone can reach."""
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"port: {port} is none; give 1 to 65535, or leave it out for a free one")
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port or 0))
        listening.listen()
    except OSError as error:
        listening.close()
        reason = "in use" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        raise ValueError(
            f"port: {port} cannot be had ({reason}); give another, or leave it out for a free one"
        ) from error
    return listening


class LivePage:
    """A run directory as pages, made again when something new is there.

    Example: `LivePage(Path("runs/quickstart")).page()`
    """

    def __init__(self, run: Path, output_limit: int = OUTPUT_LIMIT) -> None:
        self._run = run
        self._limit = output_limit
        self._lock = Lock()
        self._seen: str | None = None
        self._html: str | None = None
        self._error: str | None = None
        self._samples: dict[str, Samples] = {}

    def state(self) -> str:
        """A digest that differs when something new is there."""
        return hashlib.sha256("\n".join(_watched(self._run)).encode()).hexdigest()[:16]

    def page(self) -> str:
        """The page as it is now; the last one, with the reason, where the run cannot be read."""
        with self._lock:
            # Taken first: what is written while the page is made counts as new.
            now = self.state()
            if now != self._seen:
                self._make()
                self._seen = now
            note = {"state": now, "error": self._error}
            return _with_bar(self._html or _waiting(self._run), note)

    def packed(self, key: str, name: str) -> bytes | None:
        """The compressed index, or piece `name`, of the samples that a page was made with.

        `None` where the page is no longer one of the last, or has no such piece.
        """
        samples = self._samples.get(key)
        if samples is None:
            return None
        if name == "index":
            return base64.b64decode(samples.packed.index)
        pieces = samples.packed.pieces
        names = [str(number) for number in range(len(pieces))]
        return base64.b64decode(pieces[names.index(name)]) if name in names else None

    def _make(self) -> None:
        if self._html is None and not (self._run / "config.json").is_file():
            return  # not begun, which is no error
        try:
            data = collect(self._run)
            html = render([data], run_labels([self._run]))
            # Read by `render` a moment ago, so this comes from the cache.
            samples = collect_samples(data.recipe)
            if samples.limit or samples.shown > self._limit:
                samples = collect_samples(data.recipe, self._limit, None)
            key = hashlib.sha256(samples.packed.index.encode()).hexdigest()[:16]
            self._html = _fetching(html, samples, key)
        except Exception as error:
            # A run that is being written may be in any state; the view outlives each of them.
            clear = isinstance(error, ValueError)
            self._error = str(error) if clear else f"{type(error).__name__}: {error}"
            return
        self._error = None
        # A page that is open may still fetch what it was made with.
        self._samples = dict([*self._samples.items(), (key, samples)][-3:])


def _watched(run: Path) -> Iterator[str]:
    """Name, size and time of every file that is watched."""
    for folder, folders, files in os.walk(run):
        # In place: `os.walk` goes on into what is left here, in this order.
        folders[:] = sorted(name for name in folders if name != SCRATCH)
        for name in sorted(files):
            if name in WATCHED or name.endswith(".jsonl"):
                path = Path(folder, name)
                try:
                    found = path.stat()
                except FileNotFoundError:
                    continue  # replaced at this moment
                yield f"{path} {found.st_size} {found.st_mtime_ns}"


def _fetching(html: str, samples: Samples, key: str) -> str:
    """The page with the address of its samples in place of the samples."""
    before, middle, rest = html.partition(DATA)
    _, end, after = rest.partition("</script>")
    assert middle, "the page has no samples"
    assert end, "the samples have no end"
    assert POLICY in before, "the page has no policy"
    notice = ""
    if samples.limit:
        notice = (
            f"{samples.shown:,} of {samples.total:,} outputs are here, from evenly spaced prompts: "
            f"a view shows {samples.limit}."
        )
    run = {"name": "", "at": f"samples/{key}/"}
    data = script_json({"outcomes": OUTCOMES, "notice": notice, "runs": [run]})
    before = before.replace(POLICY, f"{POLICY} connect-src 'self';", 1)
    return f"{before}{middle}{data}{end}{after}"


def _with_bar(html: str, note: dict[str, Any]) -> str:
    bar = _template("live.html").render(note=Markup(script_json(note)))
    body, end, after = html.rpartition("</body>")
    assert end, "the page has no end"
    return f"{body}{bar}{end}{after}"


def _waiting(run: Path) -> str:
    """A page for a run that has none yet."""
    return _template("waiting.html").render(name=run.resolve().name)


def _template(name: str) -> Any:
    environment = Environment(
        loader=PackageLoader("forethought.report"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template(name)


def application(view: LivePage, token: str, cookie: str) -> Starlette:
    """The server's three addresses behind the token."""

    def page(request: Request) -> Response:
        return HTMLResponse(view.page())

    def state(request: Request) -> Response:
        return JSONResponse({"state": view.state()})

    def samples(request: Request) -> Response:
        found = view.packed(request.path_params["key"], request.path_params["name"])
        if found is None:
            return PlainTextResponse("These samples are gone; load the page again.", 404)
        # What has this key never changes.
        cached = {"Cache-Control": "private, max-age=86400, immutable"}
        return Response(found, media_type="application/octet-stream", headers=cached)

    routes = [
        Route("/", page),
        Route("/state", state),
        Route("/samples/{key}/{name}", samples),
    ]
    guard = Middleware(_Guard, token=token, cookie=cookie)
    return Starlette(routes=routes, middleware=[guard])


class _Guard(BaseHTTPMiddleware):
    """Answers nobody without the token."""

    def __init__(self, app: Any, token: str, cookie: str) -> None:
        super().__init__(app)
        self._token = token
        self._cookie = cookie

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Refuse, or answer and remember who asked."""
        reason, by_url = self._refusal(request)
        if reason is not None:
            response: Response = PlainTextResponse(reason, 403)
        else:
            response = await call_next(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        if by_url:
            response.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
        return response

    def _refusal(self, request: Request) -> tuple[str | None, bool]:
        """Why a request is refused, and whether its URL had the token."""
        host = request.headers.get("host", "").rsplit(":", 1)[0].lower()
        if host not in HOSTS:
            return "Refused: this view answers to 127.0.0.1 and localhost only.\n", False
        if self._is_token(request.query_params.get("token", "")):
            return None, True
        if self._is_token(request.cookies.get(self._cookie, "")):
            return None, False
        text = (
            "Refused: the token is missing or wrong. Open the whole address that `forethought "
            "view` printed, the part after ?token= included.\n"
        )
        return text, False

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())
