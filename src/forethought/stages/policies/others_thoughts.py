"""Pairs whose outputs have the thoughts of other prompts: a control for mere length.

If training on these does as well as on the outputs that were sampled, it was not what the thoughts
say that helped. Here alone what is trained is not what was sampled: an output is the thought
tokens of another prompt's output, markers included, and behind them its own response tokens. Which
outputs are chosen and rejected, and every response, are as ever.

Thoughts of chosen outputs go to chosen outputs and those of rejected ones to rejected ones, each
once, to the next longer or shorter one: thoughts as a whole, and nearly each output's length, stay
as they were. An output without a response has nothing but its thought and is another's as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from forethought.stages.policies.sampled_policy import OutputSplitter
from forethought.storage.files import content_hash
from forethought.types import PairSide, ParsedOutput, PreferencePair

Side = Literal["chosen", "rejected"]
SIDES: tuple[Side, ...] = ("chosen", "rejected")


@dataclass(frozen=True, slots=True)
class _Thought:
    """An output's tokens before its response."""

    prompt_id: str
    tokens: np.ndarray
    text: str | None
    """As it is parsed."""
    goes_before: str
    """What of the outputs that it may be put into: how they end, and how their response begins."""


class OthersThoughts:
    """Learns the thoughts of all pairs of an iteration, then gives each those of another prompt.

    Example: `OthersThoughts(splitter, seed=0)`, then `learn(pairs)` and `given_to(pair)` for each
    """

    def __init__(self, splitter: OutputSplitter, seed: int) -> None:
        self._splitter, self._seed = splitter, seed
        self._known: dict[Side, dict[str, _Thought]] = {side: {} for side in SIDES}
        self._other: dict[Side, dict[str, _Thought]] = {}
        self.unchanged = 0
        """Pairs that keep their own thoughts, as no other prompt's fits."""

    def learn(self, pairs: Iterable[PreferencePair]) -> None:
        """Take in what a part of the iteration has to give; one pair of a prompt."""
        for pair in pairs:
            for side in SIDES:
                self._known[side][pair.prompt_id] = self._thought(pair.prompt_id, _of(pair, side))

    def given_to(self, pair: PreferencePair) -> PreferencePair:
        """The pair with other prompts' thoughts on both sides, or as it is."""
        if not self._other:
            self._other = {side: self._dealt(side) for side in SIDES}
        given = {side: self._given(pair.prompt_id, side, _of(pair, side)) for side in SIDES}
        if given["chosen"] is None or given["rejected"] is None:
            self.unchanged += 1
            return pair
        return replace(pair, chosen=given["chosen"], rejected=given["rejected"])

    def _thought(self, prompt_id: str, output: PairSide) -> _Thought:
        parsed, text = self._parsed(output.token_ids)
        before = self._splitter.decode(output.token_ids[: output.response_start])
        # A token may hold the end of the marker and the beginning of the response.
        shared = text[len(before) : parsed.response_offset or 0].strip()
        return _Thought(
            prompt_id=prompt_id,
            tokens=np.asarray(output.token_ids[: output.response_start], dtype=np.int32),
            text=parsed.thought,
            goes_before=f"{parsed.status} {shared}",
        )

    def _dealt(self, side: Side) -> dict[str, _Thought]:
        """Each prompt's other: within neighbours by length, so that none gets its own."""
        alike: dict[str, list[_Thought]] = {}
        for thought in self._known[side].values():
            alike.setdefault(thought.goes_before, []).append(thought)
        found: dict[str, _Thought] = {}
        for thoughts in alike.values():
            thoughts.sort(key=self._place)
            for near in _neighbours(thoughts):
                turned = [*near[1:], near[0]]
                found |= {a.prompt_id: b for a, b in zip(near, turned, strict=True)}
        return found

    def _place(self, thought: _Thought) -> tuple[int, str]:
        return len(thought.tokens), content_hash([self._seed, "thoughts", thought.prompt_id])

    def _given(self, prompt_id: str, side: Side, output: PairSide) -> PairSide | None:
        other = self._other[side].get(prompt_id)
        if other is None:
            return None
        thought = tuple(int(token) for token in other.tokens)
        tokens = thought + output.token_ids[output.response_start :]
        (own, _), (made, _) = self._parsed(output.token_ids), self._parsed(tokens)
        # Of texts that do not come apart where the tokens do nothing is made.
        if made.response != own.response or made.thought != other.text:
            return None
        return replace(output, token_ids=tokens, response_start=len(thought))

    def _parsed(self, token_ids: Sequence[int]) -> tuple[ParsedOutput, str]:
        # How it ended does not matter: only what is before the response is changed.
        text = self._splitter.decode(token_ids)
        return self._splitter.parse(text, "stop"), text


def _neighbours(thoughts: Sequence[_Thought]) -> Iterator[Sequence[_Thought]]:
    """Two at a time, and the last three together where the number is odd; none of one alone."""
    count = len(thoughts)
    for start in range(0, count - 1 - count % 2, 2):
        yield thoughts[start : count if start + 3 == count else start + 2]


def _of(pair: PreferencePair, side: Side) -> PairSide:
    return pair.chosen if side == "chosen" else pair.rejected
