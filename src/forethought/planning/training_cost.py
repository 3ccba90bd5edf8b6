"""Cost of the reference pass and of training.

Training does a forward pass and twice that backward; with checkpointing one forward more. Adapters
leave out the gradients of frozen weights, a third of it. Sharded weights are gathered for every
forward and backward pass of a microbatch and gradients are exchanged in float32, while the devices
compute: the slower of the two counts. What training writes is counted too: a resumable state every
`save_every` steps and after each epoch but the last, and each epoch's checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from forethought.config import TrainingConfig
from forethought.planning.hardware import Cluster, Effort, Setting
from forethought.planning.lengths import Lengths
from forethought.planning.memory import (
    moment_bytes,
    reference_memory,
    shared_memory,
    trained_parameters,
    training_memory,
)
from forethought.planning.model_shape import ModelShape
from forethought.planning.work import Tokens, forward_flops, outputs_after, pair

OPTIMIZER_BYTES = 20
"""Per trained weight and step, besides the moments, which are read and written: master and gradient
read, the master and the working copy written, the gradient's norm read."""


def reference_cost(setting: Setting, lengths: Lengths) -> Effort:
    """Cost of the log-probs of an iteration's pairs under the starting policy."""
    tokens = pair(lengths.prompt, lengths.output)
    longest = lengths.prompt + 2 * lengths.longest(setting.recipe.sampling.max_new_tokens)
    count = setting.recipe.prompts_per_iteration * lengths.pairs
    return _forward_cost(setting, count, tokens, longest)


def likelihood_cost(setting: Setting, lengths: Lengths, count: float) -> Effort:
    """Cost of the log-probs of so many outputs, each behind a prompt of its own, on one device."""
    one = replace(setting, cluster=replace(setting.cluster, gpus=1))
    tokens = outputs_after(lengths.prompt, lengths.output, 1, predicted=True)
    longest = lengths.prompt + lengths.longest(setting.recipe.sampling.max_new_tokens)
    return _forward_cost(one, count, tokens, longest)


def _forward_cost(setting: Setting, count: float, tokens: Tokens, longest: float) -> Effort:
    """`tokens` are those of one pair or output, `longest` of the longest."""
    shape, cluster, training = setting.shape, setting.cluster, _held_training(setting)
    flops = count * forward_flops(shape, tokens)
    passes = math.ceil(count * tokens.read / training.tokens_per_microbatch / cluster.gpus)
    parts = {
        **_exchanged(setting, flops, passes, 4, cluster.rates.forward),
        "steps": passes * shape.layers * cluster.rates.layer,
        "start": cluster.rates.start + cluster.rates.stage,
        "storage": 2 * shape.parameters / cluster.rates.storage,
    }
    cpu = cluster.device.is_cpu
    memory = _on_device(
        setting,
        lambda n: reference_memory(
            shape, training, n, _at_a_time(setting, tokens, longest, count / n), cpu=cpu
        ),
    )
    return Effort.of(parts, flops=flops, memory=memory)


def training_cost(setting: Setting, lengths: Lengths) -> Effort:
    """Cost of all epochs over an iteration's pairs, checkpoints included; without preferences
    their chosen outputs alone."""
    count = max(1.0, setting.recipe.prompts_per_iteration * lengths.pairs)
    if not setting.recipe.training.prefers:
        return _on_outputs(setting, lengths, count)
    longest = lengths.prompt + 2 * lengths.longest(setting.recipe.sampling.max_new_tokens)
    tokens = pair(lengths.prompt, lengths.output)
    return _training_cost(setting, count, tokens, longest)


def fine_tuning_cost(setting: Setting, lengths: Lengths, count: float) -> Effort:
    """Cost of the warm start's training on so many examples, checkpoints included."""
    own = replace(
        setting, recipe=setting.recipe.model_copy(update={"training": setting.recipe.warm_training})
    )
    return _on_outputs(own, lengths, max(1.0, count))


def _on_outputs(setting: Setting, lengths: Lengths, count: float) -> Effort:
    """Cost of training on so many outputs, each behind a prompt of its own."""
    longest = lengths.prompt + lengths.longest(setting.recipe.sampling.max_new_tokens)
    tokens = outputs_after(lengths.prompt, lengths.output, 1, predicted=True)
    return _training_cost(setting, count, tokens, longest)


def _training_cost(setting: Setting, count: float, tokens: Tokens, longest: float) -> Effort:
    """`tokens` are those of one pair or example, `longest` of the longest."""
    shape, cluster, training = setting.shape, setting.cluster, _held_training(setting)
    rates = cluster.rates
    steps = training.epochs * math.ceil(count / training.batch_size)
    passes = 3 if training.lora is None else 2
    again = 1 if training.gradient_checkpointing else 0
    flops = (passes + again) * training.epochs * count * forward_flops(shape, tokens)
    batch = min(count, training.batch_size)
    share = batch * tokens.read / cluster.gpus
    microbatches = steps * math.ceil(share / training.tokens_per_microbatch)
    trained = trained_parameters(shape, training)
    moments = moment_bytes(training)
    state = 4 + moments
    carried = (OPTIMIZER_BYTES + 2 * moments) * trained
    moved = carried / cluster.gpus / cluster.device.bandwidth
    saves = steps // training.save_every + training.epochs - 1
    stored = checkpoint_bytes(shape, training)
    # An adapter that is merged into its base reads it.
    merged = training.lora is not None and training.checkpoint_dtype != "masters"
    read = 2 * shape.parameters if merged else 0
    # A resumable state is a float32 master and two moments.
    written = saves * state * trained + training.epochs * (read + stored)
    waiting = 0 if setting.recipe.keep == "all" else training.epochs * stored
    # Bytes a weight: bfloat16 gathered forward and backward, and, if trained, a float32 gradient.
    exchanged = 8 if training.lora is None else 4
    parts = {
        **_exchanged(setting, flops, microbatches, exchanged, rates.training),
        "steps": microbatches * (passes + again) * shape.layers * rates.layer + steps * moved,
        "start": rates.start + rates.stage,
        "storage": (2 * shape.parameters + written) / rates.storage,
    }
    cpu = cluster.device.is_cpu
    memory = _on_device(
        setting,
        lambda n: training_memory(
            shape, training, n, _at_a_time(setting, tokens, longest, batch / n), cpu=cpu
        ),
    )
    return Effort.of(
        parts,
        flops=flops,
        memory=memory,
        weights=training.epochs * stored,
        # The new state is whole before the old one goes; then the epochs wait for the choice.
        scratch=2 * state * trained + waiting,
    )


def _held_training(setting: Setting) -> TrainingConfig:
    """The settings with the number type in which the device holds what is trained."""
    training = setting.recipe.training
    held = setting.cluster.device.held(training.dtype)
    return training.model_copy(update={"dtype": held})


def _at_a_time(setting: Setting, tokens: Tokens, longest: float, count: float) -> float:
    """Tokens that go through the model together, of so many pairs or examples: what the budget
    takes, if there are as many, and at least the longest."""
    there = math.ceil(count) * tokens.read
    return max(longest, min(setting.recipe.training.tokens_per_microbatch, there))


def _on_device(setting: Setting, memory_of: Callable[[int], float]) -> float:
    """Memory of the processes that share a device, by what each takes where so many divide the
    states."""
    if not setting.cluster.device.is_cpu:
        return memory_of(setting.cluster.gpus)
    processes = setting.recipe.launch.processes or 1
    return shared_memory(memory_of(processes), processes, cpu=True)


def checkpoint_bytes(shape: ModelShape, training: TrainingConfig) -> float:
    """Bytes of an epoch's checkpoint on disk.

    Float32 masters are 2 + 2 bytes a weight where the model's are bfloat16, 4 elsewhere; of an
    adapter its base is not stored.
    """
    if training.checkpoint_dtype != "masters":
        return (4 if training.checkpoint_dtype == "float32" else 2) * shape.parameters
    return 4 * trained_parameters(shape, training)


def _exchanged(
    setting: Setting, flops: float, microbatches: float, per_weight: float, share: float
) -> dict[str, float]:
    """Seconds of computing, or of moving weights where that is slower."""
    cluster = setting.cluster
    computing = flops / (_used(cluster, setting) * cluster.device.flops * share)
    if cluster.gpus == 1:
        return {"compute": computing}
    others = (cluster.gpus - 1) / cluster.gpus
    moving = microbatches * per_weight * setting.shape.parameters * others / cluster.link
    return {"compute": computing} if computing > moving else {"network": moving}


def _used(cluster: Cluster, setting: Setting) -> int:
    """Processes beyond the pairs of a step have nothing to do."""
    return min(cluster.gpus, setting.recipe.training.batch_size)
