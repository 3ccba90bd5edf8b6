"""The DPO loop: token ids and reference log-probs in, a checkpoint after each epoch out.

The trainer is blind: it knows neither judges nor thoughts, only where a response begins, and that
only for its log. Calling `train` again with the same arguments goes on from the last sealed step.
The paper publishes neither beta nor learning rate, batch size or optimizer; `TrainingConfig` says
where its starting points come from.

Shapes: B pairs of a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from forethought.config import DType, ModelSource, TrainingConfig
from forethought.models.loading import Named, source_of
from forethought.training.batches import usable_pairs
from forethought.training.checkpoint import TrainingDirectory, pairs_fingerprint
from forethought.training.distributed.ranks import ALONE, Ranks
from forethought.training.logprobs import PolicyLogprobs
from forethought.training.loss import implicit_rewards, nll_losses, preference_losses
from forethought.training.margin import MarginProbe
from forethought.training.optimizer import MasterWeights
from forethought.training.packing import PackedRows, pack
from forethought.training.policy_module import length_limit
from forethought.training.reference import sequence_sums, trained_sums
from forethought.training.results import ReferenceLogprobs, Step, StepLog, TrainingResult
from forethought.training.steps import StepStatistics, TrainingRun, open_trainee, run_epochs
from forethought.types import PairSide, PreferencePair

START_TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}
"""Greatest distance of the first step's loss from that of equal policies, unless the pairs'
roundings explain more."""
DRIFT_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""Greatest mean distance from the reference at the first step, in nats per token of an output of
`MANY_TOKENS` and more."""
MANY_TOKENS = 64
"""Tokens are rounded independently, so the distance of a sum grows with the root of their number,
and per token it is larger the fewer there are. SmolLM2-135M's outputs of 6 tokens lie 0.018 to
0.025 nats per token from themselves in another packing in bfloat16, 0.04 to 0.06 per root of a
token; of 64 tokens that would be 0.008 per token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairStatistics(StepStatistics):
    """Per-pair results of a microbatch, without gradient."""

    preference_B: torch.Tensor
    chosen_B: torch.Tensor
    """Log-ratio of what the loss is on, the whole chosen output or its thought."""
    rejected_B: torch.Tensor
    chosen_response_B: torch.Tensor
    rejected_response_B: torch.Tensor
    chosen_logps_B: torch.Tensor
    chosen_tokens_B: torch.Tensor
    rejected_tokens_B: torch.Tensor


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
    fingerprint = pairs_fingerprint(pairs, reference, config, seed)
    folder = TrainingDirectory(directory, fingerprint, ranks)
    if (result := folder.claim()) is not None:
        return result
    torch.manual_seed(seed)
    with open_trainee(model, config, device, ranks) as trainee:
        kept, left_out = _usable(pairs, length_limit(trainee.policy.model, config))
        run = _TrainingRun(trainee.policy, trainee.masters, kept, reference, config, seed, ranks)
        source = source_of(model)
        probe = MarginProbe(trainee, source, kept, config, sampled, ranks)
        run.resume(folder.newest_state(run.steps_per_epoch))
        folder.cut_log(run.step)

        def measured(log: StepLog, checkpoint: ModelSource) -> StepLog:
            kept = probe.kept(checkpoint, last=log.epoch == config.epochs)
            return replace(log, margin_kept=kept)

        run_epochs(run, trainee, kept, folder, source, on_step, measured)
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


def _usable(pairs: Sequence[PreferencePair], limit: int | None) -> tuple[list[PreferencePair], int]:
    kept, left_out = usable_pairs(pairs, limit)
    if not kept:
        raise ValueError(
            f"training: none of {len(pairs)} pairs can be trained on, {left_out} are longer than "
            f"{limit} tokens; raise training.max_length if the model's context allows it, sample "
            "with a smaller sampling.max_new_tokens, or sample more prompts"
        )
    return kept, left_out


class _TrainingRun(TrainingRun[PreferencePair, PairStatistics, StepLog]):
    """A training on pairs."""

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
        super().__init__(policy, masters, pairs, config, seed, ranks)
        self.reference = {record.prompt_id: record for record in reference}
        missing = [pair.prompt_id for pair in pairs if pair.prompt_id not in self.reference]
        if missing:
            raise ValueError(
                f"training: {len(missing)} pairs have no reference log-probs, {missing[0]} for "
                "one; compute them for the same pairs and the same training settings"
            )

    def _pack(self, group: Sequence[PreferencePair]) -> PackedRows:
        return pack(group)

    def _losses(
        self,
        logps_M: torch.Tensor,
        batch: PackedRows,
        group: list[PreferencePair],
        step: list[PreferencePair],
    ) -> tuple[torch.Tensor, PairStatistics]:
        config = self.config
        assert config.loss != "nll", "that is fine_tune's"
        sums_S, tokens_S = trained_sums(logps_M, batch, config)
        chosen_logps_B, rejected_logps_B = sums_S.chunk(2)
        with torch.no_grad():
            responses_S = sequence_sums(logps_M * batch.response_M, batch)
        references_SB = self._references(group).to(logps_M.device)
        chosen_B = chosen_logps_B - references_SB[0]
        rejected_B = rejected_logps_B - references_SB[1]
        chosen_tokens_B, rejected_tokens_B = tokens_S.chunk(2)
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
                batch_outputs=len(step),
                batch_tokens=sum(
                    _trained_tokens(pair.chosen, pair.chosen_forced, config) for pair in step
                ),
            )
        return loss_B, PairStatistics(
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
        """Of chosen and rejected what the loss is on, then their responses, [4, B]."""
        records = [self.reference[pair.prompt_id] for pair in group]
        # What is before the response is the rest of the whole: nothing else has to be stored.
        thought = self.config.loss_on == "thought"
        return torch.tensor(
            [
                [record.chosen - thought * record.chosen_response for record in records],
                [record.rejected - thought * record.rejected_response for record in records],
                [record.chosen_response for record in records],
                [record.rejected_response for record in records],
            ]
        )

    def _check_start(self, statistics: PairStatistics) -> None:
        check_start(statistics, self.config)

    def _log(self, step: Step, statistics: PairStatistics) -> StepLog:
        return StepLog(
            **asdict(step),
            **_summary(statistics, self.config),
            pairs=len(statistics.loss_B),
        )


def check_start(statistics: PairStatistics, config: TrainingConfig) -> None:
    """Before the first update policy and reference are one model: every log-ratio is about 0.

    Raises: ValueError if they are not.
    """
    sides = (
        (statistics.chosen_B, statistics.chosen_tokens_B),
        (statistics.rejected_B, statistics.rejected_tokens_B),
    )
    drift = fmean(
        float((ratio_B.abs() / (tokens_B * tokens_B.clamp(min=MANY_TOKENS)).sqrt()).mean())
        for ratio_B, tokens_B in sides
    )
    margin_B = config.beta * (statistics.chosen_B - statistics.rejected_B)
    margin = float(margin_B.mean())
    # Of a mean about 0.
    error = float(margin_B.square().mean().sqrt()) / math.sqrt(len(margin_B))
    distance = abs(margin)
    measured = f"margin {margin:.4g} instead of 0"
    if config.loss == "sigmoid":
        loss = float(statistics.preference_B.mean())
        distance = abs(loss - math.log(2))
        # The slope of -log sigmoid at 0 is a half.
        error /= 2
        measured = f"loss {loss:.4g} instead of ln 2"
    allowed = max(START_TOLERANCE[config.dtype], 4 * error)
    if distance > allowed or drift > DRIFT_TOLERANCE[config.dtype]:
        raise ValueError(
            f"training: before the first update the policy is not its reference ({measured}, "
            f"{drift:.2g} nats per token apart): the reference log-probs belong to another model "
            "or other settings; compute them again from the model that training starts from, "
            "with the same training.dtype"
        )


def _trained_tokens(side: PairSide, forced: Sequence[int], config: TrainingConfig) -> int:
    """As `trained_sums` counts them."""
    if config.loss_on == "output":
        return len(side.token_ids) - len(forced)
    return max(side.response_start - sum(place < side.response_start for place in forced), 1)


def _summary(statistics: PairStatistics, config: TrainingConfig) -> dict[str, Any]:
    """Means over the pairs, by the names of `StepLog`'s fields."""

    def mean(values_B: torch.Tensor) -> float:
        return float(values_B.double().mean())

    beta = config.beta
    chosen_B = implicit_rewards(statistics.chosen_B, beta)
    rejected_B = implicit_rewards(statistics.rejected_B, beta)
    chosen_response_B = implicit_rewards(statistics.chosen_response_B, beta)
    rejected_response_B = implicit_rewards(statistics.rejected_response_B, beta)
    chosen_thought_B, rejected_thought_B = chosen_B, rejected_B
    if config.loss_on == "output":
        chosen_thought_B = chosen_B - chosen_response_B
        rejected_thought_B = rejected_B - rejected_response_B
    return {
        "accuracy": mean(chosen_B > rejected_B),
        "margin": mean(chosen_B - rejected_B),
        "chosen_reward": mean(chosen_B),
        "rejected_reward": mean(rejected_B),
        "chosen_thought_reward": mean(chosen_thought_B),
        "chosen_response_reward": mean(chosen_response_B),
        "rejected_thought_reward": mean(rejected_thought_B),
        "rejected_response_reward": mean(rejected_response_B),
        "chosen_nll": -float(statistics.chosen_logps_B.double().sum())
        / float(statistics.chosen_tokens_B.sum()),
    }
