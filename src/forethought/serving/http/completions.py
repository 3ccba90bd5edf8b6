"""`POST /v1/chat/completions`: a request from its first byte to its last.

Read the body within its limits, check it, take places in the queue, make the answers, send them
whole or as a stream. What goes wrong within the first second of a stream has a status of its own;
later it is an event `data: {"error": …}` followed by `data: [DONE]`. While there is nothing to show
a stream has a comment once a second. A client that leaves ends its answers at once; one
that takes nothing for a while is cut off by the server (server.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

from starlette.types import Receive, Scope, Send

from forethought.serving.answer_tasks import AnswerRecord, AnswerTasks, Arrival
from forethought.serving.backends.base import AnswerDelta, AnswerEnd, Answerer
from forethought.serving.http.failures import CLIENT_LEFT, SERVER, as_api_error, note
from forethought.serving.http.keys import REASONING
from forethought.serving.http.limits import Slots
from forethought.serving.http.metrics import Metrics
from forethought.serving.http.private_log import PrivateEntry, PrivateLog
from forethought.serving.http.protocol import ApiError, Chat, read_chat
from forethought.serving.http.replies import DONE, Gathered, Replies, encoded, event, usage
from forethought.serving.http.request_context import RequestContext
from forethought.serving.http.settings import ServerSettings

SILENCE = 1.0
"""Seconds after which a stream without news has a comment."""
LINGER = 2.0
"""Seconds for which the rest of a refused body is taken and dropped, so that its sender, who may
read nothing before it has sent all, gets to see the refusal."""
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    # nginx would otherwise gather a stream before passing it on.
    (b"x-accel-buffering", b"no"),
]


class _ClientLeftError(Exception):
    """The connection is gone."""


class ChatEndpoint:
    """The endpoint, as an ASGI application.

    Example: `Route("/v1/chat/completions", ChatEndpoint(answerer, settings=…, …))`
    """

    def __init__(
        self,
        answerer: Answerer,
        *,
        settings: ServerSettings,
        metrics: Metrics,
        private_log: PrivateLog | None,
        say: Callable[[str], None],
    ) -> None:
        self._answerer = answerer
        self._settings = settings
        self._metrics = metrics
        self._private_log = private_log
        self._say = say
        self._limits: set[asyncio.Timeout] = set()
        self.slots = Slots(settings.slots, settings.queue)
        self.draining = False
        """No new requests are taken."""

    @property
    def running(self) -> int:
        """Requests that are being answered."""
        return len(self._limits)

    def stop(self) -> None:
        """End what still runs, now, with an error."""
        self.draining = True
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises: whatever went wrong before the response began.
        """
        visit: RequestContext = scope["visit"]
        if self.draining:
            raise _stopping()
        try:
            body = await _read_body(scope, receive, self._settings)
        except _ClientLeftError:
            visit.status = CLIENT_LEFT
            return
        except ApiError as error:
            await _refuse_body(error, receive, send)
            return
        chat = read_chat(body, self._settings)
        out = _Out(send)
        answering = asyncio.create_task(self._within_time(visit, chat, out))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            # Behind the last byte of a response the server says that the client left, too.
            if not answering.done() and not out.ended:
                visit.status = CLIENT_LEFT
                return
            await answering
        finally:
            answering.cancel()
            leaving.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _within_time(self, visit: RequestContext, chat: Chat, out: _Out) -> None:
        limit = asyncio.timeout(self._settings.seconds)
        try:
            async with limit:
                self._limits.add(limit)
                await self._answer(visit, chat, out)
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():
                error = _stopping() if self.draining else _time_is_up(self._settings.seconds)
            if not visit.status:
                raise error from None
            told = as_api_error(
                error, visit.request_id, allow_think_off=self._settings.allow_think_off
            )
            visit.status = told.status
            for line in note(error):
                self._say(f"{visit.request_id} {line}")
            if not out.ended:
                await out.write(event(told.body()) + DONE, last=True)
        finally:
            self._limits.discard(limit)

    async def _answer(self, visit: RequestContext, chat: Chat, out: _Out) -> None:
        assert visit.caller is not None, "the application admits before it routes"
        reasoning = REASONING in visit.caller.rights
        replies = Replies(
            visit.request_id,
            self._settings.model,
            reasoning=reasoning,
            logprobs=chat.questions[0].top_logprobs is not None,
            usage=chat.include_usage,
        )
        with self.slots.admit(len(chat.questions)) as admission:
            running = AnswerTasks(
                self._answerer,
                chat.questions,
                admission,
                reasoning=reasoning,
                keep=self._private_log is not None,
                ended=lambda record: self._ended(visit, record),
                waited=self._metrics.queue_seconds.observe,
            )
            async with running:
                if chat.stream:
                    ends = await self._stream(visit, chat, running, replies, out)
                else:
                    ends = await self._gather(visit, chat, running, replies, out)
        self._count(visit, ends)

    async def _gather(
        self, visit: RequestContext, chat: Chat, running: AnswerTasks, replies: Replies, out: _Out
    ) -> list[AnswerEnd]:
        """Make all answers, then send them in one piece."""
        answers = [Gathered() for _ in chat.questions]
        first = _FirstToken(visit, self._metrics)
        while not running.done:
            for index, part in await running.arrivals(None):
                if isinstance(part, AnswerEnd):
                    answers[index].end = part
                    continue
                first.see(part)
                answers[index].response.append(part.response)
                answers[index].reasoning.append(part.thought)
                answers[index].logprobs.extend(part.logprobs)
        ends = [answer.end for answer in answers if answer.end is not None]
        await out.whole(encoded(replies.completion(answers)))
        return ends

    async def _stream(
        self, visit: RequestContext, chat: Chat, running: AnswerTasks, replies: Replies, out: _Out
    ) -> list[AnswerEnd]:
        """Send what comes as it comes."""
        ends: list[AnswerEnd] = []
        first = _FirstToken(visit, self._metrics)
        while not running.done:
            arrivals = await running.arrivals(SILENCE)
            if not visit.status:
                await out.begin(STREAM_HEADERS)
                openings = [replies.opening(index) for index in range(len(chat.questions))]
                await out.write(b"".join(map(event, openings)))
            if not arrivals:
                await out.write(b": thinking\n\n" if running.begun else b": waiting\n\n")
                continue
            for _, part in arrivals:
                if isinstance(part, AnswerEnd):
                    ends.append(part)
                else:
                    first.see(part)
            await out.write(b"".join(_event(replies, arrival) for arrival in arrivals))
        if chat.include_usage:
            await out.write(event(replies.usage_chunk(ends)))
        await out.write(DONE, last=True)
        return ends

    def _count(self, visit: RequestContext, ends: list[AnswerEnd]) -> None:
        cost = usage(ends)
        thought = cost["completion_tokens_details"]["reasoning_tokens"]
        visit.tokens = (cost["prompt_tokens"], cost["completion_tokens"], thought)
        self._metrics.prompt_tokens += cost["prompt_tokens"]
        self._metrics.completion_tokens += cost["completion_tokens"]
        self._metrics.thought_tokens += thought
        self._metrics.draws += sum(end.attempts for end in ends)

    def _ended(self, visit: RequestContext, record: AnswerRecord) -> None:
        """Count an answer, and keep it where that is wanted."""
        self._metrics.answers[record.outcome] += 1
        if self._private_log is None:
            return
        assert visit.caller is not None, "the application admits before it routes"
        entry = PrivateEntry(
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            request_id=visit.request_id,
            choice=record.index,
            key=visit.caller.name,
            messages=record.question.messages,
            thought="".join(record.thought),
            response="".join(record.response),
            outcome=record.outcome,
        )
        try:
            self._private_log.write(entry)
        except OSError as error:
            # The client's answer does not depend on the operator's disk.
            self._metrics.private_log_failures += 1
            self._say(f"{visit.request_id} the private log failed: {error.strerror}")


class _FirstToken:
    """Measures the time until a request's response began."""

    def __init__(self, visit: RequestContext, metrics: Metrics) -> None:
        self._visit = visit
        self._metrics = metrics
        self._seen = False

    def see(self, delta: AnswerDelta) -> None:
        if delta.response and not self._seen:
            self._seen = True
            self._metrics.first_token_seconds.observe(time.monotonic() - self._visit.began)


class _Out:
    """Writes a response; waits while the client does not take what was written before."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.ended = False
        """Whether the last byte was written."""

    async def begin(self, headers: list[tuple[bytes, bytes]]) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def write(self, body: bytes, *, last: bool = False) -> None:
        self.ended = last
        await self._send({"type": "http.response.body", "body": body, "more_body": not last})

    async def whole(self, body: bytes) -> None:
        length = str(len(body)).encode()
        await self.begin([(b"content-type", b"application/json"), (b"content-length", length)])
        await self.write(body, last=True)


def _event(replies: Replies, arrival: Arrival) -> bytes:
    index, part = arrival
    if isinstance(part, AnswerEnd):
        return event(replies.closing(index, part))
    return event(replies.delta(index, part.response, part.thought, part.logprobs))


def _stopping() -> ApiError:
    return ApiError(
        503,
        "the server is shutting down",
        kind=SERVER,
        code="shutting_down",
        headers={"Retry-After": "5", "Connection": "close"},
    )


def _time_is_up(seconds: float) -> ApiError:
    message = f"the answer was not there within {seconds:g} s"
    return ApiError(504, message, kind=SERVER, code="timeout")


async def _left(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_body(scope: Scope, receive: Receive, settings: ServerSettings) -> bytes:
    """The body, of which never more than the limit is held.

    Raises: ApiError if it is none of ours, too large or too slow; _ClientLeftError.
    """
    headers = dict(scope["headers"])
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json":
        raise ApiError(415, "the body must be JSON: Content-Type: application/json", code="no_json")
    most = settings.body_bytes
    too_large = ApiError(413, f"the body is larger than {most} bytes", code="body_too_large")
    announced = headers.get(b"content-length", b"0")
    if len(announced) > 18 or int(announced) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(settings.read_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _ClientLeftError
                body += message.get("body", b"")
                if len(body) > most:
                    raise too_large
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise ApiError(
            408, f"the body was not there within {settings.read_seconds:g} s", code="timeout"
        ) from None


async def _refuse_body(error: ApiError, receive: Receive, send: Send) -> None:
    """Answer before the body is read, drop what still comes of it, and close the connection."""
    content = encoded(error.body())
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": True})
    await _rest_of_body(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _rest_of_body(receive: Receive) -> None:
    try:
        async with asyncio.timeout(LINGER):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass
