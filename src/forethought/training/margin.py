"""How much of what training has learned is left in the policy that will be sampled.

Masters learn in float32; what samples has them rounded, and most of DPO's changes are smaller than
half a step of bfloat16 (models/masters.py). Measured for each checkpoint, on some of the pairs it
was trained on: with `m = (log pi_c - log ref_c) - (log pi_r - log ref_r)`, the log-ratio margin of
a pair, in nats,

    margin_kept = mean m of the weights as they are sampled / mean m of the weights as trained

All of it in float32 products: those of bfloat16 would add noise that is as large as what a small
iteration learns, and is there whichever way weights are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from forethought.config import DType, ModelSource, TrainingConfig
from forethought.models.loading import load_model
from forethought.training.batches import packed_tokens, rounds, shortest
from forethought.training.distributed.ranks import Ranks
from forethought.training.logprobs import PolicyLogprobs
from forethought.training.packing import pack
from forethought.training.policy_module import Trainee
from forethought.training.reference import trained_sums
from forethought.training.stored import Stored, stored_as
from forethought.types import PreferencePair

PAIRS = 64
"""Most pairs that are looked at."""
SHARE = 8
"""One pair of so many is looked at, `FEWEST` at least: small iterations keep their speed."""
FEWEST = 8
TOKENS = 2**16
"""Most tokens that are looked at, beyond the first pair."""
LEAST_MARGIN = 1e-3
"""In nats. A smaller mean margin is that of float rounding, and nothing was learned to be kept."""


class MarginProbe:
    """Holds a training's weights, as they are and as they will be sampled, against one another.

    Example: `probe = MarginProbe(trainee, source, pairs, config, "bfloat16", ALONE)` before the
    first step, `probe.kept(folder, last=False)` after an epoch's checkpoint was written.
    """

    def __init__(
        self,
        trainee: Trainee,
        source: ModelSource,
        pairs: Sequence[PreferencePair],
        config: TrainingConfig,
        sampled: DType,
        ranks: Ranks,
    ) -> None:
        """Measure the weights that training starts from, which are those of `source`.

        `sampled` is the number type of whoever samples. All processes call this together.
        """
        self._trainee, self._ranks = trainee, ranks
        self._sampled: DType = sampled
        self._stored = stored_as(source, config)
        self._lossless = self._stored.exact and sampled == "float32"
        self._config = config
        self._pairs = some_of(pairs)
        self._start = 0.0
        if self._lossless:
            return
        if ranks.mesh is None:
            self._start = self._of_values(_as_trained(trainee))
        elif self._stored.exact:
            self._start = self._of_folder(source, "float32")

    def kept(self, checkpoint: ModelSource, *, last: bool) -> float | None:
        """The share that is left in an epoch's checkpoint; `None` where nothing was learned.

        Several processes, each with a part of the weights, read the checkpoint again: that of the
        last epoch alone, and only where it has the weights as trained. They call this together.
        """
        if self._lossless:
            return 1.0
        if self._ranks.mesh is not None:
            if not (last and self._stored.exact):
                return None
            trained = self._of_folder(checkpoint, "float32") - self._start
        else:
            trained = self._of_values(_as_trained(self._trainee)) - self._start
        if trained < LEAST_MARGIN:
            return None
        if self._ranks.mesh is not None or (self._trainee.adapter and self._stored.merged):
            return (self._of_folder(checkpoint, self._sampled) - self._start) / trained
        values = _as_sampled(self._trainee, self._stored, self._sampled)
        return (self._of_values(values) - self._start) / trained

    def _of_values(self, values: Mapping[nn.Parameter, torch.Tensor]) -> float:
        with _holding(self._trainee.policy, values, getattr(torch, self._sampled)):
            return self._margin(self._trainee.policy)

    def _of_folder(self, source: ModelSource, dtype: DType) -> float:
        """Of weights as they are read in a number type."""
        if self._ranks.mesh is not None:
            from forethought.training.distributed.sharded import open_sharded_float32

            return self._margin(open_sharded_float32(source, dtype, self._ranks))
        device = str(self._trainee.policy.model.device)
        model = load_model(source, dtype=dtype, device=device).float()
        return self._margin(PolicyLogprobs.in_mode(model, self._trainee.policy.forward_mode))

    @torch.no_grad()
    def _margin(self, policy: PolicyLogprobs) -> float:
        """Mean of log pi_c - log pi_r; the starting policy's own is taken off elsewhere."""
        margins: dict[str, float] = {}
        for groups in rounds(self._pairs, self._config.tokens_per_microbatch, self._ranks.size):
            # Who has no pair keeps the others company: each needs all shards.
            group = groups[self._ranks.rank] or [shortest(self._pairs)]
            batch = pack(group).to(policy.model.device)
            sums_S, _ = trained_sums(policy(batch), batch, self._config)
            chosen_B, rejected_B = sums_S.double().chunk(2)
            found = (chosen_B - rejected_B).tolist()
            for pair, margin in zip(groups[self._ranks.rank], found, strict=False):
                margins[pair.prompt_id] = margin
        everyone = {
            key: margin for part in self._ranks.gather(margins) for key, margin in part.items()
        }
        return sum(everyone[pair.prompt_id] for pair in self._pairs) / len(self._pairs)


def some_of(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """The pairs that are looked at, evenly spaced: the same for the same pairs."""
    count = min(len(pairs), PAIRS, max(FEWEST, len(pairs) // SHARE))
    found: list[PreferencePair] = []
    tokens = 0
    for index in range(count):
        pair = pairs[index * len(pairs) // count]
        tokens += packed_tokens(pair)
        if found and tokens > TOKENS:
            break
        found.append(pair)
    return found


def _as_trained(trainee: Trainee) -> dict[nn.Parameter, torch.Tensor]:
    masters = trainee.masters
    return {p: m.detach() for p, m in zip(masters.working, masters.masters, strict=True)}


def _as_sampled(trainee: Trainee, stored: Stored, dtype: DType) -> dict[nn.Parameter, torch.Tensor]:
    """Float32 values of the parameters that rounding changes."""
    kind = getattr(torch, dtype)
    trained = _as_trained(trainee)
    if trainee.adapter is None:
        return {p: stored.sampled(master, dtype) for p, master in trained.items()}
    # An adapter is rounded as its base is, each for itself.
    exact = {p: trained.get(p, p.detach()) for p in trainee.policy.parameters()}
    rounds_off = {p: value for p, value in exact.items() if p in trained or p.dtype != kind}
    return {p: value.to(kind).float() for p, value in rounds_off.items()}


@contextmanager
def _holding(
    policy: PolicyLogprobs, values: Mapping[nn.Parameter, torch.Tensor], sampled: torch.dtype
) -> Iterator[None]:
    """The policy in float32 with these values of some parameters, afterwards as it was."""
    held = {p: p.data for p in policy.parameters() if p in values}
    kinds = {p: p.dtype for p in policy.parameters()}
    training = {module: module.training for module in policy.modules()}
    # Factors such as Gemma's scale of embeddings are rounded with the weights where a model is
    # loaded in bfloat16, and not where it is cast later; tables of rotary frequencies never are.
    factors = {b: b.data for b in policy.buffers() if b.is_floating_point() and b.dim() == 0}
    try:
        for parameter in kinds:
            parameter.data = values.get(parameter, parameter.data).float()
        for factor, was in factors.items():
            factor.data = was.to(sampled).float()
        for module in training:
            module.training = False
        yield
    finally:
        for parameter, kind in kinds.items():
            # What is frozen is rounded back to what it was, without a second copy of it.
            parameter.data = held.get(parameter, parameter.data).to(kind)
        for factor, was in factors.items():
            factor.data = was
        for module, mode in training.items():
            module.training = mode
