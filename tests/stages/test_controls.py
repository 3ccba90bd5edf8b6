"""Controls of a run: chosen outputs alone in place of preferences, thoughts of other prompts."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from small_run import small_recipe, start
from tiny import save_policy
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config import ModelConfig, Recipe
from forethought.config.recipe_files import load_recipe
from forethought.models.loading import load_model, load_tokenizer
from forethought.models.rendering import decode, encode_output
from forethought.pipeline.loop import run_recipe
from forethought.planning.costs import recipe_costs
from forethought.planning.devices import find_device
from forethought.progress.reporter import Reporter
from forethought.report.page import write_report
from forethought.runs.cautions import cautions
from forethought.runs.check import check_run
from forethought.runs.layout import StageRef
from forethought.runs.schedule import stage_refs
from forethought.stages.policies.others_thoughts import OthersThoughts
from forethought.stages.policies.sampled_policy import OutputSplitter
from forethought.stages.table import kind_of
from forethought.storage.sealed_stage import read_json, read_manifest, read_records
from forethought.thoughts import ThoughtFormat, load_format
from forethought.training.results import ReferenceLogprobs
from forethought.types import Completion, PairDecision, PairSide, PreferencePair

PAPER = str(Path(__file__).parents[2] / "recipes" / "paper-llama3-8b.yaml")
ONE_ARM = [
    "iterations=1",
    "arms=[thought]",
    "prompts_per_iteration=12",
    "prompts.test={count: 4, sources: [{type: microworld, split: test, count: 4}]}",
    "training.save_every=1",
    "selection.by=last",
]


def run(recipe: Recipe) -> Recipe:
    run_recipe(recipe, Reporter(Console(quiet=True)))
    return recipe


def stage(recipe: Recipe, name: str, arm: Any = "thought") -> StageRef:
    return StageRef(recipe=recipe, stage=name, arm=arm, index=0)


def test_a_price_of_nothing_names_no_work(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path / "run")
    assert (
        "thought_price"
        not in kind_of(stage(recipe, "pairs")).configure(stage(recipe, "pairs"))["pairs"]
    )
    priced = small_recipe(tmp_path / "run", "pairs.thought_price=0.05")
    assert kind_of(stage(priced, "pairs")).configure(stage(priced, "pairs"))["pairs"] == {
        "rho": 0.0,
        "thought_price": 0.05,
        "max_unparsable": 0.1,
    }


def test_thoughts_alone_are_trained_on_where_there_are_thoughts(tmp_path: Path) -> None:
    whole = small_recipe(tmp_path / "run")
    alone = small_recipe(tmp_path / "run", "training.loss_on=thought")

    def settings(recipe: Recipe, arm: str) -> dict[str, Any]:
        ref = stage(recipe, "training", arm)
        return kind_of(ref).configure(ref)["training"]

    assert "loss_on" not in settings(whole, "thought")
    assert settings(alone, "thought") == settings(whole, "thought") | {"loss_on": "thought"}
    assert settings(alone, "direct") == settings(whole, "direct")
    reference = stage(whole, "reference"), stage(alone, "reference")
    assert kind_of(reference[0]).configure(reference[0]) == kind_of(reference[1]).configure(
        reference[1]
    )
    with pytest.raises(ValueError, match=r"training\.loss_on: thought.*\['direct'\] has none"):
        small_recipe(tmp_path / "run", "training.loss_on=thought", "arms=[direct]")
    with pytest.raises(ValueError, match=r"training\.loss_on: thought.*half of the arm hybrid"):
        small_recipe(tmp_path / "run", "training.loss_on=thought", "arms=[thought, hybrid]")


def digests(recipe: Recipe) -> dict[str, str]:
    return {ref.name: read_manifest(ref.folder).digest for ref in stage_refs(recipe)}


def kill_within(recipe: Recipe, folder: Path, there: str) -> None:
    """A run is killed as soon as a stage has left so much."""
    pid = start(recipe)
    while not (folder / there).exists():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it ended before it was killed"
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


# --- training.loss: nll ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chosen_alone(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A finished run of one arm on the chosen outputs of its pairs."""
    return run(small_recipe(tmp_path_factory.mktemp("nll") / "run", *ONE_ARM, "training.loss=nll"))


@pytest.mark.slow
def test_without_preferences_there_is_no_reference_and_all_else_is_there(chosen_alone: Recipe):
    recipe = chosen_alone
    assert not stage(recipe, "reference").folder.exists()
    assert all(ref.stage != "reference" and ref.sealed for ref in stage_refs(recipe))
    pairs = read_records(stage(recipe, "pairs").folder, PreferencePair, "pairs")
    assert pairs
    log = (stage(recipe, "training").folder / "steps.jsonl").read_text().splitlines()
    tokens = sum(len(p.prompt_token_ids) + len(p.chosen.token_ids) for p in pairs)
    assert sum(json.loads(line)["tokens"] for line in log) == recipe.training.epochs * tokens
    assert read_json(recipe.run / "summary.json")["arms"]["thought"][1]["margin_kept"] is None
    assert not check_run(recipe).damages


@pytest.mark.slow
def test_its_page_card_and_notes_say_what_it_is(chosen_alone: Recipe, tmp_path: Path):
    recipe = chosen_alone
    assert "training.loss: nll" in cautions(recipe)[0]
    page = write_report(recipe.run).read_text()
    assert cautions(recipe)[0] in page
    assert "chart-loss" in page
    assert "chart-accuracy" not in page
    said = CliRunner().invoke(app, ["export", str(recipe.run), str(tmp_path / "policy")])
    assert said.exit_code == 0, said.output
    card = (tmp_path / "policy" / "README.md").read_text()
    assert "chosen outputs alone" in card
    assert "DPO" not in card


@pytest.mark.slow
def test_killed_in_its_training_it_ends_with_the_same_bytes(chosen_alone: Recipe, tmp_path: Path):
    torn = small_recipe(tmp_path / "run", *ONE_ARM, "training.loss=nll")
    kill_within(torn, stage(torn, "training").folder, "state")
    kill_within(torn, stage(torn, "training").folder, "epoch_1")
    run(torn)
    assert digests(torn) == digests(chosen_alone)


def test_the_plan_knows_that_there_is_one_side_and_no_reference():
    def training(*words: str) -> tuple[set[str], float]:
        costs = recipe_costs(load_recipe([PAPER, *words]), find_device("h200"), 8)
        [own] = [c for c in costs.stages if (c.stage, c.arm) == ("training", "direct")]
        return {cost.stage for cost in costs.stages}, own.effort.flops

    stages, on_pairs = training()
    fewer, on_chosen = training("training.loss=nll")
    assert stages - fewer == {"reference"}
    assert 0.5 < on_chosen / on_pairs < 0.7


def test_a_likelihood_beside_itself_is_refused():
    with pytest.raises(ValueError, match=r"nll_weight: 0\.5 .* leave training\.nll_weight out"):
        load_recipe([PAPER, "training.loss=nll", "training.nll_weight=0.5"])


# --- pairs.thoughts: shuffled ------------------------------------------------------------------

BOTH_ARMS = [
    "iterations=1",
    "prompts_per_iteration=16",
    "prompts.test=null",
    "selection.by=last",
    "training.dtype=float32",
]


@pytest.fixture(scope="module")
def own_thoughts(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return run(small_recipe(tmp_path_factory.mktemp("own") / "run", *BOTH_ARMS))


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The same run with the thoughts of other prompts."""
    folder = tmp_path_factory.mktemp("shuffled") / "run"
    return run(small_recipe(folder, *BOTH_ARMS, "pairs.thoughts=shuffled"))


def pairs_of(recipe: Recipe, arm: Any = "thought") -> dict[str, PreferencePair]:
    found = read_records(stage(recipe, "pairs", arm).folder, PreferencePair, "pairs")
    return {pair.prompt_id: pair for pair in found}


def parts(side: PairSide) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return side.token_ids[: side.response_start], side.token_ids[side.response_start :]


@pytest.mark.slow
def test_responses_stay_and_thoughts_go_round(own_thoughts: Recipe, shuffled: Recipe):
    own, other = pairs_of(own_thoughts), pairs_of(shuffled)
    unchanged: Any = read_manifest(stage(shuffled, "pairs").folder).counts["own_thoughts"]
    assert list(own) == list(other)
    assert 0 <= unchanged < len(own) / 4
    assert sum(own[key] == other[key] for key in own) == unchanged
    for name in ("chosen", "rejected"):
        sides = [(getattr(own[key], name), getattr(other[key], name)) for key in own]
        for before, after in sides:
            assert parts(after)[1] == parts(before)[1]
            assert after.response_tokens == before.response_tokens
            assert (after.sample_index, after.score) == (before.sample_index, before.score)
        thoughts = [[parts(side)[0] for side in column] for column in zip(*sides, strict=True)]
        assert set(thoughts[1]) <= set(thoughts[0])
        if not unchanged:
            assert sorted(thoughts[1]) == sorted(thoughts[0])
        lengths = [[len(thought) for thought in each] for each in thoughts]
        moved = sum(abs(a - b) for a, b in zip(*lengths, strict=True))
        apart = sum(abs(a - b) for a in lengths[0] for b in lengths[0]) / len(lengths[0])
        assert moved <= apart


@pytest.mark.slow
def test_every_other_stage_and_the_direct_arm_are_as_ever(own_thoughts: Recipe, shuffled: Recipe):
    one, other = digests(own_thoughts), digests(shuffled)
    same = {name for name, digest in one.items() if other[name] == digest}
    assert one.keys() - same == {
        f"thought/iteration_0/{name}" for name in ("pairs", "reference", "training", "selection")
    }
    decisions = [
        read_records(stage(recipe, "pairs").folder, PairDecision, "decisions")
        for recipe in (own_thoughts, shuffled)
    ]
    assert decisions[0] == decisions[1]


@pytest.mark.slow
def test_the_reference_is_of_what_is_trained(shuffled: Recipe):
    model = load_model(shuffled.model.source, dtype="float32", device="cpu").double()
    pairs = pairs_of(shuffled)
    records = read_records(stage(shuffled, "reference").folder, ReferenceLogprobs)
    assert len(records) == len(pairs)
    for record in records:
        pair = pairs[record.prompt_id]
        for name in ("chosen", "rejected"):
            output = getattr(pair, name).token_ids
            ids = torch.tensor([[*pair.prompt_token_ids, *output]])
            logits = model(input_ids=ids).logits[0, len(pair.prompt_token_ids) - 1 : -1]
            exact = logits.log_softmax(-1)[torch.arange(len(output)), torch.tensor(output)]
            assert getattr(record, name) == pytest.approx(exact.sum().item(), abs=1e-3)


@pytest.mark.slow
def test_shuffled_thoughts_are_said_and_exported_as_trained(shuffled: Recipe, tmp_path: Path):
    assert "pairs.thoughts: shuffled" in cautions(shuffled)[0]
    assert cautions(shuffled)[0] in write_report(shuffled.run).read_text()
    target = tmp_path / "pairs"
    said = CliRunner().invoke(app, ["export", str(shuffled.run), str(target), "--pairs"])
    assert said.exit_code == 0, said.output
    assert "thoughts are those of other prompts" in (target / "README.md").read_text()
    rows = pq.read_table(target / "data" / "iteration_000.parquet").to_pylist()
    tokenizer = load_tokenizer(shuffled.model.source)
    for row, pair in zip(rows, pairs_of(shuffled).values(), strict=True):
        assert row["chosen_ids"] == list(pair.chosen.token_ids)
        assert row["chosen"][0]["content"] == decode(tokenizer, pair.chosen.token_ids)
    assert not check_run(shuffled).damages


@pytest.mark.slow
def test_killed_in_its_pairs_it_ends_with_the_same_bytes(shuffled: Recipe, tmp_path: Path):
    torn = small_recipe(tmp_path / "run", *BOTH_ARMS, "pairs.thoughts=shuffled")
    kill_within(torn, stage(torn, "pairs").folder, "intent.json")
    kill_within(torn, stage(torn, "reference").folder, "intent.json")
    run(torn)
    assert digests(torn) == digests(shuffled)


def splitter_of(folder: Path, form: ThoughtFormat) -> OutputSplitter:
    """Of a tiny model whose tokenizer has what markers the format needs."""
    save_policy(folder)
    if form.markers_are_tokens:
        tokenizer = load_tokenizer(str(folder))
        tokenizer.add_special_tokens({"additional_special_tokens": list(form.markers)})
        tokenizer.save_pretrained(str(folder))
    return OutputSplitter(form, ModelConfig(path=str(folder)))


def side_of(splitter: OutputSplitter, thought: str | None, response: str) -> PairSide:
    """An output as it stands in a pair."""
    form, tokenizer = splitter.thought_format, load_tokenizer(splitter.model.source)
    text = form.write(thought, response) if thought is not None else response
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    ids = (*encode_output(tokenizer, text, form.markers), end)
    completion = Completion(text=splitter.decode(ids), token_ids=ids, finish_reason="stop")
    _, start, tokens = splitter.split(completion)
    return PairSide(
        sample_index=0,
        token_ids=ids,
        response_start=start,
        response_tokens=tokens,
        score=None,
        shaped_score=None,
    )


def pair_of(prompt_id: str, chosen: PairSide, rejected: PairSide) -> PreferencePair:
    return PreferencePair(
        prompt_id=prompt_id,
        prompt_token_ids=(3, 4),
        chosen=chosen,
        rejected=rejected,
        kind="judged",
        margin=1.0,
    )


@pytest.mark.parametrize("name", ["generic", "specific", "tags", "tokens"])
def test_in_every_format_the_text_parses_into_the_others_thought(name: str, tmp_path: Path):
    splitter = splitter_of(tmp_path, load_format(name))
    texts = [("One and two.", "3"), ("A much longer thought, of six words.", '"Four"'), ("x", "5")]
    pairs = [
        pair_of(
            f"{i}",
            side_of(splitter, thought, response),
            side_of(splitter, f"{thought} No.", f"not {response}"),
        )
        for i, (thought, response) in enumerate(texts)
    ]
    others = OthersThoughts(splitter, seed=0)
    others.learn(pairs)
    given = [others.given_to(pair) for pair in pairs]
    assert others.unchanged == 0
    for pair, made, (thought, response) in zip(pairs, given, texts, strict=True):
        parsed = splitter.parse(splitter.decode(made.chosen.token_ids), "stop")
        assert parsed.response == response
        assert parsed.thought in {text for text, _ in texts} - {thought}
        assert made.chosen.token_ids[made.chosen.response_start :] == parts(pair.chosen)[1]
        assert splitter.parse(splitter.decode(made.rejected.token_ids), "stop").response == (
            f"not {response}"
        )
    assert [one.rejected for one in given] != [one.rejected for one in pairs]


def test_what_no_other_thought_fits_stays_as_it_was_sampled(tmp_path: Path):
    splitter = splitter_of(tmp_path, load_format("specific"))
    good = [side_of(splitter, f"Thought {i}.", f"{i}") for i in range(2)]
    lost = side_of(splitter, None, "no marker at all")
    assert lost.response_start == len(lost.token_ids)
    pairs = [pair_of("a", good[0], lost), pair_of("b", good[1], good[0])]
    others = OthersThoughts(splitter, seed=0)
    others.learn(pairs)
    # One without a response has no other like it, and the other rejected one is then alone, too.
    assert [others.given_to(pair) for pair in pairs] == pairs
    assert others.unchanged == 2
    alone = OthersThoughts(splitter, seed=0)
    alone.learn(pairs[:1])
    assert alone.given_to(pairs[0]) == pairs[0]


def test_without_the_thought_arm_there_is_nothing_to_shuffle(tmp_path: Path):
    with pytest.raises(ValueError, match=r"pairs\.thoughts: shuffled .* add the arm thought"):
        small_recipe(tmp_path, "pairs.thoughts=shuffled", "arms=[direct]")
