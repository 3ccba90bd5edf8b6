"""The warm start: what is shown, kept and trained on; both arms alike; the judge blind."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_run import small_recipe, start
from tiny import save_policy, save_tokenizer
from typer.testing import CliRunner
from warm_recipe import WARM, demonstrations, warm_recipe

from forethought.cli.main import app
from forethought.config import Recipe, WarmStartConfig
from forethought.config.recipe_files import load_recipe
from forethought.models.loading import load_tokenizer
from forethought.models.rendering import decode, render
from forethought.pipeline.loop import run_recipe
from forethought.progress.reporter import Reporter
from forethought.runs.check import check_run
from forethought.runs.layout import WARM_START, StageRef
from forethought.runs.policies import choose, find_run_policy
from forethought.runs.schedule import stage_refs
from forethought.sampling.base import stable_seed
from forethought.stages.policies.demonstrated import arm_demonstrations, shown_demonstrations
from forethought.storage.sealed_stage import StageError, read_json, read_manifest, read_records
from forethought.thoughts import GENERIC
from forethought.types import Message, Prompt, Rollout, ScoredGroup, TrainingExample

ONLY = ["iterations=0"]
seen: list[tuple[str, str]] = []


def recording(prompt, response):
    """A user's judge that writes down all it is given, and likes long responses."""
    seen.append((prompt, response))
    return float(len(response))


def run(recipe):
    run_recipe(recipe, Reporter(Console(quiet=True)))
    return recipe


def warm(recipe: Recipe, stage: str, arm: Any = "thought"):
    return StageRef(recipe=recipe, stage=stage, arm=arm, index=WARM_START)


def settings_of(recipe) -> WarmStartConfig:
    assert recipe.warm_start is not None
    return recipe.warm_start


def records_of(recipe):
    lines = Path(settings_of(recipe).demonstrations).read_text().splitlines()
    return [json.loads(line) for line in lines]


def rollouts(recipe, arm="thought"):
    return read_records(warm(recipe, "rollouts", arm).folder, Rollout)


def examples(recipe, arm="thought"):
    return read_records(warm(recipe, "examples", arm).folder, TrainingExample)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run with both arms, a warm start and one iteration."""
    folder = tmp_path_factory.mktemp("warm")
    seen.clear()
    judge = f"judge={{type: verifier, function: '{__name__}:recording'}}"
    return run(warm_recipe(folder, judge))


@pytest.mark.slow
def test_policy_0_is_what_was_trained_and_the_seed_stands_beside_it(done):
    for arm in done.arms:
        made = warm(done, "selection", arm).folder / "policy"
        found = find_run_policy(f"{done.run}/{arm}/0")
        assert found is not None
        assert found.policy.path == str(made)
        assert choose(done.run, arm=arm, which=0).policy.path == str(made)
        first = StageRef(recipe=done, stage="rollouts", arm=arm, index=0)
        assert first.policy.path == str(made)
        seed = warm(done, "evaluation", arm)
        assert seed.policy.path == "microworld"
        assert seed.sealed
    summary = read_json(done.run / "summary.json")
    seed = summary["warm_start"]["thought"]["seed"]
    counts = read_manifest(warm(done, "evaluation").folder).counts
    assert seed["test_score"] == counts["test_score"]
    assert seed["thought_tokens"] == counts["thought_tokens"]
    said = CliRunner().invoke(app, ["status", str(done.run)]).output
    assert "thought warm start training" in said
    assert "thought seed evaluation" in said
    page = (done.run / "report.html").read_text() if (done.run / "report.html").exists() else ""
    assert "Before and after the warm start" in (page or report(done))
    assert not check_run(done).damages


def report(recipe):
    said = CliRunner().invoke(app, ["report", str(recipe.run)])
    assert said.exit_code == 0, said.output
    return (recipe.run / "report.html").read_text()


@pytest.mark.slow
def test_examples_are_the_samplers_own_tokens_behind_the_bare_prompt(done):
    tokenizer = load_tokenizer(done.model.source)
    for arm in done.arms:
        form = warm(done, "examples", arm).thought_format
        prompts = {p.prompt_id: p for p in warm(done, "rollouts", arm).prompts("train")}
        drawn = {(r.prompt_id, r.sample_index): r for r in rollouts(done, arm)}
        kept = examples(done, arm)
        assert kept
        for example in kept:
            rollout = drawn[example.prompt_id, example.sample_index]
            assert example.token_ids == rollout.completion.token_ids
            assert rollout.parsed.response is not None
            bare = form.apply(prompts[example.prompt_id].messages)
            assert example.prompt_token_ids == render(tokenizer, bare)
            assert len(rollout.prompt_token_ids) > len(example.prompt_token_ids)


@pytest.mark.slow
def test_the_best_by_the_judge_are_kept(done):
    for arm in done.arms:
        folder = warm(done, "judgements", arm).folder
        groups = {g.prompt_id: g for g in read_records(folder, ScoredGroup, "scored")}
        kept: dict[str, list[float | None]] = {}
        for example in examples(done, arm):
            kept.setdefault(example.prompt_id, []).append(example.score)
        thoughts = {(r.prompt_id, r.sample_index): r.parsed.thought for r in rollouts(done, arm)}
        clean = {
            (r.prompt_id, r.sample_index): r.completion.text.count("Here is my") == 2
            for r in rollouts(done, arm)
        }
        for prompt_id, group in groups.items():
            scores = [
                score
                for index, score in zip(group.sample_indices, group.scores, strict=True)
                if (thoughts[prompt_id, index] and clean[prompt_id, index]) or arm == "direct"
            ]
            assert kept.get(prompt_id, []) == sorted(scores, reverse=True)[: WARM["keep"]]


@pytest.mark.slow
def test_both_arms_have_the_same_warm_start(done):
    thought, direct = rollouts(done), rollouts(done, "direct")
    keys = [(r.prompt_id, r.sample_index) for r in thought]
    assert keys == [(r.prompt_id, r.sample_index) for r in direct]
    assert len(keys) == WARM["prompts"] * WARM["samples"]
    tokenizer = load_tokenizer(done.model.source)
    shown, bare = (shown_demonstrations(warm(done, "rollouts", arm)) for arm in done.arms)
    records = records_of(done)
    asked = decode(tokenizer, thought[0].prompt_token_ids)
    asked_direct = decode(tokenizer, direct[0].prompt_token_ids)
    for record, turn, other in zip(records, shown.turns[1::2], bare.turns[1::2], strict=True):
        assert turn.content == GENERIC.write(record["thought"], record["response"])
        assert other.content == record["response"]
        assert record["thought"] in asked
        assert record["thought"] not in asked_direct
        assert record["prompt"] in asked_direct
    counts = [read_manifest(warm(done, "training", arm).folder).counts for arm in done.arms]
    settings = [
        read_json(warm(done, "training", arm).folder / "intent.json")["config"]["training"]
        for arm in done.arms
    ]
    assert settings[0] == settings[1]
    assert all(count["steps"] for count in counts)


@pytest.mark.slow
def test_the_judge_sees_neither_demonstrations_nor_thoughts(done):
    records = records_of(done)
    texts = " ".join(f"{prompt} {response}" for prompt, response in seen)
    assert seen
    for record in records:
        assert record["thought"] not in texts
        assert record["prompt"] not in texts
    assert "thought process" not in texts
    for rollout in rollouts(done):
        if rollout.parsed.thought:
            assert rollout.parsed.thought not in texts


@pytest.mark.slow
def test_iterations_have_other_prompts(done):
    own = {r.prompt_id for r in rollouts(done)}
    first = StageRef(recipe=done, stage="rollouts", arm="thought", index=0)
    others = {r.prompt_id for r in read_records(first.folder, Rollout)}
    assert len(own) == 8
    assert len(others) == 24
    assert not own & others
    # The order of prompts has nothing to do with the warm start.
    everything = read_records(first.beside("prompts"), Prompt, "train")
    assert [p.prompt_id for p in everything[:8]] == sorted(
        own, key=[p.prompt_id for p in everything].index
    )


def test_a_run_without_one_is_as_it_was(tmp_path):
    recipe = small_recipe(tmp_path / "run", "iterations=1")
    refs = list(stage_refs(recipe))
    assert {ref.index for ref in refs} == {0, 1}
    assert StageRef(recipe=recipe, stage="rollouts", arm="thought", index=0).policy_stage is None
    assert "examples" not in {ref.stage for ref in refs}
    assert recipe.first_prompt == 0


@pytest.mark.slow
def test_parse_keeps_the_first_that_parse_and_asks_no_judge(tmp_path):
    recipe = run(warm_recipe(tmp_path, *ONLY, "arms=[thought]", keep_by="parse", keep=1))
    assert not warm(recipe, "judgements").folder.exists()
    usable: dict[str, int] = {}
    for rollout in rollouts(recipe):
        if rollout.parsed.response is not None and rollout.completion.text.count("Here is my") == 2:
            usable.setdefault(rollout.prompt_id, rollout.sample_index)
    assert {e.prompt_id: e.sample_index for e in examples(recipe)} == usable
    assert {e.score for e in examples(recipe)} == {None}


@pytest.mark.slow
def test_a_judge_that_only_compares_ranks_them_too(tmp_path):
    script = tmp_path / "verdicts.jsonl"
    script.write_text(json.dumps({"match": "", "replies": ["So: [[A]]", "So: [[B]]"]}) + "\n")
    judge = {
        "type": "pairwise",
        "prompt": "self_taught_evaluator",
        "engine": {"type": "scripted", "path": str(script)},
    }
    recipe = run(warm_recipe(tmp_path, *ONLY, f"judge={json.dumps(judge)}"))
    assert {example.score is None for example in examples(recipe, "direct")} == {False}
    summary = read_json(recipe.run / "summary.json")
    assert summary["arms"]["direct"][0]["test_score"] == 0.5, "the baseline against itself"
    assert summary["warm_start"]["direct"]["seed"]["test_score"] is not None


@pytest.mark.slow
def test_records_of_ones_own_are_trained_on_without_sampling(tmp_path):
    recipe = warm_recipe(tmp_path, *ONLY, samples=0)
    shown = Path(settings_of(recipe).demonstrations)
    demonstrations(shown, 6)
    # One that the run holds out: it must not be learned.
    prompts = StageRef(recipe=recipe, stage="prompts", arm="thought", index=0)
    run(recipe.model_copy(update={"run": tmp_path / "first"}))
    held = StageRef(
        recipe=recipe.model_copy(update={"run": tmp_path / "first"}),
        stage="prompts",
        arm="thought",
        index=0,
    ).prompts("test")[0]
    with shown.open("a") as file:
        secret = {"prompt": held.messages[-1].content, "thought": "Hm.", "response": "It is 4."}
        file.write(json.dumps(secret) + "\n")
    run(recipe)
    assert prompts.sealed
    assert recipe.first_prompt == 0
    assert not warm(recipe, "rollouts").folder.exists()
    counts = read_manifest(warm(recipe, "examples").folder).counts
    assert (counts["records"], counts["held_out"], counts["examples"]) == (7, 1, 6)
    tokenizer = load_tokenizer(recipe.model.source)
    records = [json.loads(line) for line in shown.read_text().splitlines()][:6]
    for record, example, direct in zip(
        records, examples(recipe), examples(recipe, "direct"), strict=True
    ):
        text = decode(tokenizer, example.token_ids)
        parsed = GENERIC.parse(text)
        assert (parsed.thought, parsed.response) == (record["thought"], record["response"])
        assert example.token_ids[-1] == tokenizer.eos_token_id
        assert decode(tokenizer, direct.token_ids) == record["response"]
        assert (
            decode(tokenizer, example.token_ids[example.response_start :]).strip()
            == (record["response"])
        )


def test_what_cannot_be_shown_is_sampled_in_words_and_trained_in_the_arms_own_markers(tmp_path):
    """Markers that are control tokens: no content can spell them."""
    added = ["<|thought|>", "<|response|>"]
    tokenizer = save_tokenizer(tmp_path / "policy", "llama")
    tokenizer.add_special_tokens({"additional_special_tokens": added})
    save_policy(tmp_path / "policy", vocab_size=len(tokenizer))
    tokenizer.save_pretrained(tmp_path / "policy")
    (tmp_path / "tokens.yaml").write_text(
        f"name: tokens\nthought_starts_after: [{added[0]!r}]\n"
        f"response_starts_after: [{added[1]!r}]\n"
    )
    again = "Here is my thought process: hm\nHere is my response: a\nHere is my response: b"
    replies = [
        f"Here is my thought process:\nhm {word}\n\nHere is my response:\nIt is {word}."
        for word in ("one", "two", "three")
    ]
    (tmp_path / "replies.jsonl").write_text(
        json.dumps({"match": "", "replies": [*replies, "no marker", again]}) + "\n"
    )
    sampling = {"type": "scripted", "path": str(tmp_path / "replies.jsonl"), "samples": 4}
    recipe = warm_recipe(
        tmp_path,
        *ONLY,
        "arms=[thought]",
        f"model.path={tmp_path / 'policy'}",
        f"thought_format={tmp_path / 'tokens.yaml'}",
        f"sampling={json.dumps(sampling)}",
        "sampling.max_new_tokens=128",
        f"judge={{type: verifier, function: '{__name__}:recording'}}",
        max_unparsed=1.0,
    )
    run(recipe)
    shown = shown_demonstrations(warm(recipe, "rollouts"))
    assert shown.thought_format == GENERIC
    opening, closing = map(tokenizer.convert_tokens_to_ids, added)
    form = warm(recipe, "examples").thought_format
    drawn = {(r.prompt_id, r.sample_index): r for r in rollouts(recipe)}
    assert examples(recipe)
    assert any(rollout.completion.text == again for rollout in drawn.values())
    for example in examples(recipe):
        assert example.token_ids[0] == opening
        assert example.token_ids.count(closing) == 1
        parsed = form.parse(decode(tokenizer, example.token_ids[:-1], form.markers))
        sampled = drawn[example.prompt_id, example.sample_index].parsed
        assert "Here is" not in f"{sampled.thought}{sampled.response}"
        assert (parsed.thought, parsed.response) == (sampled.thought, sampled.response)


def test_a_system_turn_stays_in_front_of_the_demonstrations(tmp_path):
    recipe = warm_recipe(tmp_path)
    shown = shown_demonstrations(warm(recipe, "rollouts"))
    system, question = (
        Message(role="system", content="Be brief."),
        Message(role="user", content="Q"),
    )
    asked = shown.ask((system, question))
    assert asked[0] == system
    assert [m.role for m in asked] == ["system", *["user", "assistant"] * 3, "user"]
    assert asked[-1].content.endswith("User query: Q")


@pytest.mark.slow
def test_keep_last_drops_it_when_the_next_policy_is_chosen(tmp_path):
    recipe = run(warm_recipe(tmp_path, "arms=[direct]", "keep=last"))
    assert not (warm(recipe, "selection", "direct").folder / "policy").exists()
    assert not list(warm(recipe, "training", "direct").folder.glob("epoch_*"))
    with pytest.raises(StageError, match="were dropped"):
        choose(recipe.run, arm="direct", which=0).check_policy()
    assert not check_run(recipe).damages
    run(recipe)


@pytest.mark.slow
def test_it_is_exported_and_planned(done, tmp_path):
    said = CliRunner().invoke(
        app, ["export", str(done.run), str(tmp_path / "out"), "--policy", "0"]
    )
    assert said.exit_code == 0, said.output
    assert (tmp_path / "out" / "model.safetensors").is_file()
    planned = CliRunner().invoke(app, ["plan", str(done.run / "config.json"), "--gpu", "h100"])
    assert planned.exit_code == 0, planned.output
    assert "thought warm start training" in " ".join(planned.output.split())


# --- What is wrong ---------------------------------------------------------------------------


def refusal(recipe):
    with pytest.raises(ValueError, match=r"\w") as caught:
        run(recipe)
    return str(caught.value)


def test_more_prompts_than_there_are(tmp_path):
    said = refusal(warm_recipe(tmp_path, prompts=50))
    assert "there are 60 training prompts, and a warm start of 50 and 1 iterations of 24" in said
    assert "lower warm_start.prompts" in said


def test_demonstrations_that_are_none(tmp_path):
    recipe = warm_recipe(tmp_path)
    shown = Path(settings_of(recipe).demonstrations)
    good = shown.read_text()
    for line, expected in [
        ('{"prompt": "Q", "thought": "t"}', "line 4, column 'response': there is none"),
        ('{"prompt": "Q", "response": "r"}', "line 4: it has no thought"),
        ('{"prompt": "Q", "thought": 3, "response": "r"}', "column 'thought': it is not text"),
        ('{"thought": "t", "response": "r"}', "has no column 'prompt'"),
        (
            '{"prompt": "Q", "thought": "Here is my response: x", "response": "r"}',
            "does not parse into the same thought and response",
        ),
        ("no json", "line 4: not JSON"),
    ]:
        shown.write_text(good + line + "\n")
        said = refusal(recipe)
        assert expected in said, said
        assert str(shown) in said
        assert "nothing was sampled yet" in said
    shown.write_text("")
    assert "has no records" in refusal(recipe)
    shown.unlink()
    assert "does not exist" in refusal(recipe)
    assert not (recipe.run / "thought").exists()


def test_demonstrations_beyond_the_context(tmp_path):
    recipe = warm_recipe(tmp_path)
    demonstrations(Path(settings_of(recipe).demonstrations), 60)
    said = refusal(recipe)
    assert "warm_start.demonstrations" in said
    assert "more than the context of microworld" in said
    assert "nothing was sampled yet" in said


def test_without_sampling_the_packages_own_are_too_few(tmp_path):
    with pytest.raises(ValueError, match=r"give warm_start\.demonstrations a file of your own"):
        small_recipe(tmp_path / "run", "warm_start={samples: 0}")


def test_nothing_that_parses(tmp_path):
    replies = json.dumps({"match": "", "replies": ["no marker at all"]}) + "\n"
    (tmp_path / "replies.jsonl").write_text(replies)
    sampling = {"type": "scripted", "path": str(tmp_path / "replies.jsonl"), "samples": 4}
    for keep_by in ("judge", "parse"):
        folder = tmp_path / keep_by
        folder.mkdir()
        said = refusal(
            warm_recipe(
                folder, "arms=[thought]", f"sampling={json.dumps(sampling)}", keep_by=keep_by
            )
        )
        assert "none of 32 outputs has a response" in said
        assert "warm_start.demonstrations" in said
        assert "samples of the report" in said
        assert (folder / "run/thought/warm_start/rollouts/manifest.json").is_file()


@pytest.mark.slow
def test_too_many_without_a_response_and_on_from_there(tmp_path):
    """A lowered bar goes on from the kept answers; nothing is sampled or trained again."""
    recipe = warm_recipe(tmp_path, *ONLY, "arms=[thought]", max_unparsed=0.0, learning_rate=0.05)
    said = refusal(recipe)
    assert "outputs still have no response, and warm_start.max_unparsed is 0." in said
    assert "thought warm start selection" in said
    answers = warm(recipe, "selection").folder / "answers.parquet"
    before = answers.stat().st_mtime_ns
    assert str(answers) in said
    assert refusal(recipe) == said
    eased = settings_of(recipe).model_copy(update={"max_unparsed": 1.0})
    run(recipe.model_copy(update={"warm_start": eased}))
    assert answers.stat().st_mtime_ns == before
    assert warm(recipe, "selection").sealed


@pytest.mark.slow
def test_another_warm_start_in_the_same_run_is_refused(tmp_path):
    recipe = run(warm_recipe(tmp_path, *ONLY, "arms=[direct]"))
    changed = settings_of(recipe).model_copy(update={"keep": 1})
    assert "examples" in refusal(recipe.model_copy(update={"warm_start": changed}))
    Path(settings_of(recipe).demonstrations).write_text(
        demonstrations(tmp_path / "others.jsonl", 2).read_text()
    )
    assert "rollouts" in refusal(recipe)


# --- Killed ----------------------------------------------------------------------------------


def digests(recipe) -> dict[str, Any]:
    return {ref.name: read_manifest(ref.folder).digest for ref in stage_refs(recipe)}


@pytest.mark.slow
def test_killed_inside_every_stage_it_ends_with_the_same_bytes(tmp_path):
    words = [*ONLY, "arms=[thought]", "prompts.test=null"]
    (tmp_path / "calm").mkdir()
    (tmp_path / "torn").mkdir()
    calm = run(warm_recipe(tmp_path / "calm", *words))
    torn = warm_recipe(tmp_path / "torn", *words)
    within = {
        "rollouts": "part_00000.parquet",
        "judgements": "intent.json",
        "examples": "intent.json",
        "training": "epoch_1",
        "selection": "intent.json",
    }
    for stage, there in within.items():
        folder = warm(torn, stage).folder
        pid = start(torn)
        while not (folder / there).exists():
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it ended before it was killed"
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    _, status = os.waitpid(start(torn), 0)
    assert status == 0
    assert digests(torn) == digests(calm)
    assert len(digests(calm)) == 6


@pytest.mark.slow
def test_seeds_of_the_warm_start_are_no_others(done):
    """Its samples are drawn with seeds of their own, the same in both arms."""
    seeds = {stable_seed(done.seed, "rollouts", index, "p", 0, 0) for index in (WARM_START, 0, 1)}
    assert len(seeds) == 3


def test_the_default_demonstrations_parse_in_every_format(tmp_path):
    for name in ("generic", "specific", "tags"):
        recipe = load_recipe(
            [
                "recipes/quickstart.yaml",
                f"run={tmp_path}",
                f"thought_format={name}",
                "warm_start={}",
            ]
        )
        found = arm_demonstrations(warm(recipe, "rollouts"))
        assert len(found) == 4
        assert all(each.thought for each in found)
        direct = arm_demonstrations(warm(recipe, "rollouts", "direct"))
        assert [replace(each, thought=None) for each in found] == direct
