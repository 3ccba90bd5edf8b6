"""The open batch: requests join at any step, each with its own parameters, and leave when done.

The counterpart of `sampling/engine.py`, whose jobs are all known from the start and share their
parameters. A turn leaves those who left, prefills some prompt tokens, then takes one step for every
live row; so a long prompt holds the others up by one chunk per token, not by all of itself.

A draw is a function of the seed, the step and the row's own logits, as in a closed batch: who
shares the batch changes float rounding and nothing else.

One thread calls a batch; `Seat.left` may be set by any.

Shapes: R live rows, P prompts, V tokens of the vocabulary.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forethought import models
from forethought.sampling import nucleus
from forethought.sampling.engine import LiveRows
from forethought.serving.decoding import OpenDecoder
from forethought.types import FinishReason

log = logging.getLogger(__name__)

NOT_FINITE = (
    "the model gave logits that are NaN or infinite, so nothing can be drawn; check the weights, "
    "or serve with dtype float32"
)


@dataclass(slots=True, kw_only=True, eq=False)
class Seat:
    """One output in the making.

    Example: `Seat(token_ids=(0, 4, 77), limit=128, temperature=0.8, top_p=0.95, seed=17,
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
    left: bool = False
    """Nobody waits for this output any more; its row goes before the next step."""
    drawn: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One token. Log-probabilities are of the model's own distribution, before temperature.

    Example: `Drawn(seat=seat, token_id=51, ends=False, logprob=None, top=(), finish_reason=None)`
    """

    seat: Seat
    token_id: int
    ends: bool
    """Whether it is an end token."""
    logprob: float | None
    top: tuple[tuple[int, float], ...]
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The end of an output that the model failed on.

    Example: `Lost(seat=seat, reason="out of memory")`
    """

    seat: Seat
    reason: str


@dataclass(slots=True)
class _Rows(LiveRows):
    temperatures: Tensor
    top_ps: Tensor


@dataclass(slots=True, kw_only=True)
class _Intake:
    """Prompts that are being prefilled."""

    seats: list[Seat]
    """In the order of the rows to come."""
    copies: list[int]
    chunks: Iterator[Tensor | None]


class OpenBatch:
    """`decoder` makes an empty one: at the start, and after a step that failed."""

    def __init__(
        self,
        decoder: Callable[[], OpenDecoder],
        *,
        end_ids: Sequence[int],
        device: torch.device,
    ) -> None:
        self._new_decoder = decoder
        self._decoder = decoder()
        self._end_ids = frozenset(end_ids)
        self._device = device
        self._queue: deque[Seat] = deque()
        self._intake: _Intake | None = None
        self._rows: _Rows | None = None
        self._seats: list[Seat | None] = []
        """Per row; `None` where an output has ended and the decoder still keeps the row."""
        self._prefilled: tuple[_Intake, Tensor] | None = None
        """Prompts whose rows the decoder has and this batch has not yet."""
        self._events: list[Drawn | Lost] = []
        self.failures = 0
        """Failures of the model since it last drew a token."""

    @property
    def busy(self) -> bool:
        """Whether a turn has anything to do."""
        return bool(self._queue) or self._intake is not None or self._rows is not None

    def add(self, seat: Seat) -> None:
        """Prefilled in the turns to come."""
        self._queue.append(seat)

    def turn(self) -> list[Drawn | Lost]:
        """What became of the seats, in order."""
        self._guarded(self._leave, self._lose_all)
        self._guarded(self._prefill, self._lose_intake)
        self._guarded(self._advance, self._lose_all)
        events, self._events = self._events, []
        return events

    # Prompts

    def _prefill(self) -> None:
        if self._intake is None or all(seat.left for seat in self._intake.seats):
            self._intake = self._next_intake()
        if self._intake is None:
            return
        logits_PV = next(self._intake.chunks)
        if logits_PV is not None:
            self._prefilled = self._intake, logits_PV
            self._intake = None

    def _next_intake(self) -> _Intake | None:
        """The next prompts in the order they came, as many as fit a chunk; equal ones are one."""
        groups: dict[tuple[int, ...], list[Seat]] = {}
        while self._queue:
            seat = self._queue[0]
            if not seat.left and groups and not self._fits(seat.token_ids, groups):
                break
            self._queue.popleft()
            if not seat.left:
                groups.setdefault(seat.token_ids, []).append(seat)
        if not groups:
            return None
        copies = [len(seats) for seats in groups.values()]
        return _Intake(
            seats=[seat for seats in groups.values() for seat in seats],
            copies=copies,
            chunks=self._decoder.take_in(list(groups), copies),
        )

    def _fits(self, ids: tuple[int, ...], groups: Collection[tuple[int, ...]]) -> bool:
        if ids in groups:
            return True
        lengths = [len(ids), *map(len, groups)]
        even = len(set(lengths)) == 1
        padded = len(lengths) * max(lengths)
        return padded <= self._decoder.chunk_tokens and (even or not self._decoder.equal_lengths)

    def _join(self, intake: _Intake, logits_PV: Tensor) -> None:
        seats: list[Seat | None] = list(intake.seats)
        new = self._new_rows(intake.seats)
        repeats = torch.tensor(intake.copies, device=self._device)
        self._draw(new, seats, logits_PV.repeat_interleave(repeats, 0))
        self._rows = new if self._rows is None else self._rows.join(new)
        self._seats += seats
        self._reorder(self._decoder.settle())

    def _new_rows(self, seats: Sequence[Seat]) -> _Rows:
        def column(values: list[int] | list[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=self._device)

        zeros = [0] * len(seats)
        return _Rows(
            keys=nucleus.keys(column([seat.seed for seat in seats], torch.int64)),
            steps=column(zeros, torch.int64),
            tokens=column(zeros, torch.int64),
            temperatures=column([seat.temperature for seat in seats], torch.float32),
            top_ps=column([seat.top_p for seat in seats], torch.float64),
        )

    # Steps

    def _advance(self) -> None:
        if self._prefilled is not None:
            # Lost with all others if this fails, since the decoder has its rows.
            intake, logits_PV = self._prefilled
            self._join(intake, logits_PV)
            self._prefilled = None
            self._leave()
        if self._rows is not None:
            logits_RV = self._decoder.step(self._rows.tokens)
            self._draw(self._rows, self._seats, logits_RV)

    def _draw(self, rows: _Rows, seats: list[Seat | None], logits_RV: Tensor) -> None:
        """One token for every row; whoever has ended gives up its place in `seats`."""
        drawn_R = nucleus.draw_each(
            logits_RV,
            rows.keys,
            rows.steps,
            temperatures_R=rows.temperatures,
            top_ps_R=rows.top_ps,
        )
        rows.tokens = drawn_R.clamp(min=0)
        rows.steps = rows.steps + 1
        figures = _logprobs(seats, logits_RV, rows.tokens)
        drawn = drawn_R.tolist()
        self.failures = self.failures + 1 if set(drawn) == {nucleus.UNDRAWN} else 0
        for row, token_id in enumerate(drawn):
            seat = seats[row]
            if seat is None or seat.left:
                continue
            if token_id == nucleus.UNDRAWN:
                seats[row] = None
                self._events.append(Lost(seat=seat, reason=NOT_FINITE))
                continue
            event = self._drawn(seat, token_id, *figures.get(row, (None, ())))
            self._events.append(event)
            if event.finish_reason is not None:
                seats[row] = None

    def _drawn(
        self, seat: Seat, token_id: int, logprob: float | None, top: tuple[tuple[int, float], ...]
    ) -> Drawn:
        seat.drawn += 1
        ends = token_id in self._end_ids
        finish_reason: FinishReason | None = "length" if seat.drawn >= seat.limit else None
        return Drawn(
            seat=seat,
            token_id=token_id,
            ends=ends,
            logprob=logprob,
            top=top,
            finish_reason="stop" if ends else finish_reason,
        )

    # Leaving

    def _leave(self) -> None:
        live = [seat is not None and not seat.left for seat in self._seats]
        if not all(live):
            self._reorder(self._decoder.keep(live))

    def _reorder(self, order: list[int]) -> None:
        assert self._rows is not None
        self._seats = [self._seats[row] for row in order]
        index = torch.tensor(order, dtype=torch.int64, device=self._device)
        self._rows = self._rows.select(index) if order else None

    # Failing

    def _guarded(self, work: Callable[[], None], lose: Callable[[str], None]) -> None:
        try:
            work()
            return
        except Exception as error:
            reason = _reason(error)
            # Not the error's own words: nothing of an output may reach a log.
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error("%s, %s at\n%s", reason, type(error).__name__, frames)
        self.failures += 1
        lose(reason)
        # Here, where the error no longer holds on to what its frames held.
        models.free_memory()

    def _lose_intake(self, reason: str) -> None:
        intake, self._intake = self._intake, None
        if intake is not None:
            self._events += [Lost(seat=seat, reason=reason) for seat in intake.seats]

    def _lose_all(self, reason: str) -> None:
        prefilled, self._prefilled = self._prefilled, None
        seats = dict.fromkeys([*self._seats, *(prefilled[0].seats if prefilled else ())])
        self._rows, self._seats = None, []
        self._events += [Lost(seat=seat, reason=reason) for seat in seats if seat is not None]
        # Its prompts belong to the decoder that is given up.
        self._lose_intake(reason)
        self._decoder = self._new_decoder()


def _logprobs(
    seats: Sequence[Seat | None], logits_RV: Tensor, tokens_R: Tensor
) -> dict[int, tuple[float, tuple[tuple[int, float], ...]]]:
    """Of the rows that want them: the token's own and the likeliest ones', likeliest first."""
    wanted = {
        row: seat.top_logprobs
        for row, seat in enumerate(seats)
        if seat is not None and seat.top_logprobs is not None
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
