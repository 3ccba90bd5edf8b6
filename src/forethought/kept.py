"""What stays loaded from one stage to the next: a run's policy, judges' models, engines.

A small iteration would else spend its time on loading. Inside `keep_engines()` equal keys are given
the same thing; outside, each use loads its own:

    with keep_engines():
        model = kept(("judge", path), load)  # loaded
        model = kept(("judge", path), load)  # the same model

What is kept must not change what comes out: a run that was killed goes on without it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")


class _Kept:
    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.found: dict[Hashable, Any] = {}


_current: ContextVar[_Kept | None] = ContextVar("kept", default=None)


@contextmanager
def keep_engines() -> Iterator[None]:
    """What `kept` loads inside the block stays loaded until its end."""
    with ExitStack() as stack:
        token = _current.set(_Kept(stack))
        try:
            yield
        finally:
            _current.reset(token)


@contextmanager
def keep_nothing() -> Iterator[None]:
    """Inside the block each use loads its own, even within `keep_engines`."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def keeping() -> bool:
    """Whether engines are kept now."""
    return _current.get() is not None


def kept(key: Hashable, load: Callable[[], T]) -> T:
    """What `load` gives; while engines are kept, the same for equal keys."""
    here = _current.get()
    if here is None:
        return load()
    if key not in here.found:
        here.found[key] = load()
    return here.found[key]


@contextmanager
def kept_open(key: Hashable, opening: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
    """What `opening` opens, closed after its use; while engines are kept, when they are not any
    more."""
    here = _current.get()
    if here is None:
        with opening() as opened:
            yield opened
    else:
        yield kept(key, lambda: here.stack.enter_context(opening()))
