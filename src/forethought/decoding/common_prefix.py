"""The beginning that prompts have in common: computed once, whoever comes behind it.

A system prompt, a thought instruction, the demonstrations of a warm start or a judge's guidelines
stand before every question of a run. SGLang keeps a radix tree of such beginnings (Zheng et al.
2024, arXiv 2312.07104, section 3) because it does not know what will be asked; here all prompts of
a run are known, so the one beginning that saves most is chosen before the first of them.

What a prompt's tokens are computed to is the same but for rounding, since products have other
shapes: as it is among prompts that share a batch. Where the limits below are not reached, nothing
is computed otherwise than without this module, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, takewhile

LEAST_TOKENS = 64
"""Shorter beginnings are left alone: a cache in two places costs every step a fixed effort."""
LEAST_SAVED = 256
"""Tokens of prefill that must be saved: a pass of its own costs as much as some hundred tokens."""


def of(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The beginning whose sharing saves most tokens of prefill, empty if none saves enough.

    Prompts that begin otherwise do not matter, nor does the order. At least one token of every
    prompt stands behind it, for the logits after it.
    """
    ordered = sorted(prompts)
    lengths = [
        min(_in_common(one, other), len(one) - 1, len(other) - 1)
        for one, other in pairwise(ordered)
    ]
    saved, length, place = max(_candidates(lengths), default=(0, 0, 0))
    return ordered[place][:length] if saved >= LEAST_SAVED else ()


def _in_common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _candidates(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """(tokens saved, length, a place that begins so) of every beginning that cannot be longer.

    `lengths` are what neighbours in sorted order have in common. Prompts of one beginning are
    neighbours, and so many after the first save its length each: the largest rectangle below a row
    of bars, each bar taken off a stack when a shorter one comes.
    """
    found: list[tuple[int, int, int]] = []
    open_bars: list[tuple[int, int]] = []
    for place, length in enumerate([*lengths, 0]):
        start = place
        while open_bars and open_bars[-1][1] >= length:
            start, height = open_bars.pop()
            if height >= LEAST_TOKENS:
                found.append(((place - start) * height, height, -start))
        open_bars.append((start, length))
    return [(saved, height, -start) for saved, height, start in found]
