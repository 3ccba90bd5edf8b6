"""Operations of a forward pass, by what no implementation avoids.

Two per weight of a matrix and token; four per channel, layer, query and key of causal attention;
the head where a token is predicted. A backward pass does twice the forward's work. The published
rule of 6 operations per weight and token (Kaplan et al. 2020, arXiv 2001.08361) is the same with
attention left out and the embedding counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from forethought.planning.lengths import SPREAD
from forethought.planning.model_shape import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What a forward pass is given.

    Example: eight outputs of 700 tokens after one prompt of 250 are
    `Tokens(read=5850, seen=3396575.0, predicted=5600)`
    """

    read: float
    """Positions that go through the layers."""
    seen: float
    """Pairs of a query and a key that it may see."""
    predicted: float
    """Positions at which the head is applied."""

    def __mul__(self, times: float) -> Tokens:
        return Tokens(
            read=self.read * times, seen=self.seen * times, predicted=self.predicted * times
        )


def outputs_after(prompt: float, output: float, outputs: float, *, predicted: bool) -> Tokens:
    """The forward pass of so many outputs after one prompt that is read once.

    Lengths are mean tokens; `SPREAD` turns the square of an output's mean into the mean square.
    """
    own = SPREAD * output**2 / 2
    return Tokens(
        read=prompt + outputs * output,
        seen=prompt**2 / 2 + outputs * (prompt * output + own),
        predicted=outputs * output if predicted else 0,
    )


def pair(prompt: float, output: float) -> Tokens:
    """A packed pair: attention reads the prompt for each side, the rest of the model once."""
    tokens = outputs_after(prompt, output, 2, predicted=True)
    return Tokens(read=tokens.read, seen=tokens.seen + prompt**2 / 2, predicted=tokens.predicted)


def forward_flops(shape: ModelShape, tokens: Tokens) -> float:
    """Floating-point operations of one forward pass over the tokens."""
    matrices = 2 * shape.layers * shape.layer_matrices * tokens.read
    attention = 4 * shape.layers * shape.heads * shape.head_size * tokens.seen
    return matrices + attention + 2 * shape.head_matrix * tokens.predicted


def rounds_of(prompts: float, part: float, workers: int) -> tuple[int, float, float]:
    """How many full parts, of how many prompts, the busiest worker does, and its last part.

    Parts are done whole, as many at a time as there are workers.

    Example: 1,500 prompts in parts of 512 are three; of two workers one does 512 and 476 of them:
    `rounds_of(1500, 512, 2) == (1, 512, 476)`
    """
    part = min(part, prompts)
    if part <= 0:
        return 0, 0.0, 0.0
    count = math.ceil(prompts / part)
    rounds = math.ceil(count / workers)
    # What is left over is a shorter part; it counts where it is a round of its own.
    alone = (rounds - 1) * workers == count - 1
    return rounds - 1, part, prompts - (count - 1) * part if alone else part


def longest_share(prompts: float, part: float, workers: int) -> float:
    """Number of prompts that the busiest worker does."""
    full, part, last = rounds_of(prompts, part, workers)
    return full * part + last
