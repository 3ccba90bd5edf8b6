"""One optimizer step after another, whatever the loss: weights, optimizer and counters.

What is trained on, preference pairs (`train.py`) or examples (`fine_tune.py`), brings the loss of a
microbatch and the line of the log; batches, processes, clipping, checkpoints and resuming are here.

Shapes: B pairs or examples of a step.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import torch

from forethought.config import ModelSource, TrainingConfig
from forethought.models.loading import Named
from forethought.training.batches import (
    Trained,
    epoch_batches,
    rounds,
    sequence_tokens,
    shortest,
    steps_per_epoch,
)
from forethought.training.checkpoint import TrainingDirectory
from forethought.training.distributed.ranks import Ranks
from forethought.training.logprobs import PolicyLogprobs
from forethought.training.optimizer import (
    MasterWeights,
    learning_rate,
    open_optimizer,
    prepare_moments,
)
from forethought.training.packing import PackedRows
from forethought.training.policy_module import Trainee, open_policy
from forethought.training.results import Step
from forethought.training.states import WHOLE, TrainingState, load_into, load_whole
from forethought.training.stored import stored_as

RANK_STRIDE = 2**32
"""Between the seeds of two processes' dropout; a seed of the recipe and a step stay below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStatistics:
    """Results of a microbatch, one per pair or example, without gradient."""

    loss_B: torch.Tensor

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The statistics of all microbatches of a step."""
        columns = {
            field.name: torch.cat([getattr(part, field.name) for part in parts])
            for field in fields(cls)
        }
        return cls(**columns)

    def cpu(self) -> Self:
        """The same on the CPU."""
        columns = {field.name: getattr(self, field.name).cpu() for field in fields(self)}
        return type(self)(**columns)


Statistics = TypeVar("Statistics", bound=StepStatistics)
Log = TypeVar("Log", bound=Step)


class TrainingRun(ABC, Generic[Trained, Statistics, Log]):
    """Weights, optimizer and counters of a training under way."""

    def __init__(
        self,
        policy: PolicyLogprobs,
        masters: MasterWeights,
        trained: Sequence[Trained],
        config: TrainingConfig,
        seed: int,
        ranks: Ranks,
    ) -> None:
        self.policy, self.masters, self.config, self.seed = policy, masters, config, seed
        self.ranks = ranks
        self.optimizer = open_optimizer(masters, config)
        self.steps_per_epoch = steps_per_epoch(len(trained), config.batch_size)
        self.total_steps = config.epochs * self.steps_per_epoch
        self.step = 0
        self.tokens = 0

    @abstractmethod
    def _pack(self, group: Sequence[Trained]) -> PackedRows:
        """A microbatch as the policy reads it."""

    @abstractmethod
    def _losses(
        self, logps_M: torch.Tensor, batch: PackedRows, group: list[Trained], step: list[Trained]
    ) -> tuple[torch.Tensor, Statistics]:
        """One loss for each of a microbatch, `[B]`, whose mean over the whole step is minimised."""

    @abstractmethod
    def _log(self, step: Step, statistics: Statistics) -> Log:
        """The line of the log of a step."""

    def _check_start(self, statistics: Statistics) -> None:
        """What must hold before the first update."""
        return

    def state(self) -> TrainingState:
        return TrainingState(
            step=self.step,
            tokens=self.tokens,
            masters=self.masters.state(),
            optimizer=self.optimizer.state_dict(),
        )

    def resume(self, path: Path | None) -> None:
        """Go on from a state on disk, whichever number of processes wrote it."""
        if path is None:
            return
        if self.ranks.mesh is None and path.name == WHOLE:
            state = load_whole(path)
            self.masters.load(state.masters)
            self.optimizer.load_state_dict(state.optimizer)
        else:
            prepare_moments(self.optimizer)
            state = load_into(self.state(), path, self.ranks)
            self.masters.publish()
        self.step, self.tokens = state.step, state.tokens

    def one_step(self, epoch: int, step: list[Trained]) -> Log:
        started = time.perf_counter()
        if self.config.lora is not None and self.config.lora.dropout > 0:
            # The only randomness of a step, a function of its number: a resume needs no more.
            torch.manual_seed(self.seed + 1 + self.step + RANK_STRIDE * self.ranks.rank)
        statistics, ordered = self._backward_all(step)
        self._check_losses(statistics, ordered)
        if self.step == 0:
            self._check_start(statistics)
        norm = self._update(ordered)
        tokens = sum(sequence_tokens(each) for each in step)
        seconds = time.perf_counter() - started
        done = Step(
            step=self.step,
            epoch=epoch,
            loss=float(statistics.loss_B.double().mean()),
            grad_norm=norm,
            learning_rate=learning_rate(self.step, self.total_steps, self.config),
            tokens=tokens,
            seconds=seconds,
            tokens_per_second=tokens / seconds,
        )
        log = self._log(done, statistics)
        self.step += 1
        self.tokens += tokens
        return log

    def _backward_all(self, step: list[Trained]) -> tuple[Statistics, list[Trained]]:
        """The step's gradient; the statistics of all it holds, and that in the same order."""
        cut = rounds(step, self.config.tokens_per_microbatch, self.ranks.size)
        mine: list[Statistics] = []
        for groups in cut:
            if group := groups[self.ranks.rank]:
                mine.append(self._backward(group, step))
            else:
                self._accompany(shortest(step))
        own = [mine[0].joined(mine).cpu()] if mine else []
        parts = [part for of_rank in self.ranks.gather(own) for part in of_rank]
        ordered = [
            each for rank in range(self.ranks.size) for groups in cut for each in groups[rank]
        ]
        return parts[0].joined(parts), ordered

    def _accompany(self, each: Trained) -> None:
        """A pass of weight 0: the others wait for this process's part in gathers and sums."""
        (self.policy(self._pack([each]).to(self.policy.model.device)).sum() * 0).backward()

    def _backward(self, group: list[Trained], step: list[Trained]) -> Statistics:
        """Forward and backward of a microbatch; its gradient joins the masters'."""
        batch = self._pack(group).to(self.policy.model.device)
        loss_B, statistics = self._losses(self.policy(batch), batch, group, step)
        (loss_B.sum() / len(step)).backward()
        self.masters.collect_gradients()
        return statistics

    def _check_losses(self, statistics: Statistics, ordered: list[Trained]) -> None:
        wrong = [
            each.prompt_id
            for each, finite in zip(ordered, statistics.loss_B.isfinite().tolist(), strict=True)
            if not finite
        ]
        if wrong:
            raise ValueError(
                f"training: the loss of step {self.step} is not finite for prompts "
                f"{', '.join(wrong)}; the weights of the step before are kept. Look at their "
                "outputs, lower training.learning_rate, or use training.dtype float32"
            )

    def _update(self, ordered: list[Trained]) -> float:
        norm = self.masters.clip_gradients(self.config.max_grad_norm)
        if not math.isfinite(norm):
            raise ValueError(
                f"training: the gradient of step {self.step} is not finite; its prompts are "
                f"{', '.join(each.prompt_id for each in ordered)}; the weights of the step before "
                "are kept. Lower training.learning_rate or use training.dtype float32"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.total_steps, self.config)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.masters.publish()
        return norm


def run_epochs(
    run: TrainingRun[Trained, Any, Log],
    trainee: Trainee,
    trained: Sequence[Trained],
    folder: TrainingDirectory,
    source: ModelSource,
    on_step: Callable[[Log], None] | None,
    at_epoch: Callable[[Log, ModelSource], Log] | None = None,
) -> None:
    """The steps that are owed, with a checkpoint after each epoch.

    `at_epoch` adds to the log of an epoch's last step; all processes call it together.
    """
    config = run.config
    stored = stored_as(source, config)
    for epoch in range(1, config.epochs + 1):
        checkpoint = source.at(str(folder.epoch_folder(epoch)))
        batches = epoch_batches(len(trained), config.batch_size, seed=run.seed, epoch=epoch)
        first = (epoch - 1) * len(batches)
        for step, batch in enumerate(batches, start=first):
            if step < run.step:
                continue
            log = run.one_step(epoch, [trained[i] for i in batch])
            ends_epoch = run.step == first + len(batches)
            if ends_epoch:
                weights = run.masters.whole(keep=run.ranks.first)
                folder.save_epoch(epoch, source, weights, trainee.adapter, stored)
                # A barrier: every process may read what the first one has written.
                run.ranks.from_first(None)
                if at_epoch is not None:
                    log = at_epoch(log, checkpoint)
            folder.append(log)
            if on_step is not None:
                on_step(log)
            # After the last step the epoch's checkpoint is all there is to save.
            if run.step < run.total_steps and (run.step % config.save_every == 0 or ends_epoch):
                folder.save_state(run.state())
    trainee.settle(source.at(str(folder.epoch_folder(config.epochs))))


@contextmanager
def open_trainee(
    model: Named, config: TrainingConfig, device: str, ranks: Ranks
) -> Iterator[Trainee]:
    """What is trained, whole in this process or as its part of a mesh.

    Raises: ValueError if it cannot be loaded, or not be trained as the recipe asks.
    """
    if ranks.mesh is None:
        with open_policy(model, config, device) as trainee:
            yield trainee
        return
    from forethought.training.distributed.sharded import open_sharded_policy

    yield open_sharded_policy(model, config, ranks)
