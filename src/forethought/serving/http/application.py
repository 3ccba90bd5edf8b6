"""The HTTP application: routes, keys, errors in OpenAI's shape, access log, metrics.

    POST /v1/chat/completions   completions.py   GET /v1/models, /v1/models/{id}
    GET /health  /metrics       numbers only     GET /openapi.json, /

It is a plain ASGI application around Starlette's router, so that nothing stands between a chunk
and the socket. With keys, all but `/`, `/health` and `/openapi.json` demand one (gate.py).
"""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from forethought.serving.backends.base import Answerer
from forethought.serving.http.completions import ChatEndpoint
from forethought.serving.http.failures import as_api_error, note
from forethought.serving.http.gate import Gate
from forethought.serving.http.metrics import CONTENT_TYPE, Metrics
from forethought.serving.http.openapi import (
    CHAT,
    HEALTH,
    METRICS,
    MODEL,
    MODELS,
    OPENAPI,
    description,
)
from forethought.serving.http.private_log import PrivateLog
from forethought.serving.http.protocol import ApiError
from forethought.serving.http.replies import encoded, model_card, new_id
from forethought.serving.http.request_context import RequestContext
from forethought.serving.http.settings import ServerSettings

ROUTES = frozenset({"/", CHAT, MODELS, MODEL, HEALTH, METRICS, OPENAPI})
HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


@dataclass(kw_only=True)
class Parts:
    """What an application is made of.

    Example: `Parts(answerer=answerer, settings=ServerSettings(model="microworld"),
    healthy=backend.healthy, say=print)`
    """

    answerer: Answerer
    settings: ServerSettings
    healthy: Callable[[], Awaitable[bool]]
    say: Callable[[str], None]
    """Takes the lines of the access log and of errors."""
    private_log: PrivateLog | None = None
    page: str | None = None
    """HTML at `/`."""
    metrics: Metrics = field(default_factory=Metrics)


class Application:
    """An ASGI application that answers chats.

    Example: `uvicorn.run(Application(parts), lifespan="off")`
    """

    def __init__(self, parts: Parts) -> None:
        """Raises: ValueError if the file of keys cannot be used."""
        self._parts = parts
        self._gate = Gate(parts.settings, parts.say)
        self._created = int(time.time())
        self._description = description(parts.settings, keys=parts.settings.api_keys is not None)
        self.chat = ChatEndpoint(
            parts.answerer,
            settings=parts.settings,
            metrics=parts.metrics,
            private_log=parts.private_log,
            say=parts.say,
        )
        self._router = Router(
            [
                Route("/", self._page),
                Route(CHAT, self.chat, methods=["POST"]),
                Route(MODELS, self._models),
                Route(MODEL, self._model),
                Route(HEALTH, self._health),
                Route(METRICS, self._metrics),
                Route(OPENAPI, self._openapi),
            ],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request and write its line of the access log."""
        assert scope["type"] == "http", "run it with lifespan and websockets off"
        visit = RequestContext(request_id=new_id(), began=time.monotonic())
        scope["visit"] = visit
        scope["app"] = self  # the router raises for a wrong method then

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                own = [*HEADERS, (b"x-request-id", visit.request_id.encode())]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        try:
            visit.caller = self._gate.admit(scope)
            await self._router(scope, receive, sending)
        except Exception as error:
            await self._fail(error, visit, scope, receive, sending)
        finally:
            self._note(visit, scope)

    async def _fail(
        self, error: Exception, visit: RequestContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Tell of an error that came before the response began."""
        if isinstance(error, HTTPException):
            message = {404: "there is no such path", 405: "this path has other methods"}
            told = ApiError(
                error.status_code,
                message.get(error.status_code, "the request cannot be served"),
                code="not_found" if error.status_code == 404 else "method_not_allowed",
                headers=dict(error.headers or {}),
            )
        else:
            told = as_api_error(
                error, visit.request_id, allow_think_off=self._parts.settings.allow_think_off
            )
            for line in note(error):
                self._parts.say(f"{visit.request_id} {line}")
        if visit.status:
            raise error  # too late for another response; the connection is closed
        response = JSONResponse(told.body(), told.status, headers=told.headers)
        await response(scope, receive, send)

    def _note(self, visit: RequestContext, scope: Scope) -> None:
        metrics = self._parts.metrics
        seconds = time.monotonic() - visit.began
        route = MODEL if scope["path"].startswith(MODELS + "/") else scope["path"]
        metrics.requests[route if route in ROUTES else "other", visit.status] += 1
        if route == CHAT:
            metrics.request_seconds.observe(seconds)
        path = urllib.parse.quote(scope["path"], errors="replace")[:100]
        words = [visit.request_id, visit.caller.name if visit.caller else "-"]
        words += [scope["method"], path, str(visit.status), f"{seconds * 1000:.0f}ms"]
        if visit.tokens is not None:
            prompt, completion, thought = visit.tokens
            words.append(f"prompt={prompt} completion={completion} thought={thought}")
        self._parts.say(" ".join(words))

    async def _page(self, request: Request) -> Response:
        if self._parts.page is None:
            raise HTTPException(404)
        return HTMLResponse(self._parts.page)

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["id"]
        if name != self._parts.settings.model:
            raise ApiError(
                404, "there is no such model here", param="model", code="model_not_found"
            )
        return JSONResponse(self._card())

    def _card(self) -> dict[str, Any]:
        settings = self._parts.settings
        return model_card(settings.model, self._created, think_off=settings.allow_think_off)

    async def _health(self, request: Request) -> Response:
        if self.chat.draining:
            return JSONResponse({"status": "stopping"}, 503)
        well = await self._parts.healthy()
        return JSONResponse({"status": "ok" if well else "failing"}, 200 if well else 503)

    async def _metrics(self, request: Request) -> Response:
        slots = self.chat.slots
        text = self._parts.metrics.text(running=slots.running, waiting=slots.waiting)
        return PlainTextResponse(text, headers={"Content-Type": CONTENT_TYPE})

    async def _openapi(self, request: Request) -> Response:
        return Response(encoded(self._description), media_type="application/json")
