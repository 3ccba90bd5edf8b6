"""A sampler whose calls are done by workers: each call is one part, done whole by one of them.

So the batches of a call are what they would be in this process, and its outputs equal these bit for
bit at equal threads. Whoever has many parts hands them to the pool itself (`Pool.each`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Self

from forethought.sampling.base import Sampler
from forethought.types import SampledPrompt, SampleRequest, Unsampled
from forethought.workers.pool import Pool

Sampled = list[SampledPrompt | Unsampled]


class PooledSampler:
    """Example: `PooledSampler(Pool(partial(open_sampling, engine), workers, launch, name="a"))`"""

    def __init__(self, pool: Pool[Sequence[SampleRequest], Sampled]) -> None:
        self._pool = pool

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.__exit__(kind)

    def sample(self, requests: Sequence[SampleRequest]) -> Iterator[SampledPrompt | Unsampled]:
        """As the engine does.

        Raises: ValueError where the engine fails, or its workers die too often.
        """
        [(_, results)] = self._pool.each([0], lambda _: requests)
        return iter(results)


@contextmanager
def open_sampling(
    engine: Callable[[], AbstractContextManager[Sampler]],
) -> Iterator[Callable[[Sequence[SampleRequest]], Sampled]]:
    """What a worker opens: the engine."""
    with engine() as sampler:

        def sample(requests: Sequence[SampleRequest]) -> Sampled:
            return list(sampler.sample(requests))

        yield sample
