"""Conversations of several prompts laid out as one row of tokens, common beginnings written once.

The K responses of a prompt are judged after the same conversation, so K - 1 of K readings of it can
be saved. A group's conversations are packed as their longest common beginning, then one tail each;
there is no padding. Spans say which keys a token may see; llama.py reads them.

Shapes: N packed tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forethought.judging.scoring.conversation_tokens import TokenIds


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Conversations with a common beginning.

    Example: `(5, 6, 7)` and `(5, 6, 8, 9)` are `Shared(beginning=(5, 6), tails=((7,), (8, 9)))`
    """

    beginning: TokenIds
    tails: tuple[TokenIds, ...]
    """What follows in each conversation, at least one token."""

    @property
    def tokens(self) -> int:
        """Packed tokens."""
        return len(self.beginning) + sum(map(len, self.tails))

    @property
    def conversations(self) -> list[TokenIds]:
        """The conversations themselves."""
        return [self.beginning + tail for tail in self.tails]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Packed positions `first` to `stop` as queries, and the keys that they may see.

    Their keys are the beginning's, `beginning[0]` to `beginning[1]`, then `own` to `stop`.
    """

    first: int
    stop: int
    beginning: tuple[int, int]
    own: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedConversations:
    """Conversations of several groups, ready for `encode`.

    Example: `Shared(beginning=(5, 6), tails=((7,), (8, 9)))` is `ids_N = [5, 6, 7, 8, 9]` at
    `positions_N = [0, 1, 2, 2, 3]`.
    """

    ids_N: Tensor
    positions_N: Tensor
    """Place of each token in its own conversation."""
    spans: tuple[Span, ...]
    """Beginnings and tails, in packed order."""
    tails: tuple[Span, ...]
    """Of each conversation its tail."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each conversation."""
        return [t.beginning[1] - t.beginning[0] + t.stop - t.own for t in self.tails]

    def at(self, conversation: int, position: int) -> Span:
        """One token of a conversation, as a span to want of `encode`."""
        tail = self.tails[conversation]
        start, stop = tail.beginning
        if position < stop - start:
            place = start + position
            return Span(first=place, stop=place + 1, beginning=(0, 0), own=start)
        place = tail.own + position - (stop - start)
        assert place < tail.stop, (conversation, position)
        return Span(first=place, stop=place + 1, beginning=tail.beginning, own=tail.own)


def share(conversations: Sequence[TokenIds]) -> Shared:
    """Split different conversations after their longest common beginning.

    The last token of the shortest stays in its tail, so that each has a last token of its own.
    """
    # What the first and the last in lexical order have in common, all between them have too.
    low, high = min(conversations), max(conversations)
    most = min(map(len, conversations)) - 1
    common = next((i for i in range(most) if low[i] != high[i]), most)
    tails = tuple(ids[common:] for ids in conversations)
    return Shared(beginning=low[:common], tails=tails)


def batches(groups: Sequence[Shared], budget: int) -> Iterator[list[Shared]]:
    """Groups of at most `budget` packed tokens together; a larger group is divided.

    A conversation beyond the budget comes alone. The largest groups come first, so that running
    out of memory shows at once.
    """
    pieces = [piece for group in groups for piece in _divided(group, budget)]
    batch: list[Shared] = []
    tokens = 0
    for piece in sorted(pieces, key=lambda group: group.tokens, reverse=True):
        if batch and tokens + piece.tokens > budget:
            yield batch
            batch, tokens = [], 0
        batch.append(piece)
        tokens += piece.tokens
    if batch:
        yield batch


def _divided(group: Shared, budget: int) -> Iterator[Shared]:
    tails: list[TokenIds] = []
    tokens = len(group.beginning)
    for tail in group.tails:
        if tails and tokens + len(tail) > budget:
            yield Shared(beginning=group.beginning, tails=tuple(tails))
            tails, tokens = [], len(group.beginning)
        tails.append(tail)
        tokens += len(tail)
    yield Shared(beginning=group.beginning, tails=tuple(tails))


def pack(groups: Sequence[Shared], device: torch.device) -> PackedConversations:
    """Lay out `[beginning | tail | tail | …]` of each group in turn.

    Positions go on from the beginning's end in each of its tails, as in a conversation alone.
    """
    ids: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    tails: list[Span] = []

    def add(tokens: TokenIds, beginning: tuple[int, int]) -> Span:
        start, before = len(ids), beginning[1] - beginning[0]
        ids.extend(tokens)
        positions.extend(range(before, before + len(tokens)))
        return Span(first=start, stop=len(ids), beginning=beginning, own=start)

    for group in groups:
        beginning = add(group.beginning, (0, 0))
        if group.beginning:
            spans.append(beginning)
        of_group = [add(tail, (beginning.first, beginning.stop)) for tail in group.tails]
        spans += of_group
        tails += of_group
    return PackedConversations(
        ids_N=torch.tensor(ids, device=device),
        positions_N=torch.tensor(positions, device=device),
        spans=tuple(spans),
        tails=tuple(tails),
    )
