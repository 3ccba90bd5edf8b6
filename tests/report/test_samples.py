"""The sample browser's bounds, and JSON that may stand in a script element."""

import json
from pathlib import Path

import pytest
from example_run import K, write_run

from forethought.report.embed import script_json
from forethought.report.samples import collect_samples, evenly, samples_json


def test_a_small_run_is_embedded_whole(tmp_path: Path):
    recipe = write_run(tmp_path / "run")
    samples = collect_samples(tmp_path / "run", recipe)
    assert samples.shown == samples.total == 2 * 2 * 20 * K + 2 * 3 * 40


def test_the_output_limit_keeps_the_same_prompts_for_both_arms(tmp_path: Path):
    recipe = write_run(tmp_path / "run")
    samples = collect_samples(tmp_path / "run", recipe, output_limit=140)
    assert 100 <= samples.shown <= 140
    assert samples.total == 560
    kept = {
        (group.arm, group.iteration): [
            one.prompt
            for one in samples.groups
            if (one.arm, one.iteration) == (group.arm, group.iteration)
        ]
        for group in samples.groups
        if group.kind == "train"
    }
    assert len(kept) == 4
    assert kept["thought", 0] == kept["direct", 0]
    assert all(len(group.outputs) == K for group in samples.groups if group.kind == "train")


def test_the_byte_limit_holds(tmp_path: Path):
    recipe = write_run(tmp_path / "run")
    samples = collect_samples(tmp_path / "run", recipe, byte_limit=30_000)
    assert 0 < len(samples_json(samples).encode()) <= 30_000
    assert {group.kind for group in samples.groups} == {"train", "test"}


@pytest.mark.parametrize(
    ("count", "expected"), [(0, []), (2, [0, 5]), (3, [0, 3, 6]), (99, [*range(10)])]
)
def test_evenly(count: int, expected: list[int]):
    assert evenly(range(10), count) == expected


def test_script_json_survives_the_script_element():
    value = {"a": "</script><!--\u2028\u2029&", "b": [float("nan"), float("inf"), 1.5], "c": "🎉"}
    text = script_json(value)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"a": value["a"], "b": [None, None, 1.5], "c": "🎉"}
