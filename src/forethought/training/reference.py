"""Log-probs of pairs under the iteration's starting policy, computed once before training; and of
any outputs under any policy.

The paper does not say which model is DPO's reference; the starting policy of each iteration is its
group's convention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from forethought.config import TrainingConfig
from forethought.models.loading import Named
from forethought.training.batches import rounds, shortest, usable_pairs
from forethought.training.distributed.ranks import ALONE, Ranks
from forethought.training.logprobs import PolicyLogprobs
from forethought.training.packing import PackedRows, pack, pack_examples
from forethought.training.policy_module import length_limit, open_reference
from forethought.training.results import ReferenceLogprobs
from forethought.types import PreferencePair, TrainingExample


def sequence_sums(logps_M: torch.Tensor, batch: PackedRows) -> torch.Tensor:
    """Sums over each sequence's tokens, forced ones left out, `[S]` from `[M]` (packing.py).

    Float32, and float64 inside, for outputs of thousands of tokens.
    """
    if batch.forced_M is not None:
        logps_M = logps_M.masked_fill(batch.forced_M, 0)
    sums_S = torch.segment_reduce(logps_M.double(), "sum", lengths=batch.tokens_S)
    return sums_S.float()


def trained_sums(
    logps_M: torch.Tensor, batch: PackedRows, config: TrainingConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each sequence's tokens that the loss is on: the sum `[S]`, and how many they are.

    An output without a thought has one token of log-prob 0, so that means are defined.
    """
    if config.loss_on == "output":
        return sequence_sums(logps_M, batch), batch.counted
    thought_M = 1 - batch.response_M
    tokens_S = sequence_sums(thought_M, batch).to(batch.tokens_S.dtype)
    return sequence_sums(logps_M * thought_M, batch), tokens_S.clamp(min=1)


@torch.no_grad()
def reference_logprobs(
    model: Named,
    pairs: Sequence[PreferencePair],
    config: TrainingConfig,
    *,
    device: str,
    policy: PolicyLogprobs | None = None,
    ranks: Ranks = ALONE,
) -> list[ReferenceLogprobs]:
    """One record for each pair that is not longer than the limit, in the pairs' order.

    Give the `policy` of `open_reference` to use one loaded model for many slices of the pairs.
    Several processes call this together, each with its `ranks`, and get the same records.

    Raises: ValueError if the model cannot be loaded, a prompt id comes twice, or a pair has no
    prompt or an empty output.
    """
    if policy is None:
        with open_reference(model, config, device) as opened:
            return reference_logprobs(
                model, pairs, config, device=device, policy=opened, ranks=ranks
            )
    kept, _ = usable_pairs(pairs, length_limit(policy.model, config))
    found: dict[str, ReferenceLogprobs] = {}
    for groups in rounds(kept, config.tokens_per_microbatch, ranks.size):
        # Who has no pair keeps the others company: each needs all shards.
        group = groups[ranks.rank] or [shortest(kept)]
        batch = pack(group).to(policy.model.device)
        logps_M = policy(batch)
        sums = sequence_sums(logps_M, batch).tolist()
        responses = sequence_sums(logps_M * batch.response_M, batch).tolist()
        for i, pair in enumerate(groups[ranks.rank]):
            found[pair.prompt_id] = ReferenceLogprobs(
                prompt_id=pair.prompt_id,
                chosen=sums[i],
                rejected=sums[len(group) + i],
                chosen_response=responses[i],
                rejected_response=responses[len(group) + i],
            )
    everyone = {key: record for part in ranks.gather(found) for key, record in part.items()}
    return [everyone[pair.prompt_id] for pair in kept]


@torch.no_grad()
def output_logprobs(
    model: Named, examples: Sequence[TrainingExample], config: TrainingConfig, *, device: str
) -> list[float]:
    """The log-prob of each output after its prompt, in nats, summed over its tokens, in order.

    Raises: ValueError if the model cannot be loaded.
    """
    found: dict[tuple[str, int], float] = {}
    with open_reference(model, config, device) as policy:
        for [group] in rounds(examples, config.tokens_per_microbatch, 1):
            batch = pack_examples(group).to(policy.model.device)
            sums = sequence_sums(policy(batch), batch).tolist()
            for example, total in zip(group, sums, strict=True):
                found[example.prompt_id, example.sample_index] = total
    return [found[example.prompt_id, example.sample_index] for example in examples]
