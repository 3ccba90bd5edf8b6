"""The plan has the processes and workers that a recipe launches, says what they leave idle, and
refuses more than there are."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from forethought.cli.status import status_table
from forethought.config.recipe_files import load_recipe
from forethought.planning.bounds import plan, plan_table
from forethought.planning.costs import Costs, StageCost, recipe_costs, stage_costs
from forethought.planning.device_shares import devices_used, idle_devices
from forethought.planning.devices import find_device
from forethought.planning.fitting import refuse_what_cannot_fit
from forethought.planning.plan_table import caption
from forethought.stages.judged.joint_judging import judged_part
from forethought.stages.policies.sample_until_parsed import answers_part

PAPER = str(Path(__file__).parents[2] / "recipes" / "paper-llama3-8b.yaml")
NEAR_ONLINE = str(Path(__file__).parents[2] / "recipes" / "near-online.yaml")
QUICKSTART = str(Path(__file__).parents[2] / "recipes" / "quickstart.yaml")


LOCAL = "launch={type: local, processes: null}"
KEEPING = "launch={process_per_stage: false, keep_engines: true}"
ALONE = ("sampling.workers=null", "judge.workers=null", LOCAL)
"""The published recipe as it was: a process that trains, an engine, a judge."""


def costs(gpus: int | None, *words: str) -> Costs:
    return recipe_costs(load_recipe([PAPER, "arms=[thought]", *words]), find_device("h200"), gpus)


def row(found: Costs, stage: str) -> StageCost:
    [one] = [one for one in found.stages if one.stage == stage]
    return one


def test_without_a_launcher_and_workers_eight_devices_are_one():
    """The published recipe without what makes it one for eight devices: nothing is divided."""
    one, eight = costs(None, *ALONE), costs(8, *ALONE)
    assert one.setting.cluster.gpus == 1
    assert row(eight, "training").effort.memory == pytest.approx(170e9, rel=0.01)
    for stage in ("rollouts", "judgements", "reference", "training", "selection"):
        assert row(eight, stage) == row(one, stage)
    assert eight.usd == pytest.approx(8 * one.usd)
    with pytest.raises(ValueError, match=r"launch\.type=torchrun launch\.processes=2"):
        refuse_what_cannot_fit(eight)
    whole = costs(None)
    assert whole.setting.cluster.gpus == 8
    assert whole.seconds < eight.seconds / 3


def test_training_has_the_processes_that_are_named():
    whole = costs(8)
    named = costs(8, "launch.processes=4")
    for stage in ("reference", "training"):
        assert row(named, stage).effort.seconds > row(whole, stage).effort.seconds
        assert row(named, stage).effort.memory > row(whole, stage).effort.memory
    assert row(named, "rollouts") == row(whole, "rollouts")
    # All devices are paid for as long as the run takes.
    assert named.usd == pytest.approx(named.seconds / 3600 * 8 * 3.5)


def test_sampling_has_the_workers_that_are_named():
    whole = costs(8)
    named = costs(8, "sampling.workers=4")
    for stage in ("rollouts", "selection"):
        assert row(named, stage).effort.seconds > row(whole, stage).effort.seconds
    for stage in ("judgements", "training"):
        assert row(named, stage) == row(whole, stage)
    pairs = costs(8, "sampling.workers=4", "sampling.tensor_parallel=2")
    assert row(pairs, "rollouts").effort.flops == row(named, "rollouts").effort.flops


def test_workers_beyond_the_parts_have_nothing_to_do():
    """5,000 prompts are 20 parts of 256; validation's 1,500 are three of 512."""
    part = "sampling.part_size=256"
    twenty, forty = (costs(64, f"sampling.workers={count}", part) for count in (20, 40))
    bound = {n: row(found, "rollouts").effort.bound for n, found in ((20, twenty), (40, forty))}
    assert bound == {20: "bandwidth", 40: "bandwidth"}
    decoding = [row(found, "selection").effort.seconds for found in (twenty, forty)]
    assert decoding[0] == pytest.approx(decoding[1], rel=0.1)
    few = row(costs(64, "sampling.workers=10", part), "rollouts").effort.seconds
    assert few > 1.5 * row(twenty, "rollouts").effort.seconds


def test_held_out_prompts_are_cut_for_many_workers_where_rollouts_are():
    assert answers_part(256) == 512
    assert math.ceil(1500 / answers_part(105)) == 8
    # Ten epochs' answers to a prompt are ten times the work of one.
    assert [judged_part(epochs) for epochs in (1, 2, 10, 5000)] == [512, 512, 102, 1]


def test_the_bounds_have_answers_that_are_drawn_again(tmp_path):
    words = [QUICKSTART, f"run={tmp_path}/run", "iterations=1"]
    rows = plan(load_recipe(words))
    tokens = {(row.ref.stage, row.ref.arm, row.ref.index): row.tokens for row in rows}
    assert tokens["evaluation", "direct", 0] == 500 * 128 * 3
    assert tokens["selection", "direct", 0] == 2 * 200 * 128 * 3
    assert tokens["rollouts", "direct", 0] == 640 * 8 * 128
    assert tokens["probe", "thought", 1] == 200 * (1 + 4 * 3) * 128
    assert "answers drawn 3 times for want of a response" in str(plan_table(rows).caption)
    greedy = plan(load_recipe([*words, "evaluation.temperature=0"]))
    [first] = [row for row in greedy if row.ref.label == "direct policy 0 evaluation"]
    assert first.tokens == 500 * 128


def test_both_plans_count_the_same_checkpoints():
    """Float32 weights, 4 bytes of each; of adapters no base."""
    for words, size in (([], 4 * 8.03e9), (["training.lora={rank: 16}"], 4 * 42e6)):
        recipe = load_recipe([PAPER, "arms=[thought]", *words])
        [first, *_] = [one.disk for one in plan(recipe) if one.ref.stage == "training"]
        assert first == pytest.approx(10 * size, rel=0.01)
        assert row(costs(8, *words), "training").effort.weights == pytest.approx(first)


def test_the_judge_has_the_workers_that_are_named():
    whole, named = costs(8), costs(8, "judge.workers={count: 2, gpus: 1}")
    assert row(named, "judgements").effort.seconds > 3 * row(whole, "judgements").effort.seconds
    assert row(named, "rollouts") == row(whole, "rollouts")


def test_workers_that_share_a_device_share_its_memory():
    one, two = (
        costs(8, f"judge.workers={{count: 8, gpus: {gpus}}}", "judge.tokens_per_batch=1024")
        for gpus in (1, 0.5)
    )
    memory = [row(found, "judgements").effort.memory for found in (one, two)]
    assert memory[1] == 2 * memory[0]
    assert row(two, "judgements").effort.seconds > row(one, "judgements").effort.seconds


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ([], []),
        (["sampling.workers=3"], ["5 of 8 GPUs idle while sampling: sampling.workers"]),
        (["judge.workers=null"], ["7 of 8 GPUs idle while judging: judge.workers"]),
        (
            ["launch={type: torchrun, processes: 2}"],
            ["6 of 8 GPUs idle while training: launch.type, launch.processes"],
        ),
        (
            ["sampling={type: openai, base_url: 'http://localhost:8000/v1'}"],
            [],
        ),
        (
            ["sampling.part_size=1024"],
            [
                "3 of 8 workers idle while training prompts are sampled, 5 parts of 1024: "
                "sampling.part_size",
                "5 of 8 workers idle while validation prompts are sampled, 3 parts of 512: "
                "sampling.part_size",
            ],
        ),
    ],
)
def test_idle_devices_are_said_with_the_setting(words, lines):
    found = costs(8, *words)
    assert idle_devices(found.setting.recipe, 8) == lines
    assert all(line in caption(found) for line in lines)
    assert ("idle" in caption(found)) == bool(lines)


def test_a_judge_that_is_a_chat_model_has_its_engines_devices():
    judge = (
        "judge={type: pairwise, model: {path: meta-llama/Meta-Llama-3-70B-Instruct}, "
        "engine: {type: vllm, tensor_parallel: 4}}"
    )
    found = costs(8, judge)
    assert devices_used(found.setting.recipe)["judging"] == 4
    assert "4 of 8 GPUs idle while judging: judge.engine" in caption(found)
    with pytest.raises(ValueError, match=r"judge.tensor_parallel: 4 devices .* --gpus 4"):
        costs(1, judge, "sampling.workers=null", LOCAL)


def test_a_mixtures_members_are_loaded_together():
    member = "{judge: {type: reward_model, path: Skywork/Skywork-Reward-V2-Qwen3-8B}}"
    one, two = (
        costs(8, f"judge={{type: mixture, workers: {{count: 8, gpus: 1}}, routes: [{routes}]}}")
        for routes in (
            f"{{members: [{member}]}}",
            f"{{source: [a], members: [{member}]}}, {{members: [{member}]}}",
        )
    )
    memory = [row(found, "judgements").effort.memory for found in (one, two)]
    assert memory[1] == 2 * memory[0]


def test_kept_engines_need_their_memory_together():
    apart = costs(8, *ALONE, "selection.by=last")
    together = costs(
        8, *ALONE, "launch={process_per_stage: false, keep_engines: true}", "selection.by=last"
    )
    vllm = row(apart, "rollouts").effort.memory
    assert row(together, "training").effort.memory > row(apart, "training").effort.memory + vllm
    assert row(together, "judgements").effort.memory > vllm + 20e9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launch={type: ray, processes: 16}"], "launch.processes: 16 .* plan with --gpus 16"),
        (["sampling.workers=9"], "sampling.workers: 9 workers of 1 GPUs .* --gpus 9"),
        (
            ["sampling.workers=5", "sampling.tensor_parallel=2"],
            "sampling.workers: 5 workers of 2 GPUs each need 10 devices, and the plan has 8",
        ),
        (["judge.workers={count: 9, gpus: 1}"], "judge.workers: 9 .* lower judge.workers.count"),
        (["judge.workers=8"], "judge.workers.gpus: .* give judge.workers.gpus=1"),
        (["launch.processes=9"], "launch.processes: 9 processes .* plan with --gpus 9"),
        (["judge.workers={count: 8, gpus: 0}"], "judge.workers.gpus: workers without a GPU"),
        (["sampling={type: transformers, workers: 8}"], "sampling.workers.gpus: "),
    ],
)
def test_more_than_there_are_is_refused_by_the_settings_name(words, message):
    with pytest.raises(ValueError, match=message):
        costs(8, *words)


@pytest.mark.parametrize(
    ("words", "stage", "remedy", "gpus"),
    [
        (["launch={type: torchrun, processes: 1}"], "training", "launch.processes=2", 8),
        (
            [
                "model.path=meta-llama/Meta-Llama-3-70B-Instruct",
                "sampling.workers={count: 8, gpus: 1}",
            ],
            "rollouts",
            "sampling.tensor_parallel=2 sampling.workers.count=4 sampling.workers.gpus=2",
            8,
        ),
        (
            ["launch.type=local", "launch.processes=null"],
            "training",
            "launch.type=torchrun launch.processes=2",
            8,
        ),
        (
            [
                "training.tokens_per_microbatch=1024",
                "model.path=meta-llama/Meta-Llama-3-70B-Instruct",
                "sampling.tensor_parallel=2",
                "sampling.workers=4",
            ],
            "training",
            "launch.type=ray launch.processes=16 --gpus 16",
            16,
        ),
        (
            ["model.path=meta-llama/Meta-Llama-3-70B-Instruct", "sampling.workers=8"],
            "rollouts",
            "sampling.tensor_parallel=2 sampling.workers.count=4",
            8,
        ),
    ],
)
def test_remedies_name_the_recipes_own_settings(words, stage, remedy, gpus):
    with pytest.raises(ValueError, match=stage) as error:
        refuse_what_cannot_fit(costs(8, *words))
    [line] = [one for one in str(error.value).splitlines() if one.startswith(f"{stage} needs")]
    assert remedy in line
    given = remedy.removesuffix(f" --gpus {gpus}")
    given = given.split(" ")
    changed = row(costs(gpus, *words, *given), stage)
    assert changed.effort.memory < find_device("h200").memory


def test_a_verifiers_workers_need_no_device():
    words = [QUICKSTART, "judge.workers=16", "iterations=1"]
    found = recipe_costs(load_recipe(words), find_device("h200"), 1)
    alone = recipe_costs(load_recipe(words[:1] + words[2:]), find_device("h200"), 1)
    [many, one] = [
        next(row for row in each.stages if row.stage == "judgements") for each in (found, alone)
    ]
    assert many.effort.seconds < one.effort.seconds


def test_a_processor_is_one_device_whoever_shares_it():
    words = [QUICKSTART, "sampling.workers=2", "launch={type: torchrun, processes: 2, threads: 1}"]
    found, alone = (
        recipe_costs(load_recipe(each), find_device("cpu")) for each in (words, words[:1])
    )
    assert found.setting.cluster.gpus == 1
    assert found.seconds > 0
    # Its memory is shared, too: two engines, two processes, and the one that started them.
    stages = {(stage.stage, stage.arm): stage.effort.memory for stage in found.stages}
    for stage in alone.stages:
        if stage.stage in ("rollouts", "training"):
            assert stages[stage.stage, stage.arm] > stage.effort.memory + 1e9


def test_what_this_machine_cannot_hold_is_refused_with_a_setting():
    words = [QUICKSTART, "sampling.workers=4", "iterations=1"]
    setting = recipe_costs(load_recipe(words), find_device("cpu")).setting
    few = replace(setting.cluster.device, memory=2e9)
    setting = replace(setting, cluster=replace(setting.cluster, device=few))
    with pytest.raises(ValueError, match=r"rollouts needs .* of cpu .* sampling\.workers=1"):
        refuse_what_cannot_fit(Costs(setting=setting, stages=stage_costs(setting)))


def test_states_to_resume_from_are_gone_when_a_training_ends():
    one, four = costs(8, "iterations=1"), costs(8)
    training = row(four, "training").effort
    assert training.weights == pytest.approx(10 * 4 * 8.03e9, rel=0.01)
    assert training.scratch == pytest.approx(24 * 8.03e9, rel=0.01)
    assert four.disk - one.disk == pytest.approx(3 * 3.212e11, rel=0.01)


def test_starting_is_a_part_of_the_time():
    found = costs(8)
    selection = row(found, "selection").effort
    assert 10 * 60 < selection.start < selection.seconds
    assert selection.start < found.starting < found.seconds


def test_what_is_drawn_faster_than_one_process_writes_waits_for_it():
    words = ("prompts_per_iteration=1000000", "iterations=1", "training.batch_size=2048")
    [fast, slow] = [
        row(costs(gpus, *words, f"sampling.workers={gpus}"), "rollouts").effort
        for gpus in (1000, 100)
    ]
    assert (fast.bound, slow.bound) == ("host", "bandwidth")


def test_small_iterations_are_planned_without_what_they_leave_out():
    near_online = ["iterations=8", "selection.by=last", "evaluation.every=4"]
    known = row(costs(8, *near_online), "selection")
    assert known.effort.tokens == 0
    kept_engines = costs(
        8, *near_online, *ALONE, "launch={process_per_stage: false, keep_engines: true}"
    )
    assert row(kept_engines, "rollouts").starts == 1
    assert kept_engines.starting < costs(8, *near_online, *ALONE).starting / 4
    apart = "launch={keep_engines: true, process_per_stage: false, type: torchrun, processes: 8}"
    assert row(costs(8, *near_online, *ALONE[:2], apart), "training").starts == 8

    # Of ten epochs of eight iterations one epoch of two policies stays.
    whole, few = (costs(8, *near_online, f"keep={keep}") for keep in ("all", "{every: 4}"))
    assert row(few, "training").kept == pytest.approx(0.2)
    assert row(whole, "training").kept == 8
    left = [
        row(found, "training").disk - row(found, "training").effort.scratch
        for found in (few, whole)
    ]
    assert left[0] == pytest.approx(left[1] / 40)
    half = costs(8, *near_online, "training.checkpoint_dtype=original")
    assert row(whole, "training").effort.weights == 2 * row(half, "training").effort.weights


def test_long_plans_and_statuses_have_few_rows(tmp_path: Path):
    recipe = load_recipe([NEAR_ONLINE, f"run={tmp_path}/run", "iterations=40"])
    rows = plan(recipe)
    table = plan_table(rows)
    assert table.row_count < 20
    assert len(rows) > 400
    labels = list(table.columns[0].cells)
    assert "thought iteration 0 to 39 rollouts" in labels
    assert "direct policy 0 to 40 evaluation" in labels
    assert status_table(recipe).row_count == len(rows), "nothing is done yet"
