"""Pairs to optimizer batches to microbatches, as pure functions of a seed and of lengths.

An epoch is a seeded permutation cut into batches of `batch_size` pairs; the last batch may be
smaller and is weighted by its own size. A batch is cut into microbatches that fit a token budget.
Pairs are sorted by length before the cut, so that a microbatch holds pairs of near-equal length.
The cut changes memory and speed, never the gradient: losses are summed and divided by the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forethought.types import PreferencePair


def longest_side(pair: PreferencePair) -> int:
    """Tokens of the prompt and the longer output."""
    return len(pair.prompt_token_ids) + max(
        len(pair.chosen.token_ids), len(pair.rejected.token_ids)
    )


def sequence_tokens(pair: PreferencePair) -> int:
    """Tokens of both sequences; the prompt counts in each."""
    outputs = len(pair.chosen.token_ids) + len(pair.rejected.token_ids)
    return 2 * len(pair.prompt_token_ids) + outputs


def packed_tokens(pair: PreferencePair) -> int:
    """Positions a pair takes when its prompt stands once: last tokens predict nothing."""
    outputs = len(pair.chosen.token_ids) + len(pair.rejected.token_ids)
    return len(pair.prompt_token_ids) + outputs - 2


def usable_pairs(
    pairs: Sequence[PreferencePair], max_length: int | None
) -> tuple[list[PreferencePair], int]:
    """Pairs whose sequences fit, in order, and how many do not.

    Raises: ValueError if a prompt id comes twice or a pair has no prompt or an empty output.
    """
    seen: set[str] = set()
    for pair in pairs:
        if pair.prompt_id in seen:
            raise ValueError(
                f"pairs: prompt {pair.prompt_id} comes twice; give one pair per prompt"
            )
        seen.add(pair.prompt_id)
        if not (pair.prompt_token_ids and pair.chosen.token_ids and pair.rejected.token_ids):
            raise ValueError(
                f"pairs: prompt {pair.prompt_id} has an empty prompt or output; leave the pair out"
            )
    if max_length is None:
        return list(pairs), 0
    kept = [pair for pair in pairs if longest_side(pair) <= max_length]
    return kept, len(pairs) - len(kept)


def steps_per_epoch(pairs: int, batch_size: int) -> int:
    """Optimizer steps of an epoch, the last of which may be smaller."""
    return -(-pairs // batch_size)


def epoch_batches(count: int, batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Pair indices of each optimizer step of an epoch (counted from 1)."""
    order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count).tolist()
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


def microbatches(pairs: Sequence[PreferencePair], token_budget: int) -> list[list[PreferencePair]]:
    """Cut a batch into groups of near-equal length within the budget, longest first.

    A pair over the budget stands alone: the budget bounds groups, it never drops data.
    """
    return [groups[0] for groups in rounds(pairs, token_budget, 1)]


def rounds(
    pairs: Sequence[PreferencePair], token_budget: int, ranks: int
) -> list[list[list[PreferencePair]]]:
    """Cut a batch into rounds of one microbatch per process: `[round][rank]` is a list of pairs.

    The longest pair goes next, to the process with the least tokens; a round ends when it does not
    fit there, so processes wait for each other as little as possible. In the last round a process
    may have no pair.
    """
    found: list[list[list[PreferencePair]]] = []
    loads: list[int] = []
    for pair in sorted(pairs, key=lambda pair: (-packed_tokens(pair), pair.prompt_id)):
        tokens = packed_tokens(pair)
        if not found or 0 < min(loads) > token_budget - tokens:
            found.append([[] for _ in range(ranks)])
            loads = [0] * ranks
        rank = loads.index(min(loads))
        found[-1][rank].append(pair)
        loads[rank] += tokens
    return found


def shortest_pair(pairs: Sequence[PreferencePair]) -> PreferencePair:
    """What a process without a pair of its own runs, with weight 0, while the others work."""
    return min(pairs, key=packed_tokens)
