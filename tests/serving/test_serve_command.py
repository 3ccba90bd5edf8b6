"""`forethought serve` as a user starts it, asked with the README's own curl."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from microworld_judges import correct, microworld_prompts
from streaming_server import Server
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.thoughts import GENERIC, save_format

README = Path(__file__).parent.parent.parent / "README.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served") / "runs" / "quickstart"
    folder.mkdir(parents=True)
    from forethought.models.loading import resolve

    for file in Path(resolve("microworld")).iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    save_format(GENERIC, folder)
    words = ["serve", "runs/quickstart", "--attempts", "8", "--thought-budget", "80"]
    child = subprocess.Popen(
        [sys.executable, "-m", "forethought.cli", *words],
        cwd=folder.parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    line = child.stdout.readline()
    found = re.search(r"(http://\S+)/v1", line)
    assert found, line
    yield found[1]
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 0


def curl() -> str:
    (command,) = re.findall(r"^curl .*?'$", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    return command


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_readmes_curl_gets_a_response_and_no_thought(server: str):
    command = curl().replace("http://localhost:8000", server)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    (choice,) = answer["choices"]
    assert choice["message"]["content"]
    assert "thought process" not in done.stdout
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


def test_a_streamed_answer_equals_the_whole_one(server: str):
    body = {
        "model": "runs/quickstart",
        "messages": [{"role": "user", "content": "Name the capital of Poland."}],
        "seed": 5,
    }
    whole = httpx.post(f"{server}/v1/chat/completions", json=body, timeout=60).json()
    text = ""
    with httpx.stream(
        "POST", f"{server}/v1/chat/completions", json=body | {"stream": True}, timeout=60
    ) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    text += choice["delta"].get("content") or ""
    assert text == whole["choices"][0]["message"]["content"]


TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: QUESTIONS}}
output_type: generate_until
test_split: test
num_fewshot: 0
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs:
  until: ["Question:", "</s>", "<|im_end|>"]
  do_sample: false
  temperature: 0.0
metric_list:
  - {metric: exact_match, regexes_to_ignore: [",", "(?s).*#### ", "[.]$"]}
filter_list:
  - name: flexible-extract
    filter:
      - {function: regex, group_select: -1, regex_pattern: "(-?[$0-9.,]{2,})|(-?[0-9]+)"}
      - {function: take_first}
"""
"""GSM8K's task as lm-eval's own is, on a file of its format."""


@pytest.mark.slow
def test_lm_eval_measures_responses(server: str, tmp_path: Path):
    questions = tmp_path / "questions.jsonl"
    sums = [
        prompt for prompt in microworld_prompts(test=160) if prompt.category in ("add_up", "spread")
    ]
    records = [
        {"question": one.messages[-1].content, "answer": f"Count.\n#### {one.reference}"}
        for one in sums
    ]
    questions.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    (tmp_path / "sums.yaml").write_text(TASK.replace("QUESTIONS", str(questions)))
    address = f"{server}/v1/chat/completions"
    given = f"model=runs/quickstart,base_url={address},num_concurrent=4,max_retries=1"
    words = ["--model", "local-chat-completions", "--model_args", given, "--tasks", "sums"]
    words += ["--include_path", str(tmp_path), "--apply_chat_template", "--log_samples"]
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *words, "--output_path", str(tmp_path / "out")],
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_DATASETS_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    [results] = (tmp_path / "out").rglob("results_*.json")
    accuracy = json.loads(results.read_text())["results"]["sums"]["exact_match,flexible-extract"]
    [samples] = (tmp_path / "out").rglob("samples_*.jsonl")
    replies = [json.loads(line) for line in samples.read_text().splitlines()]
    right = [correct(sums[reply["doc_id"]], reply["resps"][0][0]) == 1.0 for reply in replies]
    assert len(right) == len(sums) > 10
    assert accuracy == pytest.approx(sum(right) / len(right))
    assert accuracy > 0
    assert "thought process" not in samples.read_text() + done.stdout + done.stderr


def test_the_page_and_the_models_are_there(server: str):
    assert "<html" in httpx.get(f"{server}/").text
    models = httpx.get(f"{server}/v1/models").json()
    assert [model["id"] for model in models["data"]] == ["runs/quickstart"]
    # Nobody may ask a policy that thinks not to, unless the operator says so.
    assert models["data"][0]["think_off"] is False
    assert 'id="direct"' not in httpx.get(f"{server}/").text


def test_a_dead_upstream_is_one_message(tmp_path: Path):
    words = ["serve", "microworld", "--upstream", "http://127.0.0.1:9/v1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "127.0.0.1:9" in done.output
    assert "Traceback" not in done.output


def test_an_upstream_that_does_not_go_on_from_a_text_is_one_message(tmp_path: Path):
    upstream = Server(tmp_path)
    words = ["serve", "microworld", "--upstream", f"{upstream.url}/v1", "--upstream-continues"]
    done = CliRunner().invoke(app, words)
    upstream.stop()
    assert done.exit_code == 1
    assert "--upstream-continues: " in done.output
    assert "leave the option out" in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["serve", "microworld", "--host", "0.0.0.0"], "--api-keys"),
        (["serve", "microworld", "--port", "70000"], "port: 70000"),
        (["serve", "no/such/folder"], "no/such/folder"),
        (["serve", "microworld", "--upstream-body", "{}"], "--upstream-body: it is about a server"),
        (["serve", "microworld", "--upstream-splits"], "--upstream-splits: it is about a server"),
        (
            ["serve", "microworld", "--thought-format", "tags", "--allow-think-off"],
            "--allow-think-off: a policy of the format 'tags' thinks without being asked to",
        ),
        (["serve", "microworld", "--upstream", "localhost:8001"], "upstream: 'localhost:8001'"),
        (["vllm-plugin", "microworld", "hide.py"], "has no thoughts"),
        (["chat", "http://127.0.0.1:9"], "127.0.0.1:9"),
        (["new-key", "two words", "TMP/keys"], "two words"),
    ],
)
def test_a_users_mistake_is_one_clear_message(tmp_path: Path, words: list[str], says: str):
    done = CliRunner().invoke(app, [word.replace("TMP", str(tmp_path)) for word in words])
    assert done.exit_code == 1, done.output
    assert says in done.output
    assert "Traceback" not in done.output


def test_a_new_key_is_shown_once_and_kept_as_a_hash(tmp_path: Path):
    keys = tmp_path / "keys"
    done = CliRunner().invoke(app, ["new-key", "lab", str(keys), "--reasoning"])
    assert done.exit_code == 0
    assert done.output.strip() not in keys.read_text()
    assert keys.read_text().startswith("lab ")
    assert keys.stat().st_mode & 0o777 == 0o600
    again = CliRunner().invoke(app, ["new-key", "lab", str(keys)])
    assert again.exit_code == 1
    assert "has a key of lab" in again.output
