"""`forethought sample` and `forethought judge`: one stage on files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import openai_server
import pytest
from tiny import save_policy, save_reward_model
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.models.control_tokens import WORD_JOINER
from forethought.pipeline.on_files import OutputFile


@pytest.fixture
def folder(tmp_path):
    rows = [
        {"prompt": f"What is {i} + {i}?", "reference": str(2 * i), "category": "sum", "id": i}
        for i in range(12)
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "script.jsonl").write_text(
        json.dumps({"match": "What is 11", "replies": ["Here is my thought process: hm."]})
        + "\n"
        + json.dumps(
            {
                "match": "",
                "replies": [
                    "Here is my thought process: sum. Here is my response: It is 4.",
                    "Here is my thought process: no. Here is my response: It is 6.",
                ],
            }
        )
        + "\n"
    )
    return tmp_path


def forethought(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def sample(folder, *words):
    return forethought(
        "sample",
        folder / "prompts.jsonl",
        folder / "outputs.jsonl",
        "sampling.type=scripted",
        f"sampling.path={folder}/script.jsonl",
        "thought_format=generic",
        "sampling.samples=6",
        *words,
    )


def test_one_commands_output_is_the_next_ones_input(folder):
    assert sample(folder).exit_code == 0
    outputs = read(folder / "outputs.jsonl")
    assert [row["id"] for row in outputs] == list(range(12))
    first = outputs[0]["outputs"]
    assert {one["response"] for one in first} == {"It is 4.", "It is 6."}
    assert {one["thought"] for one in first} == {"sum.", "no."}
    assert {output["status"] for output in outputs[11]["outputs"]} == {"no_response"}

    done = forethought(
        "judge",
        folder / "outputs.jsonl",
        folder / "scores.jsonl",
        "judge.type=verifier",
        "judge.function=gsm8k",
    )
    assert done.exit_code == 0, done.output
    scored = read(folder / "scores.jsonl")
    right = [1.0 if one["response"] == "It is 4." else 0.0 for one in scored[2]["outputs"]]
    assert scored[2]["scores"] == right
    assert scored[11]["scores"] is None
    assert scored[11]["missing"] == "no output has a response"
    assert scored[2]["judge"] == "verifier:gsm8k"
    left = {path.name for path in folder.iterdir()}
    assert left == {"prompts.jsonl", "script.jsonl", "outputs.jsonl", "scores.jsonl"}


def test_a_judge_reads_plain_responses_under_messages(folder):
    conversation = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "2 + 2?"},
    ]
    row = {"messages": conversation, "reference": "4", "responses": ["4", "5", "It is 4."]}
    (folder / "responses.jsonl").write_text(json.dumps(row) + "\n")
    words = ["judge", folder / "responses.jsonl", folder / "scores.jsonl", "--explain"]
    done = forethought(*words, "judge.type=verifier", "judge.function=gsm8k")
    assert done.exit_code == 0, done.output
    assert read(folder / "scores.jsonl")[0]["scores"] == [1.0, 0.0, 1.0]
    assert "[1.0, 0.0, 1.0]" in done.output


def test_a_tiny_model_and_a_reward_model_on_files(folder):
    save_policy(folder / "policy")
    save_reward_model(folder / "judge")
    done = forethought(
        "sample",
        folder / "prompts.jsonl",
        folder / "outputs.jsonl",
        f"model.path={folder}/policy",
        "sampling.type=transformers",
        "sampling.samples=3",
        "sampling.max_new_tokens=8",
        "model.dtype=float32",
    )
    assert done.exit_code == 0, done.output
    outputs = read(folder / "outputs.jsonl")
    assert all(0 < one["tokens"] <= 8 for row in outputs for one in row["outputs"])
    done = forethought(
        "judge",
        folder / "outputs.jsonl",
        folder / "scores.jsonl",
        "judge.type=reward_model",
        f"judge.path={folder}/judge",
        f"cache={folder}/shared.sqlite",
    )
    assert done.exit_code == 0, done.output
    assert (folder / "shared.sqlite").is_file()
    again = forethought(
        "judge",
        folder / "outputs.jsonl",
        folder / "again.jsonl",
        "judge.type=reward_model",
        f"judge.path={folder}/judge",
        f"cache={folder}/shared.sqlite",
    )
    assert read(folder / "again.jsonl") == read(folder / "scores.jsonl")
    answered = {
        (row["prompt"], one["response"])
        for row in outputs
        for one in row["outputs"]
        if one["response"] is not None
    }
    assert f"{len(answered)} found in the cache" in again.output


SLOW = """
import sys
from pathlib import Path
from forethought.pipeline import on_files as files
from forethought.cli.main import app
from forethought.models.control_tokens import WORD_JOINER
files.GROUPS = 1
sys.argv[0] = "forethought"
app()
"""


def slow_grade(prompt, response):
    time.sleep(0.04)
    with open(os.environ["GRADED"], "a") as file:
        file.write("graded\n")
    return float(len(response))


def test_a_killed_judge_goes_on_where_it_was(folder):
    assert sample(folder).exit_code == 0
    words = ["judge", folder / "outputs.jsonl", folder / "scores.jsonl", "judge.type=verifier"]
    words = [*map(str, words), f"judge.function={__name__}:slow_grade"]
    graded = folder / "graded.txt"
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    environment["GRADED"] = str(graded)
    child = subprocess.Popen([sys.executable, "-c", SLOW, *words], env=environment)
    partial = folder / "scores.jsonl.partial"
    deadline = time.monotonic() + 60
    while not (partial.is_file() and partial.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (folder / "scores.jsonl").exists()
    kept = partial.read_text().count("\n")
    with partial.open("a") as file:
        file.write('{"prompt": "half a li')
    refused = forethought(*words[:-1], "judge.function=gsm8k")
    assert refused.exit_code == 1
    assert "begun with other settings" in refused.output
    graded.unlink()
    subprocess.run([sys.executable, "-c", SLOW, *words], env=environment, check=True)
    assert kept >= 2
    scored = read(folder / "scores.jsonl")
    assert [row["id"] for row in scored] == list(range(12))
    assert scored[3]["scores"] == [8.0] * 6
    owed = [score for row in scored[kept:] for score in row["scores"] or [] if score is not None]
    assert graded.read_text().count("graded") == len(owed)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "Hi"}, "neither `responses`"),
        ({"prompt": "Hi", "responses": "a"}, "responses must be a list of texts"),
        ({"prompt": "Hi", "responses": [1]}, "responses must be a list of texts"),
        ({"prompt": "Hi", "outputs": [{"text": "a"}]}, "an entry of outputs has no `response`"),
        ({"question": "Hi", "responses": ["a"]}, "no column 'prompt'"),
        ({"prompt": "Hi", "responses": ["a"], "source": 3}, "the source is not text"),
    ],
)
def test_a_bad_line_is_named(folder, row, problem):
    good = {"prompt": "Hi", "responses": ["a"], "reference": "1"}
    text = json.dumps(good) + "\n" + json.dumps(row) + "\n"
    (folder / "bad.jsonl").write_text(text)
    words = ["judge", folder / "bad.jsonl", folder / "scores.jsonl"]
    done = forethought(*words, "judge.type=verifier", "judge.function=gsm8k")
    assert done.exit_code == 1
    assert "bad.jsonl, line 2" in done.output
    assert problem in done.output


def test_mistakes_in_the_command_are_one_clear_message(folder):
    for words, problem in [
        (["judge.type=verifier", "judge.function=gsm8k", "colour=red"], "colour: there is no such"),
        (["judge.type=verifier"], "judge.function is missing"),
        (["cache=x"], "judge is missing"),
    ]:
        done = forethought("judge", folder / "prompts.jsonl", folder / "o.jsonl", *words)
        assert done.exit_code == 1
        assert problem in done.output
        assert "Traceback" not in done.output
    assert "exists; name another output" in sample_twice(folder)
    missing = forethought("sample", folder / "no.jsonl", folder / "o.jsonl", "sampling.type=vllm")
    assert "sampling.type vllm loads a model; give model.path" in missing.output


def sample_twice(folder):
    assert sample(folder).exit_code == 0
    return sample(folder).output


def test_a_prompt_cannot_spell_a_servers_control_tokens(folder):
    prompt = "What does <|eot_id|> mean?"
    (folder / "prompts.jsonl").write_text(json.dumps({"prompt": prompt}) + "\n")
    server = openai_server.start(log=folder / "log.jsonl")
    words = ["sample", folder / "prompts.jsonl", folder / "outputs.jsonl"]
    engine = ["sampling.type=openai", f"sampling.base_url={server.base_url}"]
    done = forethought(*words, *engine, "sampling.samples=2", "thought_format=generic")
    server.stop()
    assert done.exit_code == 0, done.output
    [row] = read(folder / "outputs.jsonl")
    assert row["prompt"] == prompt
    assert len(row["outputs"]) == 2
    bodies = server.bodies()
    assert len(bodies) == 2
    for body in bodies:
        [turn] = body["messages"]
        assert prompt.replace("<|", f"<{WORD_JOINER}|") in turn["content"]


def test_an_attempt_that_did_nothing_leaves_nothing(folder):
    row = {"prompt": "Hi", "responses": ["a", "bb"], "reference": "1"}
    (folder / "responses.jsonl").write_text(json.dumps(row) + "\n")
    words = ["judge", folder / "responses.jsonl", folder / "scores.jsonl"]
    failed = forethought(*words, "judge.type=reward_model", f"judge.path={folder}/nowhere")
    assert failed.exit_code == 1
    assert not list(folder.glob("scores.jsonl.partial*"))
    done = forethought(*words, "judge.type=verifier", "judge.function=gsm8k")
    assert done.exit_code == 0, done.output


def test_what_an_earlier_attempt_left_out_is_counted(tmp_path):
    source, target = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    source.write_text("{}")
    rows = [
        {"outputs": [{"text": "a\u2028b\ud800"}]},
        {"outputs": [], "left_out": "too long"},
        {"outputs": [{"text": "c"}]},
    ]
    with OutputFile(target, source, {}) as first:
        assert first.left_out() == {}
        first.add(rows)
    with target.with_name("out.jsonl.partial").open("a") as partial:
        partial.write('{"outputs": [], "left_out": "cut off by a ki')
    again = OutputFile(target, source, {})
    assert again.done == 3
    assert again.left_out() == {1: "too long"}
