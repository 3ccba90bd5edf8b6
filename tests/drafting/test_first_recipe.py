"""`forethought init`: the recipe loads, explains itself, and runs as it stands."""

import json

import pytest
import yaml
from test_comparison import ALWAYS, CHATML, THINKS, tasks, write
from tiny import save_policy, save_tokenizer
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config.recipe_files import load_recipe
from forethought.storage.sealed_stage import read_json

TINY = [
    *("training.epochs=1", "training.batch_size=4", "sampling.samples=4", "launch.threads=1"),
    *("sampling.max_new_tokens=48", "measures.win_rate=null", "measures.probe=null"),
]


def forethought(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_recipe_runs_as_it_stands(tmp_path):
    target, run = tmp_path / "mine.yaml", tmp_path / "run"
    prompts = tasks(tmp_path / "p.jsonl", count=30)
    done = forethought("init", "microworld", prompts, target, "--judge", "microworld")
    assert done.exit_code == 0, done.output
    assert f"forethought run {target}" in " ".join(done.output.split())
    recipe = load_recipe([str(target)])
    assert recipe.judge.title == "verifier microworld"
    assert (recipe.iterations, recipe.prompts_per_iteration) == (1, 21)
    assert recipe.prompts.test is not None
    assert (recipe.prompts.test.count, recipe.prompts.validation.count) == (6, 3)
    ran = forethought("run", target, f"run={run}", *TINY)
    assert ran.exit_code == 0, ran.output
    assert len(read_json(run / "summary.json")["arms"]["thought"]) == 2


def test_every_section_stands_below_its_reason(tmp_path):
    target = tmp_path / "mine.yaml"
    rows = [{"question": f"{n} + {n}?", "answer": str(2 * n), "id": n} for n in range(2000)]
    done = forethought("init", "microworld", write(tmp_path / "sums.jsonl", rows), target)
    assert done.exit_code == 0, done.output
    text = target.read_text(encoding="utf-8")
    for block in text.strip().split("\n\n")[1:]:
        assert block.startswith("# ")
        assert max(map(len, block.splitlines())) <= 100
    assert "Every prompt has a number as reference" in text
    assert "Columns not used: id" in text
    recipe = load_recipe([str(target)])
    assert recipe.judge.title == "verifier gsm8k"
    assert (recipe.iterations, recipe.prompts_per_iteration) == (4, 375)
    assert recipe.sampling.max_new_tokens == 512
    assert "half of the model's context" in " ".join(text.replace("#", "").split())


def test_without_a_judge_the_recipe_says_what_to_fill_in(tmp_path):
    target = tmp_path / "mine.yaml"
    rows = [{"prompt": f"Tell me about the number {n}."} for n in range(20)]
    done = forethought("init", "microworld", write(tmp_path / "p.jsonl", rows), target)
    assert done.exit_code == 0, done.output
    assert "fill in its judge" in done.output
    refused = forethought("run", target)
    assert refused.exit_code == 1
    assert "judge is missing; give a mapping with type" in " ".join(refused.output.split())
    examples = [
        line.removeprefix("# ")
        for line in target.read_text(encoding="utf-8").splitlines()
        if line.startswith("# judge: {")
    ]
    assert len(examples) == 3
    for number, example in enumerate(examples):
        (tmp_path / f"{number}.yaml").write_text(example)
        assert load_recipe([str(target), str(tmp_path / f"{number}.yaml")]).judge.type in example


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (THINKS, {"thought_format": "tags", "measures": {"win_rate", "probe"}}),
        (ALWAYS, {"thought_format": "tags", "measures": {"probe"}, "arms": ["thought"]}),
        (CHATML, {"thought_format": "generic", "measures": {"win_rate", "probe"}}),
    ],
)
def test_arms_and_format_are_the_models(tmp_path, template, says):
    tokenizer = save_tokenizer(tmp_path, "qwen3")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    prompts, target = tasks(tmp_path / "p.jsonl", count=20), tmp_path / "mine.yaml"
    done = forethought("init", tmp_path, prompts, target, "--judge", "microworld")
    assert done.exit_code == 0, done.output
    written = yaml.safe_load(target.read_text(encoding="utf-8"))
    assert written["thought_format"] == says["thought_format"]
    assert written.get("arms") == says.get("arms")
    assert set(written["measures"]) == says["measures"]


def drafted(model, prompts, target):
    done = forethought("init", model, prompts, target, "--judge", "microworld")
    assert done.exit_code == 0, done.output
    text = target.read_text(encoding="utf-8")
    return load_recipe([str(target)]), " ".join(text.replace("#", "").split())


def test_a_small_model_is_taught_the_format_first(tmp_path):
    model = save_policy(tmp_path / "small", "qwen3", max_position_embeddings=8192)
    prompts = tasks(tmp_path / "p.jsonl", count=400)
    recipe, text = drafted(model, prompts, tmp_path / "mine.yaml")
    warm = recipe.warm_start
    assert warm is not None
    assert (warm.prompts, warm.batch_size, warm.learning_rate) == (70, 8, 1e-4)
    # 80 for test, 40 for validation.
    assert (recipe.iterations, recipe.prompts_per_iteration) == (2, 105)
    assert "million parameters, and small ones seldom write these words" in text
    assert "`forethought compare` says how many" in text


def test_a_larger_one_is_not_unless_it_was_seen_to_need_it(tmp_path):
    save_tokenizer(tmp_path, "qwen3")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    recipe, text = drafted(tmp_path, tasks(tmp_path / "p.jsonl", 20), tmp_path / "mine.yaml")
    assert recipe.warm_start is None
    assert "if most do, let a warm start teach it the format first" in text


def test_where_the_demonstrations_have_no_room_there_is_none(tmp_path):
    model = save_policy(tmp_path / "small", "qwen3", max_position_embeddings=1024)
    recipe, text = drafted(model, tasks(tmp_path / "p.jsonl", 20), tmp_path / "mine.yaml")
    assert recipe.warm_start is None
    assert "A warm start cannot teach it these: warm_start.demonstrations: " in text


def test_what_a_comparison_saw_decides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = save_policy(tmp_path / "small", "qwen3", max_position_embeddings=8192)
    prompts = tasks(tmp_path / "p.jsonl", count=20)
    words = ("sampling.max_new_tokens=8", "launch.threads=1", "evaluation.attempts=1")
    done = forethought("compare", model, prompts, "--judge", "microworld", *words)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "have no response" in said
    assert f"`forethought init {model} {prompts}` writes a recipe with that warm start" in said
    recipe, text = drafted(model, prompts, tmp_path / "taught.yaml")
    assert recipe.warm_start is not None
    assert "In runs/compare-small-p 100% of the model's outputs have no response." in text
    sealed = tmp_path / "runs/compare-small-p/evaluation/thought/policy_0/manifest.json"
    manifest = read_json(sealed)
    manifest["counts"]["parse_failures"] = 0.03
    sealed.write_text(json.dumps(manifest))
    recipe, text = drafted(model, prompts, tmp_path / "plain.yaml")
    assert recipe.warm_start is None
    assert "In runs/compare-small-p 3% of its outputs lack these: no warm start" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["microworld", "PROMPTS", "THERE", "--judge", "gsm8k"], "exists and is not written over"),
        (["microworld", "PROMPTS", "TMP/no/r.yaml"], "does not exist; make it first"),
        (["microworld", "PROMPTS", "TMP/r.yaml", "--judge", "gsm9k"], "did you mean gsm8k"),
        (["microworld", "FEW", "TMP/r.yaml", "--judge", "gsm8k"], "too few to hold some out"),
    ],
)
def test_a_users_mistake_is_one_clear_message(tmp_path, words, says):
    (tmp_path / "there.yaml").write_text("mine")
    named = {
        "PROMPTS": tasks(tmp_path / "p.jsonl"),
        "FEW": tasks(tmp_path / "few.jsonl", count=4),
        "THERE": str(tmp_path / "there.yaml"),
    }
    words = [named.get(word, word.replace("TMP", str(tmp_path))) for word in words]
    done = forethought("init", *words)
    assert done.exit_code == 1, done.output
    assert says in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert (tmp_path / "there.yaml").read_text() == "mine"
    assert not (tmp_path / "r.yaml").exists()
