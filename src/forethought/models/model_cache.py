"""The model cache: what stays loaded from one stage to the next, a run's policy and judges' models.

A small iteration would else spend its time on loading. `launch.keep_engines` opens a cache for a
whole run. Inside, equal keys are given the same thing; outside, each use loads its own:

    with model_cache():
        model = cached(("judge", path), load)  # loaded
        model = cached(("judge", path), load)  # the same model

What is cached must not change what comes out: a run that was killed goes on without it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")


class ModelCache:
    """Loaded models by key; what was opened for it is closed with `stack`."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.loaded: dict[Hashable, Any] = {}


_current: ContextVar[ModelCache | None] = ContextVar("model_cache", default=None)


@contextmanager
def model_cache() -> Iterator[None]:
    """Inside the block, what `cached` loads stays loaded until its end."""
    with ExitStack() as stack:
        token = _current.set(ModelCache(stack))
        try:
            yield
        finally:
            _current.reset(token)


@contextmanager
def no_model_cache() -> Iterator[None]:
    """Inside the block each use loads its own, even within `model_cache`."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def caches_models() -> bool:
    """Whether a model cache is open."""
    return _current.get() is not None


def cached(key: Hashable, load: Callable[[], T]) -> T:
    """Give what `load` gives; inside a model cache, the same for equal keys."""
    cache = _current.get()
    if cache is None:
        return load()
    if key not in cache.loaded:
        cache.loaded[key] = load()
    return cache.loaded[key]


@contextmanager
def cached_open(key: Hashable, opening: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
    """Give what `opening` opens, closed after its use; inside a model cache, closed with that."""
    cache = _current.get()
    if cache is None:
        with opening() as opened:
            yield opened
    else:
        yield cached(key, lambda: cache.stack.enter_context(opening()))
