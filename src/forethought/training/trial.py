"""A model trained for one tiny step before anything is paid for, and thrown away.

What cannot be trained is else found out after all sampling and judging: an architecture whose log-
probs cannot be taken, a kernel that this device or number type lacks, memory for the weights and
their masters. The trial takes the very way of the training: its device, number type, adapter and
gradient checkpointing. How long real pairs are, it cannot know.
"""

from __future__ import annotations

import torch

from forethought.config import ModelSource, TrainingConfig
from forethought.models import loading
from forethought.training.logprobs import probe_pairs
from forethought.training.packing import pack
from forethought.training.policy_module import open_policy


def try_training(source: ModelSource, config: TrainingConfig, device: str) -> None:
    """One forward and backward pass of two small pairs.

    Raises: ValueError that names the model, the device and the way out.
    """
    reason = None
    state = torch.get_rng_state()
    try:
        with open_policy(source, config, device) as trainee:
            policy = trainee.policy
            logps_M = policy(pack(probe_pairs(policy.model)).to(policy.model.device))
            logps_M.sum().backward()
            if not bool(logps_M.isfinite().all()):
                reason = "its log-probs are not finite"
    # Whatever a foreign architecture raises on its first pass.
    except (RuntimeError, TypeError, AttributeError, NotImplementedError, LookupError) as error:
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    finally:
        torch.set_rng_state(state)
        loading.free_memory()
    if reason is not None:
        raise ValueError(
            f"training: {source.path} cannot be trained in {config.dtype} on {device} ({reason}); "
            "try another training.dtype or model.device, or another model; if memory is full, "
            "training.lora or launch.type torchrun need less of it"
        )
