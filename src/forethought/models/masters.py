"""Float32 weights as bfloat16 ones that nothing is lost in: what a policy's folder holds.

Rounding to the nearest bfloat16 keeps only changes of more than half a step, which is more than
DPO changes most weights by: a policy trained from bfloat16 weights, rounded so, is for the most
part the one before. Here a weight between two steps goes to the upper one as often as it is near
it: for the share of its way, decided by a fixed draw for each position of a tensor (stochastic
rounding, Gupta et al. 2015, with thresholds that never change). Summed over many weights, what was
learned stays. The 16 bits that a float32 weight has and its bfloat16 lacks are stored beside, so
the weights that training left can be read again, bit for bit:

    rounded, rest = split(weight)
    assert torch.equal(joined(rounded, rest), weight)

A policy's folder holds the rounded weights under their ordinary names, for whoever samples or
serves them, and the rests in a file beside, by parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

DRAWS = 0x7F0
"""Seed of the thresholds."""


@torch.no_grad()
def split(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A float32 tensor as bfloat16, and its lower 16 bits as int16."""
    low, up = _low_and_up(weight)
    bits = (weight.contiguous().view(torch.int32) - low).add_(up << 16)
    # What is below 16 bits may not fit int16's sign; only the bits count.
    rest = torch.where(low < 2**15, low, low - 2**16).to(torch.int16)
    return bits.view(torch.float32).to(torch.bfloat16), rest


@torch.no_grad()
def rounded(weight: torch.Tensor) -> torch.Tensor:
    """The first of `split`."""
    low, up = _low_and_up(weight)
    bits = (weight.contiguous().view(torch.int32) - low).add_(up << 16)
    return bits.view(torch.float32).to(torch.bfloat16)


@torch.no_grad()
def joined(rounded: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """The float32 tensor that `split` was given."""
    low = rest.to(torch.int32) & 0xFFFF
    bits = rounded.to(torch.float32).contiguous().view(torch.int32)
    # Which way it was rounded follows from place and rest, so the two are all there is to store.
    up = (_thresholds(low) < low).to(torch.int32)
    return (bits - (up << 16) + low).view(torch.float32)


def write_rests(path: Path, rests: Mapping[str, torch.Tensor]) -> None:
    """Leave the rests of a checkpoint's parameters in a file."""
    path.parent.mkdir(exist_ok=True)
    save_file({name: rest.contiguous() for name, rest in rests.items()}, path)


@torch.no_grad()
def restore(path: Path, parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> None:
    """Make float32 parameters, which have the rounded weights, what training left.

    Raises: ValueError if the rests are those of another model.
    """
    there = dict(parameters)
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        if names != there.keys():
            wrong = sorted(names ^ there.keys())[0]
            raise ValueError(
                f"model: {path} belongs to another model ({wrong} is in one of the two only); "
                f"remove {path.parent} to use the rounded weights"
            )
        for name, parameter in there.items():
            parameter.copy_(joined(parameter.to("cpu"), file.get_tensor(name)))


def _low_and_up(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The lower 16 bits as numbers from 0, and 1 where the weight goes to the step above."""
    assert weight.dtype == torch.float32
    low = weight.contiguous().view(torch.int32) & 0xFFFF
    return low, (_thresholds(low) < low).to(torch.int32)


def _thresholds(like: torch.Tensor) -> torch.Tensor:
    """A number of 16 bits for each position of a tensor, always the same ones."""
    raw = np.random.PCG64(DRAWS).random_raw(-(-like.numel() // 4))
    drawn = raw.astype("<u8", copy=False).view("<u2")[: like.numel()].astype(np.int32)
    return torch.from_numpy(drawn).view(like.shape).to(like.device)
