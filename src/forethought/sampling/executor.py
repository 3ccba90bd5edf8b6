"""The executor that samples a policy: one engine in this process, or one in each worker on Ray.

A part's requests are one call of an engine, so that its batches, and with them its outputs, are the
same wherever it is done, bit for bit at equal threads. What is made of an output is made beside the
engine, too: with many workers, this process has enough to do with taking it in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TypeVar

from forethought.config import LaunchConfig, ModelConfig, SamplingConfig
from forethought.decoding.request import SamplingParams
from forethought.sampling.base import Sampler
from forethought.sampling.open import open_sampler
from forethought.storage.reply_cache import Cache
from forethought.types import SampledPrompt, SampleRequest, Unsampled
from forethought.workers.base import Do, Executor
from forethought.workers.executor import open_executor

Output = TypeVar("Output")
SamplingExecutor = Executor[Sequence[SampleRequest], list[Output | Unsampled]]
"""Gives, for each request of a part, what was made of its outputs, or why there are none."""


def sampling_executor(
    sampling: SamplingConfig,
    launch: LaunchConfig,
    read: Callable[[SampledPrompt], Output],
    *,
    name: str,
    model: ModelConfig | None,
    params: SamplingParams,
    markers: Sequence[str],
    cache: Cache | None = None,
    token_ids: bool = True,
) -> AbstractContextManager[SamplingExecutor[Output]]:
    """An executor of a recipe's `sampling` section, to be entered.

    `read` is called with what was sampled of each prompt, where it was sampled; it must be
    picklable. `name` stands in errors. The others are `open_sampler`'s; a `cache` is for engines
    that have no workers.

    Raises: ValueError as `open_sampler` and `open_executor` do.
    """
    engine = partial(
        open_sampler,
        sampling,
        model=model,
        params=params,
        cache=cache,
        token_ids=token_ids,
        policy=True,
        markers=markers,
    )
    factory = partial(_open, engine, read)
    return open_executor(factory, sampling.pool, launch, name=name, gpus=sampling.gpus)


@contextmanager
def _open(
    engine: Callable[[], AbstractContextManager[Sampler]], read: Callable[[SampledPrompt], Output]
) -> Iterator[Do[Sequence[SampleRequest], list[Output | Unsampled]]]:
    with engine() as sampler:

        def sample(requests: Sequence[SampleRequest]) -> list[Output | Unsampled]:
            return [
                result if isinstance(result, Unsampled) else read(result)
                for result in sampler.sample(requests)
            ]

        yield sample
