"""A request as it is noted: what the access log and the metrics know of it."""

from __future__ import annotations

from dataclasses import dataclass

from forethought.serving.http.keys import Caller


@dataclass(kw_only=True)
class RequestContext:
    """One request on its way through the application.

    Example: `RequestContext(request_id="chatcmpl-…", began=12.5)`
    """

    request_id: str
    began: float
    """By the monotonic clock."""
    caller: Caller | None = None
    """`None` if nobody who may ask."""
    status: int = 0
    """Of the response; 0 until it begins."""
    tokens: tuple[int, int, int] | None = None
    """Of conversation, completion and thought, once the answers are whole."""
