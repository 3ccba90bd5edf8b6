"""What went wrong, as the client and the operator may know it: never with values in it.

An exception's own message may hold a piece of an output, so an unexpected one is told by its type
and the lines of code it passed, and the client gets an id to ask the operator about.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

from forethought.serving.backends.base import BackendError, NoResponseError, RefusedDrawError
from forethought.serving.http.limits import QueueFullError
from forethought.serving.http.protocol import ApiError

SERVER = "server_error"
CLIENT_LEFT = 499
"""Status in log and metrics where the client left before its answer; nginx's number."""


def as_api_error(error: Exception, request_id: str, *, allow_think_off: bool) -> ApiError:
    """What the client is told; to ask without a thought is advised only where it is allowed."""
    match error:
        case ApiError():
            return error
        case QueueFullError():
            return ApiError(
                429,
                "the server is busy and its queue is full; ask again later",
                kind="rate_limit_error",
                code="queue_full",
                headers={"Retry-After": str(error.retry_after)},
            )
        case RefusedDrawError():
            message = f"the model cannot take this conversation: {error}"
            return ApiError(400, message, param="messages", code="conversation_refused")
        case NoResponseError():
            advice = ", or with think set to false" if allow_think_off else ""
            if not error.think:
                advice = ", with a larger max_tokens or without think set to false"
            message = f"the model gave no response after all attempts; ask again{advice}"
            return ApiError(502, message, kind=SERVER, code="no_response")
        case BackendError():
            message = f"the model behind this server failed (request {request_id})"
            return ApiError(502, message, kind=SERVER, code="backend_failed")
        case _:
            return ApiError(
                500,
                f"an error of the server; its log has more under {request_id}",
                kind=SERVER,
                code="internal_error",
            )


def note(error: Exception) -> list[str]:
    """What the operator is told: nothing of mistakes that are the client's."""
    match error:
        case ApiError() | QueueFullError() | RefusedDrawError():
            return []
        case NoResponseError():
            return ["no output had a response"]
        case BackendError():
            return [f"the backend failed: {error}"]
        case _:
            return [where(error)]


def where(error: BaseException) -> str:
    """The types and the places of an exception and of those behind it, without their messages."""
    return " <- ".join(_places(link) for link in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _places(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    places = [
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames)
    ]
    return f"{type(error).__name__} at " + (", ".join(places) or "no line")


class WithoutValues(logging.Filter):
    """Takes the messages of exceptions out of a library's log records."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the record, changed."""
        if record.exc_info is not None and record.exc_info[1] is not None:
            record.msg, record.args = f"{record.msg} {where(record.exc_info[1])}", ()
            record.exc_info = record.exc_text = None
        return True
