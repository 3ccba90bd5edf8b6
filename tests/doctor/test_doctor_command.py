"""`forethought doctor` on the command line: exit status, figures, folder, warm start, mistakes."""

import json
import os
import signal
import time

import pytest
from small_run import ROOT
from typer.testing import CliRunner
from warm_recipe import warm_recipe

from forethought.cli.main import app
from forethought.config.recipe_files import dump, load_recipe
from forethought.doctor.trial import held_folder, run_trial, small_trial
from forethought.progress.reporter import Reporter

QUICKSTART = ROOT / "recipes" / "quickstart.yaml"
SHORT = (
    "prompts.train=[{type: microworld, split: train, count: 80}]",
    "prompts.validation={count: 4, sources: [{type: microworld, split: validation, count: 4}]}",
    "prompts.test={count: 4, sources: [{type: microworld, split: test, count: 4}]}",
    "iterations=1",
    "prompts_per_iteration=60",
    "arms=[thought]",
    "sampling.samples=4",
    "sampling.max_new_tokens=96",
    "launch.threads=1",
    "measures.win_rate=null",
    "measures.probe=null",
)


def doctor(*words):
    return CliRunner().invoke(app, ["doctor", *[str(word) for word in words]])


def test_a_fault_is_a_row_a_sentence_and_the_exit_status(tmp_path):
    words = (QUICKSTART, *SHORT, f"run={tmp_path}/run", "--prompts", 4)
    done = doctor(*words)
    assert done.exit_code == 0, done.output
    assert "4 prompts x 4 outputs in each arm" in done.output
    rows = [line for line in done.output.splitlines() if "│" in line]
    assert all(len(line) <= 80 and line[-1] == "│" for line in rows)
    shown = CliRunner().invoke(app, ["report", f"{tmp_path}/run-doctor"])
    assert shown.exit_code == 0, shown.output
    # Changed and asked again, which is what doctor is for.
    few = doctor(*words, "prompts_per_iteration=100", "--json")
    assert few.exit_code == 1, few.output
    figures = json.loads(few.stdout)
    assert figures["stop"] == ["prompts"]
    [check] = [check for check in figures["checks"] if check["name"] == "prompts"]
    assert check["remedy"] == {"field": "prompts_per_iteration", "value": "80"}
    assert json.loads((tmp_path / "run-doctor/doctor.json").read_text()) == figures
    assert not (tmp_path / "run").exists()


def test_a_killed_trial_goes_on_and_a_finished_one_begins_anew(tmp_path):
    recipe = load_recipe([str(QUICKSTART), *SHORT, f"run={tmp_path}/run"])
    trial = small_trial(recipe, 4)
    judged = trial.ref("judgements", "thought")
    if (pid := os.fork()) == 0:
        from rich.console import Console

        with open(os.devnull, "w") as silence, held_folder(trial):
            run_trial(trial, Reporter(Console(file=silence)))
        os._exit(0)
    while not judged.begun:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    rollouts = trial.ref("rollouts", "thought").folder / "manifest.json"
    before = rollouts.stat().st_mtime_ns
    words = (QUICKSTART, *SHORT, f"run={tmp_path}/run", "--prompts", 4)
    assert doctor(*words).exit_code == 0
    assert rollouts.stat().st_mtime_ns == before
    assert doctor(*words).exit_code == 0
    assert rollouts.stat().st_mtime_ns > before


def test_a_warm_start_is_looked_at_with_its_demonstrations(tmp_path):
    recipe = warm_recipe(tmp_path)
    (tmp_path / "recipe.yaml").write_text(json.dumps(dump(recipe)))
    done = doctor(tmp_path / "recipe.yaml", "--prompts", 4, "--json")
    figures = json.loads(done.stdout)
    assert figures["warm_start"]
    by_name = {(check["name"], check["arm"]): check for check in figures["checks"]}
    assert by_name["unparsed", "thought"]["verdict"] == "unknown"
    assert "the warm start teaches it" in by_name["unparsed", "thought"]["words"]
    assert by_name["not usable", "thought"]["verdict"] == "ok"
    assert "shown demonstrations" in by_name["not usable", "thought"]["words"]
    # Demonstrations stand in front of the prompt.
    needed = {arm: by_name["context room", arm]["value"] for arm in ("thought", "direct")}
    assert needed["thought"] > needed["direct"] > 48 + 60


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["absent.yaml"], 1, "recipe absent.yaml does not exist"),
        ([QUICKSTART, "sampling.sampels=3"], 1, "did you mean samples?"),
        ([QUICKSTART, "judge.function=no_such_module:grade"], 1, "no_such_module"),
        ([QUICKSTART, "iterations=0", "measures.probe=null"], 1, "iterations: 0 trains nothing"),
        ([QUICKSTART, "model.path=./absent"], 1, "./absent does not exist"),
        ([QUICKSTART, "prompts.train=absent.jsonl"], 1, "absent.jsonl does not exist"),
        ([QUICKSTART, "--prompts", "1"], 2, "--prompts"),
        ([QUICKSTART, "--prompts", "many"], 2, "--prompts"),
        (
            [
                QUICKSTART,
                "thought_format=tokens",
                "warm_start={samples: 0, demonstrations: d.jsonl}",
            ],
            1,
            "nothing is sampled before that",
        ),
    ],
)
def test_a_users_mistake_is_one_clear_message(tmp_path, words, code, says):
    done = doctor(*words, f"run={tmp_path}/run")
    assert done.exit_code == code, done.output
    assert says in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert not (tmp_path / "run-doctor").exists()


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "run-doctor").mkdir()
    (tmp_path / "run-doctor/thesis.txt").write_text("years of work")
    done = doctor(QUICKSTART, *SHORT, f"run={tmp_path}/run")
    assert done.exit_code == 1
    assert "holds something else" in " ".join(done.output.split())
    assert [path.name for path in (tmp_path / "run-doctor").iterdir()] == ["thesis.txt"]
