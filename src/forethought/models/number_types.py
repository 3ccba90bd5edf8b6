"""The number types in which a device multiplies: not every CPU has bfloat16.

PyTorch multiplies bfloat16 matrices on a CPU by oneDNN's kernels where the CPU has AVX-512 (or an
ARM its bfloat16 instructions). Elsewhere, on many laptops, it falls back to plain loops, which were
measured at 1 to 10 GFLOP/s on a core that does 90 in float32. There the values of a model that
is sampled, or judges, are still those of bfloat16, rounded as on any other machine, and are held
and multiplied in float32, which has every one of them exactly; and training is float32's.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch


@cache
def cpu_has_bfloat16() -> bool:
    """Whether this CPU's bfloat16 products have kernels."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return torch.backends.mkldnn.is_available() and supported is not None and bool(supported())


def product_type(dtype: torch.dtype, device: torch.device | str) -> torch.dtype:
    """The number type in which values of `dtype` are held and multiplied on a device."""
    slow = dtype == torch.bfloat16 and torch.device(device).type == "cpu"
    return torch.float32 if slow and not cpu_has_bfloat16() else dtype


def widened(model: Any, dtype: torch.dtype, device: torch.device | str) -> Any:
    """A model whose weights have values of `dtype`, held in the type in which the device multiplies
    them. Nothing is made narrower: rotary frequencies are float32's beside bfloat16 weights.
    """
    held = product_type(dtype, device)
    return model if held == dtype else model.to(held)


def said(dtype: str, device: torch.device) -> str:
    """What a user is told where the two differ; empty where they do not."""
    if product_type(getattr(torch, dtype), device) == getattr(torch, dtype):
        return ""
    return f"; this CPU has no kernels for {dtype}, so products are in float32"
