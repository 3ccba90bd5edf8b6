"""Recipes made of a model, a file of prompts and a judge's name, and `forethought compare`."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import CHATML, save_tokenizer
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.drafting.judge_word import judge_section
from forethought.drafting.prompt_file import graded_by_number, look_at
from forethought.drafting.thinking import thinking_of
from forethought.microworld.tasks import generate
from forethought.prompts import load_prompts
from forethought.storage.sealed_stage import read_json

THINKS = CHATML.replace(
    "{% endif %}",
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    "{% endif %}",
)
ALWAYS = CHATML.replace("{% endif %}", "<think>\n{% endif %}")
OWN_MARKS = CHATML.replace("{% endif %}", "{% if thinking %}Ponder.{% endif %}{% endif %}")


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def tasks(path, count=12):
    rows = [
        {"prompt": task.query, "reference": task.reference, "category": task.category}
        for task in generate("test", count, seed=1)
    ]
    return write(path, rows)


@pytest.mark.parametrize(
    ("word", "section"),
    [
        ("gsm8k", {"type": "verifier", "function": "gsm8k"}),
        ("my_checks:grade", {"type": "verifier", "function": "my_checks:grade"}),
        ("armorm", {"type": "armorm"}),
        ("org/Reward-0.6B", {"type": "reward_model", "path": "org/Reward-0.6B"}),
        ("RLHFlow/ArmoRM-Llama3", {"type": "armorm", "path": "RLHFlow/ArmoRM-Llama3"}),
        (
            "http://localhost:8000/v1",
            {
                "type": "rating",
                "engine": {"type": "openai", "base_url": "http://localhost:8000/v1"},
            },
        ),
    ],
)
def test_a_word_means_a_judge(word, section):
    assert judge_section(word) == section


def test_a_word_that_means_none_is_refused():
    with pytest.raises(ValueError, match=r"gsm9k is neither .* did you mean gsm8k"):
        judge_section("gsm9k")


def test_columns_are_known_by_their_names(tmp_path):
    rows = [
        {"instruction": "Add.", "input": "2 and 3", "topic": "sums", "answer": "2 + 3\n#### 5"},
        {"instruction": "Name a river.", "input": "", "topic": "world", "answer": "#### 0"},
    ]
    columns = {"prompt": "instruction", "input": "input", "category": "topic"}
    columns["reference"] = "answer"
    found = look_at(write(tmp_path / "p.jsonl", rows))
    assert found.columns == columns
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    assert look_at(str(tmp_path / "p.parquet")).columns == columns
    loaded = load_prompts([found.source], lambda text: text).prompts
    assert loaded[0].messages[0].content == "Add.\n\n2 and 3"
    assert graded_by_number(loaded)


def test_a_column_of_other_things_is_no_reference(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "Hi"}], "answer": ["a", "b"]}]
    assert look_at(write(tmp_path / "p.jsonl", rows)).columns == {}


def test_constraints_are_a_reference(tmp_path):
    rows = [
        {"prompt": "Say it.", "reference": [{"type": "no_commas"}], "category": [{"type": "a"}]}
    ]
    found = look_at(write(tmp_path / "p.jsonl", rows))
    assert found.columns == {"reference": "reference"}
    [prompt] = load_prompts([found.source], lambda text: text).prompts
    assert prompt.reference is not None
    assert json.loads(prompt.reference) == rows[0]["reference"]
    assert not graded_by_number([prompt])


@pytest.mark.parametrize(
    ("answer", "graded"),
    [("42", True), ("$1,200", True), ("6 * 7\n#### 42", True), ("In 1969.", False), (None, False)],
)
def test_references_that_are_numbers_can_be_verified(tmp_path, answer, graded):
    found = look_at(write(tmp_path / "p.jsonl", [{"question": "How many?", "answer": answer}]))
    assert graded_by_number(load_prompts([found.source], lambda text: text).prompts) is graded


@pytest.mark.parametrize(
    ("template", "thought_format", "variables", "arms"),
    [
        (CHATML, "generic", {}, ("thought", "direct")),
        (
            THINKS,
            "tags",
            {"thought": {"enable_thinking": True}, "direct": {"enable_thinking": False}},
            ("thought", "direct"),
        ),
        (ALWAYS, "tags", {}, ("thought",)),
        (OWN_MARKS, "generic", {"thinking": False}, ("thought", "direct")),
    ],
)
def test_a_chat_template_says_how_a_model_thinks(
    tmp_path, template, thought_format, variables, arms
):
    tokenizer = save_tokenizer(tmp_path, "qwen3")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    found = thinking_of(str(tmp_path))
    assert (found.thought_format, found.template, found.arms) == (thought_format, variables, arms)


def compare(*words):
    return CliRunner().invoke(app, ["compare", *[str(word) for word in words]])


def test_a_model_is_compared_with_itself_and_nothing_is_trained(tmp_path):
    prompts, run = tasks(tmp_path / "p.jsonl"), tmp_path / "run"
    words = ("microworld", prompts, "--judge", "microworld", f"run={run}", "launch.threads=1")
    done = compare(*words)
    assert done.exit_code == 0, done.output
    summary = read_json(run / "summary.json")
    assert {arm: len(rows) for arm, rows in summary["arms"].items()} == {"thought": 1, "direct": 1}
    assert summary["difference"]["count"] == 12
    assert summary["arms"]["thought"][0]["thought_tokens"] > 0
    assert {path.name for path in run.iterdir() if path.is_dir()} == {
        *("prompts", "evaluation", "measures", "log")
    }
    said = " ".join(done.output.split())
    assert "prompts: 12 of 12; category from 'category', reference from 'reference'" in said
    assert "Thought arm minus direct arm at policy 0" in said
    assert "length_controlled_win_rate" in said
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "efore any training" in page
    assert "prompts per iteration" not in page
    assert max(len(line) for line in done.output.splitlines() if "│" in line) <= 80
    sealed = (run / "evaluation/thought/policy_0/manifest.json").stat().st_mtime_ns
    again = compare(*words)
    assert again.exit_code == 0, again.output
    assert (run / "evaluation/thought/policy_0/manifest.json").stat().st_mtime_ns == sealed
    exported = CliRunner().invoke(app, ["export", str(run), str(tmp_path / "policy")])
    assert exported.exit_code == 1
    assert "trains nothing (iterations: 0)" in " ".join(exported.output.split())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["microworld", "PROMPTS"], "--judge: say what is to judge"),
        (["microworld", "PROMPTS", "--judge", "gsm9k"], "did you mean gsm8k"),
        (["microworld", "absent.jsonl", "--judge", "gsm8k"], "absent.jsonl does not exist"),
        (["microworld", "NAMELESS", "--judge", "gsm8k"], "has the columns words, and none is"),
        (["./absent", "PROMPTS", "--judge", "gsm8k"], "absent"),
        (["microworld", "PROMPTS", "--judge", "gsm8k", "pairs.roh=1"], "did you mean rho?"),
    ],
)
def test_a_users_mistake_is_one_clear_message(tmp_path, words, says):
    named = {
        "PROMPTS": write(tmp_path / "p.jsonl", [{"prompt": "Who?", "answer": "Somebody"}]),
        "NAMELESS": write(tmp_path / "n.jsonl", [{"words": "Who?"}]),
    }
    done = compare(*[named.get(word, word) for word in words], f"run={tmp_path}/run")
    assert done.exit_code == 1, done.output
    assert says in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert not (tmp_path / "run").exists()
