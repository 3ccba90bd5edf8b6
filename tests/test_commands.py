"""Commands on finished runs: report of several, export, and what they say to wrong input."""

import json

import pytest
from small_run import ROOT, SMALL, small_run
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.microworld.tasks import generate
from forethought.report.live import LivePage
from forethought.storage.sealed_stage import read_records
from forethought.types import PreferencePair

QUICKSTART = ROOT / "recipes" / "quickstart.yaml"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    words = ("iterations=1", "measures.probe=null", "measures.win_rate=null")
    first = small_run(folder / "first", *words).run
    second = small_run(folder / "second", *words, "pairs.rho=0.3").run
    return first, second


def forethought(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_report_of_several_runs_names_what_differs(runs, tmp_path):
    page = tmp_path / "both.html"
    done = forethought("report", *runs, "--output", page)
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert "pairs.rho" in text
    assert "first" in text
    assert "second" in text


def test_an_exported_policy_says_how_it_was_made(runs, tmp_path):
    done = forethought("export", runs[0], tmp_path / "policy", "--policy", "1")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "policy/thought_format.json").read_text())["name"] == "generic"
    card = (tmp_path / "policy/README.md").read_text()
    score = json.loads((runs[0] / "summary.json").read_text())["arms"]["thought"][1]["test_score"]
    assert f"{score:.3f}" in card


def test_exported_pairs_are_the_runs(runs, tmp_path):
    from datasets import load_dataset

    done = forethought("export", runs[0], tmp_path / "pairs", "--pairs", "--arm", "direct")
    assert done.exit_code == 0, done.output
    loaded = load_dataset(str(tmp_path / "pairs"), split="train", cache_dir=str(tmp_path / "cache"))
    pairs = read_records(runs[0] / "direct/iteration_0/pairs", PreferencePair, "pairs")
    assert len(loaded) == len(pairs)


def test_a_run_from_a_file_of_ones_own_ends_with_a_page(tmp_path):
    rows = [
        {"prompt": task.query, "reference": task.reference, "kind": task.category}
        for task in generate("train", 48, seed=1)
    ]
    # The second cannot be sampled: the model takes 1024 tokens.
    rows.insert(1, {"prompt": "letters " * 1024, "reference": "1", "kind": "letters"})
    (tmp_path / "p.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    columns = "{reference: reference, category: kind}"
    source = f"{{type: file, path: {tmp_path}/p.jsonl, columns: {columns}}}"
    run = tmp_path / "run"
    words = [*SMALL, f"run={run}", "iterations=1", f"prompts.train=[{source}]"]
    held = [f"prompts.{one}={{count: 8, sources: []}}" for one in ("validation", "test")]
    done = forethought("run", QUICKSTART, *words, *held)
    assert done.exit_code == 0, done.output
    assert "report: " in done.output
    said = " ".join(done.output.split())
    assert f"Left out of prompts: 1 prompts, such as {tmp_path}/p.jsonl, line 2: it has" in said
    again = forethought("report", run, "--output", tmp_path / "page.html")
    assert again.exit_code == 0, again.output
    assert "p.jsonl" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '"error": null' in LivePage(run).page().replace('"error":null', '"error": null')
    assert forethought("status", run).exit_code == 0
    assert forethought("export", run, tmp_path / "policy").exit_code == 0
    (tmp_path / "p.jsonl").write_text('{"prompt": "Another", "reference": "", "kind": ""}\n')
    resumed = forethought("run", QUICKSTART, *words, *held)
    assert resumed.exit_code == 0, resumed.output
    said = " ".join(resumed.output.split())
    assert (
        f"prompts: {tmp_path}/p.jsonl has changed since this run read it; the run goes on" in said
    )
    assert "give another run=" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["report", "RUN", "OTHER"], "--output"),
        (["report", "TMP"], "TMP"),
        (["export", "RUN", "TMP"], "TMP"),
        (["export", "RUN", "NEW", "--policy", "nine"], "neither a number nor last nor best"),
        (["export", "RUN", "NEW", "--policy", "9"], "no policy 9"),
        (["export", "RUN", "NEW", "--push", "nowhere"], "is not a repository's name"),
        (["view", "TMP/nothing"], "nothing"),
    ],
)
def test_a_users_mistake_is_one_clear_message(runs, tmp_path, words, says):
    (tmp_path / "there").write_text("something")
    named = {"RUN": runs[0], "OTHER": runs[1], "NEW": tmp_path / "new"}
    words = [named.get(word, word.replace("TMP", str(tmp_path))) for word in words]
    done = forethought(*words)
    assert done.exit_code == 1, done.output
    assert says.replace("TMP", str(tmp_path)) in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "new").exists()
