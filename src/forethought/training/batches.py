"""Pairs or examples to optimizer batches to microbatches: functions of a seed and of lengths.

An epoch is a seeded permutation cut into batches of `batch_size` of them; the last batch may be
smaller and is weighted by its own size. A batch is cut into microbatches that fit a token budget.
They are sorted by length before the cut, so that a microbatch holds some of near-equal length.
The cut changes memory and speed, never the gradient: losses are summed and divided by the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from forethought.types import PreferencePair, TrainingExample

Trained = TypeVar("Trained", PreferencePair, TrainingExample)


def longest_side(trained: PreferencePair | TrainingExample) -> int:
    """Tokens of the prompt and the longest output."""
    return len(trained.prompt_token_ids) + max(map(len, trained.outputs))


def sequence_tokens(trained: PreferencePair | TrainingExample) -> int:
    """Tokens of all sequences; the prompt counts in each."""
    outputs = trained.outputs
    return len(outputs) * len(trained.prompt_token_ids) + sum(map(len, outputs))


def packed_tokens(trained: PreferencePair | TrainingExample) -> int:
    """Positions taken when the prompt stands once: last tokens predict nothing."""
    outputs = trained.outputs
    return len(trained.prompt_token_ids) + sum(map(len, outputs)) - len(outputs)


def short_enough(
    examples: Sequence[TrainingExample], max_length: int | None
) -> list[TrainingExample]:
    """Examples whose sequences fit, in order."""
    return [each for each in examples if max_length is None or longest_side(each) <= max_length]


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
    """Indices of each optimizer step of an epoch (counted from 1)."""
    order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count).tolist()
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


def microbatches(trained: Sequence[Trained], token_budget: int) -> list[list[Trained]]:
    """Cut a batch into groups of near-equal length within the budget, longest first.

    What is over the budget stands alone: the budget bounds groups, it never drops data.
    """
    return [groups[0] for groups in rounds(trained, token_budget, 1)]


def rounds(trained: Sequence[Trained], token_budget: int, ranks: int) -> list[list[list[Trained]]]:
    """Cut a batch into rounds of one microbatch per process: `[round][rank]` is a list of them.

    The longest goes next, to the process with the least tokens; a round ends when it does not fit
    there, so processes wait for each other as little as possible. In the last round a process may
    have nothing.
    """
    found: list[list[list[Trained]]] = []
    loads: list[int] = []
    for each in sorted(trained, key=lambda each: (-packed_tokens(each), each.prompt_id)):
        tokens = packed_tokens(each)
        if not found or 0 < min(loads) > token_budget - tokens:
            found.append([[] for _ in range(ranks)])
            loads = [0] * ranks
        rank = loads.index(min(loads))
        found[-1][rank].append(each)
        loads[rank] += tokens
    return found


def shortest(trained: Sequence[Trained]) -> Trained:
    """What a process without work of its own runs, with weight 0, while the others work."""
    return min(trained, key=packed_tokens)
