"""Where stages stand in a run directory, and in which order they are run."""

from pathlib import Path

import pytest
from small_run import small_recipe

from forethought.runs.layout import ITERATION_STAGES, StageRef
from forethought.runs.schedule import sealed_measures, stage_refs
from forethought.storage.open_stage import Stage


@pytest.mark.parametrize(
    ("stage", "index", "name"),
    [
        ("prompts", 0, "prompts"),
        ("pairs", 3, "direct/iteration_3/pairs"),
        ("evaluation", 0, "evaluation/direct/policy_0"),
        ("gsm8k", 12, "measures/gsm8k/direct/policy_12"),
    ],
)
def test_each_stage_has_its_folder(tmp_path: Path, stage: str, index: int, name: str):
    recipe = small_recipe(tmp_path / "run")
    ref = StageRef(recipe=recipe, stage=stage, arm="direct", index=index)
    assert ref.name == name
    assert ref.folder == tmp_path / "run" / name


def test_a_policy_stands_where_it_was_chosen(tmp_path: Path):
    recipe = small_recipe(tmp_path / "run")
    seed, first = (
        StageRef(recipe=recipe, stage="rollouts", arm="thought", index=index) for index in (0, 1)
    )
    assert seed.policy_stage is None
    assert seed.policy.path == recipe.model.path
    assert first.policy_stage == recipe.run / "thought/iteration_0/selection"
    assert first.policy.path == str(recipe.run / "thought/iteration_0/selection/policy")


def test_a_stage_is_begun_then_sealed(tmp_path: Path):
    recipe = small_recipe(tmp_path / "run")
    ref = StageRef(recipe=recipe, stage="probe", arm="thought", index=1)
    assert (ref.begun, ref.sealed) == (False, False)
    stage = Stage(ref.folder, name=ref.stage, version=1, config={})
    assert (ref.begun, ref.sealed) == (True, False)
    assert sealed_measures(recipe) == []
    stage.seal({})
    assert (ref.begun, ref.sealed) == (True, True)
    assert sealed_measures(recipe) == [ref]


def test_both_arms_go_side_by_side_and_are_measured_between(tmp_path: Path):
    recipe = small_recipe(
        tmp_path / "run", "iterations=2", "measures.probe={prompts: 2, after: every}"
    )
    names = [ref.name for ref in stage_refs(recipe)]

    def tests(policy: int) -> list[str]:
        arms = ("direct", "thought")
        return [
            *(f"evaluation/{arm}/policy_{policy}" for arm in arms),
            f"measures/probe/thought/policy_{policy}",
        ]

    def iteration(number: int) -> list[str]:
        return [
            f"{arm}/iteration_{number}/{stage}"
            for arm in ("thought", "direct")
            for stage in ITERATION_STAGES
        ]

    assert names == ["prompts", *tests(0), *iteration(0), *tests(1), *iteration(1), *tests(2)]
