"""The measure arena_hard on scripted and on real policies, judged at a real server."""

import io
import json
import time
from multiprocessing import get_context
from typing import Any

import pytest
from openai_server import start
from rich.console import Console

from forethought.config import (
    ArenaHardMeasure,
    ModelConfig,
    OpenAIEngine,
    ScriptedSampling,
    TransformersSampling,
)
from forethought.evaluation.arena_hard.arena_files import read_answers, read_labels
from forethought.evaluation.arena_hard.arena_score import score_labels
from forethought.microworld.tasks import generate
from forethought.progress.reporter import Reporter
from forethought.stages.measures.arena_hard import measure
from forethought.stages.measures.base import Subject
from forethought.stages.policies.sampled_policy import Policy
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import read_records
from forethought.thoughts import GENERIC
from forethought.types import Answer

SECRET = "Zanzibar"
THOUGHT = f"Here is my thought process:\n{SECRET}\nHere is my response:\n"
QUESTIONS = {
    "q1": "What is the capital of France?",
    "q2": "Name a colour.",
    "q3": "Think for ever.",
    "q4": "Stay mute, judge.",
    # The same text under another id.
    "q5": "Name a colour.",
}
BASELINE = {"q1": "Paris.", "q2": "Blue.", "q3": "No.", "q4": "Yes.", "q5": "Blue as the sky is."}
SCRIPT = [
    ("capital", [THOUGHT + "Paris, on the Seine."]),
    ("colour", [THOUGHT + "Red, I say."]),
    ("for ever", [f"Here is my thought process:\n{SECRET} and no end"]),
    ("mute", [THOUGHT + "Hello."]),
]


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


class Bench:
    """The files of a small benchmark, a policy, and a judge at a server."""

    def __init__(self, folder, questions=QUESTIONS, baseline=BASELINE, script=SCRIPT):
        self.folder = folder
        self.questions = lines(
            folder / "question.jsonl",
            [
                {"question_id": one, "category": "arena-hard-v0.1", "turns": [{"content": text}]}
                for one, text in questions.items()
            ],
        )
        self.baseline = lines(
            folder / "baseline.jsonl",
            [
                {
                    "question_id": one,
                    "model_id": "base",
                    "choices": [{"index": 0, "turns": [{"content": text}]}],
                }
                for one, text in baseline.items()
            ],
        )
        self.script = lines(
            folder / "script.jsonl",
            [{"match": match, "replies": replies} for match, replies in script],
        )
        self.policy = self.policy_with(ScriptedSampling(path=self.script))
        self.servers = []

    def policy_with(self, sampling):
        return Policy(
            name="thought policy 2",
            model=ModelConfig(path="microworld", dtype="float32", device="cpu"),
            thought_format=GENERIC,
            sampling=sampling,
            seed_words=(0, "arena_hard", 2),
        )

    def judge(self, *words):
        log = self.folder / f"log_{len(self.servers)}.jsonl"
        server = start("--judge", "arena_judges:prefers_longer", *words, log=log)
        self.servers.append(server)
        return server

    def measure(self, base_url, name="arena", cache=None) -> dict[str, Any]:
        engine = OpenAIEngine(base_url=base_url, model="test-model", concurrency=1, attempts=1)
        config = ArenaHardMeasure(questions=self.questions, baseline=self.baseline, judge=engine)
        subject = Subject(policy=self.policy, judge=None, cache=cache, account="arena", prompts=())
        stage = Stage(
            self.folder / name,
            name="arena_hard",
            version=1,
            config={"measure": config.identity()},
        )
        counts = measure(stage, subject, config, Reporter(Console(file=io.StringIO())))
        self.digest = stage.seal(counts).digest
        return counts

    def read(self, name, run="arena"):
        return [json.loads(line) for line in (self.folder / run / name).read_text().splitlines()]


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    for server in made.servers:
        server.stop()


def test_answers_judgments_and_score(bench):
    server = bench.judge()
    counts = bench.measure(server.base_url)

    q1, q2, q3, q4, q5 = bench.read("judgments.jsonl")
    scores = {
        one["question_id"]: [game["score"] for game in one["games"]] for one in (q1, q2, q3, q4, q5)
    }
    assert scores == {
        "q1": ["B>>A", "A>>B"],  # 20 characters against 6
        "q2": ["B>>A", "A>>B"],  # 11 against 5
        "q3": ["A>B", "B>A"],  # no response: a plain loss
        "q4": [None, None],  # the judge says nothing, twice
        "q5": ["A>B", "B>A"],  # 11 against 19
    }
    assert q3["games"][0]["reason"] == "the model gave no response"
    assert "asked once more" in q4["games"][0]["reason"]
    assert q1["games"][0]["judgment"].startswith("6 against 20 characters.")
    # Two for the policy with three battles in both games, two against it with one in both.
    [result] = counts["results"]
    assert (result["name"], result["value"], result["count"]) == ("arena_hard", 75.0, 4)
    low, high = result["interval"]
    assert low < 75 < high
    assert (counts["questions"], counts["games"]) == (5, 8)
    missing = [(count["question_id"], count["game"]) for count in counts["missing"]]
    assert missing == [("q4", 1), ("q4", 2)]
    assert counts["missing"][0]["reason"] == q4["games"][0]["reason"]
    assert counts["unparsable"] == 1
    # Four answers in two games, and the mute ones asked once more; nothing about q3.
    assert counts["judge_calls"]["calls"] == len(server.bodies()) == 10


def test_the_files_are_as_the_benchmark_has_them(bench):
    bench.measure(bench.judge().base_url)
    answers = bench.read("answers.jsonl")
    assert [answer["question_id"] for answer in answers] == list(QUESTIONS)
    assert answers[0]["choices"] == [{"index": 0, "turns": [{"content": "Paris, on the Seine."}]}]
    assert answers[2]["choices"] == []
    path = bench.folder / "arena" / "answers.jsonl"
    assert read_answers(path, ["q1", "q5"]).texts["q5"] == "Red, I say."
    with pytest.raises(ValueError, match="lacks an answer to 1 of 1 questions: q3"):
        read_answers(path, ["q3"])

    [labels] = read_labels(bench.folder / "arena" / "judgments.jsonl", list(QUESTIONS))
    own, published = json.loads((bench.folder / "arena" / "scores.json").read_text())
    assert score_labels(labels).as_json() == own
    assert score_labels(labels, interval="published").as_json() == published
    assert own["model"] == "thought policy 2"


def test_no_judge_and_no_file_but_the_sampled_outputs_has_a_thought(bench):
    server = bench.judge()
    bench.measure(server.base_url)
    assert server.log is not None
    assert SECRET not in server.log.read_text()
    for name in ("answers.jsonl", "judgments.jsonl", "scores.json", "manifest.json"):
        assert SECRET not in (bench.folder / "arena" / name).read_text(), name
    kept = read_records(bench.folder / "arena", Answer, "answers")
    assert all(SECRET in one.completion.text for one in kept)
    assert len(kept) == len(set(QUESTIONS.values()))


@pytest.mark.parametrize("cache", [None, "replies.sqlite"])
def test_what_a_failed_run_paid_for_is_not_asked_again(bench, cache):
    path = None if cache is None else bench.folder / cache
    down = bench.judge("--rules", '[{"calls": [5, 100], "status": 500, "message": "down"}]')
    with pytest.raises(ValueError, match="down"):
        bench.measure(down.base_url, cache=path)
    # The answers are kept too: without its script the policy could not answer again.
    bench.script.unlink()
    up = bench.judge()
    counts = bench.measure(up.base_url, cache=path)
    assert counts["judge_calls"]["calls"] == 10
    assert len(up.bodies()) == 5

    other = Bench(bench.folder)
    other.servers = bench.servers
    other.measure(up.base_url, name="whole")
    assert other.digest == bench.digest
    for name in ("answers.jsonl", "judgments.jsonl"):
        assert other.read(name, "whole") == other.read(name)


def measure_in_a_process(folder, base_url):
    Bench(folder).measure(base_url)


def test_a_run_that_is_killed_goes_on_with_what_it_owes(bench):
    server = bench.judge("--delay", "0.2")
    process = get_context("spawn").Process(
        target=measure_in_a_process, args=(bench.folder, server.base_url)
    )
    process.start()
    end = time.monotonic() + 60
    while len(server.bodies()) < 4 and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.join()
    assert not (bench.folder / "arena" / "manifest.json").exists()
    bench.script.unlink()
    counts = bench.measure(server.base_url)
    assert counts["results"][0]["value"] == 75.0
    assert counts["judge_calls"]["calls"] == 10
    # The one in flight was lost, and one may have been answered but not yet kept.
    assert len(server.bodies()) <= 12


def test_a_policy_that_never_answers_loses_all_and_no_judge_is_asked(tmp_path):
    bench = Bench(tmp_path, script=[("", ["Here is my thought process: hm"])])
    counts = bench.measure("http://127.0.0.1:9/v1")
    [result] = counts["results"]
    assert (result["value"], result["count"]) == (0.0, 5)
    assert counts["unparsable"] == 5
    assert counts["mean_response_tokens"] is None
    assert counts["judge_calls"]["calls"] == 0


def test_a_judge_without_any_verdict_gives_no_score(bench):
    server = start("--replies", str(lines(bench.folder / "hm.jsonl", [HM])))
    bench.servers.append(server)
    bench.questions = lines(bench.folder / "question.jsonl", [{"uid": "q1", "prompt": "capital"}])
    with pytest.raises(ValueError, match="no game of its 1 questions has a verdict"):
        bench.measure(server.base_url)
    [record] = bench.read("judgments.jsonl")
    assert "no label: 'Hm.'" in record["games"][0]["reason"]


HM = {"match": "", "replies": ["Hm."]}


def test_files_that_do_not_fit_are_refused_before_anything_is_sampled(tmp_path):
    bench = Bench(tmp_path, baseline={"q1": "Paris."}, script=[])
    with pytest.raises(ValueError, match=r"baseline\.jsonl lacks an answer to 4 of 5 questions"):
        bench.measure("http://127.0.0.1:9/v1")
    assert not (tmp_path / "arena" / "answers.parquet").exists()


def test_a_real_policy_answers_questions_of_its_world(tmp_path):
    tasks = generate("test", 6, 0)
    questions = {f"q{place}": task.query for place, task in enumerate(tasks)}
    baseline = dict.fromkeys(questions, "I do not know.")
    bench = Bench(tmp_path, questions, baseline)
    bench.policy = bench.policy_with(TransformersSampling(max_new_tokens=128))
    server = bench.judge()
    counts = bench.measure(server.base_url)
    assert counts["unparsable"] < 6
    assert counts["mean_thought_tokens"] > 0
    answers = bench.read("answers.jsonl")
    shown = "".join(body["messages"][1]["content"] for body in server.bodies())
    assert GENERIC.thought_starts_after[0] not in shown
    for answer in answers:
        for choice in answer["choices"]:
            assert choice["turns"][0]["content"] in shown
    server.stop()
