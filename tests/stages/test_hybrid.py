"""The hybrid arm: samples of both modes, what was forced, what is trained, what is shown."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from small_run import small_recipe
from test_controls import digests, kill_within, run
from warm_recipe import warm_recipe

from forethought.cli.serve import _run_policy
from forethought.config import HybridConfig, Recipe
from forethought.config.recipe_files import load_recipe
from forethought.models.loading import load_tokenizer
from forethought.planning.costs import recipe_costs
from forethought.planning.devices import find_device
from forethought.report.page import write_report
from forethought.runs.layout import WARM_START, StageRef
from forethought.runs.summary import summarise, summary_table
from forethought.stages.checks.first_look import look_first
from forethought.stages.policies.modes import Modes, modes_of
from forethought.stages.policies.sampled_policy import OutputSplitter
from forethought.stages.table import kind_of
from forethought.storage.sealed_stage import read_manifest, read_records
from forethought.training.results import ReferenceLogprobs
from forethought.types import PreferencePair, Rollout, TrainingExample, Unsampled

QUICKSTART = str(Path(__file__).parents[2] / "recipes" / "quickstart.yaml")
SHORT = [
    "prompts_per_iteration=12",
    "prompts.test={count: 4, sources: [{type: microworld, split: test, count: 4}]}",
    "selection.by=last",
    "sampling.samples=6",
    "sampling.part_size=6",
    "pairs.mode_margin=0.2",
]
HYBRID = [*SHORT, "arms=[hybrid]", "hybrid={half: 1, floor: 0.3}"]


def stage(recipe: Recipe, name: str, index: int = 0) -> StageRef:
    return StageRef(recipe=recipe, stage=name, arm="hybrid", index=index)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Two iterations: one that forces every sample, one with samples of the policy's own mode."""
    return run(small_recipe(tmp_path_factory.mktemp("hybrid") / "run", *HYBRID))


def thinks(rollout: Rollout) -> bool:
    return rollout.response_start > 0


@pytest.mark.parametrize(("index", "free", "forced"), [(0, 0, 3), (1, 2, 2)])
def test_modes_are_forced_by_the_opening(finished: Recipe, index: int, free: int, forced: int):
    rollouts = read_records(stage(finished, "rollouts", index).folder, Rollout)
    assert len(rollouts) == 12 * 6
    [marker] = load_tokenizer(finished.model.source).encode("Here is my thought process:")
    for rollout in rollouts:
        opening = rollout.completion.token_ids[0]
        if free <= rollout.sample_index < free + forced:
            assert opening == marker
        elif rollout.sample_index >= free + forced:
            assert opening != marker
        assert thinks(rollout) == (opening == marker)
        assert marker not in rollout.prompt_token_ids
        assert len(rollout.completion.token_ids) <= finished.sampling.max_new_tokens
        if rollout.parsed.response is not None:
            assert rollout.completion.text.startswith("Here is my") == thinks(rollout)


def test_what_was_forced_is_left_out_of_pairs_and_reference(finished: Recipe):
    for index, free in ((0, 0), (1, 2)):
        pairs = read_records(stage(finished, "pairs", index).folder, PreferencePair, "pairs")
        assert pairs
        for pair in pairs:
            for side, forced in zip((pair.chosen, pair.rejected), pair.forced, strict=True):
                assert forced == (() if side.sample_index < free else (0,))
        crossing = [
            (pair.chosen.response_start > 0) != (pair.rejected.response_start > 0)
            for pair in pairs
            if pair.kind == "judged"
        ]
        assert any(crossing) == (free > 0)
        reference = read_records(stage(finished, "reference", index).folder, ReferenceLogprobs)
        assert len(reference) == len(pairs)


def test_table_summary_and_page_show_it_as_an_arm(finished: Recipe):
    summary = summarise(finished)
    [first, *_, last] = summary["arms"]["hybrid"]
    assert 0 <= last["thinks"] <= 1
    assert first["thinks"] > 0
    assert set(last["thinks_by_category"].values()) <= {0.0, 0.5, 1.0}
    console = Console(record=True, width=80)
    console.print(summary_table(summary))
    assert "hybrid, answers that think: policy 0" in console.export_text()
    page = write_report(finished.run).read_text()
    assert "Hybrid arm" in page
    assert "Answers that think, by category" in page
    assert "has no direct arm and no thought arm" in page


def test_three_arms_end_with_a_page_and_every_measure(tmp_path: Path):
    recipe = small_recipe(
        tmp_path / "run",
        *SHORT,
        "arms=[thought, direct, hybrid]",
        "iterations=1",
        "measures.win_rate={equal_tokens: false}",
        "measures.second_judge.judge={type: verifier, function: microworld}",
    )
    run(recipe)
    measured = {path.parent.name for path in recipe.run.glob("measures/second_judge/*/policy_1")}
    assert measured == {"thought", "direct", "hybrid"}
    assert [path.name for path in recipe.run.glob("measures/win_rate/*")] == ["thought"]
    page = write_report(recipe.run).read_text()
    assert all(f"{arm} arm has" in page for arm in recipe.arms), "each has few pairs"
    assert "Hybrid arm" in page


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_bytes(finished: Recipe, tmp_path: Path):
    torn = small_recipe(tmp_path / "run", *HYBRID)
    kill_within(torn, stage(torn, "rollouts").folder, "part_00000.parquet")
    kill_within(torn, stage(torn, "training").folder, "epoch_1")
    kill_within(torn, stage(torn, "rollouts", 1).folder, "part_00000.parquet")
    kill_within(torn, stage(torn, "pairs", 1).folder, "intent.json")
    run(torn)
    assert digests(torn) == digests(finished)


@pytest.mark.slow
def test_engines_that_stay_loaded_give_the_same(finished: Recipe, tmp_path: Path):
    assert digests(run(small_recipe(tmp_path / "run", *HYBRID, "launch.keep_engines=true"))) == (
        digests(finished)
    )


@pytest.mark.slow
def test_the_other_arms_are_as_without_it(tmp_path: Path):
    arms = ["iterations=1", *SHORT[:-1], "pairs.rho=0.1"]
    two = digests(run(small_recipe(tmp_path / "two", *arms)))
    three = digests(run(small_recipe(tmp_path / "three", *arms, "arms=[thought,direct,hybrid]")))
    assert {name: three[name] for name in two} == two
    pairs = tmp_path / "two" / "thought" / "iteration_0" / "pairs" / "pairs.parquet"
    assert pq.read_schema(pairs).names[-1] == "margin"


@pytest.mark.slow
def test_a_warm_start_teaches_both_modes(tmp_path: Path):
    recipe = run(warm_recipe(tmp_path, "arms=[hybrid]", "sampling.part_size=8"))
    examples = read_records(
        stage(recipe, "examples", WARM_START).folder, TrainingExample, "examples"
    )
    assert {example.response_start > 0 for example in examples} == {True, False}
    rollouts = read_records(stage(recipe, "rollouts", WARM_START).folder, Rollout)
    forced = {(each.sample_index < 2) == thinks(each) for each in rollouts}
    assert forced == {True}


def test_a_marker_of_several_tokens_is_barred_at_its_last(finished: Recipe):
    modes = Modes(free=1, forced=2, openings=((7, 8, 9),))
    rollout = read_records(stage(finished, "rollouts").folder, Rollout)[0]

    def of(index: int, *ids: int) -> Rollout:
        completion = type(rollout.completion)(text="", token_ids=ids, finish_reason="stop")
        return replace(rollout, sample_index=index, completion=completion)

    assert modes.forced_places(of(0, 7, 8, 9, 1)) == ()
    assert modes.forced_places(of(2, 7, 8, 9, 1)) == (0, 1, 2)
    assert modes.forced_places(of(3, 7, 8, 1, 1)) == (2,)
    assert modes.forced_places(of(3, 7, 1, 1, 1)) == ()
    assert modes.forced_places(of(3, 7, 8)) == ()


def test_a_prompt_that_one_way_cannot_ask_is_left_out_whole(finished: Recipe):
    rollout = read_records(stage(finished, "rollouts").folder, Rollout)[0]
    modes = Modes(free=1, forced=1, openings=((7,),))
    gone = Unsampled(prompt_id="b", reason="too long")
    joined = modes.joined([[rollout], [rollout], [rollout], [rollout], gone, [rollout]])
    assert joined == [[replace(rollout, sample_index=index) for index in range(3)], gone]


def test_a_worker_gets_what_splits_its_outputs(finished: Recipe):
    ref = stage(finished, "rollouts")
    modes = modes_of(ref)
    assert modes is not None
    splitter = OutputSplitter(ref.thought_format, ref.policy, modes.openings[0])
    assert pickle.loads(pickle.dumps(splitter)) == splitter


def test_floors_leave_at_least_one_of_each_mode():
    config = HybridConfig(half=2, floor=0.1)
    assert [config.forced(i, 8) for i in (0, 1, 2, 9)] == [4, 4, 1, 1]
    assert HybridConfig(half=0, floor=0).forced(0, 8) == 0
    assert HybridConfig(floor=0.5).forced(3, 7) == 3
    assert [HybridConfig().forced(i, 8) for i in (1, 2)] == [4, 2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pairs.mode_margin=0.2"], "pairs.mode_margin is of the arm hybrid"),
        (["pairs.counterfactual=true"], "pairs.counterfactual is of the arm hybrid"),
        (["hybrid.half=3"], "hybrid.half is of the arm hybrid"),
        (
            ["arms=[hybrid]", "sampling={type: openai, base_url: 'http://a/v1'}"],
            "sampling.type openai cannot make an output think",
        ),
        (
            ["arms=[hybrid]", "sampling={type: vllm}"],
            "sampling.type vllm cannot make an output think",
        ),
        (["arms=[hybrid]", "training.loss=nll"], "training.loss: nll learns whole outputs"),
        (["arms=[hybrid]", "thought_format=direct"], "'direct' has no thoughts"),
    ],
)
def test_what_needs_the_arm_or_cannot_have_it_is_refused(words: list[str], said: str):
    with pytest.raises(ValueError, match=said):
        load_recipe([QUICKSTART, "measures.win_rate=null", "measures.probe=null", *words])


def test_a_format_that_does_not_mark_thoughts_is_refused(tmp_path: Path):
    recipe = small_recipe(tmp_path / "run", *HYBRID, "thought_format=specific")
    with pytest.raises(ValueError, match="'specific' does not mark where a thought begins"):
        look_first(recipe)


def test_the_plan_counts_it(tmp_path: Path):
    recipe = small_recipe(tmp_path / "run", *SHORT, "arms=[thought,direct,hybrid]")
    costs = recipe_costs(recipe, find_device("h200"), 1)
    tokens = {c.arm: c.effort.tokens for c in costs.stages if c.stage == "rollouts"}
    assert tokens["direct"] < tokens["hybrid"] < tokens["thought"]


def test_its_manifests_name_what_was_forced(finished: Recipe):
    for index, forced in ((0, 3), (1, 2)):
        rollouts = stage(finished, "rollouts", index)
        assert read_manifest(rollouts.folder).counts["outputs"] == 72
        assert kind_of(rollouts).configure(rollouts)["forced"] == forced


def test_a_run_alone_names_its_hybrid_policy_where_none_other_thinks(finished: Recipe):
    found = _run_policy(str(finished.run))
    assert found is not None
    assert (found.arm, found.index) == ("hybrid", finished.iterations)
