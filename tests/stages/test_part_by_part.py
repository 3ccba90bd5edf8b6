"""Stages that read an iteration part by part: the whole's results, a part at a time in memory."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from small_run import small_recipe, unseal
from whole_pairs import build_pairs

from forethought.config import Recipe
from forethought.pairs import LengthSums, pair_counts
from forethought.pipeline.launch import launch
from forethought.progress.reporter import Reporter, Task
from forethought.runs.layout import StageRef
from forethought.storage.open_stage import ROW_GROUP, Stage
from forethought.storage.sealed_stage import StageError, read_manifest, read_records
from forethought.types import PairDecision, PreferencePair, Rollout, ScoredGroup, Unjudged

PARTS, PART, SAMPLES = 5, 5, 4
"""24 prompts."""


class Watching(Reporter):
    """Counts the rollouts in memory whenever a part is done."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.held: list[int] = []

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Task]:
        with super().task(label, total, unit) as task:
            advance = task.advance

            def watched(count: int = 1, *, tokens: int = 0, note: str | None = None) -> None:
                self.held.append(sum(type(one) is Rollout for one in gc.get_objects()))
                advance(count, tokens=tokens, note=note)

            task.advance = watched  # type: ignore[method-assign]
            yield task


def ref(recipe: Recipe, stage: str) -> StageRef:
    return StageRef(recipe=recipe, stage=stage, arm="thought", index=0)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    """An iteration up to its judgements, with outputs that have no response and a small quota."""
    recipe = small_recipe(
        tmp_path_factory.mktemp("parts") / "run",
        "iterations=1",
        f"sampling.part_size={PART}",
        "sampling.temperature=1.3",
        "sampling.max_new_tokens=32",
        "pairs={rho: 0.2, max_unparsable: 0.25}",
    )
    for stage in ("prompts", "rollouts", "judgements"):
        launch(ref(recipe, stage), Reporter(Console(quiet=True)))
    return recipe


def test_pairs_are_those_of_the_whole_iteration(recipe):
    watching = Watching()
    pairs = ref(recipe, "pairs")
    launch(pairs, watching)
    assert len(watching.held) == PARTS
    assert max(watching.held) <= PART * SAMPLES

    rollouts: dict[str, list[Rollout]] = {}
    for record in read_records(pairs.beside("rollouts"), Rollout):
        rollouts.setdefault(record.prompt_id, []).append(record)
    groups = read_records(pairs.beside("judgements"), ScoredGroup, "scored")
    scored = {group.prompt_id: group for group in groups}
    expected, decisions = build_pairs(rollouts, scored, recipe.pairs, seed=recipe.seed)
    assert {"judged", "unparsable", "unparsable_quota"} <= {
        decision.outcome for decision in decisions
    }
    assert read_records(pairs.folder, PreferencePair, "pairs") == expected
    assert read_records(pairs.folder, PairDecision, "decisions") == decisions
    sums = LengthSums()
    sums.add(expected)
    counts = {"pairs": len(expected), **pair_counts(decisions), **sums.summary()}
    assert read_manifest(pairs.folder).counts == counts
    assert not (pairs.folder / "scratch").exists()


def test_a_resumed_stage_counts_the_parts_that_are_there(recipe):
    rollouts = ref(recipe, "rollouts")
    before = unseal(rollouts.folder)
    (rollouts.folder / "part_00001.parquet").unlink()
    watching = Watching()
    launch(rollouts, watching)
    again = read_manifest(rollouts.folder)
    assert (again.digest, again.counts) == (before.digest, before.counts)
    assert max(watching.held) <= PART * SAMPLES


def open_stage(folder: Path) -> Stage:
    return Stage(folder, name="test", version=1, config={})


@pytest.mark.parametrize("count", [0, 1, 300, ROW_GROUP - 1, 2 * ROW_GROUP + 7])
def test_pieces_have_the_rows_of_the_whole_and_its_bytes_up_to_a_group(tmp_path, count):
    rows = [Unjudged(prompt_id=f"{i:x}", judge="j", reason="r" * (i % 5)) for i in range(count)]
    stage = open_stage(tmp_path)
    stage.write_records("whole", rows, Unjudged)
    stage.write_pieces("pieces", (rows[i : i + 100] for i in range(0, count, 100)), Unjudged)
    assert stage.read_records("pieces", Unjudged) == rows
    files = [tmp_path / f"{name}.parquet" for name in ("whole", "pieces")]
    groups = pq.read_metadata(files[1]).num_row_groups
    assert (groups == 1) == (count < ROW_GROUP)
    if groups == 1:
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_piece_that_cannot_be_made_leaves_nothing(tmp_path):
    def pieces():
        yield [Unjudged(prompt_id="a", judge="j", reason="r")]
        raise StageError("a part is damaged")

    with pytest.raises(StageError, match="damaged"):
        open_stage(tmp_path).write_pieces("pieces", pieces(), Unjudged)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["intent.json", "written.jsonl"]
