"""A microbatch as one packed row of tokens, without padding and without repeated prompts.

Chosen and rejected share their prompt, so it stands in the packed row once: all parts of the model
that look at one token at a time (embedding, norms, projections, MLP, head) do its work once. The
last token of an output predicts nothing and is left out. Attention sees *rows*: a row names the
packed positions of prompt + output, so a shared prompt is named by two rows and its gradient is
their sum. Attention computes prompt queries twice, which costs what unshared prompts would cost;
sharing therefore always pays where packing is supported, and there is no switch for it. An example
is one such row with a prompt of its own.

Shapes: B pairs, N packed positions, M predicted tokens, S sequences: of pairs 2B (chosen, then
rejected), of examples one each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from forethought.types import PairSide, PreferencePair, TrainingExample


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRows:
    """A microbatch, ready for `PolicyLogprobs`.

    Example: prompt `(5, 6)`, chosen `(7, 8)`, rejected `(9,)` is `ids_N = [5, 6, 7]`,
    `positions_N = [0, 1, 2]`, `rows_S = ([0, 1, 2], [0, 1])`, `targets_M = [7, 8, 9]` predicted at
    `predictors_M = [1, 2, 1]`, `tokens_S = [2, 1]`.
    """

    ids_N: torch.Tensor
    positions_N: torch.Tensor
    """Place of each token in its own sequence."""
    rows_S: tuple[np.ndarray, ...]
    """Packed positions of each sequence, its last token left out."""
    shared: int
    """The first so many packed positions are in two rows, all others in one."""
    predictors_M: torch.Tensor
    """Packed position whose hidden state predicts each target."""
    targets_M: torch.Tensor
    tokens_S: torch.Tensor
    """Output tokens of each sequence; sums to M."""
    response_M: torch.Tensor
    """1 for tokens of the response, 0 for tokens before it."""
    forced_M: torch.Tensor | None = None
    """Whether the policy was not free to draw a token, whose log-prob then counts nowhere; `None`
    where it always was."""

    @property
    def counted(self) -> torch.Tensor:
        """Output tokens of each sequence whose log-probs count, `[S]`."""
        if self.forced_M is None:
            return self.tokens_S
        forced_S = torch.segment_reduce(self.forced_M.double(), "sum", lengths=self.tokens_S)
        return self.tokens_S - forced_S.to(self.tokens_S.dtype)

    def to(self, device: torch.device) -> PackedRows:
        """The same with its tensors on a device; `rows_S` stay where they are."""
        return PackedRows(
            ids_N=self.ids_N.to(device),
            positions_N=self.positions_N.to(device),
            rows_S=self.rows_S,
            shared=self.shared,
            predictors_M=self.predictors_M.to(device),
            targets_M=self.targets_M.to(device),
            tokens_S=self.tokens_S.to(device),
            response_M=self.response_M.to(device),
            forced_M=None if self.forced_M is None else self.forced_M.to(device),
        )


def pack(pairs: Sequence[PreferencePair], *, share_prompts: bool = True) -> PackedRows:
    """Lay out `[prompts | chosen outputs | rejected outputs]`.

    `share_prompts=False` repeats the prompts of the rejected outputs: the plain form that tests
    compare with.
    """
    sides = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    prompts = [pair.prompt_token_ids for pair in pairs]
    forced = [pair.chosen_forced for pair in pairs] + [pair.rejected_forced for pair in pairs]
    if share_prompts:
        return _packed(prompts, list(range(len(pairs))) * 2, sides, forced, shared=True)
    return _packed(prompts * 2, list(range(2 * len(pairs))), sides, forced, shared=False)


def pack_examples(examples: Sequence[TrainingExample]) -> PackedRows:
    """Lay out `[prompts | outputs]`, each output after a prompt of its own."""
    prompts = [example.prompt_token_ids for example in examples]
    return _packed(prompts, list(range(len(examples))), examples, [()], shared=False)


def _packed(
    prompts: Sequence[tuple[int, ...]],
    owners: Sequence[int],
    sides: Sequence[PairSide] | Sequence[TrainingExample],
    forced: Sequence[tuple[int, ...]],
    *,
    shared: bool,
) -> PackedRows:
    """`owners` has the index of each output's prompt, `forced` places in each output."""
    outputs = [side.token_ids[:-1] for side in sides]

    # Prompts come first, so that what two rows share is a slice from 0 (`shared`).
    pieces = [*prompts, *outputs]
    starts = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
    spans = [np.arange(start, stop) for start, stop in pairwise(starts)]
    rows = [
        np.concatenate([spans[owner], spans[len(prompts) + i]]) for i, owner in enumerate(owners)
    ]
    positions = [np.arange(len(prompt)) for prompt in prompts]
    positions += [
        len(prompts[owner]) + np.arange(len(output))
        for owner, output in zip(owners, outputs, strict=True)
    ]
    # A row ends before its last token, and a token is predicted one position before it stands: the
    # first of an output at the last of the prompt.
    predictors = [
        row[len(row) - len(side.token_ids) :] for row, side in zip(rows, sides, strict=True)
    ]
    return PackedRows(
        ids_N=_integers([token for piece in pieces for token in piece]),
        positions_N=_integers(np.concatenate(positions)),
        rows_S=tuple(rows),
        shared=int(starts[len(prompts)]) if shared else 0,
        predictors_M=_integers(np.concatenate(predictors)),
        targets_M=_integers([token for side in sides for token in side.token_ids]),
        tokens_S=_integers([len(side.token_ids) for side in sides]),
        response_M=torch.from_numpy(np.concatenate([_response_mask(side) for side in sides])),
        forced_M=_forced(sides, forced) if any(forced) else None,
    )


def _forced(
    sides: Sequence[PairSide] | Sequence[TrainingExample], forced: Sequence[tuple[int, ...]]
) -> torch.Tensor:
    return torch.tensor(
        [
            place in places
            for side, places in zip(sides, forced, strict=True)
            for place in range(len(side.token_ids))
        ]
    )


def _response_mask(side: PairSide | TrainingExample) -> np.ndarray:
    return (np.arange(len(side.token_ids)) >= side.response_start).astype(np.float32)


def _integers(values: Sequence[int] | np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.int64))
