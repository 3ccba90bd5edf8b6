"""Judging begins on parts that are written while others are still sampled.

Only where the judge has workers: a thread of this process hands each written part to their pool
and keeps the verdicts (`kept_verdicts.py`). When the last part is sampled it begins no other, waits
for those that are being judged, and leaves the rest to the stage `judgements`. A judge without
workers, and a chat model as judge, are left to that stage altogether; and so is one whose workers
use GPUs while this process itself samples, since Ray knows nothing of what it holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace

from forethought.config import Recipe, VerifierJudge
from forethought.judging.crew import PooledJudge, judge_workers
from forethought.progress import Reporter
from forethought.stages.kept_verdicts import KeptVerdicts, PartVerdicts
from forethought.stages.place import Place
from forethought.stages.shown import RESPONSES, Shown
from forethought.stages.verdict_cache import verdict_cache
from forethought.store import Stage, sha256_file
from forethought.workers.feed import Feed

Written = Callable[[int], None]
"""To be called with the number of each part that is written."""


@contextmanager
def judge_early(rollouts: Stage, place: Place, reporter: Reporter) -> Iterator[Written]:
    """Judge parts of a stage `rollouts` in the background.

    What goes wrong there is said and left to the stage `judgements`, which will say it again.

    Raises: ValueError if the judge's workers can surely not be had.
    """
    workers = judge_workers(place.recipe.judge)
    if workers is None or _may_fill_a_gpu_twice(place.recipe):
        yield lambda index: None
        return
    recipe, judgements = place.recipe, replace(place, stage="judgements")
    with ExitStack() as opened:
        cache = opened.enter_context(verdict_cache(judgements))
        # Here and not in the thread: a cluster of this machine ends with the thread that began it.
        crew = opened.enter_context(PooledJudge(recipe.judge, workers, cache, recipe.launch))
        judging = _Judging(
            crew=crew,
            kept=KeptVerdicts(judgements),
            shown=Shown(
                lambda index: rollouts.read_columns(f"part_{index:05d}", RESPONSES),
                place.prompts("train"),
            ),
            rollouts=rollouts,
        )
        thread = threading.Thread(target=judging.run, name="early judging", daemon=True)
        thread.start()
        try:
            yield judging.take
        except BaseException:
            judging.feed.stop(at_once=True)
            raise
        finally:
            judging.feed.stop()
            thread.join()
            if judging.trouble is not None:
                reporter.say(
                    f"{judgements.label}: not begun while sampling went on: {judging.trouble}"
                )


@dataclass(slots=True, kw_only=True)
class _Judging:
    """What the thread does."""

    crew: PooledJudge
    kept: KeptVerdicts
    shown: Shown
    rollouts: Stage
    feed: Feed = field(default_factory=Feed)
    trouble: Exception | None = None
    hashes: dict[int, str] = field(default_factory=dict)

    def take(self, index: int) -> None:
        """Have a part judged that was not judged in an earlier attempt."""
        self.hashes[index] = sha256_file(self.rollouts.folder / f"part_{index:05d}.parquet")
        if self.kept.find(self.hashes[index]) is None:
            self.feed.put(index)

    def run(self) -> None:
        try:
            # Workers that sample have their room by the time that a part is there.
            self.feed.wait()
            with closing(self.crew.follow(self.feed, self.shown.groups)) as judged:
                for index, verdicts in judged:
                    scored, unjudged = self.shown.records(index, verdicts.answers)
                    said = PartVerdicts(scored=scored, unjudged=unjudged, found=verdicts.found)
                    self.kept.keep(self.hashes[index], said)
        # Nobody would see it in a thread; sampling goes on without.
        except Exception as error:
            self.trouble = error


def _may_fill_a_gpu_twice(recipe: Recipe) -> bool:
    """Whether an engine outside Ray may hold a GPU that Ray would give to the judge."""
    judge, sampling = recipe.judge, recipe.sampling
    workers = judge_workers(judge)
    if workers is None or isinstance(judge, VerifierJudge) or not workers.gpus:
        return False
    match sampling.type:
        case "transformers" | "vllm":
            return sampling.workers is None
        case "openai":
            return sampling.command is not None
        case _:
            return False
