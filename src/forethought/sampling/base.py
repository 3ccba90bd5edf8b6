"""What a sampler is.

The paper draws K outputs per prompt at a temperature with nucleus sampling. A sampler knows neither
thoughts nor iterations: messages and seeds go in, the sampler's own token ids come out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

from forethought.types import SampledPrompt, SampleRequest, Unsampled


def stable_seed(*words: str | int) -> int:
    """63 bits from these words, the same everywhere and always."""
    digest = hashlib.sha256(repr(words).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Sampler(Protocol):
    """Leaving its `with` block frees the accelerator."""

    def sample(self, requests: Sequence[SampleRequest]) -> Iterator[SampledPrompt | Unsampled]:
        """One result per request, in the order of requests.

        The results are a function of `requests`. One output is a function of its seed and its
        conversation; only float rounding depends on what else is in `requests`. A conversation
        that the engine cannot take is `Unsampled`.

        Raises: ValueError where the engine itself fails.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...


def refuse_openings(requests: Sequence[SampleRequest], engine: str) -> None:
    """For engines that cannot go on from tokens that are given.

    Raises: ValueError if a request has some.
    """
    if any(request.opening_ids for request in requests):
        raise ValueError(
            f"sampling.type {engine} cannot go on from a beginning that is given; use "
            "transformers or vllm"
        )
    refuse_barred(requests, engine)


def refuse_barred(requests: Sequence[SampleRequest], engine: str) -> None:
    """For engines that cannot keep an output from beginning in some way.

    Raises: ValueError if a request asks for it.
    """
    if any(request.never_opens_with for request in requests):
        raise ValueError(
            f"sampling.type {engine} cannot keep an output from opening with a thought; use "
            "transformers"
        )


def one_prompt(result: SampledPrompt | Unsampled) -> SampledPrompt:
    """For those who cannot go on without an output.

    Raises: ValueError if the engine could not give one.
    """
    if isinstance(result, Unsampled):
        raise ValueError(f"prompt {result.prompt_id}: {result.reason}")
    return result
