"""Static batching: all requests are known before the first step and draw with the same parameters.

The loop admits prompts, steps, draws, lets finished rows leave, admits again. It is not the loop of
continuous_batch.py, because a part of a run must be repeated bit for bit: who shares a batch is
here a function of the requests and of nothing else, never of when something arrived.

A row is one sample. A decoder knows the model and the cache; this loop knows when a row begins and
ends. Prompts wait sorted by length, so that those admitted together need little padding; those with
a common beginning (common_prefix.py) come before the others. They are admitted when a quarter of
the rows is free: fewer, larger groups cost fewer operations per step.

Shapes: R live rows, N new rows, P prompts, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, Self

import torch
from torch import Tensor

from forethought.decoding import nucleus
from forethought.decoding.request import SamplingParams, TokenizedRequest
from forethought.progress.under_way import Tally

REFILL_SHARE = 4
"""Waiting prompts enter when one row in so many is free."""


class Decoder(Protocol):
    """A model with a cache over the live rows; what both loops ask of it."""

    equal_lengths: bool
    """Whether prompts admitted together must have the same length."""

    def step(self, tokens_R: Tensor) -> Tensor:
        """Compute the logits after one more token per row, [R, V]."""
        ...

    def select(self, live: list[bool]) -> list[int]:
        """Drop rows that are not live; return the old indices of the others in their new order.

        It may return all rows when dropping is not worth it yet.
        """
        ...


class StaticDecoder(Decoder, Protocol):
    """A decoder that admits prompts in one go."""

    refills: bool
    """Whether prompts may be admitted while rows are live."""
    check_every: int
    """Steps between looks at what has finished: on a GPU each look waits for the device."""

    def expect(self, prompts: Sequence[tuple[int, ...]]) -> list[bool]:
        """Look at all prompts before the first is admitted.

        Returns of each whether it begins with what is computed once for many: those had better be
        admitted together.
        """
        ...

    def admit(self, prompts: Sequence[tuple[int, ...]], copies: Sequence[int]) -> Tensor:
        """Append rows, a prompt's copies side by side; the logits after each prompt, [P, V]."""
        ...


@dataclass(slots=True)
class LiveRows:
    """Tensors over the live rows, [R] each, in the decoder's order; a loop adds its own."""

    keys: Tensor
    """What the seeds became; see `nucleus.keys`."""
    steps: Tensor
    """Tokens drawn so far."""
    tokens: Tensor
    """The last token drawn."""

    def __len__(self) -> int:
        return len(self.keys)

    def select(self, order: Tensor) -> Self:
        """The rows of these indices, in this order."""
        columns = {column.name: getattr(self, column.name)[order] for column in fields(self)}
        return type(self)(**columns)

    def join(self, other: Self) -> Self:
        """These rows and the others behind them."""
        columns = {
            column.name: torch.cat([getattr(self, column.name), getattr(other, column.name)])
            for column in fields(self)
        }
        return type(self)(**columns)


@dataclass(slots=True)
class _BatchRows(LiveRows):
    outputs: Tensor
    """Row of the output table."""
    limits: Tensor
    done: Tensor
    barred: Tensor
    """Which of the loop's openings the row may not have, [R, openings]."""


def run(
    decoder: StaticDecoder,
    requests: Sequence[TokenizedRequest],
    *,
    params: SamplingParams,
    end_ids: tuple[int, ...],
    rows: int,
    device: torch.device,
    how: str = "",
) -> list[list[list[int]]]:
    """Draw every output of every request; at most `rows` are in the making.

    Returns the new token ids of every seed of every request, the end token included. Whoever
    listens (`under_way`) is told how far it is, and `how` outputs are drawn.

    Raises: LogitsNotFiniteError if a row of logits has no distribution.
    """
    loop = _Loop(decoder, requests, params=params, end_ids=end_ids, rows=rows, device=device)
    return loop.run(Tally(how, prompts=len(requests), outputs=loop.first_output[-1]))


class _Loop:
    def __init__(
        self,
        decoder: StaticDecoder,
        requests: Sequence[TokenizedRequest],
        *,
        params: SamplingParams,
        end_ids: tuple[int, ...],
        rows: int,
        device: torch.device,
    ) -> None:
        self.decoder, self.requests = decoder, requests
        self.params, self.capacity = params, rows
        self.device = device
        self.ends = torch.tensor(end_ids, device=device)
        self.first_output = [0]
        for request in requests:
            self.first_output.append(self.first_output[-1] + len(request.seeds))
        longest = max((request.limit for request in requests), default=0)
        # The spare column takes what is drawn for rows that have finished and not left yet.
        self.table = torch.zeros(
            (self.first_output[-1], longest + 1), dtype=torch.int32, device=device
        )
        self.lengths = torch.zeros(self.first_output[-1], dtype=torch.int64, device=device)
        with_seeds = [index for index, request in enumerate(requests) if request.seeds]
        shared = decoder.expect([requests[index].token_ids for index in with_seeds])
        order = {
            index: (not shares, len(requests[index].token_ids))
            for index, shares in zip(with_seeds, shared, strict=True)
        }
        self.waiting = sorted(with_seeds, key=order.__getitem__)
        self.openings = tuple(
            dict.fromkeys(each for request in requests for each in request.never_opens_with)
        )
        self.before = [
            torch.tensor(opening[:-1], dtype=torch.int32, device=self.device)
            for opening in self.openings
        ]
        """What stands in each opening before its last token."""
        self.rows: _BatchRows | None = None

    def run(self, tally: Tally) -> list[list[list[int]]]:
        since_look = 0
        while True:
            # Prompts leave a full house alone, so most steps have nothing to admit.
            while chosen := self._next_prompts():
                self._admit(chosen)
            if self.rows is None:
                tally.tell(done=len(self.lengths), tokens=int(self.lengths.sum()))
                return self._results()
            if tally.due:
                tally.tell(done=self._ended(), tokens=int(self.lengths.sum()))
            since_look += 1
            if since_look >= self.decoder.check_every:
                since_look = 0
                self._drop_finished()
            if self.rows is not None and not self._may_admit():
                logits_RV = self.decoder.step(self.rows.tokens)
                self._draw(self.rows, logits_RV)

    def _ended(self) -> int:
        waiting = sum(len(self.requests[index].seeds) for index in self.waiting)
        live = int((~self.rows.done).sum()) if self.rows is not None else 0
        return len(self.lengths) - waiting - live

    def _may_admit(self) -> bool:
        live = len(self.rows) if self.rows is not None else 0
        if not self.waiting or (live and not self.decoder.refills):
            return False
        free = self.capacity - live
        wanted = len(self.requests[self.waiting[0]].seeds)
        return not live or free >= max(wanted, self.capacity // REFILL_SHARE)

    def _next_prompts(self) -> list[int]:
        """As many waiting prompts as have room; one at least when nothing is live."""
        if not self._may_admit():
            return []
        free = self.capacity - (len(self.rows) if self.rows is not None else 0)
        chosen: list[int] = []
        for index in self.waiting:
            request = self.requests[index]
            uneven = len(request.token_ids) != len(self.requests[self.waiting[0]].token_ids)
            if chosen and (len(request.seeds) > free or (uneven and self.decoder.equal_lengths)):
                break
            chosen.append(index)
            free -= len(request.seeds)
        del self.waiting[: len(chosen)]
        return chosen

    def _admit(self, chosen: list[int]) -> None:
        requests = [self.requests[index] for index in chosen]
        copies = [len(request.seeds) for request in requests]
        logits_PV = self.decoder.admit([request.token_ids for request in requests], copies)
        outputs = [
            self.first_output[index] + k
            for index, request in zip(chosen, requests, strict=True)
            for k in range(len(request.seeds))
        ]
        limits = [request.limit for request in requests for _ in request.seeds]
        seeds = [seed for request in requests for seed in request.seeds]
        count = len(outputs)
        barred = [
            [opening in request.never_opens_with for opening in self.openings]
            for request in requests
            for _ in request.seeds
        ]
        new = _BatchRows(
            outputs=torch.tensor(outputs, device=self.device),
            keys=nucleus.keys(torch.tensor(seeds, dtype=torch.int64, device=self.device)),
            steps=torch.zeros(count, dtype=torch.int64, device=self.device),
            limits=torch.tensor(limits, device=self.device),
            tokens=torch.zeros(count, dtype=torch.int64, device=self.device),
            done=torch.zeros(count, dtype=torch.bool, device=self.device),
            barred=torch.tensor(barred, dtype=torch.bool, device=self.device),
        )
        repeats = torch.tensor(copies, device=self.device)
        self._draw(new, logits_PV.repeat_interleave(repeats, 0))
        self.rows = new if self.rows is None else self.rows.join(new)

    def _bar_openings(self, rows: _BatchRows, logits_RV: Tensor) -> None:
        """Take from rows that began as a barred opening does its last token."""
        for index, (opening, before) in enumerate(zip(self.openings, self.before, strict=True)):
            if len(opening) > self.table.shape[1]:
                continue
            begun_R = (self.table[rows.outputs, : len(before)] == before).all(-1)
            here_R = begun_R & rows.barred[:, index] & (rows.steps == len(before))
            logits_RV[:, opening[-1]] = logits_RV[:, opening[-1]].masked_fill(here_R, -torch.inf)

    def _draw(self, rows: _BatchRows, logits_RV: Tensor) -> None:
        self._bar_openings(rows, logits_RV)
        rows.tokens = nucleus.draw(
            logits_RV,
            rows.keys,
            rows.steps,
            temperature=self.params.temperature,
            top_p=self.params.top_p,
        )
        columns_R = rows.steps.clamp(max=self.table.shape[1] - 1)
        self.table[rows.outputs, columns_R] = rows.tokens.to(torch.int32)
        rows.steps = rows.steps + 1
        ended_R = torch.isin(rows.tokens, self.ends) | (rows.steps >= rows.limits)
        # A row that has ended draws on until it leaves; that does not make its output longer.
        grown_R = rows.steps.where(~rows.done, self.lengths[rows.outputs])
        self.lengths[rows.outputs] = grown_R
        rows.done = rows.done | ended_R

    def _drop_finished(self) -> None:
        assert self.rows is not None
        done = self.rows.done.tolist()
        if not any(done):
            return
        order = self.decoder.select([not finished for finished in done])
        if not order:
            self.rows = None
        elif len(order) < len(done):
            self.rows = self.rows.select(torch.tensor(order, device=self.device))

    def _results(self) -> list[list[list[int]]]:
        table, lengths = self.table.tolist(), self.lengths.tolist()
        outputs = [ids[:length] for ids, length in zip(table, lengths, strict=True)]
        return [
            outputs[start:end]
            for start, end in zip(self.first_output, self.first_output[1:], strict=False)
        ]
