"""Continuous batching: requests join at any step with parameters of their own and leave when done.

It is not the loop of static_batch.py, because here nothing is known beforehand: rows draw each in
its own way, anyone may leave before the end, a step that fails must not take the next requests with
it, and a long prompt may hold up those who are being answered by one chunk, not by all of itself.
A turn drops the rows that have ended, prefills some prompt tokens, then takes one step for every
live row.

A draw is a function of the seed, the step and the row's own logits, as in a static batch: who
shares the batch changes float rounding and nothing else.

One thread calls a batch; `Generation.cancelled` may be set by any.

Shapes: R live rows, P prompts, W rows that want log-probabilities, V tokens of the vocabulary.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from forethought.decoding import nucleus
from forethought.decoding.static_batch import Decoder, LiveRows
from forethought.models import loading
from forethought.types import FinishReason

log = logging.getLogger(__name__)

CHUNK_TOKENS = {"cpu": 256, "cuda": 2048}
"""Prompt tokens between two steps of the rows that are live."""
NOT_FINITE = (
    "the model gave logits that are NaN or infinite, so nothing can be drawn; check the weights, "
    "or serve with dtype float32"
)


class ContinuousDecoder(Decoder, Protocol):
    """A decoder that admits prompts while others are decoded."""

    def admit_in_chunks(
        self, prompts: Sequence[tuple[int, ...]], copies: Sequence[int], chunk_tokens: int
    ) -> Iterator[Tensor | None]:
        """Append rows, a prompt's copies side by side.

        A prompt alone may have more than `chunk_tokens` tokens. Yields `None` where steps may be
        taken before going on, and at last, rows appended, the logits after each prompt, [P, V].
        Dropping the iterator before that leaves no trace.
        """
        ...

    def regroup(self) -> list[int]:
        """Arrange the rows after some came; return their old indices in their new order."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class Generation:
    """One output in the making.

    Example: `Generation(token_ids=(0, 4, 77), limit=128, temperature=0.8, top_p=0.95, seed=17,
    top_logprobs=None)`
    """

    token_ids: tuple[int, ...]
    limit: int
    """New tokens at most."""
    temperature: float
    top_p: float
    seed: int
    """Any 64-bit signed number."""
    top_logprobs: int | None
    """Rivals wanted per token; `None` for no log-probabilities."""
    barred: tuple[tuple[int, ...], ...] = ()
    """Tokens that the output may not begin with."""
    threshold: float | None = None
    """From which probability on it begins with the first of them, which is one token."""
    begun: list[int] = field(default_factory=list)
    """The first tokens drawn, while they may become what is barred."""
    cancelled: bool = False
    """Nobody waits for this output any more; its row goes before the next step."""
    drawn: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """One token. Log-probabilities are of the model's own distribution, before temperature.

    Example: `NewToken(generation=generation, token_id=51, ends=False, logprob=None, top=(),
    finish_reason=None)`
    """

    generation: Generation
    token_id: int
    ends: bool
    """Whether it is an end token."""
    logprob: float | None
    top: tuple[tuple[int, float], ...]
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The end of an output that the model failed on.

    Example: `Failure(generation=generation, reason="out of memory")`
    """

    generation: Generation
    reason: str


@dataclass(slots=True)
class _OpenRows(LiveRows):
    temperatures: Tensor
    top_ps: Tensor


@dataclass(slots=True, kw_only=True)
class _OpenPrefill:
    """Prompts that are being prefilled."""

    generations: list[Generation]
    """In the order of the rows to come."""
    copies: list[int]
    chunks: Iterator[Tensor | None]


class ContinuousBatch:
    """The outputs in the making of one model.

    `decoder` makes a decoder without rows: at the start, and after a step that failed.
    """

    def __init__(
        self,
        decoder: Callable[[], ContinuousDecoder],
        *,
        end_ids: Sequence[int],
        device: torch.device,
        chunk_tokens: int | None = None,
    ) -> None:
        self.chunk_tokens = chunk_tokens or CHUNK_TOKENS["cpu" if device.type == "cpu" else "cuda"]
        """Padded prompt tokens to prefill between two steps."""
        self._new_decoder = decoder
        self._decoder = decoder()
        self._end_ids = frozenset(end_ids)
        self._device = device
        self._queue: deque[Generation] = deque()
        self._prefill: _OpenPrefill | None = None
        self._rows: _OpenRows | None = None
        self._generations: list[Generation | None] = []
        """Per row; `None` where an output has ended and the decoder still has the row."""
        self._prefilled: tuple[_OpenPrefill, Tensor] | None = None
        """Prompts whose rows the decoder has and this batch has not yet."""
        self._events: list[NewToken | Failure] = []
        self.failures = 0
        """Failures of the model since it last drew a token."""

    @property
    def busy(self) -> bool:
        """Whether a turn has anything to do."""
        return bool(self._queue) or self._prefill is not None or self._rows is not None

    def add(self, generation: Generation) -> None:
        """Prefilled in the turns to come."""
        self._queue.append(generation)

    def turn(self) -> list[NewToken | Failure]:
        """What became of the generations, in order."""
        self._guarded(self._drop_ended, self._fail_all)
        self._guarded(self._prefill_some, self._fail_prefill)
        self._guarded(self._advance, self._fail_all)
        events, self._events = self._events, []
        return events

    # Prompts

    def _prefill_some(self) -> None:
        if self._prefill is None or all(
            generation.cancelled for generation in self._prefill.generations
        ):
            self._prefill = self._next_prefill()
        if self._prefill is None:
            return
        logits_PV = next(self._prefill.chunks)
        if logits_PV is not None:
            self._prefilled = self._prefill, logits_PV
            self._prefill = None

    def _next_prefill(self) -> _OpenPrefill | None:
        """The next prompts in the order they came, as many as fit a chunk; equal ones are one."""
        groups: dict[tuple[int, ...], list[Generation]] = {}
        while self._queue:
            generation = self._queue[0]
            if not generation.cancelled and groups and not self._fits(generation.token_ids, groups):
                break
            self._queue.popleft()
            if not generation.cancelled:
                groups.setdefault(generation.token_ids, []).append(generation)
        if not groups:
            return None
        copies = [len(generations) for generations in groups.values()]
        return _OpenPrefill(
            generations=[
                generation for generations in groups.values() for generation in generations
            ],
            copies=copies,
            chunks=self._decoder.admit_in_chunks(list(groups), copies, self.chunk_tokens),
        )

    def _fits(self, ids: tuple[int, ...], groups: Collection[tuple[int, ...]]) -> bool:
        if ids in groups:
            return True
        lengths = [len(ids), *map(len, groups)]
        even = len(set(lengths)) == 1
        padded = len(lengths) * max(lengths)
        return padded <= self.chunk_tokens and (even or not self._decoder.equal_lengths)

    def _join(self, prefill: _OpenPrefill, logits_PV: Tensor) -> None:
        generations: list[Generation | None] = list(prefill.generations)
        new = self._new_rows(prefill.generations)
        repeats = torch.tensor(prefill.copies, device=self._device)
        self._draw(new, generations, logits_PV.repeat_interleave(repeats, 0))
        self._rows = new if self._rows is None else self._rows.join(new)
        self._generations += generations
        self._reorder(self._decoder.regroup())

    def _new_rows(self, generations: Sequence[Generation]) -> _OpenRows:
        def column(values: list[int] | list[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=self._device)

        zeros = [0] * len(generations)
        return _OpenRows(
            keys=nucleus.keys(column([generation.seed for generation in generations], torch.int64)),
            steps=column(zeros, torch.int64),
            tokens=column(zeros, torch.int64),
            temperatures=column(
                [generation.temperature for generation in generations], torch.float32
            ),
            top_ps=column([generation.top_p for generation in generations], torch.float64),
        )

    # Steps

    def _advance(self) -> None:
        if self._prefilled is not None:
            # If this fails, all others do, since the decoder has its rows.
            prefill, logits_PV = self._prefilled
            self._join(prefill, logits_PV)
            self._prefilled = None
            self._drop_ended()
        if self._rows is not None:
            logits_RV = self._decoder.step(self._rows.tokens)
            self._draw(self._rows, self._generations, logits_RV)

    def _draw(
        self, rows: _OpenRows, generations: list[Generation | None], logits_RV: Tensor
    ) -> None:
        """One token for every row; whoever has ended gives up its place in `generations`."""
        for row, generation in enumerate(generations):
            if generation is not None and generation.barred:
                _steer(generation, logits_RV[row])
        drawn_R = nucleus.draw_each(
            logits_RV,
            rows.keys,
            rows.steps,
            temperatures_R=rows.temperatures,
            top_ps_R=rows.top_ps,
        )
        rows.tokens = drawn_R.clamp(min=0)
        rows.steps = rows.steps + 1
        figures = _logprobs(generations, logits_RV, rows.tokens)
        drawn = drawn_R.tolist()
        self.failures = self.failures + 1 if set(drawn) == {nucleus.UNDRAWN} else 0
        for row, token_id in enumerate(drawn):
            generation = generations[row]
            if generation is None or generation.cancelled:
                continue
            if token_id == nucleus.UNDRAWN:
                generations[row] = None
                self._events.append(Failure(generation=generation, reason=NOT_FINITE))
                continue
            event = self._drawn(generation, token_id, *figures.get(row, (None, ())))
            self._events.append(event)
            if event.finish_reason is not None:
                generations[row] = None

    def _drawn(
        self,
        generation: Generation,
        token_id: int,
        logprob: float | None,
        top: tuple[tuple[int, float], ...],
    ) -> NewToken:
        generation.drawn += 1
        if generation.barred:
            generation.begun.append(token_id)
        ends = token_id in self._end_ids
        finish_reason: FinishReason | None = (
            "length" if generation.drawn >= generation.limit else None
        )
        return NewToken(
            generation=generation,
            token_id=token_id,
            ends=ends,
            logprob=logprob,
            top=top,
            finish_reason="stop" if ends else finish_reason,
        )

    # Leaving

    def _drop_ended(self) -> None:
        live = [
            generation is not None and not generation.cancelled for generation in self._generations
        ]
        if not all(live):
            self._reorder(self._decoder.select(live))

    def _reorder(self, order: list[int]) -> None:
        assert self._rows is not None
        self._generations = [self._generations[row] for row in order]
        index = torch.tensor(order, dtype=torch.int64, device=self._device)
        self._rows = self._rows.select(index) if order else None

    # Failing

    def _guarded(self, work: Callable[[], None], fail: Callable[[str], None]) -> None:
        try:
            work()
            return
        except Exception as error:
            reason = _reason(error)
            # Not the error's own words: nothing of an output may reach a log.
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error("%s, %s at\n%s", reason, type(error).__name__, frames)
        self.failures += 1
        fail(reason)
        # Here, where the error no longer holds on to what its frames held.
        loading.free_memory()

    def _fail_prefill(self, reason: str) -> None:
        prefill, self._prefill = self._prefill, None
        if prefill is not None:
            self._events += [
                Failure(generation=generation, reason=reason) for generation in prefill.generations
            ]

    def _fail_all(self, reason: str) -> None:
        prefilled, self._prefilled = self._prefilled, None
        generations = dict.fromkeys(
            [*self._generations, *(prefilled[0].generations if prefilled else ())]
        )
        self._rows, self._generations = None, []
        self._events += [
            Failure(generation=generation, reason=reason)
            for generation in generations
            if generation is not None
        ]
        # Its prompts belong to the decoder that is given up.
        self._fail_prefill(reason)
        self._decoder = self._new_decoder()


def _steer(generation: Generation, logits_V: Tensor) -> None:
    """Have the output begin with what is likely enough, or keep it from beginning so."""
    if generation.threshold is not None:
        likely = logits_V.float().softmax(-1)[generation.barred[0][0]]
        if bool(likely >= generation.threshold):
            chosen = generation.barred[0][0]
            logits_V[:chosen] = -torch.inf
            logits_V[chosen + 1 :] = -torch.inf
            generation.barred = ()
        generation.threshold = None
    for opening in generation.barred:
        if tuple(generation.begun) == opening[:-1]:
            logits_V[opening[-1]] = -torch.inf
    if generation.drawn >= max(map(len, generation.barred), default=0):
        generation.barred = ()


def _logprobs(
    generations: Sequence[Generation | None], logits_RV: Tensor, tokens_R: Tensor
) -> dict[int, tuple[float, tuple[tuple[int, float], ...]]]:
    """Of the rows that want them: the token's own and the likeliest ones', likeliest first."""
    wanted = {
        row: generation.top_logprobs
        for row, generation in enumerate(generations)
        if generation is not None and generation.top_logprobs is not None
    }
    if not wanted:
        return {}
    rows_W = torch.tensor(list(wanted), device=logits_RV.device)
    logps_WV = logits_RV[rows_W].float().log_softmax(-1)
    own_W = logps_WV.gather(-1, tokens_R[rows_W, None]).squeeze(-1)
    best = logps_WV.topk(min(max(wanted.values()), logps_WV.shape[-1]))
    columns = zip(
        wanted.items(), own_W.tolist(), best.indices.tolist(), best.values.tolist(), strict=True
    )
    return {
        row: (own, tuple(zip(ids[:count], values[:count], strict=True)))
        for (row, count), own, ids, values in columns
    }


def _reason(error: Exception) -> str:
    # Torch's allocator for the CPU raises a bare RuntimeError.
    full = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if full or "not enough memory" in str(error):
        return "the model ran out of memory; serve with fewer slots or a shorter context"
    return "the model failed"
