"""`forethought evaluate judge` on judges whose faults are known."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import openai_server
import pytest
from tiny import save_armorm, save_reward_model
from typer.testing import CliRunner

from forethought.cli.main import app

TESTS = Path(__file__).parent.parent
KINDS = 10


def evaluate(*words):
    return CliRunner().invoke(app, ["evaluate", "judge", *map(str, words)])


def measured(output, *words):
    done = evaluate(*words, "--output", output, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def figures(counts):
    """Values by name, those of a kind of persuasion by the kind."""
    return {row["category"] or row["name"]: row for row in counts["results"]}


def value(counts, name):
    return figures(counts)[name]["value"]


@pytest.fixture
def at_server(tmp_path):
    """Start a server whose judge is a function of `biased_judges`."""
    servers = []

    def start(rule, kind="pairwise", prompt="with_ties"):
        server = openai_server.start("--judge", f"biased_judges:{rule}", log=tmp_path / "log.jsonl")
        servers.append(server)
        engine = f"judge.engine={{type: openai, base_url: '{server.base_url}', concurrency: 8}}"
        return server, [f"judge.type={kind}", f"judge.prompt={prompt}", engine]

    yield start
    for server in servers:
        server.stop()


def test_a_judge_that_always_says_a_follows_the_place(at_server, tmp_path):
    server, words = at_server("says_a")
    counts = measured(tmp_path / "out", *words)
    found = figures(counts)
    assert found["position_bias"]["value"] == found["position_first"]["value"] == 1
    assert found["position_second"]["value"] == 0
    assert found["position_bias"]["count"] == 30
    assert found["position_bias"]["interval"][0] > 0.85
    # Both orders together make a tie: no persuasion and no length wins.
    assert found["decided"]["value"] == 0
    assert found["attack_wins"]["value"] == 0
    assert found["longer_wins"]["value"] == 0.5
    assert found["same_verdict"]["value"] == 1
    # 30 pairs, 60 attacks and 30 wrong ones, and the 30 pairs again, each in both orders.
    assert len(server.requests()) == counts["judge_calls"]["calls"] == 2 * (30 + 60 + 30 + 30)
    assert found["right_wins"]["value"] == 0.5
    assert counts["refused"] == []


def test_a_judge_without_taste_is_not_biased(at_server, tmp_path):
    _, words = at_server("has_no_taste")
    counts = measured(tmp_path / "out", *words)
    assert value(counts, "position_bias") == value(counts, "attack_wins") == 0
    assert value(counts, "longer_wins") == 0.5
    assert figures(counts)["length_correlation"]["note"] == "all scores are equal"


def test_a_judge_that_obeys_fake_verdicts_loses_to_these(at_server, tmp_path):
    _, words = at_server("obeys_verdicts")
    found = figures(measured(tmp_path / "out", *words))
    assert found["fake_verdict"]["value"] >= 4 / 6
    assert found["fake_verdict"]["count"] == 6
    assert found["flattery"]["value"] == found["padding"]["value"] == 0
    assert 0 < found["attack_wins"]["value"] < 0.4
    # Some of them stand around a wrong response.
    assert found["attack_wins_worse"]["value"] > 0
    assert found["attack_wins_worse"]["count"] == 8


def test_a_rating_is_talked_up(at_server, tmp_path):
    _, words = at_server("rates_what_it_is_told", "rating", "rating_1_to_10")
    counts = measured(tmp_path / "out", *words)
    found = figures(counts)
    # A plain response is rated once for all that stands beside it, and once more in the end.
    assert counts["judge_calls"]["calls"] == 60 + 60 + 30 + 60
    assert found["fake_score"]["value"] >= 4 / 6
    assert found["appeal"]["value"] == found["flattery"]["value"] == 0
    assert found["position_bias"]["value"] is None
    assert "not applicable" in found["position_bias"]["note"]
    assert found["same_verdict"]["value"] == 1


def test_what_a_judge_does_not_answer_is_counted(at_server, tmp_path):
    _, words = at_server("falls_silent")
    counts = measured(tmp_path / "out", *words)
    flattery = figures(counts)["flattery"]
    assert flattery["refused"] == 1
    assert flattery["count"] == 5
    assert figures(counts)["attack_wins"]["refused"] == 1
    [refused] = counts["refused"]
    assert refused["set"] == "attacks"
    assert "I am flattered" in refused["reason"]
    shown = evaluate(*words, "--output", tmp_path / "out")
    assert "refused: 1 of attacks; the first:" in shown.output


def test_a_judge_that_changes_its_mind(at_server, tmp_path):
    _, words = at_server("turns_about")
    words[-1] = words[-1].replace("concurrency: 8", "concurrency: 1")
    counts = measured(tmp_path / "out", *words)
    # Asked in both orders, A and then B, it prefers one response, and in reverse the other one.
    assert value(counts, "position_bias") == 0
    assert value(counts, "same_verdict") == value(counts, "same_preference") == 0
    assert value(counts, "repeat_noise") > 0.5


def test_a_judge_that_loves_length(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TESTS)
    words = ["judge.type=verifier", "judge.function=biased_judges:loves_length"]
    counts = measured(tmp_path / "out", *words)
    found = figures(counts)
    assert found["longer_wins"]["value"] == 1
    assert found["length_slope"]["value"] == pytest.approx(100)
    # Few of the wrong responses are as long as the right one.
    assert found["decided"]["value"] > 0.9
    assert found["length_correlation"]["value"] == pytest.approx(1)
    assert found["padding"]["value"] == 1
    assert found["repeat_noise"]["value"] == 0
    assert counts["judge_calls"] is None


@pytest.mark.parametrize("function", ["gsm8k", "biased_judges:knows"])
def test_a_verifier_that_knows_the_answer_is_not_moved(function, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TESTS)
    counts = measured(tmp_path / "out", "judge.type=verifier", f"judge.function={function}")
    found = figures(counts)
    assert found["attack_wins"]["value"] == found["attack_wins_worse"]["value"] == 0
    assert found["longer_wins"]["value"] == 0.5
    assert found["right_wins"]["value"] == 1
    assert found["attack_wins"]["count"] == (16 if function == "gsm8k" else 30)
    # The others have no number as reference: they are refused, and said to be.
    assert found["attack_wins"]["refused"] == (28 if function == "gsm8k" else 0)


def test_reward_models_are_measured_alike(tmp_path):
    save_reward_model(tmp_path / "reward_model")
    save_armorm(tmp_path / "armorm")
    for kind in ("reward_model", "armorm"):
        words = [f"judge.type={kind}", f"judge.path={tmp_path / kind}", "judge.dtype=float32"]
        counts = measured(tmp_path / f"out_{kind}", *words)
        found = figures(counts)
        assert found["position_bias"]["value"] is None
        assert found["repeat_noise"]["value"] < 1e-3
        assert found["same_preference"]["value"] > 0.9
        assert found["length_slope"]["interval"] is not None
        assert found["attack_wins"]["count"] == 30
        # Their weights are random: persuasion wins as often as a coin.
        low, high = found["attack_wins"]["interval"]
        assert low < 0.5 < high
        # Nothing of the first round was found in the second: each score was computed twice.
        assert counts["judge_calls"]["calls"] == 2 * 60 + 30 + 60


def test_a_mixture_shows_the_places_of_its_pairwise_member(at_server, tmp_path):
    _, words = at_server("says_a")
    engine = words[-1].partition("=")[2]
    member = f"{{type: pairwise, prompt: with_ties, engine: {engine}}}"
    verifier = "{type: verifier, function: 'biased_judges:loves_length'}"
    routes = f"[{{members: [{{judge: {member}}}, {{judge: {verifier}}}]}}]"
    command = [sys.executable, "-m", "forethought.cli", "evaluate", "judge", "--json"]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [*command, "judge.type=mixture", f"judge.routes={routes}", "--output", tmp_path / "out"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert value(counts, "position_bias") == 1
    assert value(counts, "longer_wins") == 1


def test_a_custom_judge_that_refuses_and_is_fickle(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TESTS)
    words = ["judge.type=custom", "judge.import_path=biased_judges:Fickle"]
    counts = measured(tmp_path / "out", *words)
    found = figures(counts)
    assert len(counts["refused"]) == 15
    assert found["attack_wins"]["value"] == 1
    assert found["attack_wins"]["refused"] == 6
    # In reverse it prefers the other one.
    assert found["same_preference"]["value"] == 0


@pytest.fixture
def files(tmp_path):
    responses = [
        {"prompt": "What is 2 + 2?", "reference": "4", "responses": ["4", "It is 4.", "5", "4"]},
        {"prompt": "What is 3 + 3?", "reference": "6", "responses": ["6", None]},
        {"prompt": "What is 4 + 4?", "reference": "8", "responses": [None]},
    ]
    preferences = [
        {"prompt": "What is 2 + 2?", "reference": "4", "chosen": "4", "rejected": "It is 5."},
        {"prompt": "What is 3 + 3?", "reference": "6", "chosen": "6", "rejected": "7"},
        {"prompt": "What is 1 + 1?", "reference": "2", "chosen": "3", "rejected": "2"},
        {"prompt": "What is 5 + 5?", "reference": "ten", "chosen": "10", "rejected": "2"},
    ]
    for name, rows in (("responses", responses), ("preferences", preferences)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    return tmp_path


def test_responses_and_preferences_of_ones_own(files):
    words = ["judge.type=verifier", "judge.function=gsm8k"]
    words += [
        "--responses",
        files / "responses.jsonl",
        "--preferences",
        files / "preferences.jsonl",
    ]
    counts = measured(files / "out", *words)
    found = figures(counts)
    assert found["agreement"]["value"] == pytest.approx(2 / 3)
    assert (found["agreement"]["count"], found["agreement"]["refused"]) == (3, 1)
    # All sixty persuasions stand around the responses of two lines; the third line has none.
    assert found["attack_wins"]["count"] == 2
    assert [found[kind]["refused"] for kind in ("padding", "flattery")] == [0, 0]
    assert counts["without_response"] == 1
    assert "attack_wins_worse" not in found
    # Of "4", "It is 4." and "5" the pairs of different length are two: a tie and a win.
    assert found["longer_wins"]["value"] == pytest.approx((0.5 + 1) / 2)


def test_a_reason_that_no_file_could_hold_is_kept_readable(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TESTS)
    rows = [
        {"prompt": "Hi", "responses": ["angry\ud800\x00", "calm"]},
        {"prompt": "Ho", "responses": ["calm", "as calm"]},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "responses.jsonl").write_text(text)
    words = ["judge.type=verifier", "judge.function=biased_judges:quotes_what_angers_it"]
    counts = measured(tmp_path / "out", *words, "--responses", tmp_path / "responses.jsonl")
    assert "angry\ufffd\ufffd" in counts["refused"][0]["reason"]


def test_the_table_has_room_on_a_narrow_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = evaluate("judge.type=verifier", "judge.function=gsm8k", "--output", tmp_path / "out")
    table = [line for line in done.output.splitlines() if line.startswith(("│", "┃"))]
    assert len(table) == 1 + 10 + KINDS + 1
    assert all(len(line) <= 80 and "…" not in line for line in table)
    assert "not applicable" in done.output


def test_the_same_command_asks_nothing_twice(at_server, tmp_path):
    server, words = at_server("has_no_taste")
    first = measured(tmp_path / "out", *words)
    asked = len(server.requests())
    assert measured(tmp_path / "out", *words) == first
    assert len(server.requests()) == asked


@pytest.mark.slow
def test_a_killed_measurement_pays_for_nothing_again(at_server, tmp_path):
    server, words = at_server("has_no_taste")
    command = [sys.executable, "-m", "forethought.cli", "evaluate", "judge", *words]
    command += ["--output", str(tmp_path / "out")]
    for stop_at in (40, 200):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while len(server.requests()) < stop_at and child.poll() is None:
            time.sleep(0.002)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert not (tmp_path / "out" / "manifest.json").is_file()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    whole = measured(tmp_path / "whole", *words)
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert counts["results"] == whole["results"]
    assert counts["judge_calls"]["calls"] == 300
    # What was under way at a kill, at most 8 calls, may have been answered and not kept.
    assert len(server.requests()) - 300 <= 300 + 2 * 8
    assert not (tmp_path / "out" / "scratch").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "judge is missing"),
        (["judge.type=verifier", "judge.function=gsm8k"], "--output: name a folder"),
        (["judge.type=reward_model", "judge.path=no/such/model", "OUT"], "no/such/model"),
        (["judge.type=verifier", "judge.function=microworld", "OUT"], "scored none of 150 cases"),
        (["GSM8K", "OUT", "--responses", "nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["GSM8K", "OUT", "--responses", "FILE"], "neither `responses`"),
        (
            ["GSM8K", "OUT", "--preferences", "FILE"],
            "line 1: chosen must be the text of a response",
        ),
        (["GSM8K", "OUT", "--preferences", "SAME"], "line 1: chosen and rejected are the same"),
        (["GSM8K", "OUT", "--responses", "EMPTY"], "has a response"),
        (["GSM8K", "--output", "HERE"], "holds something else"),
    ],
)
def test_a_users_mistake_is_one_clear_message(words, says, tmp_path):
    (tmp_path / "file.jsonl").write_text('{"prompt": "Hi", "chosen": 3}\n')
    (tmp_path / "same.jsonl").write_text('{"prompt": "Hi", "chosen": "a", "rejected": "a"}\n')
    (tmp_path / "empty.jsonl").write_text('{"prompt": "Hi", "responses": [null]}\n')
    named = {
        "OUT": ["--output", tmp_path / "out"],
        "GSM8K": ["judge.type=verifier", "judge.function=gsm8k"],
        "FILE": [tmp_path / "file.jsonl"],
        "SAME": [tmp_path / "same.jsonl"],
        "EMPTY": [tmp_path / "empty.jsonl"],
        "HERE": [tmp_path],
    }
    done = evaluate(*[word for each in words for word in named.get(each, [each])])
    assert done.exit_code == 1, done.output
    assert says in done.output.replace("\n", " ")
    assert "Traceback" not in done.output
