"""The cost model: published sizes, counted operations and bytes, refusals whose remedies hold."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_run import small_recipe, small_run
from tiny import save_policy
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config import TrainingConfig
from forethought.config.recipe_files import load_recipe
from forethought.models.loading import load_model
from forethought.planning.bounds import plan, questions_asked
from forethought.planning.costs import recipe_costs, stage_costs
from forethought.planning.devices import DEVICES, find_device
from forethought.planning.fitting import refuse_what_cannot_fit
from forethought.planning.hardware import Cluster, Setting
from forethought.planning.judging_cost import VERDICT
from forethought.planning.lengths import expected_lengths
from forethought.planning.memory import state_memory, training_memory
from forethought.planning.model_shape import KNOWN, model_shape, shape_of
from forethought.planning.rates import GPU, CpuSpeed, cpu_rates, measure_cpu
from forethought.planning.work import Tokens, forward_flops, outputs_after

ROOT = Path(__file__).parents[2]
PAPER = str(ROOT / "recipes" / "paper-llama3-8b.yaml")
LLAMA = KNOWN["meta-llama/Meta-Llama-3-8B-Instruct"]


def run_plan(*words: str):
    return CliRunner().invoke(app, ["plan", *words], env={"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8.030e9),
        ("meta-llama/Meta-Llama-3-70B-Instruct", 70.554e9),
        ("Qwen/Qwen3-0.6B", 0.596e9),
        ("Qwen/Qwen3-8B", 8.191e9),
    ],
)
def test_known_shapes_have_the_published_parameters(name, parameters):
    assert KNOWN[name].parameters == pytest.approx(parameters, rel=1e-3)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma"])
def test_a_folders_shape_counts_its_models_parameters(family, tmp_path):
    shape = model_shape(str(save_policy(tmp_path, family)))
    model = load_model(str(tmp_path), dtype="float32", device="cpu")
    assert shape.parameters == sum(p.numel() for p in model.parameters())


def test_flops_are_those_of_torchs_own_counter():
    from torch.utils.flop_counter import FlopCounterMode

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 10, dtype=torch.int64), use_cache=False)
    shape = shape_of("tiny", config.to_dict())
    # Eager attention computes the scores above the diagonal as well.
    whole = Tokens(read=10, seen=100, predicted=10)
    rotary = 2 * shape.head_size // 2 * 10
    assert counter.get_total_flops() == pytest.approx(forward_flops(shape, whole), abs=rotary)


def test_eight_outputs_read_their_prompt_once():
    tokens = outputs_after(250, 700, 8, predicted=True)
    assert (tokens.read, tokens.predicted) == (5850, 5600)


def test_states_of_full_training_are_twenty_bytes_a_weight_and_shards_divide_them():
    training = TrainingConfig()
    one, eight = (state_memory(LLAMA, training, n) for n in (1, 8))
    assert one == pytest.approx(20 * 8.03e9, rel=0.02)
    assert 16 * 8.03e9 / 8 < eight < 16 * 8.03e9 / 8 + 10e9


def test_the_counted_activations_are_what_a_forward_pass_saves():
    def saved(layers: int) -> float:
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=128,
            intermediate_size=448,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=1,
        )
        model = LlamaForCausalLM(config).bfloat16()
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept: dict[int, torch.Tensor] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.untyped_storage().data_ptr() not in own:
                kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.model(torch.zeros(1, 256, dtype=torch.int64), use_cache=False)
        return sum(one.untyped_storage().nbytes() for one in kept.values()) / 256

    shape = shape_of(
        "tiny",
        {
            "vocab_size": 64,
            "hidden_size": 128,
            "intermediate_size": 448,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
        },
    )
    small, large = (training_memory(shape, TrainingConfig(), 1, n, cpu=False) for n in (1000, 2000))
    assert (large - small) / 1000 == pytest.approx((saved(4) - saved(2)) / 2, rel=0.03)


def test_costs_grow_with_the_work_and_shrink_with_the_devices():
    recipe = load_recipe([PAPER])
    four = ["sampling.workers=4", "judge.workers={count: 4, gpus: 1}", "launch.processes=4"]
    costs = {
        4: recipe_costs(load_recipe([PAPER, *four]), find_device("h200"), 4),
        8: recipe_costs(recipe, find_device("h200"), 8),
    }
    half = recipe_costs(load_recipe([PAPER, "iterations=2"]), find_device("h200"), 8)
    assert costs[8].seconds < costs[4].seconds
    assert half.seconds == pytest.approx(costs[8].seconds / 2, rel=0.02)
    [rollouts] = [s for s in costs[8].stages if (s.stage, s.arm) == ("rollouts", "thought")]
    assert rollouts.effort.tokens == 5000 * 8 * 700
    assert rollouts.times == 4


def test_memory_is_of_the_tokens_that_there_are():
    """Sixteen prompts do not fill a microbatch of 16,384 tokens, nor a prefill's."""
    words = ["prompts_per_iteration=16", "sampling.samples=4", "sampling.max_new_tokens=64"]
    sizes = ["sampling={type: transformers}", "launch={type: local, processes: null}"]
    few, many = (
        memory_of(load_recipe([PAPER, *sizes, *more, "judge.workers=null"]))
        for more in (words, words[1:])
    )
    for stage in ("rollouts", "training"):
        assert few[stage] < many[stage], stage
    tokens = TrainingConfig().tokens_per_microbatch
    checkpointed = tokens * LLAMA.layers * 2 * LLAMA.hidden
    assert many["training"] - few["training"] > 0.5 * checkpointed


def memory_of(recipe):
    found = recipe_costs(recipe, find_device("h200"), 1)
    return {cost.stage: cost.effort.memory for cost in found.stages if cost.arm == "thought"}


def test_what_is_frozen_and_what_is_of_eight_bits_takes_less():
    lora = TrainingConfig.model_validate({"lora": {"rank": 16}})
    exact = lora.model_copy(update={"dtype": "float32"})
    halved = state_memory(LLAMA, exact, 8) - state_memory(LLAMA, lora, 8)
    assert halved == pytest.approx(2 * 8.03e9 / 8, rel=1e-3)
    words = [PAPER, "launch={type: local, processes: null}", "keep=last"]
    scratch = {}
    for optimizer in ("adamw", "adamw_8bit"):
        recipe = load_recipe([*words, f"training.optimizer={optimizer}"])
        costs = recipe_costs(recipe, find_device("h200"), 8)
        [scratch[optimizer]] = [
            cost.effort.scratch
            for cost in costs.stages
            if (cost.stage, cost.arm) == ("training", "thought")
        ]
    assert scratch["adamw"] - scratch["adamw_8bit"] == pytest.approx(2 * 6 * 8.03e9, rel=1e-3)


def test_a_cpu_without_bfloat16_holds_float32(tmp_path):
    shape = model_shape("microworld")
    recipe = small_recipe(tmp_path / "run")
    device = replace(DEVICES["cpu"], flops=2e11, memory=8e9)
    rates = cpu_rates(shape, CpuSpeed(flops=2e11, dispatch=3e-6, threads=1))
    memory = {}
    for able in (True, False):
        setting = Setting(
            recipe=recipe,
            shape=shape,
            lengths=expected_lengths(recipe),
            cluster=Cluster(device=replace(device, bfloat16=able), gpus=1, rates=rates),
        )
        memory[able] = {cost.stage: cost.effort.memory for cost in stage_costs(setting)}
    for stage in ("rollouts", "training"):
        assert memory[False][stage] > memory[True][stage], stage


def test_given_tokens_go_before_those_of_an_earlier_run(tmp_path):
    recipe = small_run(tmp_path / "run", "iterations=1", "prompts.test=null")
    like = expected_lengths(recipe, like=recipe.run)
    given = expected_lengths(recipe, like=recipe.run, prompt=500)
    assert given["direct"].prompt == 500
    assert given["thought"].prompt > 540
    assert given["thought"].output == like["thought"].output


def test_every_judging_of_a_measure_is_counted(tmp_path):
    """Of a server's judge, what its calls cost tells how many there are."""
    price = "price: {prompt: 0, completion: 1000000}"
    server = f"{{type: openai, base_url: 'http://localhost:9/v1', model: m, {price}}}"
    instructions = tmp_path / "instructions.json"
    instructions.write_text(
        json.dumps([{"instruction": f"{i}?", "dataset": "a"} for i in range(7)])
    )
    questions = tmp_path / "question.jsonl"
    turns = [{"question_id": f"{i}", "turns": [{"content": f"{i}?"}]} for i in range(5)]
    questions.write_text("\n".join(json.dumps(turn | {"category": "a"}) for turn in turns))
    recipe = small_recipe(
        tmp_path / "run",
        f"judge={{type: pairwise, max_new_tokens: 1, engine: {server}}}",
        f"measures.alpaca_eval={{instructions: {instructions}, baseline: b, annotator: {server}}}",
        f"measures.arena_hard={{questions: {questions}, baseline: b, judge: {server}}}",
        "measures.win_rate={}",
    )
    usd = {
        cost.stage: cost.effort.usd
        for cost in recipe_costs(recipe, find_device("h200"), 1).stages
        if cost.arm == "thought"
    }
    assert usd["alpaca_eval"] == 7
    assert usd["arena_hard"] == 5 * 2 * VERDICT
    # Four direct answers cost what a thought does: 8 prompts x (3 x 2 + 4 x 3) calls.
    assert usd["win_rate"] == 8 * (3 * 2 + 4 * 3)


@pytest.mark.parametrize(
    ("comparisons", "calls"), [("all", 56), ("circular", 16), ("{circles: 2}", 32)]
)
def test_a_tournament_costs_its_calls(tmp_path, comparisons: str, calls: int) -> None:
    price = "price: {prompt: 0, completion: 1000000}"
    server = f"{{type: openai, base_url: 'http://localhost:9/v1', model: m, {price}}}"
    judge = f"type: pairwise, comparisons: {comparisons}, max_new_tokens: 1, engine: {server}"
    recipe = small_recipe(tmp_path / "run", f"judge={{{judge}}}", "sampling.samples=8")
    stages = recipe_costs(recipe, find_device("h200"), 1).stages
    [cost] = [one for one in stages if (one.stage, one.arm) == ("judgements", "thought")]
    assert cost.effort.usd == recipe.prompts_per_iteration * calls


def test_a_judge_that_is_asked_again_costs_as_much_again(tmp_path) -> None:
    price = "price: {prompt: 0, completion: 1000000}"
    server = f"{{type: openai, base_url: 'http://localhost:9/v1', model: m, {price}}}"
    recipe = small_recipe(
        tmp_path / "run",
        f"judge={{type: rating, max_new_tokens: 1, engine: {server}}}",
        "measures.second_judge={judge: {type: verifier, function: microworld}, again: true}",
        "evaluation.samples=3",
    )
    stages = recipe_costs(recipe, find_device("h200"), 1).stages
    [cost] = [one for one in stages if (one.stage, one.arm) == ("second_judge", "direct")]
    assert cost.effort.usd == 8 * 3
    calls = {row.ref.stage: row.calls for row in plan(recipe) if row.ref.arm == "direct"}
    assert calls["second_judge"] == 8 * 3


def test_a_source_that_does_not_tell_is_counted_beside_those_that_do(tmp_path):
    sources = "[{type: microworld, split: test, count: 4}, {type: datasets, name: openai/gsm8k}]"
    recipe = small_recipe(tmp_path / "run", f"measures.gsm8k={{sources: {sources}}}")
    assert questions_asked(recipe, "gsm8k") == 4 + 1319
    [cost] = [
        cost
        for cost in recipe_costs(recipe, find_device("h200"), 1).stages
        if (cost.stage, cost.arm) == ("gsm8k", "direct")
    ]
    lengths = expected_lengths(recipe)["direct"]
    assert cost.effort.tokens == pytest.approx(2 * 1323 * lengths.output)


def test_the_table_fits_a_terminal_of_80_columns():
    result = CliRunner().invoke(app, ["plan", PAPER, "--gpu", "h200"], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    table = [line for line in result.output.splitlines() if line[:1] in "┏┃┡│├└"]
    assert {len(line.rstrip()) for line in table} == {len(table[0].rstrip())}
    assert len(table[0].rstrip()) <= 80
    assert "…" not in result.output
    assert "thought judgements" in result.output


def test_a_plan_that_cannot_fit_names_settings_that_do():
    alone = [PAPER, "--gpu", "h200", "sampling.workers=null", "judge.workers=null"]
    alone += ["launch={type: local, processes: null}"]
    result = run_plan(*alone)
    assert result.exit_code == 1
    assert "training needs" in result.output
    assert "training.lora={rank: 16}" in result.output
    assert "launch.type=torchrun launch.processes=2 --gpus 2" in result.output
    assert run_plan(*alone, "training.lora={rank: 16}").exit_code == 0
    assert run_plan(*alone, "launch.type=torchrun", "launch.processes=2").exit_code == 0


@pytest.mark.parametrize(
    ("changes", "stage", "remedy"),
    [
        (
            ["sampling={type: transformers, rows: 4096, workers: {count: 8, gpus: 1}}"],
            "rollouts",
            "sampling.rows=512",
        ),
        (["sampling.max_model_len=1000000"], "rollouts", "sampling.max_model_len=4096"),
        (
            [
                "training.gradient_checkpointing=false",
                "training.tokens_per_microbatch=32768",
            ],
            "training",
            "training.gradient_checkpointing=true",
        ),
        (
            ["model.path=meta-llama/Meta-Llama-3-70B-Instruct", "sampling.workers=null"],
            "rollouts",
            "sampling.tensor_parallel=2",
        ),
    ],
)
def test_each_remedy_fits(changes, stage, remedy):
    words = [PAPER, *changes]
    with pytest.raises(ValueError, match=stage) as error:
        refuse_what_cannot_fit(recipe_costs(load_recipe(words), find_device("h200"), 8))
    [line] = [one for one in str(error.value).splitlines() if one.startswith(f"{stage} needs")]
    assert remedy in line
    changed = recipe_costs(load_recipe([*words, remedy]), find_device("h200"), 8)
    limit = DEVICES["h200"].memory
    assert all(one.effort.memory < limit for one in changed.stages if one.stage == stage)


def test_what_the_scaling_page_shows_is_what_the_command_prints():
    text = (ROOT / "docs" / "scaling.md").read_text()
    shown = re.findall(
        r"```sh\nforethought plan (recipes/.*?)```\n\n```\n(.*?)```", text, re.DOTALL
    )
    assert len(shown) >= 3
    for words, expected in shown:
        words = shlex.split(words.replace("\\\n", " "))
        result = run_plan(str(ROOT / words[0]), *words[1:])
        lines = [line.rstrip() for line in result.output.splitlines()]
        assert lines == expected.splitlines(), words


def test_a_device_that_nothing_fits_says_so():
    words = [PAPER, "--gpu", "rtx4090", "launch={type: local, processes: null}"]
    result = run_plan(*words)
    assert result.exit_code == 1
    assert "judgements needs" not in result.output
    assert "reference needs" in result.output


def test_json_has_every_stage_and_says_that_no_gpu_was_measured():
    result = run_plan(PAPER, "--gpu", "h100", "--gpus", "8", "--price", "2", "--json")
    found = json.loads(result.stdout)
    assert found["calibrated"] is False
    assert found["usd"] == pytest.approx(found["seconds"] / 3600 * 8 * 2)
    stages = {(one["stage"], one["arm"]) for one in found["stages"]}
    assert ("training", "thought") in stages
    assert ("prompts", None) in stages


def test_the_table_says_what_it_stands_on():
    result = run_plan(PAPER, "--gpu", "h200", "--gpus", "8", "--output-tokens", "500")
    assert "not calibrated" in result.output
    assert "outputs of 500" in result.output
    assert "(given)" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "h300"], "it has h200, h100"),
        (["--gpu", "cpu", "--gpus", "2"], "1 is"),
        (["--gpu", "h200", "--price", "-1"], "negative"),
        (["--gpu", "h200", "--storage", "0"], "no rate"),
        (
            [
                *("--gpu", "h200", "--gpus", "1", "sampling.tensor_parallel=2"),
                *("sampling.workers=null", "judge.workers=null", "launch.processes=1"),
            ],
            "sampling.tensor_parallel: 2 devices share a model, and the plan has 1; lower it or "
            "plan with --gpus 2",
        ),
        (["--gpu", "h200", "--gpus", "4"], "lower sampling.workers.count or plan with --gpus 8"),
        (["--gpu", "h200", "model.path=none/such"], "the size of none/such is not known"),
        (["--json"], "name a device"),
        (["--gpu", "h200", "--like", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path):
    result = run_plan(PAPER, *words)
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_mixture_of_experts_is_refused():
    fields = {"hidden_size": 8, "num_hidden_layers": 1, "num_local_experts": 8}
    with pytest.raises(ValueError, match="mixture of experts"):
        shape_of("mixtral", fields)
    with pytest.raises(ValueError, match="no intermediate_size, vocab_size"):
        shape_of("gpt", {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1})


def test_lengths_come_from_an_earlier_run(tmp_path):
    recipe = small_run(tmp_path / "run", "iterations=1", "prompts.test=null")
    found = expected_lengths(recipe, like=recipe.run)
    assert found["thought"].source == f"measured in {recipe.run}"
    assert found["direct"].output < found["thought"].output < 48
    assert 0 < found["thought"].pairs <= 1


def test_a_cpu_is_measured_and_a_narrower_model_reaches_less_of_it(tmp_path):
    recipe = small_recipe(tmp_path / "run")
    shape = model_shape("microworld")
    speed = measure_cpu(shape, "bfloat16", 1)
    assert speed.flops > 1e9
    assert 1e-7 < speed.dispatch < 1e-3
    assert speed.threads == 1
    narrow, wide = (cpu_rates(one, speed).training for one in (shape, LLAMA))
    assert narrow < wide < 1
    setting = Setting(
        recipe=recipe,
        shape=shape,
        lengths=expected_lengths(recipe),
        cluster=Cluster(device=DEVICES["h200"], gpus=1, rates=GPU),
    )
    assert all(cost.effort.seconds > 0 for cost in stage_costs(setting))


def test_the_quickstarts_prediction_is_near_what_was_measured():
    """Processor seconds of one iteration on the machine of benchmarks/README.md."""
    measured = {
        ("rollouts", "thought"): 8.76,
        ("rollouts", "direct"): 3.40,
        ("training", "thought"): 7.97,
        ("training", "direct"): 2.29,
        ("reference", "thought"): 1.39,
        ("selection", "thought"): 3.48,
        ("selection", "direct"): 1.63,
    }
    recipe = load_recipe([str(ROOT / "recipes" / "quickstart.yaml"), "iterations=1"])
    shape = model_shape("microworld")
    speed = CpuSpeed(flops=220e9, dispatch=2.7e-6, threads=1)
    device = DEVICES["cpu"].__class__(
        name="cpu", flops=speed.flops, bandwidth=20e9, memory=24e9, link=20e9, price=0.1
    )
    setting = Setting(
        recipe=recipe,
        shape=shape,
        lengths=expected_lengths(recipe),
        cluster=Cluster(device=device, gpus=1, rates=cpu_rates(shape, speed)),
    )
    found = {(cost.stage, cost.arm): cost.effort.seconds for cost in stage_costs(setting)}
    for key, seconds in measured.items():
        assert found[key] == pytest.approx(seconds, rel=0.25), key
