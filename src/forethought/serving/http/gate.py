"""Who may ask: by key where the server has keys, else who is on this machine.

Without keys the server answers to the names of this machine alone, and not to pages of other
origins, so that no web page can reach it through a browser. With keys, wrong ones from one address
are refused unread once they come too fast. A key as long as ours (keys.py) is not found by trying
and always let in, so that nobody who shares an address with a guesser is shut out.
"""

from __future__ import annotations

import ipaddress
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.types import Scope

from forethought.serving.http.keys import REASONING, Caller, Keys
from forethought.serving.http.openapi import HEALTH, OPENAPI
from forethought.serving.http.protocol import ApiError
from forethought.serving.http.settings import ServerSettings

LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
"""Hosts of this machine alone: where an open server may listen, and names it answers to."""
OPEN_PATHS = frozenset({"/", HEALTH, OPENAPI})
ONCE = (b"host", b"origin", b"authorization", b"content-type")
"""Headers of which two would leave open which one counts."""
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/?#@\\\s]+)(:[0-9]*)?", re.IGNORECASE)
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(.*)", re.IGNORECASE)
UNGUESSABLE = 40
"""Characters of a key that is not found by trying; ours have 46."""
GUESSES, PAUSE = 20, 3.0
"""Wrong keys of an address at once, and seconds for each one more."""
ADDRESSES = 10_000
"""Addresses of which wrong keys are remembered."""


class Gate:
    """Lets requests in.

    Example: `Gate(settings, complain=print).admit(scope)`
    """

    def __init__(self, settings: ServerSettings, complain: Callable[[str], None]) -> None:
        """`complain` is told when a changed file of keys cannot be read.

        Raises: ValueError if the file of keys cannot be used.
        """
        path = settings.api_keys
        self._keys = None if path is None else Keys(path, complain)
        self._open_rights = frozenset({REASONING}) if settings.show_thoughts else frozenset[str]()
        self._guesses = Guesses()

    def admit(self, scope: Scope) -> Caller:
        """Who asks.

        Raises: ApiError if nobody who may.
        """
        headers = _headers(scope)
        if self._keys is None:
            _refuse_strangers(headers)
            return Caller(name="-", rights=self._open_rights)
        authorization = headers.get(b"authorization", b"").decode("latin-1")
        address = _network(scope)
        pause = self._guesses.pause(address)
        caller = self._keys.caller(authorization)
        if caller is not None and (not pause or len(authorization) >= UNGUESSABLE):
            return caller
        if scope["path"] in OPEN_PATHS:
            return Caller(name="-", rights=frozenset())
        if authorization and pause:
            raise ApiError(
                429,
                "too many wrong keys came from your address; ask again later",
                kind="rate_limit_error",
                code="too_many_wrong_keys",
                headers={"Retry-After": str(math.ceil(pause))},
            )
        if authorization:
            self._guesses.wrong(address)
        raise ApiError(
            401,
            "a key of this server is needed: Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


class Guesses:
    """Wrong keys by address: `GUESSES` at once, then one every `PAUSE` seconds.

    Example: `Guesses().pause("192.0.2.1") == 0`
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` counts seconds."""
        self._clock = clock
        self._forgotten: OrderedDict[str, float] = OrderedDict()
        """When all wrong keys of an address are made up for, the last address last."""

    def pause(self, address: str) -> float:
        """Seconds until this address may try another key."""
        left = self._forgotten.get(address, 0.0) - self._clock()
        return max(left - (GUESSES - 1) * PAUSE, 0.0)

    def wrong(self, address: str) -> None:
        """Count a wrong key."""
        since = max(self._forgotten.pop(address, 0.0), self._clock())
        self._forgotten[address] = since + PAUSE
        if len(self._forgotten) > ADDRESSES:
            self._forgotten.popitem(last=False)


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """Raises: ApiError if one stands there twice that must not."""
    names = [name for name, _ in scope["headers"]]
    for name in ONCE:
        if names.count(name) > 1:
            raise ApiError(
                400, f"there are several headers {name.decode()}; send one", code="repeated_header"
            )
    return dict(scope["headers"])


def _network(scope: Scope) -> str:
    """The client's address; of IPv6 the part that its provider gives out as one."""
    host = scope["client"][0] if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    return str(ipaddress.ip_network((int(address), 64), strict=False))


def _refuse_strangers(headers: dict[bytes, bytes]) -> None:
    """Raises: ApiError if the request is for another name, or comes from a page elsewhere."""
    if _host(headers.get(b"host", b"").decode("latin-1")) not in LOCAL:
        raise ApiError(
            403, "an open server answers to 127.0.0.1 and localhost only", code="wrong_host"
        )
    if b"origin" not in headers:
        return
    origin = ORIGIN.fullmatch(headers[b"origin"].decode("latin-1"))
    if origin is None or _host(origin[1]) not in LOCAL:
        raise ApiError(403, "an open server serves no page of another origin", code="wrong_origin")


def _host(text: str) -> str | None:
    """The name in `NAME:PORT`, and nothing that only ends like one, such as `evil@localhost`."""
    found = HOST.fullmatch(text)
    return None if found is None else found[1].strip("[]").lower()
