"""Measures within a run and by command, on the microworld's own seed model."""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from small_run import small_run
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config.recipe_files import load_run
from forethought.evaluation.paired_win_rate import LengthOverlap
from forethought.evaluation.win_share import win_shares
from forethought.models.loading import load_tokenizer
from forethought.runs.layout import StageRef
from forethought.storage.sealed_stage import read_manifest, read_records
from forethought.types import Answer

TEST = 30
VARIANTS = ("own", "none", "other", "half")

pytestmark = pytest.mark.slow


MEASURES = (
    "iterations=1",
    "prompts_per_iteration=40",
    f"prompts.test={{count: {TEST}, sources: [{{type: microworld, split: test, count: {TEST}}}]}}",
    "sampling.max_new_tokens=96",
    "training.epochs=1",
    "measures.win_rate={}",
    "measures.probe={prompts: 20, after: last}",
    "measures.gsm8k.sources=[{type: microworld, split: test, count: 12}]",
    "measures.gsm8k.verifier=microworld",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("measured") / "run", *MEASURES).run


def evaluate(*words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


def figures(folder):
    results: Any = read_manifest(folder).counts["results"]
    return {result["name"]: result for result in results if result["category"] is None}


def by_prompt(folder, part):
    return {record.prompt_id: record for record in read_records(folder, Answer, part)}


def test_each_measure_is_sealed_for_the_policies_it_was_asked_for(run):
    there = sorted(
        str(path.parent.relative_to(run / "measures"))
        for path in (run / "measures").rglob("manifest.json")
    )
    assert there == [
        "gsm8k/direct/policy_0",
        "gsm8k/direct/policy_1",
        "gsm8k/thought/policy_0",
        "gsm8k/thought/policy_1",
        "probe/thought/policy_1",
        "win_rate/thought/policy_0",
        "win_rate/thought/policy_1",
    ]


def test_the_win_rate_is_that_of_the_sealed_answers(run):
    sides = [by_prompt(run / "evaluation" / arm / "policy_1", "") for arm in ("thought", "direct")]
    shares = [
        win_shares([sides[0][key].score, sides[1][key].score], ["thought", "direct"])[0]
        for key in sides[0]
    ]
    found = figures(run / "measures/win_rate/thought/policy_1")["win_rate"]
    assert found["value"] == pytest.approx(sum(shares) / len(shares))
    assert found["count"] == TEST


def test_the_direct_policy_may_spend_the_thoughts_tokens(run):
    folder = run / "measures/win_rate/thought/policy_1"
    tokens: Any = read_manifest(folder).counts["tokens_per_prompt"]
    assert tokens["second"] < tokens["first"] <= tokens["best_of_n"] < 2 * tokens["first"]
    best, drawn = by_prompt(folder, "best_of_n"), read_records(folder, Answer, "drawn")
    judged = by_prompt(folder, "judged_best_of_n_second")
    plain = by_prompt(folder, "judged_plain_second")
    for key, one in best.items():
        own = [each.completion.text for each in drawn if each.prompt_id == key]
        assert len(own) > 1
        assert one.completion.text in own
        # The first of the n draws is the very answer of the evaluation.
        assert (judged[key].score or 0) >= (plain[key].score or 0)
    rates = figures(folder)
    assert rates["win_rate_best_of_n"]["value"] <= rates["win_rate"]["value"]
    lengths: Any = read_manifest(folder).counts["lengths"]
    for rival, name in (("second", ""), ("best_of_n", "_best_of_n"), ("longer", "_longer")):
        overlap = LengthOverlap(**lengths[rival])
        assert (f"length_controlled_win_rate{name}" in rates) == overlap.suffices


def test_the_probe_changes_the_thought_and_nothing_else(run):
    folder = run / "measures/probe/thought/policy_1"
    answers = {k: v for k, v in by_prompt(folder, "answers").items() if v.parsed.response}
    probed = {variant: by_prompt(folder, variant) for variant in VARIANTS}
    assert all(probed[variant].keys() == answers.keys() for variant in VARIANTS)
    for key, one in answers.items():
        thought = {variant: probed[variant][key].parsed.thought or "" for variant in VARIANTS}
        assert thought["own"] == one.parsed.thought
        assert thought["none"] == ""
        others = {each.parsed.thought for name, each in answers.items() if name != key}
        assert thought["other"] in others
        assert thought["own"].startswith(thought["half"])
        assert len(thought["half"]) < len(thought["own"])
        # Its own thought is put there as the very tokens that were sampled.
        assert probed["own"][key].thought_tokens == one.thought_tokens


def test_the_probes_drop_is_that_of_the_sealed_scores(run):
    folder = run / "measures/probe/thought/policy_1"
    found = figures(folder)
    scores: Any = {v: {k: one.score for k, one in by_prompt(folder, v).items()} for v in VARIANTS}
    for variant in VARIANTS[1:]:
        drops = [scores["own"][key] - scores[variant][key] for key in scores["own"]]
        drop = found[f"probe_drop_{variant}"]
        assert drop["value"] == pytest.approx(sum(drops) / len(drops))
        assert drop["interval"][0] < drop["value"] < drop["interval"][1]
    # The seed was made to answer from its thoughts: without one it is lost.
    assert found["probe_drop_none"]["interval"][0] > 0


def test_a_measure_by_command_is_the_runs_own_stage(run):
    folder = run / "measures/probe/thought/policy_0"
    done = evaluate("probe", run / "thought/0", "measures.probe.prompts=12", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == read_manifest(folder).counts
    before = (folder / "manifest.json").stat().st_mtime_ns
    again = evaluate("probe", run / "thought/0", "measures.probe.prompts=12")
    assert again.exit_code == 0
    assert "probe_drop_none" in again.output
    assert (folder / "manifest.json").stat().st_mtime_ns == before


def test_other_settings_make_another_result(run):
    own = run / "measures/probe/thought/policy_1"
    sealed = read_manifest(own).digest
    again = evaluate("probe", f"{run}/thought/1", "measures.probe.prompts=6", "--json")
    assert again.exit_code == 0, again.output
    assert read_manifest(own).digest == sealed
    [other] = run.glob("measures/probe/thought/policy_1-*")
    assert len(by_prompt(other, "answers")) == 6
    assert str(other) in again.stderr.replace("\n", "")


def test_a_file_of_outputs_against_a_policy(run, tmp_path):
    prompts = StageRef(recipe=load_run(run), stage="evaluation", arm="direct", index=0).prompts(
        "test"
    )
    rows = [
        {"prompt": one.messages[-1].content, "responses": [one.reference, None][: 1 + n % 2]}
        | {"category": one.category, "reference": one.reference}
        for n, one in enumerate(prompts)
    ]
    outputs = tmp_path / "outputs.jsonl"
    outputs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = tmp_path / "compared"
    done = evaluate("win-rate", outputs, run / "direct", "--output", target, "--json")
    assert done.exit_code == 0, done.output
    counts = json.loads(done.stdout)
    assert counts["first"] == str(outputs)
    assert counts["without_response"]["first"] == TEST // 2
    rates = figures(target)
    assert rates["win_rate"]["count"] == TEST
    # References are right; every second line has an answer that is missing beside it.
    assert 0.3 < rates["win_rate"]["value"] < 0.9
    back = evaluate("win-rate", run / "direct", outputs, "--output", tmp_path / "back")
    assert back.exit_code == 0
    turned = figures(tmp_path / "back")["win_rate"]["value"]
    assert turned == pytest.approx(1 - rates["win_rate"]["value"])


def test_a_model_folder_brings_its_own_format(run, tmp_path):
    policy = run / "thought/iteration_0/selection/policy"
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "What is 3 plus 4?"}\n{"prompt": "What is 2 plus 6?"}\n')
    words = ("judge.type=rating", "judge.engine.type=scripted")
    script = tmp_path / "replies.jsonl"
    script.write_text('{"match": "", "replies": ["[[4]]", "[[6]]"]}\n')
    done = evaluate(
        "probe",
        policy,
        *words,
        f"judge.engine.path={script}",
        "sampling.max_new_tokens=96",
        "--prompts",
        prompts,
        "--output",
        tmp_path / "out",
    )
    assert done.exit_code == 0, done.output
    counts = read_manifest(tmp_path / "out").counts
    assert counts["prompts"] == 2
    assert {"probe_own", "probe_drop_none"} <= figures(tmp_path / "out").keys()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["probe", "RUN"], "is a run; name a policy of it"),
        (["probe", "RUN/thought/7"], "has policies [0, 1], and '7' is none"),
        (["probe", "RUN/direct/1"], "has no thoughts to probe"),
        (["gsm8k", "microworld"], "measures.gsm8k.sources is missing"),
        (["probe", "microworld", "--prompts", "PROMPTS"], "has no thoughts to probe"),
        (["probe", "microworld", "thought_format=generic"], "--prompts: give a JSONL file"),
        (["win-rate", "RUN/thought", "RUN/direct"], "--output: name a folder"),
        (["win-rate", "RUN/thought", "RUN/direct", "--output", "RUN"], "holds something else"),
        (["win-rate", "microworld", "microworld", "--prompts", "PROMPTS"], "judge: a win rate"),
        (["win-rate", "RUN/thought", "no/such/model", "--output", "OUT"], "no/such/model"),
        (["probe", "RUN/thought/1", "measures.probe.promts=3"], "promts: there is no such field"),
    ],
)
def test_a_users_mistake_is_one_clear_message(run, tmp_path, words, says):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Hello"}\n')
    named = {"PROMPTS": str(prompts), "OUT": str(tmp_path / "out")}
    words = [named.get(word, word.replace("RUN", str(run))) for word in words]
    if "PROMPTS" in words or "--prompts" in words:
        words += ["--output", str(tmp_path / "new")]
    done = evaluate(*words)
    assert done.exit_code == 1, done.output
    assert says in done.output.replace("\n", " ")
    assert "Traceback" not in done.output


def test_a_killed_probe_goes_on_where_it_was(run, tmp_path):
    words = [sys.executable, "-m", "forethought.cli", "evaluate", "probe", str(run / "thought/1")]
    words += ["measures.probe.prompts=30"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert subprocess.run([*words, "--output", whole], env=environment, check=False).returncode == 0
    for part in ("answers.parquet", "scratch/none.parquet"):
        child = subprocess.Popen([*words, "--output", killed], env=environment)
        deadline = time.monotonic() + 60
        while not (killed / part).is_file() and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert not (killed / "manifest.json").is_file()
    assert (
        subprocess.run([*words, "--output", killed], env=environment, check=False).returncode == 0
    )
    assert read_manifest(killed).digest == read_manifest(whole).digest


def test_what_a_judge_sees_of_a_probe_are_responses(run, tmp_path):
    """All that it is shown are responses: nothing of the opening that was put before them."""
    seen = tmp_path / "seen.jsonl"
    module = tmp_path / "curious_judge.py"
    module.write_text(CURIOUS)
    words = ["measures.probe.prompts=12", "--output", tmp_path / "out", "judge.type=custom"]
    words += ["judge.import_path=curious_judge:Judge", f"judge.options={{'path': '{seen}'}}"]
    done = subprocess.run(
        [sys.executable, "-m", "forethought.cli", "evaluate", "probe", run / "thought/1", *words],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = [json.loads(line) for line in seen.read_text().splitlines()]
    responses = {
        record.parsed.response
        for variant in VARIANTS
        for record in read_records(tmp_path / "out", Answer, variant)
    }
    assert {text for each in shown for text in each} == responses - {None}


CURIOUS = """
import json
from forethought.types import Judgement


class Judge:
    name, floor = "curious", 0.0

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def judge(self, groups):
        for group in groups:
            with open(self.path, "a") as file:
                file.write(json.dumps(group.responses) + "\\n")
            yield Judgement(
                prompt_id=group.prompt.prompt_id,
                judge=self.name,
                scores=tuple(float(len(text)) for text in group.responses),
                evidence="",
            )
"""


def test_openings_are_the_tokens_that_were_sampled(run):
    folder = run / "measures/probe/thought/policy_1"
    tokenizer = load_tokenizer(str(run / "thought/iteration_0/selection/policy"))
    for record in read_records(folder, Answer, "answers"):
        ids = list(record.completion.token_ids[: record.thought_tokens])
        assert tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False) == ids


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["arms=[thought]", "measures.win_rate={}"],
            "measures.win_rate compares the thought arm with the direct arm",
        ),
        (["arms=[direct]", "measures.probe={}"], "measures.probe is of policies that think"),
        (["prompts.test=null", "measures.win_rate={}"], "measures.win_rate needs test prompts"),
    ],
)
def test_a_measure_that_a_recipe_cannot_have_is_refused(tmp_path, words, says):
    with pytest.raises(ValueError, match=says) as error:
        small_run(tmp_path / "run", *words)
    field = words[1].removesuffix("{}")
    assert f"({field}null)" in str(error.value)
    assert not (tmp_path / "run" / "prompts").exists()
