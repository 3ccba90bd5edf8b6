"""Recipes: merging, overrides, and errors that name the field and the way out."""

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from forethought.config import (
    RatingJudge,
    Recipe,
    SamplePart,
    TransformersEngine,
    TransformersSampling,
    explain,
)
from forethought.config.recipe_files import dump, load_part, load_recipe, load_run
from forethought.storage.files import write_json

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / "recipes" / "quickstart.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_every_recipe_resolves_and_survives_the_round_trip(path):
    recipe = load_recipe([str(path)])
    assert Recipe.model_validate(yaml.safe_load(yaml.safe_dump(dump(recipe)))) == recipe
    assert Recipe.model_validate_json(json.dumps(dump(recipe))) == recipe


ENGINE = "{type: openai, base_url: 'http://localhost:1/v1', price: {prompt: 1, completion: 0.1}}"
OWN = ["model.path=~/models/mine", "run=~/runs/mine", "cache=~/verdicts.sqlite"]
VARIANTS = [
    *([f"prompts.train=[{{type: file, path: '{path}'}}]"] for path in ("p.jsonl", "~/p.parquet")),
    *(
        [f"prompts.train=[{{type: file, path: '{path}'}}]"]
        for path in ("/a/p.json", "s3://a/b.jsonl")
    ),
    ["prompts.train=[{type: file, path: ../p.jsonl, source: mine, limit: 3}]", *OWN],
    ["prompts.train=[{type: datasets, name: ./mine, columns: {prompt: q, input: i}}]"],
    ["prompts.train=[{type: datasets, name: a/b, subset: main, split: test}]", *OWN],
    ["prompts.train=[{type: microworld, count: 9}, {type: file, path: p.jsonl}]"],
    ["prompts.test={count: 3, sources: [{type: file, path: t.jsonl}]}"],
    ["measures.gsm8k={sources: [{type: file, path: g.jsonl, columns: {reference: a}}]}"],
    [f"measures.alpaca_eval={{instructions: a.json, baseline: ~/b.json, annotator: {ENGINE}}}"],
    [f"measures.arena_hard={{questions: ./q.jsonl, baseline: /b.jsonl, judge: {ENGINE}}}"],
    ["judge={type: reward_model, path: ./reward}", "launch={type: torchrun, processes: 2}"],
    ["judge={type: armorm, workers: {count: 2}}", "launch.ray.address=null"],
    [f"judge={{type: pairwise, comparisons: {{rounds: 3}}, engine: {ENGINE}}}"],
    ["judge={type: rating, prompt: mine.yaml, engine: {type: scripted, path: ~/r.jsonl}}"],
    ["judge={type: rating, engine: {type: vllm}, model: {path: a/b}}"],
    ["judge={type: custom, import_path: 'a:B', options: {x: [1, {y: null}]}}"],
    ["judge={type: mixture, routes: [{source: [a], members: [{judge: {type: armorm}}]}]}"],
    ["sampling={type: vllm, samples: 2, max_model_len: 99}"],
    ["sampling={type: openai, base_url: 'http://h:{port}/v1', command: 'x {model} {port}'}"],
    ["sampling={type: scripted, path: replies.jsonl}"],
    ["keep={every: 3}", "training.lora={}", "selection.by=last", "thought_format=./mine.yaml"],
    ["trackers=[{type: tensorboard, options: {a: {b: [1.5, true]}}}]", "keep=best"],
]


@pytest.mark.parametrize("words", VARIANTS, ids=lambda words: words[0][:60])
def test_every_variant_of_a_recipe_is_read_back_from_its_run(words, tmp_path):
    recipe = load_recipe([QUICKSTART, *words])
    write_json(tmp_path / "config.json", dump(recipe))
    assert load_run(tmp_path) == recipe.model_copy(update={"run": tmp_path})
    assert Recipe.model_validate_json((tmp_path / "config.json").read_bytes()) == recipe
    assert dump(load_run(tmp_path)) == dump(recipe) | {"run": str(tmp_path)}


def test_later_files_and_overrides_win_field_by_field(tmp_path):
    second = tmp_path / "b.yaml"
    second.write_text("pairs: {rho: 0.3}\nsampling: {samples: 4}\n")
    words = [
        QUICKSTART,
        str(second),
        "pairs.rho=0.2",
        "training.learning_rate=1e-4",
        "arms=[direct]",
    ]
    recipe = load_recipe(words)
    assert recipe.pairs.rho == 0.2
    assert recipe.sampling.samples == 4
    assert recipe.sampling.temperature == 0.8
    assert recipe.training.learning_rate == 1e-4
    assert recipe.arms == ("direct",)


def test_a_section_of_another_type_is_replaced_whole(tmp_path):
    second = tmp_path / "b.yaml"
    second.write_text("judge: {type: reward_model, path: some/model}\n")
    assert load_recipe([QUICKSTART, str(second)]).judge.type == "reward_model"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pairs.roh=0.1", "pairs.roh: there is no such field; did you mean rho? (given: 0.1)"),
        ("iterations=many", 'iterations: give a whole number of at least 0 (given: "many")'),
        ("sampling.samples=1", "sampling.samples: give a whole number of at least 2"),
        ("sampling.type=tgi", "tgi"),
        ("arms=[thought, thought]", "names an arm twice"),
        ("thought_format=direct", "leave the arm out"),
        ("training.beta=-1", "training.beta: give a number greater than 0 (given: -1)"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_given(override, message):
    with pytest.raises(ValueError, match="recipe") as error:
        load_recipe([QUICKSTART, override])
    assert message in str(error.value)
    assert not isinstance(error.value, ValidationError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: [1", "not readable YAML"),
        ("- run", "must be a mapping"),
        ("run: x", "model is missing"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.yaml") as error:
        load_recipe([str(path)])
    assert message in str(error.value)


def test_missing_files_are_named():
    with pytest.raises(ValueError, match=r"recipe nope\.yaml does not exist"):
        load_recipe(["nope.yaml"])
    with pytest.raises(ValueError, match="no recipe file is given"):
        load_recipe(["seed=1"])


LEAST = {
    "run": "runs/x",
    "model": {"path": "some/model"},
    "prompts": {"train": [{"type": "file", "path": "p.jsonl"}], "validation": {"count": 2}},
    "judge": {"type": "verifier", "function": "gsm8k"},
}


@pytest.mark.parametrize("words", [["sampling.samples=4"], ["sampling.type=transformers"], []])
def test_transformers_samples_where_no_type_is_given(tmp_path, words):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(LEAST))
    samples = 4 if "sampling.samples=4" in words else 8
    spelled = LEAST | {"sampling": {"type": "transformers", "samples": samples}}
    assert dump(load_recipe([str(path), *words])) == dump(Recipe.model_validate(spelled))
    part = load_part(SamplePart, ["model.path=some/model", *words])
    assert part.sampling == TransformersSampling(samples=samples)
    judge = {"type": "rating", "model": {"path": "some/model"}}
    for engine in ({}, {"engine": {"rows": 7}}):
        recipe = Recipe.model_validate(LEAST | {"judge": judge | engine})
        assert isinstance(recipe.judge, RatingJudge)
        assert recipe.judge.engine == TransformersEngine(rows=7 if engine else 512)


@pytest.mark.parametrize("first", [True, False])
def test_overrides_are_one_layer_in_any_order(first):
    """A type given after another override must not silently throw that away."""
    words = ["sampling.type=vllm", "sampling.samples=4"]
    recipe = load_recipe([QUICKSTART, *(words if first else reversed(words))])
    assert (recipe.sampling.type, recipe.sampling.samples) == ("vllm", 4)


def test_a_section_without_a_type_is_not_dropped_by_one(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(LEAST | {"sampling": {"samples": 4}}))
    assert load_recipe([str(path), "sampling.type=vllm"]).sampling.samples == 4


def test_only_what_looks_like_a_number_is_one():
    words = ["training.learning_rate=1e-4", "thought_format=nan", "run=infinity"]
    recipe = load_recipe([QUICKSTART, *words])
    assert recipe.training.learning_rate == 1e-4
    assert (recipe.thought_format, recipe.run) == ("nan", Path("infinity"))


def test_a_run_directory_gives_its_recipe_back(tmp_path):
    recipe = load_recipe([QUICKSTART, f"run={tmp_path}"])
    write_json(tmp_path / "config.json", dump(recipe))
    assert load_run(tmp_path) == recipe
    with pytest.raises(ValueError, match="is not a run directory"):
        load_run(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not readable JSON"),
        ("[1]", "is not a recipe: a mapping of fields is wanted, got [1]"),
        ('{"model_type": "llama"}', "is not a recipe: model"),
    ],
)
def test_a_folder_whose_config_is_no_recipe_is_named(text, says, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config") as error:
        load_run(tmp_path)
    assert says in str(error.value)


def test_an_overrides_value_may_be_a_file_and_a_files_name_may_have_an_equals_sign(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beta=1.yaml").write_text("training: {beta: 0.7}")
    recipe = load_recipe([QUICKSTART, "beta=1.yaml", "thought_format=mine.yaml"])
    assert recipe.training.beta == 0.7
    assert recipe.thought_format == "mine.yaml"


@pytest.mark.parametrize(
    "short",
    ["a.jsonl", "[a.jsonl]", "{path: a.jsonl}", "[{path: a.jsonl}]", "{type: file, path: a.jsonl}"],
)
def test_a_path_alone_is_a_file_of_prompts(short):
    whole = "[{type: file, path: a.jsonl}]"
    for field in ("prompts.train", "prompts.validation.sources", "measures.gsm8k.sources"):
        wanted = load_recipe([QUICKSTART, f"{field}={whole}"])
        assert load_recipe([QUICKSTART, f"{field}={short}"]) == wanted


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"iterations": 0, "prompts": {"train": "p.jsonl"}}, "give prompts.test"),
        ({"prompts": {"train": "p.jsonl"}}, "give prompts.validation.count, or selection.by: last"),
        (
            {"prompts": {"train": "p.jsonl", "validation": {"count": 1}, "test": {"count": 0}}},
            "prompts.test: count: 0 prompts test nothing",
        ),
    ],
)
def test_prompts_are_held_out_for_what_is_done(changes, says):
    with pytest.raises(ValidationError) as error:
        Recipe.model_validate(LEAST | changes)
    assert says in explain(error.value, Recipe)
    without = {"prompts": {"train": "p.jsonl"}}
    assert Recipe.model_validate(LEAST | without | {"selection": {"by": "last"}}).iterations
    tested = {"prompts": {"train": "p.jsonl", "test": {"count": 2}}}
    assert Recipe.model_validate(LEAST | tested | {"iterations": 0}).evaluated == (0,)
