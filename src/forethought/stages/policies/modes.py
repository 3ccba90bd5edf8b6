"""Samples of both modes, with thought and without, for the hybrid arm.

A mode is forced at the opening of an output: the tokens of the thought marker are put there, or
the last of them may not be drawn behind the others. So prompt, instruction and policy are the same
in both modes. The free samples of a prompt come first, then those made to think, then those kept
from it: which they are is a function of their index, so that no record has to say it. Of AdaptThink
(arXiv 2505.13417) are the equal shares at the beginning, and that no mode may die out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from forethought.models import loading, rendering
from forethought.runs.layout import WARM_START, StageRef
from forethought.thoughts import ThoughtFormat
from forethought.types import Rollout, SampleRequest, Unsampled


@dataclass(frozen=True, slots=True, kw_only=True)
class Modes:
    """How a prompt's samples are made to think, or kept from it.

    Example: `Modes(free=4, forced=2, openings=((766,),))`
    """

    free: int
    """Samples of which the policy decides."""
    forced: int
    """Samples in each of the two modes."""
    openings: tuple[tuple[int, ...], ...]
    """Tokens of each spelling of the thought marker; the first one is put where one must think."""

    def requests(self, request: SampleRequest) -> list[SampleRequest]:
        """The request of all samples as one for each way of drawing them, in their order."""
        thinking, direct = self.free, self.free + self.forced
        seeds = request.seeds
        ways = [
            replace(request, seeds=seeds[:thinking]),
            replace(request, seeds=seeds[thinking:direct], opening_ids=self.openings[0]),
            replace(request, seeds=seeds[direct:], never_opens_with=self.openings),
        ]
        return [way for way in ways if way.seeds]

    @property
    def decides(self) -> bool:
        """Whether the policy decides of some sample."""
        return self.free > 0

    @property
    def ways(self) -> int:
        """How many requests `requests` gives."""
        return (self.free > 0) + 2 * (self.forced > 0)

    def joined(self, drawn: Sequence[list[Rollout] | Unsampled]) -> list[list[Rollout] | Unsampled]:
        """What was made of the requests, prompt by prompt, as of one request each."""
        found: list[list[Rollout] | Unsampled] = []
        for start in range(0, len(drawn), self.ways):
            ways = drawn[start : start + self.ways]
            missing = next((way for way in ways if isinstance(way, Unsampled)), None)
            every = chain.from_iterable(way for way in ways if not isinstance(way, Unsampled))
            rollouts = [replace(each, sample_index=index) for index, each in enumerate(every)]
            found.append(rollouts if missing is None else missing)
        return found

    def forced_places(self, rollout: Rollout) -> tuple[int, ...]:
        """Places in the output's tokens at which the policy was not free to draw."""
        ids = rollout.completion.token_ids
        if rollout.sample_index < self.free:
            return ()
        if rollout.sample_index < self.free + self.forced:
            return tuple(range(len(self.openings[0])))
        barred = {
            len(opening) - 1
            for opening in self.openings
            if len(ids) >= len(opening) and ids[: len(opening) - 1] == opening[:-1]
        }
        return tuple(sorted(barred))


def modes_of(ref: StageRef, thought_format: ThoughtFormat | None = None) -> Modes | None:
    """How the stage's iteration draws its samples; `None` for arms that have one mode.

    The warm start draws half of them in each mode, in the format given.

    Raises: ValueError if the tokenizer cannot be loaded.
    """
    if ref.arm != "hybrid":
        return None
    recipe = ref.recipe
    samples, forced = recipe.sampling.samples, 0
    if ref.index == WARM_START:
        assert recipe.warm_start is not None
        samples = recipe.warm_start.samples
        forced = samples // 2
    else:
        forced = recipe.hybrid.forced(ref.index, samples)
    own = thought_format or ref.thought_format
    tokenizer = loading.load_tokenizer(ref.policy.source)
    openings = [
        tuple(rendering.encode_output(tokenizer, marker, own.markers))
        for marker in own.thought_starts_after
    ]
    return Modes(free=samples - 2 * forced, forced=forced, openings=tuple(dict.fromkeys(openings)))
