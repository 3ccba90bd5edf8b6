"""The sampling loop: admit prompts, step, draw, let finished rows leave, admit again.

A row is one sample. A decoder knows the model and the cache; this loop knows when a row begins and
ends. Prompts wait sorted by length, so that those admitted together need little padding, and are
admitted when a quarter of the rows is free: fewer, larger groups cost fewer operations per step.
Who shares a batch is a function of the requests and of nothing else.

Shapes: R live rows, N new rows, P prompts, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, Self

import torch
from torch import Tensor

from forethought.sampling import nucleus
from forethought.sampling.base import SamplingParams
from forethought.sampling.jobs import Job
from forethought.under_way import Tally

REFILL_SHARE = 4
"""Waiting prompts enter when one row in so many is free."""


class Decoder(Protocol):
    """A model with a cache over the live rows."""

    refills: bool
    """Whether prompts may be admitted while rows are live."""
    equal_lengths: bool
    """Whether prompts admitted together must have the same length."""
    check_every: int
    """Steps between looks at what has finished: on a GPU each look waits for the device."""

    def admit(self, prompts: Sequence[tuple[int, ...]], copies: Sequence[int]) -> Tensor:
        """Append rows, a prompt's copies side by side; the logits after each prompt, [P, V]."""
        ...

    def step(self, tokens_R: Tensor) -> Tensor:
        """The logits after one more token per row, [R, V]."""
        ...

    def keep(self, live: list[bool]) -> list[int]:
        """Drop rows; the old indices of the rows that stay, in their new order.

        It may return all rows when dropping is not worth it yet.
        """
        ...


@dataclass(slots=True)
class LiveRows:
    """Tensors over the live rows, in the decoder's order; a loop adds its own."""

    keys: Tensor
    steps: Tensor
    """Tokens drawn so far."""
    tokens: Tensor
    """The last token drawn."""

    def __len__(self) -> int:
        return len(self.keys)

    def select(self, order: Tensor) -> Self:
        columns = {one.name: getattr(self, one.name)[order] for one in fields(self)}
        return type(self)(**columns)

    def join(self, other: Self) -> Self:
        columns = {
            one.name: torch.cat([getattr(self, one.name), getattr(other, one.name)])
            for one in fields(self)
        }
        return type(self)(**columns)


@dataclass(slots=True)
class _Rows(LiveRows):
    outputs: Tensor
    """Row of the output table."""
    limits: Tensor
    done: Tensor


def run(
    decoder: Decoder,
    jobs: Sequence[Job],
    *,
    params: SamplingParams,
    end_ids: tuple[int, ...],
    rows: int,
    device: torch.device,
    how: str = "",
) -> list[list[list[int]]]:
    """The new token ids of every seed of every job, the end token included.

    Whoever listens is told how far it is, and `how` outputs are drawn.
    """
    loop = _Loop(decoder, jobs, params=params, end_ids=end_ids, rows=rows, device=device)
    return loop.run(Tally(how, prompts=len(jobs), outputs=loop.first_output[-1]))


class _Loop:
    def __init__(
        self,
        decoder: Decoder,
        jobs: Sequence[Job],
        *,
        params: SamplingParams,
        end_ids: tuple[int, ...],
        rows: int,
        device: torch.device,
    ) -> None:
        self.decoder, self.jobs, self.params, self.capacity = decoder, jobs, params, rows
        self.device = device
        self.ends = torch.tensor(end_ids, device=device)
        self.first_output = [0]
        for job in jobs:
            self.first_output.append(self.first_output[-1] + len(job.seeds))
        longest = max((job.limit for job in jobs), default=0)
        # The spare column takes what is drawn for rows that have finished and not left yet.
        self.table = torch.zeros(
            (self.first_output[-1], longest + 1), dtype=torch.int32, device=device
        )
        self.lengths = torch.zeros(self.first_output[-1], dtype=torch.int64, device=device)
        with_seeds = [index for index, job in enumerate(jobs) if job.seeds]
        self.waiting = sorted(with_seeds, key=lambda index: len(jobs[index].token_ids))
        self.rows: _Rows | None = None

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
        waiting = sum(len(self.jobs[index].seeds) for index in self.waiting)
        live = int((~self.rows.done).sum()) if self.rows is not None else 0
        return len(self.lengths) - waiting - live

    def _may_admit(self) -> bool:
        live = len(self.rows) if self.rows is not None else 0
        if not self.waiting or (live and not self.decoder.refills):
            return False
        free = self.capacity - live
        wanted = len(self.jobs[self.waiting[0]].seeds)
        return not live or free >= max(wanted, self.capacity // REFILL_SHARE)

    def _next_prompts(self) -> list[int]:
        """As many waiting prompts as have room; one at least when nothing is live."""
        if not self._may_admit():
            return []
        free = self.capacity - (len(self.rows) if self.rows is not None else 0)
        chosen: list[int] = []
        for index in self.waiting:
            job = self.jobs[index]
            uneven = len(job.token_ids) != len(self.jobs[self.waiting[0]].token_ids)
            if chosen and (len(job.seeds) > free or (uneven and self.decoder.equal_lengths)):
                break
            chosen.append(index)
            free -= len(job.seeds)
        del self.waiting[: len(chosen)]
        return chosen

    def _admit(self, chosen: list[int]) -> None:
        jobs = [self.jobs[index] for index in chosen]
        copies = [len(job.seeds) for job in jobs]
        logits_PV = self.decoder.admit([job.token_ids for job in jobs], copies)
        outputs = [self.first_output[i] + k for i in chosen for k in range(len(self.jobs[i].seeds))]
        limits = [job.limit for job in jobs for _ in job.seeds]
        seeds = [seed for job in jobs for seed in job.seeds]
        count = len(outputs)
        new = _Rows(
            outputs=torch.tensor(outputs, device=self.device),
            keys=nucleus.keys(torch.tensor(seeds, dtype=torch.int64, device=self.device)),
            steps=torch.zeros(count, dtype=torch.int64, device=self.device),
            limits=torch.tensor(limits, device=self.device),
            tokens=torch.zeros(count, dtype=torch.int64, device=self.device),
            done=torch.zeros(count, dtype=torch.bool, device=self.device),
        )
        repeats = torch.tensor(copies, device=self.device)
        self._draw(new, logits_PV.repeat_interleave(repeats, 0))
        self.rows = new if self.rows is None else self.rows.join(new)

    def _draw(self, rows: _Rows, logits_RV: Tensor) -> None:
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
        grown_R = rows.steps.where(~rows.done, self.lengths[rows.outputs])
        self.lengths[rows.outputs] = grown_R
        rows.done = rows.done | ended_R

    def _drop_finished(self) -> None:
        assert self.rows is not None
        done = self.rows.done.tolist()
        if not any(done):
            return
        order = self.decoder.keep([not finished for finished in done])
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
