"""The DPO loop: token ids and reference log-probs in, a checkpoint after each epoch out.

The trainer is blind: it knows neither judges nor thoughts, only where a response begins, and that
only for its log. Calling `train` again with the same arguments goes on from the last sealed step.
The paper publishes neither beta nor learning rate, batch size or optimizer; `TrainingConfig` says
where its starting points come from.

Shapes: B pairs of a step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from forethought.config import DType, ModelSource, TrainingConfig
from forethought.models.loading import Named, source_of
from forethought.training.batches import (
    epoch_batches,
    rounds,
    sequence_tokens,
    shortest_pair,
    steps_per_epoch,
    usable_pairs,
)
from forethought.training.checkpoint import TrainingDirectory, training_fingerprint
from forethought.training.distributed.ranks import ALONE, Ranks
from forethought.training.logprobs import PolicyLogprobs
from forethought.training.loss import implicit_rewards, nll_losses, preference_losses
from forethought.training.margin import MarginProbe
from forethought.training.optimizer import (
    MasterWeights,
    learning_rate,
    open_optimizer,
    prepare_moments,
)
from forethought.training.packing import pack
from forethought.training.policy_module import Trainee, length_limit, open_policy
from forethought.training.reference import sequence_sums
from forethought.training.results import ReferenceLogprobs, StepLog, TrainingResult
from forethought.training.states import WHOLE, TrainingState, load_into, load_whole
from forethought.training.stored import stored_as
from forethought.types import PreferencePair

START_TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}
"""Greatest distance of the first step's loss from that of equal policies."""
DRIFT_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""Greatest mean distance from the reference at the first step, in nats per token."""
RANK_STRIDE = 2**32
"""Between the seeds of two processes' dropout; a seed of the recipe and a step stay below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairStatistics:
    """Per-pair results of a microbatch, without gradient."""

    loss_B: torch.Tensor
    preference_B: torch.Tensor
    chosen_B: torch.Tensor
    """Log-ratio of the whole chosen output."""
    rejected_B: torch.Tensor
    chosen_response_B: torch.Tensor
    rejected_response_B: torch.Tensor
    chosen_logps_B: torch.Tensor
    chosen_tokens_B: torch.Tensor
    rejected_tokens_B: torch.Tensor

    @classmethod
    def joined(cls, parts: Sequence[PairStatistics]) -> PairStatistics:
        """The statistics of all microbatches of a step."""
        columns = {
            field.name: torch.cat([getattr(part, field.name) for part in parts])
            for field in fields(cls)
        }
        return cls(**columns)

    def cpu(self) -> PairStatistics:
        """The same on the CPU."""
        columns = {field.name: getattr(self, field.name).cpu() for field in fields(self)}
        return PairStatistics(**columns)


def train(
    *,
    model: Named,
    pairs: Sequence[PreferencePair],
    reference: Sequence[ReferenceLogprobs],
    config: TrainingConfig,
    seed: int,
    directory: Path,
    device: str,
    sampled: DType = "bfloat16",
    on_step: Callable[[StepLog], None] | None = None,
    ranks: Ranks = ALONE,
) -> TrainingResult:
    """Train and leave `epoch_1` … `epoch_N`, `steps.jsonl` and `result.json` in `directory`.

    `sampled` is the number type in which the policy will be sampled: what of the learned margin is
    left there is measured (`margin.py`). Where there are several processes, all call this with the
    same arguments but their own `ranks`; `device` is then that of their mesh. A step's pairs are
    the same for any number of them.

    Raises: ValueError if no pair is usable, the reference belongs to another model, the directory
    holds another training, or loss or gradient are not finite (weights are then untouched).
    """
    fingerprint = training_fingerprint(pairs, reference, config, seed)
    folder = TrainingDirectory(directory, fingerprint, ranks)
    if (result := folder.claim()) is not None:
        return result
    torch.manual_seed(seed)
    with ExitStack() as opened:
        if ranks.mesh is None:
            trainee = opened.enter_context(open_policy(model, config, device))
        else:
            from forethought.training.distributed.sharded import open_sharded_policy

            trainee = open_sharded_policy(model, config, ranks)
        kept, left_out = _usable(pairs, length_limit(trainee.policy, config))
        run = _TrainingRun(trainee.policy, trainee.masters, kept, reference, config, seed, ranks)
        source = source_of(model)
        probe = MarginProbe(trainee, source, kept, config, sampled, ranks)
        run.resume(folder.newest_state(steps_per_epoch(len(kept), config.batch_size)))
        folder.cut_log(run.step)
        _run_epochs(run, trainee, kept, folder, source, probe, on_step)
    result = TrainingResult(
        pairs=len(kept),
        left_out=left_out,
        steps=run.step,
        epochs=config.epochs,
        tokens=run.tokens,
        way=trainee.policy.forward_mode,
        margin_kept=folder.margins_kept(),
    )
    folder.finish(result)
    return result


def _run_epochs(
    run: _TrainingRun,
    trainee: Trainee,
    pairs: Sequence[PreferencePair],
    folder: TrainingDirectory,
    source: ModelSource,
    probe: MarginProbe,
    on_step: Callable[[StepLog], None] | None,
) -> None:
    """The steps that are owed, with a checkpoint after each epoch."""
    config = run.config
    stored = stored_as(source, config)
    for epoch in range(1, config.epochs + 1):
        checkpoint = source.at(str(folder.epoch_folder(epoch)))
        batches = epoch_batches(len(pairs), config.batch_size, seed=run.seed, epoch=epoch)
        first = (epoch - 1) * len(batches)
        for step, batch in enumerate(batches, start=first):
            if step < run.step:
                continue
            log = run.one_step(epoch, [pairs[i] for i in batch])
            ends_epoch = run.step == first + len(batches)
            if ends_epoch:
                weights = run.masters.whole(keep=run.ranks.first)
                folder.save_epoch(epoch, source, weights, trainee.adapter, stored)
                # A barrier: the probe of every process may read what the first one has written.
                run.ranks.from_first(None)
                kept = probe.kept(checkpoint, last=epoch == config.epochs)
                log = replace(log, margin_kept=kept)
            folder.append(log)
            if on_step is not None:
                on_step(log)
            # After the last step the epoch's checkpoint is all there is to save.
            if run.step < run.total_steps and (run.step % config.save_every == 0 or ends_epoch):
                folder.save_state(run.state())
    trainee.settle(source.at(str(folder.epoch_folder(config.epochs))))


def _usable(pairs: Sequence[PreferencePair], limit: int | None) -> tuple[list[PreferencePair], int]:
    kept, left_out = usable_pairs(pairs, limit)
    if not kept:
        raise ValueError(
            f"training: none of {len(pairs)} pairs can be trained on, {left_out} are longer than "
            f"{limit} tokens; raise training.max_length if the model's context allows it, sample "
            "with a smaller sampling.max_new_tokens, or sample more prompts"
        )
    return kept, left_out


class _TrainingRun:
    """Weights, optimizer and counters of a training under way."""

    def __init__(
        self,
        policy: PolicyLogprobs,
        masters: MasterWeights,
        pairs: Sequence[PreferencePair],
        reference: Sequence[ReferenceLogprobs],
        config: TrainingConfig,
        seed: int,
        ranks: Ranks,
    ) -> None:
        self.policy, self.masters, self.config, self.seed = policy, masters, config, seed
        self.ranks = ranks
        self.optimizer = open_optimizer(masters, config)
        self.reference = {record.prompt_id: record for record in reference}
        missing = [pair.prompt_id for pair in pairs if pair.prompt_id not in self.reference]
        if missing:
            raise ValueError(
                f"training: {len(missing)} pairs have no reference log-probs, {missing[0]} for "
                "one; compute them for the same pairs and the same training settings"
            )
        self.total_steps = config.epochs * steps_per_epoch(len(pairs), config.batch_size)
        self.step = 0
        self.tokens = 0

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

    def one_step(self, epoch: int, pairs: list[PreferencePair]) -> StepLog:
        started = time.perf_counter()
        if self.config.lora is not None and self.config.lora.dropout > 0:
            # The only randomness of a step, a function of its number: a resume needs no more.
            torch.manual_seed(self.seed + 1 + self.step + RANK_STRIDE * self.ranks.rank)
        statistics, ordered = self._backward_all(pairs)
        self._check_losses(statistics, ordered)
        if self.step == 0:
            _check_start(statistics, self.config)
        norm = self._update(ordered)
        tokens = sum(sequence_tokens(pair) for pair in pairs)
        seconds = time.perf_counter() - started
        log = StepLog(
            step=self.step,
            epoch=epoch,
            **_summary(statistics, self.config.beta),
            grad_norm=norm,
            learning_rate=learning_rate(self.step, self.total_steps, self.config),
            pairs=len(pairs),
            tokens=tokens,
            seconds=seconds,
            tokens_per_second=tokens / seconds,
        )
        self.step += 1
        self.tokens += tokens
        return log

    def _backward_all(
        self, pairs: list[PreferencePair]
    ) -> tuple[PairStatistics, list[PreferencePair]]:
        """The step's gradient; the statistics of all its pairs, and these in the same order."""
        cut = rounds(pairs, self.config.tokens_per_microbatch, self.ranks.size)
        mine: list[PairStatistics] = []
        for groups in cut:
            if group := groups[self.ranks.rank]:
                mine.append(self._backward(group, pairs))
            else:
                self._accompany(shortest_pair(pairs))
        own = [PairStatistics.joined(mine).cpu()] if mine else []
        parts = [part for of_rank in self.ranks.gather(own) for part in of_rank]
        ordered = [
            pair for rank in range(self.ranks.size) for groups in cut for pair in groups[rank]
        ]
        return PairStatistics.joined(parts), ordered

    def _accompany(self, pair: PreferencePair) -> None:
        """A pass of weight 0: the others wait for this process's part in gathers and sums."""
        (self.policy(pack([pair]).to(self.policy.model.device)).sum() * 0).backward()

    def _backward(
        self, group: list[PreferencePair], batch_pairs: list[PreferencePair]
    ) -> PairStatistics:
        """Forward and backward of a microbatch; its gradient joins the masters'."""
        config = self.config
        batch = pack(group).to(self.policy.model.device)
        logps_M = self.policy(batch)
        chosen_logps_B, rejected_logps_B = sequence_sums(logps_M, batch).chunk(2)
        with torch.no_grad():
            responses_S = sequence_sums(logps_M * batch.response_M, batch)
        references_SB = self._references(group).to(logps_M.device)
        chosen_B = chosen_logps_B - references_SB[0]
        rejected_B = rejected_logps_B - references_SB[1]
        chosen_tokens_B, rejected_tokens_B = batch.tokens_S.chunk(2)
        preference_B = preference_losses(
            chosen_B,
            rejected_B,
            chosen_tokens_B,
            rejected_tokens_B,
            loss=config.loss,
            beta=config.beta,
            label_smoothing=config.label_smoothing,
        )
        loss_B = preference_B
        if config.nll_weight > 0:
            loss_B = preference_B + config.nll_weight * nll_losses(
                chosen_logps_B,
                chosen_tokens_B,
                mean=config.nll_mean,
                batch_pairs=len(batch_pairs),
                batch_tokens=sum(len(pair.chosen.token_ids) for pair in batch_pairs),
            )
        (loss_B.sum() / len(batch_pairs)).backward()
        self.masters.collect_gradients()
        return PairStatistics(
            loss_B=loss_B.detach(),
            preference_B=preference_B.detach(),
            chosen_B=chosen_B.detach(),
            rejected_B=rejected_B.detach(),
            chosen_response_B=responses_S.chunk(2)[0] - references_SB[2],
            rejected_response_B=responses_S.chunk(2)[1] - references_SB[3],
            chosen_logps_B=chosen_logps_B.detach(),
            chosen_tokens_B=chosen_tokens_B,
            rejected_tokens_B=rejected_tokens_B,
        )

    def _references(self, group: list[PreferencePair]) -> torch.Tensor:
        records = [self.reference[pair.prompt_id] for pair in group]
        return torch.tensor(
            [
                [record.chosen for record in records],
                [record.rejected for record in records],
                [record.chosen_response for record in records],
                [record.rejected_response for record in records],
            ]
        )

    def _check_losses(self, statistics: PairStatistics, pairs: list[PreferencePair]) -> None:
        wrong = [
            pair.prompt_id
            for pair, finite in zip(pairs, statistics.loss_B.isfinite().tolist(), strict=True)
            if not finite
        ]
        if wrong:
            raise ValueError(
                f"training: the loss of step {self.step} is not finite for prompts "
                f"{', '.join(wrong)}; the weights of the step before are kept. Look at these "
                "pairs, lower training.learning_rate, or use training.dtype float32"
            )

    def _update(self, pairs: list[PreferencePair]) -> float:
        norm = self.masters.clip_gradients(self.config.max_grad_norm)
        if not math.isfinite(norm):
            raise ValueError(
                f"training: the gradient of step {self.step} is not finite; its prompts are "
                f"{', '.join(pair.prompt_id for pair in pairs)}; the weights of the step before "
                "are kept. Lower training.learning_rate or use training.dtype float32"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.total_steps, self.config)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.masters.publish()
        return norm


def _check_start(statistics: PairStatistics, config: TrainingConfig) -> None:
    """Before the first update policy and reference are one model: every log-ratio is about 0.

    Raises: ValueError if they are not.
    """
    margin = config.beta * float((statistics.chosen_B - statistics.rejected_B).mean())
    drift_B = statistics.chosen_B.abs() / statistics.chosen_tokens_B
    drift_B = drift_B + statistics.rejected_B.abs() / statistics.rejected_tokens_B
    drift = 0.5 * float(drift_B.mean())
    distance = abs(margin)
    measured = f"margin {margin:.4g} instead of 0"
    if config.loss == "sigmoid":
        loss = float(statistics.preference_B.mean())
        distance = abs(loss - math.log(2))
        measured = f"loss {loss:.4g} instead of ln 2"
    if distance > START_TOLERANCE[config.dtype] or drift > DRIFT_TOLERANCE[config.dtype]:
        raise ValueError(
            f"training: before the first update the policy is not its reference ({measured}, "
            f"{drift:.2g} nats per token apart): the reference log-probs belong to another model "
            "or other settings; compute them again from the model that training starts from, "
            "with the same training.dtype"
        )


def _summary(statistics: PairStatistics, beta: float) -> dict[str, float]:
    """Means over the pairs, in the order of `StepLog`'s fields."""

    def mean(values_B: torch.Tensor) -> float:
        return float(values_B.double().mean())

    chosen_B = implicit_rewards(statistics.chosen_B, beta)
    rejected_B = implicit_rewards(statistics.rejected_B, beta)
    chosen_response_B = implicit_rewards(statistics.chosen_response_B, beta)
    rejected_response_B = implicit_rewards(statistics.rejected_response_B, beta)
    return {
        "loss": mean(statistics.loss_B),
        "accuracy": mean(chosen_B > rejected_B),
        "margin": mean(chosen_B - rejected_B),
        "chosen_reward": mean(chosen_B),
        "rejected_reward": mean(rejected_B),
        "chosen_thought_reward": mean(chosen_B - chosen_response_B),
        "chosen_response_reward": mean(chosen_response_B),
        "rejected_thought_reward": mean(rejected_B - rejected_response_B),
        "rejected_response_reward": mean(rejected_response_B),
        "chosen_nll": -float(statistics.chosen_logps_B.double().sum())
        / float(statistics.chosen_tokens_B.sum()),
    }
