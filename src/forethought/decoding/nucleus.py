"""Draw tokens: exact nucleus sampling without a sort, seeded per sample.

Shapes: R rows (samples), V tokens of the vocabulary.

A draw of step t is a function of (the sample's seed, t, attempt) and of the row's logits alone, so
it does not matter which rows share a batch. The nucleus needs no sort: draw from the whole
softmax, accept if all strictly likelier tokens together have less mass than top-p, else draw
again. What is accepted has exactly the distribution of the truncated softmax. Rows that are never
accepted (a small top-p on a flat distribution) are drawn from a sorted row instead.

Among equally likely tokens at the nucleus' border all are in; an implementation that cuts a sorted
list keeps some of them, by the accident of their order.
"""

from __future__ import annotations

import torch
from torch import Tensor

ATTEMPTS = 8
"""Draws before a row is sorted; each fails with a probability of at most 1 - top_p."""
GREEDY_BELOW = 1e-6
"""Dividing by a smaller temperature overflows, and its softmax is one-hot anyway."""
UNDRAWN = -1
"""In place of a token, for a row of logits that has no distribution."""

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


class LogitsNotFiniteError(ArithmeticError):
    """A row of logits has no distribution."""


def keys(seeds_R: Tensor) -> Tensor:
    """Spread int64 seeds over 64 bits, so that seeds in a row give unrelated draws; int64, [R]."""
    return _mix(seeds_R + _GOLDEN)


def uniforms(keys_R: Tensor, steps_R: Tensor, attempt: int) -> Tensor:
    """Give a float64 in [0, 1) for every (key, step, attempt): splitmix64 at that counter, [R]."""
    # So many counters a step, the last for the sorted draw: no two draws of a key share one.
    counter_R = steps_R * (ATTEMPTS + 1) + (attempt + 1)
    bits_R = _shift_right(_mix(keys_R + counter_R * _GOLDEN), 11)
    return bits_R.to(torch.float64) * 2.0**-53


def draw(
    logits_RV: Tensor, keys_R: Tensor, steps_R: Tensor, *, temperature: float, top_p: float
) -> Tensor:
    """Draw one token id per row, [R], all with the same parameters.

    Raises: LogitsNotFiniteError if a row has NaN, +infinity or nothing but -infinity.
    """
    if temperature < GREEDY_BELOW:
        best = logits_RV.max(-1)
        _check_finite(best.values)
        return best.indices
    top_p_R1 = torch.full((len(logits_RV), 1), top_p, dtype=torch.float64, device=keys_R.device)
    return _draw(logits_RV, keys_R, steps_R, temperature, top_p_R1)


def draw_each(
    logits_RV: Tensor,
    keys_R: Tensor,
    steps_R: Tensor,
    *,
    temperatures_R: Tensor,
    top_ps_R: Tensor,
) -> Tensor:
    """Draw one token id per row, [R], each with its own parameters.

    `temperatures_R` are float32 and `top_ps_R` float64. A row's token is that of `draw`, and
    `UNDRAWN` where the row has no distribution: it may not spoil the others.
    """
    best = logits_RV.max(-1)
    broken_R = ~best.values.isfinite()
    greedy_R = temperatures_R < GREEDY_BELOW
    temperatures_R1 = temperatures_R.masked_fill(greedy_R, 1)[:, None]
    # `_draw` raises for a row without a distribution: a flat one stands in, whose draw is dropped.
    usable_RV = logits_RV.masked_fill(broken_R[:, None], 0)
    drawn_R = _draw(usable_RV, keys_R, steps_R, temperatures_R1, top_ps_R[:, None])
    return best.indices.where(greedy_R, drawn_R).masked_fill(broken_R, UNDRAWN)


def _draw(
    logits_RV: Tensor,
    keys_R: Tensor,
    steps_R: Tensor,
    temperature: float | Tensor,
    top_p_R1: Tensor,
) -> Tensor:
    """Draw from the whole softmax until all rows were accepted; sort those that never are."""
    # One copy in float32, divided in place: at a large vocabulary these tensors fill the memory.
    probs_RV = logits_RV.to(torch.float32, copy=True).div_(temperature).softmax(-1)
    cdf_RV = probs_RV.cumsum(-1)
    _check_finite(cdf_RV[:, -1])
    tokens_R, inside_R = _attempt(probs_RV, cdf_RV, uniforms(keys_R, steps_R, 0), top_p_R1)
    # Most rows are accepted at once, and the next attempts are for the others alone: an attempt has
    # the same uniform whichever rows take part.
    pending = inside_R.logical_not().nonzero().squeeze(-1)
    for attempt in range(1, ATTEMPTS):
        if not len(pending):
            return tokens_R
        u = uniforms(keys_R[pending], steps_R[pending], attempt)
        drawn, inside = _attempt(probs_RV[pending], cdf_RV[pending], u, top_p_R1[pending])
        tokens_R[pending] = drawn
        pending = pending[~inside]
    if len(pending):
        u = uniforms(keys_R[pending], steps_R[pending], ATTEMPTS)
        tokens_R[pending] = draw_sorted(probs_RV[pending], u, top_p_R1[pending])
    return tokens_R


def draw_sorted(probs_RV: Tensor, uniforms_R: Tensor, top_p: float | Tensor) -> Tensor:
    """Draw from the same distribution by sorting, [R]; `draw` is tested against it.

    `top_p` is one number or [R, 1].
    """
    sorted_RV, order_RV = probs_RV.double().sort(-1, descending=True)
    likelier_RV = sorted_RV.cumsum(-1) - sorted_RV
    first_RV = torch.ones_like(sorted_RV, dtype=torch.bool)
    first_RV[:, 1:] = sorted_RV[:, 1:] < sorted_RV[:, :-1]
    # Ties share the mass in front of the first of them.
    strictly_RV = likelier_RV.where(first_RV, 0).cummax(-1).values
    # At 1 all are in: rounded sums reach 1 before the least likely ones.
    cdf_RV = sorted_RV.where((strictly_RV < top_p) | (top_p >= 1), 0).cumsum(-1)
    return order_RV.gather(-1, _invert(cdf_RV, uniforms_R)).squeeze(-1)


def _attempt(
    probs_RV: Tensor, cdf_RV: Tensor, uniforms_R: Tensor, top_p_R1: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw from the whole softmax, [R], and say whether it lies in the nucleus, [R]."""
    tokens_R1 = _invert(cdf_RV, uniforms_R)
    tokens_R = tokens_R1.squeeze(-1)
    mass_R1 = probs_RV.gather(-1, tokens_R1)
    # What is likelier than a token of mass m has at most 1 - m, so most rows need no sum over the
    # vocabulary. The margin covers float32 sums.
    inside_R = ((mass_R1 > 1 - top_p_R1 + 1e-4) | (top_p_R1 >= 1)).squeeze(-1)
    unsure = inside_R.logical_not().nonzero().squeeze(-1)
    if len(unsure):
        rows_UV = probs_RV[unsure]
        likelier_U1 = rows_UV.where(rows_UV > mass_R1[unsure], 0).sum(-1, keepdim=True)
        inside_R[unsure] = (likelier_U1 < top_p_R1[unsure]).squeeze(-1)
    return tokens_R, inside_R


def _invert(cdf_RV: Tensor, uniforms_R: Tensor) -> Tensor:
    """Index of the first entry beyond the uniform's share of the total, [R, 1]."""
    totals_R = cdf_RV[:, -1]
    targets_R = (uniforms_R * totals_R).to(cdf_RV.dtype)
    # Rounding may not carry a target to the very end, behind the last token that has mass.
    targets_R = targets_R.minimum(totals_R.nextafter(torch.zeros_like(totals_R)))
    # `right` passes over tokens without mass, also where the target is 0.
    return torch.searchsorted(cdf_RV, targets_R.unsqueeze(-1), right=True)


def _check_finite(values: Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise LogitsNotFiniteError


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser; int64 products wrap, which is what it asks for."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """A logical shift; torch's own copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
