"""Prompts that cannot be sampled are left out alone, in every stage, and said with their place."""

import json
import os
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_run import small_recipe
from transformers import PreTrainedTokenizerBase
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config import Recipe
from forethought.microworld.tasks import generate
from forethought.models import loading, rendering
from forethought.pipeline.loop import run_recipe
from forethought.progress.reporter import Reporter
from forethought.prompts import prompt_id_of
from forethought.report.page import write_report
from forethought.runs.layout import StageRef
from forethought.stages.prompts import changed_sources
from forethought.stages.table import STAGES, run_stage
from forethought.storage import left_out
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import (
    StageError,
    read_json,
    read_manifest,
    read_records,
)
from forethought.thoughts import GENERIC
from forethought.types import Answer, Message, Prompt, PromptPlace, Rollout

QUIET = Reporter(Console(quiet=True))
CONTEXT = 1024
"""Of the microworld's seed model."""
LONG = "letters " * CONTEXT
HELD = "validation: {{count: {}, sources: []}}, test: null"
COLUMNS = "columns: {reference: reference, category: kind}"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The seed model with a template that has a fault of its own."""
    folder = tmp_path_factory.mktemp("models") / "model"
    shutil.copytree(loading.MICROWORLD_MODEL, folder)
    template = folder / "chat_template.jinja"
    fault = "{% if 'boom' in messages[-1]['content'] %}{{ 'a' + 1 }}{% endif %}"
    template.write_text(fault + template.read_text())
    return folder


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": task.query, "reference": task.reference, "kind": task.category}
        for task in generate("train", count, seed=1)
    ]


def write(path: Path, records: list[dict[str, Any]]) -> str:
    """The recipe's words for a file of these."""
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return f"{{type: file, path: {path}, {COLUMNS}}}"


def of(recipe: Recipe, stage: str, arm: Any = "thought", index: int = 0) -> StageRef:
    return StageRef(recipe=recipe, stage=stage, arm=arm, index=index)


def prompt(text: str) -> Prompt:
    message = Message(role="user", content=text)
    return Prompt(
        prompt_id=prompt_id_of([message]),
        messages=(message,),
        category="letters",
        source="p",
        reference="x",
    )


@lru_cache
def tokenizer() -> PreTrainedTokenizerBase:
    return loading.load_tokenizer("microworld")


def tokens(text: str) -> int:
    """Of a prompt with the thought instruction."""
    return len(rendering.render(tokenizer(), GENERIC.apply([Message(role="user", content=text)])))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, model) -> tuple[Path, list[Recipe]]:
    """The stage `prompts` of three runs that differ in their arms."""
    folder = tmp_path_factory.mktemp("prepared")
    given = rows(40)
    given[4:4] = [{"prompt": LONG}, {"prompt": "boom"}]
    source = write(folder / "p.jsonl", given)
    recipes = [
        small_recipe(
            folder / f"run{number}",
            f"model.path={model}",
            f"prompts={{train: [{source}], validation: {{count: 8, sources: []}}, "
            "test: {count: 8, sources: []}}",
            f"arms={arms}",
        )
        for number, arms in enumerate(("[thought]", "[direct]", "[thought, direct]"))
    ]
    for recipe in recipes:
        run_stage(of(recipe, "prompts", recipe.arms[0]), QUIET)
    return folder, recipes


def test_what_cannot_be_sampled_is_left_out_before_slicing_with_file_and_line(prepared):
    folder, recipes = prepared
    counts = read_manifest(recipes[0].run / "prompts").counts
    assert (counts["train"], counts["validation"], counts["test"]) == (24, 8, 8)
    long, boom = left_out.noted(recipes[0].run / "prompts")
    assert long.where == f"{folder}/p.jsonl, line 5"
    assert "tokens and 1024 are the whole context" in long.reason
    assert boom.where == f"{folder}/p.jsonl, line 6"
    assert "the model's chat template refuses" in boom.reason
    assert "TypeError: can only concatenate str" in boom.reason
    assert counts["left_out"] == {
        "count": 2,
        "first": [{"where": one.where, "reason": one.reason} for one in (long, boom)],
    }


def test_all_arms_get_the_same_prompts(prepared):
    _, recipes = prepared
    sets = [of(recipe, "prompts").prompts("train") for recipe in recipes]
    assert sets[0] == sets[1] == sets[2]
    places = of(recipes[0], "prompts").prompt_places()
    assert all("p.jsonl, line " in places[one.prompt_id] for one in sets[0])


def test_max_tokens_counts_the_template_and_the_instruction(tmp_path):
    given = rows(40)
    lengths = sorted(tokens(one["prompt"]) for one in given)
    most = lengths[29]
    source = write(tmp_path / "p.jsonl", given)
    recipe = small_recipe(
        tmp_path / "run",
        f"prompts={{train: [{source}], {HELD.format(4)}, max_tokens: {most}}}",
    )
    run_stage(of(recipe, "prompts"), QUIET)
    kept = sum(length <= most for length in lengths)
    counts: Any = read_manifest(recipe.run / "prompts").counts
    assert (counts["train"], counts["left_out"]["count"]) == (kept - 4, 40 - kept)
    for one in left_out.noted(recipe.run / "prompts"):
        line = int(one.where.rpartition(" ")[2])
        assert one.reason == (
            f"it has {tokens(given[line - 1]['prompt'])} tokens, prompts.max_tokens is {most}"
        )
    none = small_recipe(tmp_path / "none", f"prompts.train=[{source}]", "prompts.max_tokens=3")
    with pytest.raises(
        ValueError, match=r"none of 40 prompts can be sampled; the first, .* line 1"
    ):
        run_stage(of(none, "prompts"), QUIET)
    many = f"prompts={{train: [{source}], {HELD.format(40)}, max_tokens: {most}}}"
    few = small_recipe(tmp_path / "few", many)
    with pytest.raises(
        ValueError, match=rf"left {kept} distinct ones \({40 - kept} are left out; "
    ):
        run_stage(of(few, "prompts"), QUIET)


@lru_cache
def edge() -> str:
    """A prompt that fits with nothing before it, and not with the thought instruction."""
    text = "letters"
    while tokens(f"{text} letters") < CONTEXT:
        text += " letters" * max(1, (CONTEXT - tokens(text)) // 20)
    return f"{text} letters"


@pytest.fixture(scope="module")
def engine_run(tmp_path_factory) -> Recipe:
    """A run whose engine meets prompts that it cannot take, in every set and in a measure."""
    folder = tmp_path_factory.mktemp("engine")
    questions = [*rows(4), {"prompt": LONG, "reference": "1", "kind": "letters"}]
    source = write(folder / "q.jsonl", questions)
    recipe = small_recipe(
        folder / "run",
        "iterations=1",
        "prompts_per_iteration=14",
        "training.epochs=1",
        "evaluation.attempts=1",
        "selection.attempts=1",
        "sampling.max_new_tokens=32",
        "sampling.part_size=8",
        f"measures.gsm8k={{sources: [{source}], verifier: microworld, after: last}}",
        "measures.win_rate={after: last, equal_tokens: false}",
        "measures.probe={after: last, prompts: 9}",
    )
    run_stage(of(recipe, "prompts"), QUIET)
    ref = of(recipe, "prompts")
    sets = {name: ref.prompts(name) for name in ("train", "validation", "test")}
    shutil.rmtree(ref.folder)
    kind = STAGES["prompts"]
    stage = Stage(ref.folder, name="prompts", version=kind.version, config=kind.configure(ref))
    sets["train"] = [prompt(LONG), *sets["train"][:12], prompt(f"{LONG} 2")]
    sets["validation"] += [prompt(f"{LONG} 3")]
    sets["test"] += [prompt(f"{LONG} 4"), prompt(edge())]
    for name, each in sets.items():
        stage.write_records(name, each, Prompt)
    places = [
        PromptPlace(prompt_id=one.prompt_id, where=f"p.jsonl, {name} {number}")
        for name, each in sets.items()
        for number, one in enumerate(each)
    ]
    stage.write_records("places", places, PromptPlace)
    stage.seal({"train": len(sets["train"])})
    run_recipe(recipe, QUIET)
    return recipe


def test_an_iteration_goes_on_without_what_its_engine_cannot_take(engine_run):
    for arm in engine_run.arms:
        ref = of(engine_run, "rollouts", arm)
        gone = left_out.noted(ref.folder)
        assert [one.where for one in gone] == ["p.jsonl, train 0", "p.jsonl, train 13"]
        assert "takes 1024 tokens here" in gone[0].reason
        ids = {record.prompt_id for record in read_records(ref.folder, Rollout)}
        assert ids == {one.prompt_id for one in ref.prompts("train")[1:-1]}
        counts: Any = read_manifest(ref.folder).counts
        assert counts["left_out"]["count"] == 2
        choice = read_json(ref.beside("selection") / "choice.json")
        assert "on 8 validation prompts" in choice["reason"]
        assert [one.where for one in left_out.noted(ref.beside("selection"))] == [
            "p.jsonl, validation 8"
        ]


def test_arms_are_compared_on_what_both_can_be_asked(engine_run):
    for index in (0, 1):
        found = {
            arm: of(engine_run, "evaluation", arm, index).folder for arm in ("thought", "direct")
        }
        gone = {arm: [one.where for one in left_out.noted(each)] for arm, each in found.items()}
        assert gone["thought"] == ["p.jsonl, test 8", "p.jsonl, test 9"]
        assert gone["direct"] == ["p.jsonl, test 8"]
        asked = {
            arm: {a.prompt_id for a in read_records(each, Answer, "answers")}
            for arm, each in found.items()
        }
        assert asked["direct"] - asked["thought"] == {prompt(edge()).prompt_id}
    summary = read_json(engine_run.run / "summary.json")
    assert summary["difference"]["count"] == 8
    assert [rows[1]["count"] for rows in summary["arms"].values()] == [8, 9]
    counts: Any = read_manifest(of(engine_run, "win_rate", "thought", 1).folder).counts
    assert {count["count"] for count in counts["results"] if count["category"] is None} == {8}
    assert {count["reason"] for count in counts["missing"]} == {"one side has no answer"}


def test_measures_go_on_without_what_cannot_be_asked(engine_run):
    for arm in engine_run.arms:
        counts: Any = read_manifest(of(engine_run, "gsm8k", arm, 1).folder).counts
        assert {count["count"] for count in counts["results"] if count["category"] is None} == {4}
        (long,) = counts["left_out"]["first"][:1]
        assert long["where"].endswith("q.jsonl, line 5")
    counts = read_manifest(of(engine_run, "probe", "thought", 1).folder).counts
    assert counts["left_out"]["count"] >= 1


def test_the_page_and_the_summary_name_what_is_left_out(engine_run):
    summary = read_json(engine_run.run / "summary.json")["left_out"]
    assert summary["thought/iteration_0/rollouts"]["count"] == 2
    assert "evaluation/direct/policy_1" in summary
    page = write_report(engine_run.run).read_text(encoding="utf-8")
    assert "Prompts were left out." in page
    assert "p.jsonl, train 13: it has" in page
    shown = CliRunner().invoke(app, ["status", str(engine_run.run)], env={"COLUMNS": "200"})
    assert "2 prompts left out" in shown.output


def test_an_iteration_that_can_ask_nothing_says_so_and_owes_it_again(tmp_path):
    recipe = small_recipe(tmp_path / "run", "prompts_per_iteration=3", "sampling.part_size=2")
    ref = of(recipe, "prompts")
    kind = STAGES["prompts"]
    stage = Stage(ref.folder, name="prompts", version=kind.version, config=kind.configure(ref))
    stage.write_records("train", [prompt(f"{LONG} {n}") for n in range(3)], Prompt)
    stage.seal({"train": 3})
    with pytest.raises(
        StageError, match=r"none of 3 prompts can be sampled; the first, p, 'letters"
    ):
        run_stage(of(recipe, "rollouts"), QUIET)
    assert not list(of(recipe, "rollouts").folder.glob("*.parquet"))


def test_a_source_that_changed_is_named_and_one_that_is_gone_is_not(prepared):
    folder, recipes = prepared
    path, ref = folder / "p.jsonl", of(recipes[0], "prompts")
    assert changed_sources(ref) == []
    before = path.read_text()
    path.write_text(before.replace("boom", "boom!"))
    assert changed_sources(ref) == [str(path)]
    path.unlink()
    assert changed_sources(ref) == []
    path.write_text(before)
    assert changed_sources(ref) == []


def test_a_prompt_that_is_left_out_raises_no_alarm_of_the_tokenizers():
    code = (
        "from forethought.models import loading, rendering; from forethought.types import Message; "
        "tokenizer = loading.load_tokenizer('microworld'); "
        "rendering.render(tokenizer, [Message(role='user', content='letters ' * 1024)])"
    )
    talking = os.environ | {"TRANSFORMERS_VERBOSITY": "warning"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=talking)
    assert "indexing errors" not in done.stderr


def test_sampling_a_file_leaves_out_one_line_and_the_judge_takes_the_rest(tmp_path, model):
    given = [*rows(3), {"prompt": LONG}, {"prompt": "boom"}]
    write(tmp_path / "p.jsonl", given)
    words = ["sampling.samples=2", "sampling.max_new_tokens=24", f"model.path={model}"]
    words += ["thought_format=generic", "sampling.part_size=2", "launch.threads=1"]
    done = CliRunner().invoke(
        app, ["sample", f"{tmp_path}/p.jsonl", f"{tmp_path}/out.jsonl", *words]
    )
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "2 of 5 prompts cannot be sampled, the first in" in said
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [len(line["outputs"]) for line in lines] == [2, 2, 2, 0, 0]
    assert "takes 1024 tokens here" in lines[3]["left_out"]
    assert "TypeError" in lines[4]["left_out"]
    judged = CliRunner().invoke(
        app,
        [
            "judge",
            f"{tmp_path}/out.jsonl",
            f"{tmp_path}/s.jsonl",
            "judge.type=verifier",
            "judge.function=gsm8k",
        ],
    )
    assert judged.exit_code == 0, judged.output
    scored = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert scored[4]["scores"] is None
    write(tmp_path / "bad.jsonl", given[3:])
    none = CliRunner().invoke(
        app, ["sample", f"{tmp_path}/bad.jsonl", f"{tmp_path}/none.jsonl", *words]
    )
    assert none.exit_code == 1
    assert "no prompt can be sampled; " in none.output
    assert "bad.jsonl, line 1" in " ".join(none.output.split())
    assert not (tmp_path / "none.jsonl").exists()
