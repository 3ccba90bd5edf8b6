"""Small iterations: engines that are kept for the whole run, updates too small for some types."""

import json
import os
from pathlib import Path

import pytest
import torch
from small_run import small_recipe, small_run
from text_recipe import run, write_recipe

from forethought.config import Recipe
from forethought.models.loading import load_model, source_of
from forethought.models.model_cache import cached, cached_open, caches_models, model_cache
from forethought.models.number_types import cpu_has_bfloat16
from forethought.models.shared_policy import SharedPolicy, shared_policy, weight_files
from forethought.runs.schedule import stage_refs
from forethought.storage.sealed_stage import read_manifest

LONG = [
    "prompts.train=[{type: microworld, split: train, count: 60}]",
    "iterations=5",
    "prompts_per_iteration=8",
    "sampling.max_new_tokens=32",
]


def digests(recipe: Recipe) -> dict[str, str]:
    """Of every stage, which say what is in all its files."""
    return {ref.label: read_manifest(ref.folder).digest for ref in stage_refs(recipe)}


@pytest.mark.parametrize(
    ("family", "words"),
    [
        pytest.param(
            "llama", ["arms=[thought, direct]", "prompts.test={count: 4}"], marks=pytest.mark.slow
        ),
        pytest.param(
            "gemma", ["training.dtype=bfloat16", "model.dtype=bfloat16"], marks=pytest.mark.slow
        ),
        ("qwen3", ["training.dtype=bfloat16", "training.checkpoint_dtype=bfloat16"]),
        ("mistral", ["training.gradient_checkpointing=true", "selection.by=last"]),
        pytest.param(
            "llama",
            ["training.lora={rank: 4}", "training.learning_rate=1e-2"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_kept_engines_change_no_bit(tmp_path: Path, family: str, words: list[str]):
    """Policies, answers, scores and everything else, with a reward model that is kept, too."""
    recipe_path = write_recipe(tmp_path, family)
    small = ["iterations=2", "prompts_per_iteration=11", "pairs.max_unparsable=1"]
    more = [*small, "arms=[thought]", "prompts.test=null", *words]
    alone = digests(run(recipe_path, *more))
    # An adapter names its base by its path, so both runs stand in one place.
    (tmp_path / "run").rename(tmp_path / "alone")
    assert digests(run(recipe_path, *more, "launch.keep_engines=true")) == alone


def test_with_engines_kept_a_model_is_loaded_once(tmp_path: Path, monkeypatch):
    import forethought.models.shared_policy as module
    import forethought.training.policy_module as training

    loaded = []
    for place in (module.loading, training):

        def counted(name, *arguments, load=place.load_model, **options):
            loaded.append(source_of(name).path)
            return load(name, *arguments, **options)

        monkeypatch.setattr(place, "load_model", counted)
    small_run(tmp_path / "run", *LONG, "launch.keep_engines=true", "arms=[thought]")
    # The module, one for the trial of training, and the module in float32 to see which way it
    # trains; another to train where the CPU trains in float32 and samples bfloat16 values.
    assert loaded == ["microworld"] * (3 if cpu_has_bfloat16() else 4)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["keep=some"], "keep"),
        (["keep={every: 0}"], "keep"),
        (["keep=best", "selection.by=last"], "keep: best is the highest validation score"),
        (["launch={keep_engines: true, process_per_stage: true}"], "process_per_stage"),
        (["launch.keep_engines=true", "sampling.workers=2"], "sampling.workers"),
        (["launch.keep_engines=true", "judge.workers=2"], "judge.workers"),
        (["evaluation.every=0"], "evaluation.every"),
        (["training.checkpoint_dtype=int8"], "training.checkpoint_dtype"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path: Path, words: list[str], says: str):
    with pytest.raises(ValueError, match=says):
        small_recipe(tmp_path / "run", *words)


def test_small_updates_survive_in_float32_checkpoints_only(tmp_path: Path):
    """At this learning rate no weight moves by half a step of bfloat16."""
    changed = {}
    for dtype in ("float32", "bfloat16"):
        words = [
            "iterations=1",
            "training.learning_rate=1e-9",
            f"training.checkpoint_dtype={dtype}",
        ]
        recipe = small_run(tmp_path / dtype, *words, "arms=[thought]", "prompts.test=null")
        policy = recipe.run / "thought/iteration_0/selection/policy"
        new = load_model(str(policy), dtype="float32", device="cpu").state_dict()
        old = load_model("microworld", dtype="float32", device="cpu").state_dict()
        changed[dtype] = sum(int((new[key] != old[key]).sum()) for key in old)
        assert json.loads((policy / "config.json").read_text())["dtype"] == dtype
    # Some weights are almost zero, where bfloat16 is fine enough.
    assert changed["bfloat16"] < 100
    assert changed["float32"] > 100_000


def test_what_is_kept_and_for_how_long():
    made: list[int] = []

    def make() -> int:
        made.append(len(made))
        return made[-1]

    assert [cached("a", make), cached("a", make)] == [0, 1]
    with model_cache():
        assert caches_models()
        assert [cached("a", make), cached("a", make), cached("b", make)] == [2, 2, 3]
    assert not caches_models()
    assert cached("a", make) == 4

    class Door:
        open = False

        def __enter__(self) -> "Door":
            self.open = True
            return self

        def __exit__(self, *_: object) -> None:
            self.open = False

    with cached_open("door", Door) as alone:
        assert alone.open
    assert not alone.open
    with model_cache():
        with cached_open("door", Door) as first:
            pass
        with cached_open("door", Door) as second:
            assert second is first
            assert first.open
    assert not first.open


def test_a_module_knows_whose_weights_it_has(tmp_path: Path):
    module = SharedPolicy("float32", "cpu")
    first = module.load("microworld")
    assert module.load("microworld") is first
    first.save_pretrained(tmp_path / "a")
    other = module.load(str(tmp_path / "a"))
    assert other is first, "the same architecture is read in place"
    (tmp_path / "b").mkdir()
    os.link(tmp_path / "a" / "model.safetensors", tmp_path / "b" / "model.safetensors")
    (tmp_path / "b" / "config.json").write_text((tmp_path / "a" / "config.json").read_text())
    assert module.held(str(tmp_path / "b")) is first, "a hard link is the same checkpoint"
    module.invalidate()
    assert module.held(str(tmp_path / "a")) is None
    module.saved_as(str(tmp_path / "b"))
    assert module.held(str(tmp_path / "a")) is first
    assert weight_files("organisation/model") is None
    assert shared_policy("float32", "cpu") is not shared_policy("float32", "cpu")


def test_two_vocabularies_in_turn_are_two_modules_and_no_more(tmp_path: Path):
    """One arm's policy has new tokens, the other's has not; what is kept for a module stays."""
    grown = load_model("microworld", dtype="float32", device="cpu")
    grown.resize_token_embeddings(grown.config.vocab_size + 2)
    grown.save_pretrained(tmp_path / "grown")
    policies = SharedPolicy("float32", "cpu")
    plain, larger = policies.load("microworld"), policies.load(str(tmp_path / "grown"))
    weights = [parameter.clone() for parameter in plain.parameters()]
    for step in range(3):
        plain.save_pretrained(tmp_path / f"plain_{step}")
        larger.save_pretrained(tmp_path / f"grown_{step}")
        assert policies.load(str(tmp_path / f"plain_{step}")) is plain
        assert policies.load(str(tmp_path / f"grown_{step}")) is larger
    assert all(map(torch.equal, weights, plain.parameters()))
