"""Supervised fine-tuning: whole outputs in, a checkpoint after each epoch out.

What the warm start trains with: a policy learns to write the outputs it was shown as its own, those
that a judge liked best among many (rejection sampling fine-tuning: STaR, Zelikman et al. 2022;
Yuan et al. 2023), or ones that a user wrote. With `training.loss: nll` iterations train with it
too, on the chosen outputs of their pairs (expert iteration, Anthony et al. 2017). The loss is the
negative log-likelihood of thought, response and end token after the bare prompt. Calling
`fine_tune` again with the same arguments goes on from the last sealed step.

Shapes: B examples of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from forethought.config import TrainingConfig
from forethought.models.loading import Named, source_of
from forethought.training.batches import short_enough
from forethought.training.checkpoint import TrainingDirectory, examples_fingerprint
from forethought.training.distributed.ranks import ALONE, Ranks
from forethought.training.loss import nll_losses
from forethought.training.packing import PackedRows, pack_examples
from forethought.training.policy_module import length_limit
from forethought.training.reference import sequence_sums
from forethought.training.results import Step, TrainingResult
from forethought.training.steps import StepStatistics, TrainingRun, open_trainee, run_epochs
from forethought.types import PreferencePair, TrainingExample


def chosen_outputs(pairs: Sequence[PreferencePair]) -> list[TrainingExample]:
    """The chosen side of each pair, in order: what rejection sampling fine-tuning learns from."""
    return [
        TrainingExample(
            prompt_id=pair.prompt_id,
            sample_index=pair.chosen.sample_index,
            prompt_token_ids=pair.prompt_token_ids,
            token_ids=pair.chosen.token_ids,
            response_start=pair.chosen.response_start,
            score=pair.chosen.score,
        )
        for pair in pairs
    ]


def fine_tune(
    *,
    model: Named,
    examples: Sequence[TrainingExample],
    config: TrainingConfig,
    seed: int,
    directory: Path,
    device: str,
    on_step: Callable[[Step], None] | None = None,
    ranks: Ranks = ALONE,
) -> TrainingResult:
    """Train and leave `epoch_1` … `epoch_N`, `steps.jsonl` and `result.json` in `directory`.

    Of `config` what is about preferences is not used. Where there are several processes, all call
    this with the same arguments but their own `ranks`, as `train` does.

    Raises: ValueError if no example is short enough, the directory holds another training, or loss
    or gradient are not finite (weights are then untouched).
    """
    folder = TrainingDirectory(directory, examples_fingerprint(examples, config, seed), ranks)
    if (result := folder.claim()) is not None:
        return result
    torch.manual_seed(seed)
    with open_trainee(model, config, device, ranks) as trainee:
        limit = length_limit(trainee.policy.model, config)
        kept = short_enough(examples, limit)
        if not kept:
            raise ValueError(
                f"training: none of {len(examples)} examples can be trained on, all are longer "
                f"than {limit} tokens; raise training.max_length if the model's context allows it"
            )
        run = _FineTuning(trainee.policy, trainee.masters, kept, config, seed, ranks)
        run.resume(folder.newest_state(run.steps_per_epoch))
        folder.cut_log(run.step)
        run_epochs(run, trainee, kept, folder, source_of(model), on_step)
    result = TrainingResult(
        pairs=len(kept),
        left_out=len(examples) - len(kept),
        steps=run.step,
        epochs=config.epochs,
        tokens=run.tokens,
        way=trainee.policy.forward_mode,
        margin_kept=(),
    )
    folder.finish(result)
    return result


class _FineTuning(TrainingRun[TrainingExample, StepStatistics, Step]):
    """A training on examples."""

    def _pack(self, group: Sequence[TrainingExample]) -> PackedRows:
        return pack_examples(group)

    def _losses(
        self,
        logps_M: torch.Tensor,
        batch: PackedRows,
        group: list[TrainingExample],
        step: list[TrainingExample],
    ) -> tuple[torch.Tensor, StepStatistics]:
        loss_B = nll_losses(
            sequence_sums(logps_M, batch),
            batch.tokens_S,
            mean="token",
            batch_outputs=len(step),
            batch_tokens=sum(len(example.token_ids) for example in step),
        )
        return loss_B, StepStatistics(loss_B=loss_B.detach())

    def _log(self, step: Step, statistics: StepStatistics) -> Step:
        return step
