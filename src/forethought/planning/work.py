"""Operations of a forward pass, by what no implementation avoids.

Two per weight of a matrix and token; four per channel, layer, query and key of causal attention;
the head where a token is predicted. A backward pass does twice the forward's work. The published
rule of 6 operations per weight and token (Kaplan et al. 2020, arXiv 2001.08361) is the same with
attention left out and the embedding counted.
"""

from __future__ import annotations

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
    """So many outputs after one prompt that is read once."""
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
    """Operations of one pass over the tokens."""
    matrices = 2 * shape.layers * shape.layer_matrices * tokens.read
    attention = 4 * shape.layers * shape.heads * shape.head_size * tokens.seen
    return matrices + attention + 2 * shape.head_matrix * tokens.predicted
