"""Whether a server is there and takes the key, found out without a call that could cost."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from forethought.config import OpenAIEngine
from forethought.sampling.endpoint import Endpoint, RefusedError, UnknownPathError

PATIENCE = 60.0
"""Most seconds for one answer: a list of models takes no longer."""


def reach(config: OpenAIEngine) -> None:
    """Ask for the list of models. Not all servers have one: whatever answers is there.

    Raises: ValueError if no server answers in all `attempts`, or it does not take the key.
    """
    timeout = min(config.timeout, PATIENCE)
    asyncio.run(_ask(config.model_copy(update={"timeout": timeout})))


async def _ask(config: OpenAIEngine) -> None:
    endpoint = Endpoint(config)
    try:
        with suppress(RefusedError, UnknownPathError):
            await endpoint.ask("/models", lambda body: None, give_up=asyncio.Event())
    finally:
        await endpoint.close()
