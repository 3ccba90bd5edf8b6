"""The measure alpaca_eval on scripted and on real policies, judged at a real server."""

import io
import json
import math
import time
from multiprocessing import get_context
from typing import Any

import pytest
from openai_server import start
from rich.console import Console

from forethought.config import (
    AlpacaEvalMeasure,
    ModelConfig,
    OpenAIEngine,
    ScriptedSampling,
    TransformersSampling,
)
from forethought.evaluation.alpaca_eval.weighted_preference import (
    is_switched,
    preference_for_second,
)
from forethought.evaluation.alpaca_eval.win_rates import as_json, score_annotations
from forethought.microworld.tasks import generate
from forethought.progress.reporter import Reporter
from forethought.stages.measures.alpaca_eval import measure
from forethought.stages.measures.base import Subject
from forethought.stages.policies.sampled_policy import Policy
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import read_records
from forethought.thoughts import GENERIC
from forethought.types import Answer

SECRET = "Zanzibar"
THOUGHT = f"Here is my thought process:\n{SECRET}\nHere is my response:\n"
BASELINE = "I am the baseline, and I go on a little."
INSTRUCTIONS = [
    "What is the capital of France?",
    "Name a colour.",
    "Name a shape.",
    "Think for ever.",
    "Say what the baseline says.",
    "Stay mute, judge.",
    "Name a fruit.",
]
SCRIPT = [
    ("capital", [THOUGHT + "Paris, on the Seine."]),
    ("for ever", [f"Here is my thought process:\n{SECRET} and no end"]),
    ("baseline", [THOUGHT + BASELINE]),
    ("", [THOUGHT + "Certainly: red, round or ripe."]),
]


def saying(**logprobs):
    tokens = [{"token": token, "logprob": value} for token, value in logprobs.items()]
    reply = {"choices": [{"logprobs": {"content": [{"top_logprobs": tokens}]}}]}
    return {"do": "merge", "reply": reply}


def second_is(output):
    return {"match": f'"model_identifier": "M",\n        "output": """{output}'}


RULES: list[dict[str, Any]] = [
    {"match": "Stay mute"} | saying(Both=-0.1),
    # Four to one for the model, in both orders.
    second_is("I am the baseline") | saying(m=math.log(0.8), M=math.log(0.2)),
    saying(M=math.log(0.8), m=math.log(0.2)),
]


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


class Bench:
    """The files of a small evaluation set, a policy, and a judge at a server."""

    def __init__(self, folder, instructions=INSTRUCTIONS, sampling=None):
        self.folder = folder
        self.script = written(
            folder / "script.jsonl",
            "".join(json.dumps({"match": m, "replies": r}) + "\n" for m, r in SCRIPT),
        )
        entries = [
            {"instruction": instruction, "dataset": "made_up"} for instruction in instructions
        ]
        outputs = [entry | {"output": BASELINE, "generator": "base"} for entry in entries]
        rows = [f"{place},{place / 10}" for place in range(len(instructions))]
        self.fields: dict[str, Any] = {
            "instructions": written(folder / "alpaca_eval.json", entries),
            # Another order, and an output for what is not asked.
            "baseline": written(
                folder / "baseline.json",
                [*outputs[::-1], outputs[0] | {"instruction": "Unasked", "output": "?"}],
            ),
            "difficulty": written(
                folder / "difficulty.csv", "\n".join(["index,instruction_difficulty", *rows])
            ),
            "gamed": written(
                folder / "gamed.csv",
                "preference,std_delta_len,instruction_difficulty,not_gamed_baseline\n"
                "0.3,1.5,0.1,False\n0.6,-1.2,0.4,False\n",
            ),
        }
        self.policy = Policy(
            name="thought policy 2",
            model=ModelConfig(path="microworld", dtype="float32", device="cpu"),
            thought_format=GENERIC,
            sampling=sampling or ScriptedSampling(path=self.script),
            seed_words=(0, "alpaca_eval", 2),
        )
        self.servers = []

    def judge(self, rules=None, *words):
        log = self.folder / f"log_{len(self.servers)}.jsonl"
        server = start("--rules", json.dumps(RULES if rules is None else rules), *words, log=log)
        self.servers.append(server)
        return server

    def measure(self, base_url, name="alpaca", cache=None):
        engine = OpenAIEngine(base_url=base_url, model="judge", concurrency=1, attempts=1)
        config = AlpacaEvalMeasure(annotator=engine, attempts=2, **self.fields)
        subject = Subject(policy=self.policy, judge=None, cache=cache, account="a", prompts=())
        stage = Stage(self.folder / name, name="alpaca_eval", version=1, config={})
        counts = measure(stage, subject, config, Reporter(Console(file=io.StringIO())))
        manifest = stage.seal(counts)
        self.digest = manifest.digest
        counts: dict[str, Any] = json.loads(manifest.model_dump_json())["counts"]
        return counts

    def read(self, name, run="alpaca"):
        return json.loads((self.folder / run / name).read_text())


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    for server in made.servers:
        server.stop()


def test_outputs_annotations_and_figures(bench):
    server = bench.judge()
    counts = bench.measure(server.base_url)
    outputs = bench.read("model_outputs.json")
    assert [output["instruction"] for output in outputs] == INSTRUCTIONS
    assert outputs[0] == {
        "instruction": INSTRUCTIONS[0],
        "dataset": "made_up",
        "output": "Paris, on the Seine.",
        "generator": "thought policy 2",
    }
    assert outputs[3]["output"] == ""
    annotations = bench.read("annotations.json")
    # Won 0.8 each; no response loses; the same output draws; the mute judge gives none.
    preferences = [annotation["preference"] for annotation in annotations]
    assert preferences[:5] == pytest.approx([1.8, 1.8, 1.8, 1.0, 1.5])
    assert preferences[5] is None
    assert preferences[6] == pytest.approx(1.8)
    assert "neither m nor M" in annotations[5]["reason"]
    assert counts["missing"] == [{"index": 5, "reason": annotations[5]["reason"]}]
    assert counts["without_response"] == 1
    rate, controlled, part = counts["results"]
    assert (rate["name"], rate["count"]) == ("win_rate", 6)
    assert rate["value"] == pytest.approx(100 * (4 * 0.8 + 0 + 0.5) / 6)
    assert (part["category"], part["value"]) == ("made_up", pytest.approx(rate["value"]))
    assert controlled["name"] == "length_controlled_win_rate"
    figures = bench.read("score.json")
    assert controlled["value"] == figures["length_controlled_win_rate"]
    assert controlled["interval"] == figures["length_controlled_interval"]
    assert counts["avg_length"] == sum(len(output["output"]) for output in outputs) // 7
    assert (counts["glm"], counts["baseline"]) == ("full", "base")
    assert counts["annotator"] == "weighted_alpaca_eval:judge"
    # Four won and one mute; nothing about the draw and the loss.
    assert len(server.bodies()) == counts["judge_calls"]["calls"] == 5


def test_the_files_can_be_scored_and_read_again(bench):
    bench.measure(bench.judge().base_url)
    [again] = score_annotations(
        bench.folder / "alpaca" / "annotations.json",
        difficulty=bench.fields["difficulty"],
        gamed=bench.fields["gamed"],
    )
    assert json.loads(json.dumps(as_json(again))) == bench.read("score.json")
    first = bench.read("annotations.json")[0]
    content = first["raw_completion"]["logprobs"]["content"][0]["top_logprobs"]
    shown = preference_for_second({one["token"]: one["logprob"] for one in content})
    assert shown is not None
    assert first["is_switched_outputs"] == is_switched(first["instruction"])
    assert first["preference"] == (3 - shown if first["is_switched_outputs"] else shown)
    # The policy's outputs can be another's baseline.
    bench.fields["baseline"] = bench.folder / "alpaca" / "model_outputs.json"
    counts = bench.measure(bench.judge().base_url, name="itself")
    assert counts["baseline"] == "thought policy 2"
    assert (counts["results"][1]["value"], counts["glm"]) == (50, "baseline")


def test_no_judge_and_no_file_but_the_sampled_outputs_has_a_thought(bench):
    server = bench.judge()
    bench.measure(server.base_url, cache=bench.folder / "replies.sqlite")
    assert server.log is not None
    assert SECRET not in server.log.read_text()
    assert SECRET.encode() not in (bench.folder / "replies.sqlite").read_bytes()
    for name in ("model_outputs.json", "annotations.json", "score.json", "manifest.json"):
        assert SECRET not in (bench.folder / "alpaca" / name).read_text(), name
    kept = read_records(bench.folder / "alpaca", Answer, "answers")
    assert all(SECRET in one.completion.text for one in kept)
    assert len(kept) == len(INSTRUCTIONS)


@pytest.mark.parametrize("cache", [None, "replies.sqlite"])
def test_what_a_failed_run_paid_for_is_not_asked_again(bench, cache):
    path = None if cache is None else bench.folder / cache
    down = bench.judge([{"calls": [3, 100], "status": 500, "message": "down"}, *RULES])
    with pytest.raises(ValueError, match="down"):
        bench.measure(down.base_url, cache=path)
    # The answers are kept too: without its script the policy could not answer again.
    bench.script.unlink()
    up = bench.judge()
    counts = bench.measure(up.base_url, cache=path)
    assert counts["judge_calls"]["calls"] == 5
    assert len(up.bodies()) == 2
    other = Bench(bench.folder)
    other.measure(up.base_url, name="whole")
    assert other.digest == bench.digest


def measure_in_a_process(folder, base_url):
    Bench(folder).measure(base_url)


def test_a_run_that_is_killed_goes_on_with_what_it_owes(bench):
    server = bench.judge(None, "--delay", "0.2")
    process = get_context("spawn").Process(
        target=measure_in_a_process, args=(bench.folder, server.base_url)
    )
    process.start()
    end = time.monotonic() + 60
    while len(server.bodies()) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.join()
    assert not (bench.folder / "alpaca" / "manifest.json").exists()
    bench.script.unlink()
    counts = bench.measure(server.base_url)
    assert counts["results"][0]["count"] == 6
    # The one in flight was lost, and one may have been answered but not yet kept.
    assert 5 <= len(server.bodies()) <= 7


def test_without_tables_the_model_is_minimal(bench):
    del bench.fields["difficulty"], bench.fields["gamed"]
    assert bench.measure(bench.judge().base_url)["glm"] == "minimal"


def test_a_policy_that_never_answers_loses_all_and_no_judge_is_asked(bench):
    written(bench.script, json.dumps({"match": "", "replies": ["Here is my thought process: hm"]}))
    counts = bench.measure("http://127.0.0.1:9/v1")
    rate, controlled = counts["results"][:2]
    assert (rate["value"], rate["count"]) == (0, len(INSTRUCTIONS))
    assert controlled["value"] < 15
    assert counts["without_response"] == len(INSTRUCTIONS)
    assert counts["judge_calls"]["calls"] == 0


@pytest.mark.parametrize(
    ("field", "content", "message"),
    [
        ("instructions", [{"dataset": "x"}] * 6, r"record 0: instruction: None is no text"),
        ("instructions", [{"instruction": "x"}] * 6, r"records 0 and 1 have the same instruction"),
        ("instructions", [{"instruction": "Name a fruit."}], r"has 1 of them; length control nee"),
        ("instructions", {"a": 1}, r"holds no list of records"),
        ("instructions", ["a"], r"record 0 is no object but 'a'"),
        (
            "baseline",
            [{"instruction": "Name a fruit.", "output": "Fig.", "generator": "base"}],
            r"6 of 7 instructions have no output, the first 'What is the capital of France\?'",
        ),
        ("baseline", [{"instruction": "Name a fruit.", "output": "Fig."}], r"generator: None is n"),
        (
            "baseline",
            [{"instruction": "x", "output": text, "generator": "base"} for text in "ab"],
            r"record 1: its instruction has another output above",
        ),
        (
            "baseline",
            [{"instruction": "x", "output": "a", "generator": name} for name in "ab"],
            r"generator is 'a', 'b'; give one model's outputs alone",
        ),
        ("difficulty", "index,instruction_difficulty\n0,1\n", r"has no index 1, while .* has 7 in"),
        ("gamed", "a,b\n1,2\n", r"there is no column std_delta_len|no column preference"),
    ],
)
def test_files_that_do_not_fit_are_refused_before_anything_is_sampled(
    bench, field, content, message
):
    path = written(bench.folder / f"wrong_{field}", content)
    bench.fields[field] = path
    with pytest.raises(ValueError, match=message) as caught:
        bench.measure("http://127.0.0.1:9/v1")
    assert str(path) in str(caught.value)
    assert not (bench.folder / "alpaca" / "answers.parquet").exists()


def test_a_real_policy_answers_questions_of_its_world(tmp_path):
    queries = list(dict.fromkeys(task.query for task in generate("test", 6, 0)))
    bench = Bench(tmp_path, queries, TransformersSampling(max_new_tokens=128))
    server = bench.judge()
    try:
        counts = bench.measure(server.base_url)
    finally:
        server.stop()
    assert counts["without_response"] < len(queries)
    assert counts["thought_tokens"] > 0
    shown = "".join(body["messages"][1]["content"] for body in server.bodies())
    assert GENERIC.thought_starts_after[0] not in shown
    for one in bench.read("model_outputs.json"):
        assert one["output"] in shown
