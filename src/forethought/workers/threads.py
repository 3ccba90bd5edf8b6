"""Threads of torch in this process."""

from __future__ import annotations


def use_threads(threads: int | None) -> None:
    """Fix torch's CPU threads, on which float rounding depends; `None` leaves its default."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
