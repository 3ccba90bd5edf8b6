"""A format of new control tokens: the warm start adds them, teaches them, and the loop goes on."""

import json
import os
import shutil

import pytest
from rich.console import Console
from test_warm_start import examples, rollouts, run, warm
from warm_recipe import warm_recipe

from forethought.models.loading import load_tokenizer
from forethought.models.marker_tokens import whole_marker_tokens
from forethought.models.rendering import decode
from forethought.progress.reporter import Reporter
from forethought.runs.check import check_run
from forethought.runs.layout import WARM_START, StageRef
from forethought.stages.checks.first_look import look_first
from forethought.stages.table import run_stage
from forethought.storage.sealed_stage import read_manifest, read_records
from forethought.thoughts import TOKENS
from forethought.types import Answer, Rollout

WORDS = ["thought_format=tokens", "prompts.train=[{type: microworld, split: train, count: 80}]"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Both arms, one iteration, the microworld's seed, which knows its own format only."""
    return run(
        warm_recipe(
            tmp_path_factory.mktemp("tokens"), *WORDS, prompts=48, epochs=6, learning_rate=1e-3
        )
    )


def marker_ids(tokenizer) -> list[int]:
    ids = whole_marker_tokens(tokenizer, TOKENS.markers)
    return [ids[marker] for marker in TOKENS.markers]


@pytest.mark.slow
def test_the_seed_grows_by_the_tokens_and_by_nothing_else(done):
    grown = warm(done, "vocabulary")
    assert read_manifest(grown.folder).counts["added_tokens"] == 2
    assert not warm(done, "vocabulary", "direct").folder.exists()
    tokenizer = load_tokenizer(str(grown.folder / "policy"))
    plain = load_tokenizer("microworld")
    assert len(tokenizer) == len(plain) + 2
    text = "What is 17 + 25? Here is my response: 42"
    assert tokenizer.encode(text) == plain.encode(text)
    assert warm(done, "rollouts").policy.path == "microworld"
    assert warm(done, "training").policy.path == str(grown.folder / "policy")


@pytest.mark.slow
def test_outputs_are_sampled_in_words_and_trained_on_in_tokens(done):
    assert {rollout.parsed.status for rollout in rollouts(done)} >= {"complete"}
    tokenizer = load_tokenizer(str(warm(done, "vocabulary").folder / "policy"))
    opening, closing = marker_ids(tokenizer)
    found = examples(done)
    assert found
    for example in found:
        ids = list(example.token_ids)
        assert ids.count(opening) == ids.count(closing) == 1
        assert ids[0] == opening
        assert ids.index(closing) < example.response_start
        assert not {opening, closing} & set(example.prompt_token_ids)
        assert "Here is my" not in decode(tokenizer, ids, TOKENS.markers)


@pytest.mark.slow
def test_the_trained_policy_writes_the_tokens_and_is_sampled_by_them(done):
    before = read_manifest(
        StageRef(recipe=done, stage="evaluation", arm="thought", index=WARM_START).folder
    )
    assert before.counts["parse_failures"] == 1.0
    first = StageRef(recipe=done, stage="rollouts", arm="thought", index=0)
    sampled = read_records(first.folder, Rollout)
    parsed = [rollout for rollout in sampled if rollout.parsed.response is not None]
    assert len(parsed) > 0.5 * len(sampled)
    tokenizer = load_tokenizer(first.policy.source)
    _, closing = marker_ids(tokenizer)
    for rollout in parsed:
        assert closing in rollout.completion.token_ids[: rollout.response_start]
    answers = read_records(
        StageRef(recipe=done, stage="evaluation", arm="thought", index=1).folder, Answer
    )
    assert any(answer.parsed.thought and answer.parsed.response for answer in answers)
    assert check_run(done).damages == ()


@pytest.mark.slow
def test_killed_while_the_new_rows_are_fitted_it_trains_the_same(done, tmp_path):
    shutil.copytree(done.run, tmp_path / "run")
    recipe = done.model_copy(update={"run": tmp_path / "run"})
    training = warm(recipe, "training")
    sealed = read_manifest(training.folder)
    assert not (training.folder / "scratch").exists()
    shutil.rmtree(training.folder)
    half = training.folder / "scratch" / "fitted.partial"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    shutil.copy(warm(done, "training").folder / "intent.json", training.folder)
    run_stage(training, Reporter(Console(quiet=True)))
    assert read_manifest(training.folder).counts == sealed.counts
    weights = [
        {part.name: part.sha256 for part in manifest.parts if part.name.endswith("safetensors")}
        for manifest in (sealed, read_manifest(training.folder))
    ]
    assert weights[0] == weights[1]
    assert weights[0]


def test_half_a_grown_seed_is_made_again(tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    recipes = [warm_recipe(tmp_path / name, *WORDS) for name in ("whole", "killed")]
    stages = [warm(recipe, "vocabulary") for recipe in recipes]
    run_stage(stages[0], Reporter(Console(quiet=True)))
    whole, killed = (stage.folder for stage in stages)
    shutil.copytree(whole, killed)
    (killed / "manifest.json").unlink()
    os.truncate(killed / "policy" / "model.safetensors", 1000)
    (killed / "policy" / "tokenizer.json").write_text("{")
    run_stage(stages[1], Reporter(Console(quiet=True)))
    parts = [
        {part.name: part.sha256 for part in read_manifest(folder).parts}
        for folder in (whole, killed)
    ]
    assert parts[0] == parts[1]
    assert "policy/model.safetensors" in parts[0]


def test_lora_is_refused_since_it_trains_no_new_rows(tmp_path):
    recipe = warm_recipe(tmp_path, *WORDS, "training.lora={rank: 4}")
    with pytest.raises(ValueError, match="thought_format: the markers of tokens are new tokens"):
        list(look_first(recipe))


def test_without_a_warm_start_a_model_that_lacks_the_tokens_is_refused(tmp_path):
    recipe = warm_recipe(tmp_path, *WORDS, "warm_start=null")
    with pytest.raises(ValueError, match=r"lacks <\|thought\|>, <\|response\|>; give the recipe a"):
        run(recipe)
    assert json.loads((recipe.run / "config.json").read_text())["thought_format"] == "tokens"
