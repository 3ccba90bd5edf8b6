"""The page of complete and unfinished runs: its numbers, its text, and that it loads nothing."""

import colorsys
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
import pytest
from example_run import NASTY, write_measures, write_run
from page_reader import PageReader

from forethought.pairs import pair_counts
from forethought.report.page import write_report
from forethought.storage.files import write_json
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import read_records
from forethought.types import Answer, PairDecision, ParseStatus, PreferencePair, Rollout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that no test changes, with its page."""
    run = tmp_path_factory.mktemp("runs") / "quickstart"
    write_run(run)
    write_measures(run)
    write_report(run)
    return run


@pytest.fixture
def page(finished: Path) -> PageReader:
    return PageReader(finished / "report.html")


def _mean_score(run: Path, arm: str, policy: int) -> float:
    answers = read_records(run / "evaluation" / arm / f"policy_{policy}", Answer)
    return sum(answer.score or 0.0 for answer in answers) / len(answers)


def test_headline_is_the_difference_of_the_answers(finished: Path, page: PageReader):
    last = [_mean_score(finished, arm, 2) for arm in ("thought", "direct")]
    assert page.texts["difference"] == f"{100 * (last[0] - last[1]):+.1f}"
    summary = json.loads((finished / "summary.json").read_text())["difference"]
    low, high = (f"{100 * one:+.1f}".replace("-", "\u2212") for one in summary["interval"])
    assert page.texts["detail"] == f"95 % interval {low} to {high}, n = 40 test prompts"


def test_headline_says_when_the_interval_contains_zero(finished: Path, page: PageReader):
    low, high = json.loads((finished / "summary.json").read_text())["difference"]["interval"]
    told_apart = low > 0 or high < 0
    assert ("cannot be told apart" in page.texts["sentence"]) == (not told_apart)


def test_score_table_holds_every_policy(finished: Path, page: PageReader):
    rows = page.charts["score"]["views"][0]["rows"]
    expected = [
        (name, "0 (start)" if policy == 0 else policy, 100 * _mean_score(finished, arm, policy))
        for arm, name in (("thought", "Thought arm"), ("direct", "Direct arm"))
        for policy in range(3)
    ]
    assert [tuple(row[:2]) for row in rows] == [one[:2] for one in expected]
    assert [row[2] for row in rows] == pytest.approx([one[2] for one in expected])


def test_failures_and_pair_lengths_come_from_the_records(finished: Path, page: PageReader):
    place = finished / "thought" / "iteration_0"
    rollouts = read_records(place / "rollouts", Rollout)
    cut = sum(rollout.parsed.status is ParseStatus.NO_RESPONSE for rollout in rollouts)
    row = page.charts["failures"]["views"][0]["rows"][0]
    assert row[2] == pytest.approx(100 * cut / len(rollouts))
    pairs = read_records(place / "pairs", PreferencePair, "pairs")
    judged = [pair for pair in pairs if pair.kind == "judged"]
    row = page.charts["pair-lengths"]["views"][0]["rows"][0]
    assert row[2] == pytest.approx(sum(one.chosen.response_tokens for one in judged) / len(judged))
    assert row[4] == len(judged)


def _lower_margins(run: Path, few: int) -> list[PreferencePair]:
    """Take a little off the judged pairs' margins, of the first `few` at most."""
    folder = run / "direct/iteration_1/pairs"
    decisions = read_records(folder, PairDecision, "decisions")
    pairs: list[PreferencePair] = []
    for pair in read_records(folder, PreferencePair, "pairs"):
        if pair.margin is not None and len(pairs) < few:
            pair = replace(pair, margin=pair.margin - (1 + len(pairs)) / 100)
        pairs.append(pair)
    shutil.rmtree(folder)
    stage = Stage(folder, name="pairs", version=1, config={})
    stage.write_records("pairs", pairs, PreferencePair)
    stage.write_records("decisions", decisions, PairDecision)
    stage.seal({**pair_counts(decisions)})
    return pairs


def test_judge_margins_come_from_the_pairs(complete_run: Path):
    pairs = _lower_margins(complete_run, few=99)
    page = PageReader(write_report(complete_run))
    assert "apart by the judge" not in (complete_run / "report.html").read_text(encoding="utf-8")
    rows = page.charts["pair-margins"]["views"][0]["rows"]
    assert [row[:2] for row in rows] == [
        [arm, number] for arm in ("Thought arm", "Direct arm") for number in (0, 1)
    ]
    margins = [pair.margin for pair in pairs if pair.margin is not None]
    assert rows[3][2] == pytest.approx(100 * sum(margins) / len(margins))
    assert rows[3][6] == len(margins)


def test_one_margin_of_all_pairs_is_a_sentence(finished: Path, page: PageReader):
    assert "pair-margins" not in page.charts
    html = (finished / "report.html").read_text(encoding="utf-8")
    assert (
        "Chosen and rejected of every pair are 100.0 points apart by the judge&#39;s score." in html
    )


def test_margins_that_seldom_differ_are_a_sentence_too(complete_run: Path):
    pairs = _lower_margins(complete_run, few=2)
    margins = [pair.margin for pair in pairs if pair.margin is not None]
    least = f"{100 * sum(margins) / len(margins):.1f}"
    assert "pair-margins" not in PageReader(write_report(complete_run)).charts
    html = (complete_run / "report.html").read_text(encoding="utf-8")
    assert (
        "Chosen and rejected of most pairs are 100.0 points apart by the judge&#39;s score; the "
        f"mean is {least} to 100.0 points."
    ) in html


def test_first_outputs_without_a_response_are_shares_of_the_test_prompts(
    finished: Path, page: PageReader
):
    rows = page.charts["first-failures"]["views"][0]["rows"]
    answers = read_records(finished / "evaluation/thought/policy_1", Answer)
    missing = sum(answer.parsed.response is None for answer in answers)
    assert rows[1] == ["Thought arm", 1, pytest.approx(100 * missing / len(answers))]


def test_implicit_rewards_are_those_of_the_log(finished: Path, page: PageReader):
    log = (finished / "thought/iteration_1/training/steps.jsonl").read_text().splitlines()
    last = json.loads(log[-1])
    for part in ("thought", "response"):
        view = page.charts[f"{part}-reward"]["views"][1]
        row = [row for row in view["rows"] if row[0] == "Thought arm"][-1]
        assert row[3:] == [last[f"chosen_{part}_reward"], last[f"rejected_{part}_reward"]]
    named = {chart["name"] for chart in page.charts["thought-reward"]["views"][1]["data"]}
    assert named == {"Thought arm, chosen", "Thought arm, rejected"}


def test_a_long_log_is_thinned_and_says_so(complete_run: Path):
    path = complete_run / "direct/iteration_0/training/steps.jsonl"
    line = json.loads(path.read_text().splitlines()[0])
    path.write_text("".join(json.dumps(line | {"step": k}) + "\n" for k in range(2500)))
    page = PageReader(write_report(complete_run))
    rows = page.charts["loss"]["views"][0]["rows"]
    assert len([row for row in rows if row[0] == "Direct arm"]) == 1000
    html = (complete_run / "report.html").read_text(encoding="utf-8")
    assert "1,000 evenly spaced steps of 2,500." in html


def test_hashes_are_those_of_the_manifests(complete_run: Path):
    folder = complete_run / "thought" / "iteration_1" / "selection"
    shutil.rmtree(folder)
    stage = Stage(folder, name="selection", version=1, config={})
    stage.write_json("choice.json", {"chosen_epoch": 1, "scores": [], "reason": ""})
    stage.write_bytes("policy/model.safetensors", b"weights")
    digest = stage.seal({}).digest
    choice = {"epoch": 1, "score": None, "parse_failures": 1.0}
    write_json(folder / "choice.json", {"chosen_epoch": 1, "scores": [choice], "reason": ""})
    rows = PageReader(write_report(complete_run)).charts["hashes"]["views"][0]["rows"]
    assert ["thought policy 2", "stage", digest] in rows
    weights = hashlib.sha256(b"weights").hexdigest()
    assert ["thought policy 2", "model.safetensors", weights] in rows
    assert rows[0][0] == "prompts"


def test_a_policy_that_nothing_was_scored_of_has_no_score(complete_run: Path):
    path = complete_run / "evaluation/thought/policy_2/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["counts"] |= {"test_score": None, "interval": None, "count": 0, "scores": {}}
    path.write_text(json.dumps(manifest))
    (complete_run / "summary.json").unlink()
    page = PageReader(write_report(complete_run))
    rows = page.charts["score"]["views"][0]["rows"]
    assert [row[1] for row in rows if row[0] == "Thought arm"] == ["0 (start)", 1]
    assert "difference" not in page.texts
    assert "unknown" in (complete_run / "report.html").read_text(encoding="utf-8")


def test_category_gains_are_last_minus_seed(finished: Path, page: PageReader):
    rows = page.charts["categories"]["views"][0]["rows"]
    gains = [row[2] for row in rows if row[1] == "Thought arm"]
    assert gains == sorted(gains, reverse=True)
    overall = _mean_score(finished, "thought", 2) - _mean_score(finished, "thought", 0)
    assert sum(gains) / len(gains) == pytest.approx(100 * overall)


def test_every_figure_is_valid_plotly(page: PageReader):
    for chart in page.charts.values():
        for view in chart["views"]:
            text = json.dumps([view["data"], view["layout"]])
            data, layout = json.loads(re.sub(r'"@[a-z0-9-]+"', '"#000000"', text))
            go.Figure(data=data, layout=layout)


def test_every_colour_is_defined(page: PageReader, finished: Path):
    used = set(re.findall(r'"@([a-z0-9-]+)"', page.texts["chart-data"]))
    html = (finished / "report.html").read_text(encoding="utf-8")
    assert used
    assert {name for name in used if f"--{name}:" not in html} == set()


def test_orange_is_the_direct_arms_alone(finished: Path):
    html = (finished / "report.html").read_text(encoding="utf-8")
    orange = set()
    for name, colour in re.findall(r"--([a-z0-9-]+): #([0-9a-f]{6});", html):
        red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4))
        hue, saturation, _ = colorsys.rgb_to_hsv(red, green, blue)
        if 10 < 360 * hue < 46 and saturation > 0.5:
            orange.add(name)
    assert orange == {"direct", "direct-soft"}


def test_text_of_models_is_never_markup(finished: Path, page: PageReader):
    html = (finished / "report.html").read_text(encoding="utf-8")
    assert "window.hacked = 1</script>" not in html
    assert "\u2028" not in html
    for nasty in NASTY:
        assert nasty not in html
    assert not [tag for tag, _ in page.elements if tag in ("img", "iframe", "em")]
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert len(scripts) == 7


def test_names_of_a_user_are_text(tmp_path: Path):
    run = tmp_path / "<img src=x onerror=alert(1)> & co"
    write_run(run, iterations=1)
    path = run / "run.json"
    record = json.loads(path.read_text())
    record["attempts"][0]["command"] = "forethought run '<script>alert(2)</script>.yaml'"
    path.write_text(json.dumps(record))
    page = PageReader(write_report(run))
    assert page.texts["name"] == run.name
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert len([tag for tag, _ in page.elements if tag == "script"]) == 7


def test_the_page_loads_nothing(page: PageReader):
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base"), tag
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    policies = [a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a]
    assert policies
    assert "default-src 'none'" in (policies[0] or "")


def test_unfinished_run_shows_what_is_there(tmp_path: Path):
    run = tmp_path / "partial"
    write_run(run, until=(1, "training"))
    page = PageReader(write_report(run))
    html = (run / "report.html").read_text(encoding="utf-8")
    assert "This run is not finished." in html
    assert "<code>thought/iteration_1/training</code>" in html
    assert "<code>thought/iteration_1/pairs</code>" not in html
    assert "intermediate result: 1 of 2 iterations" in page.texts["sentence"]
    # The log of a training that still runs is shown, its torn last line is not.
    assert len(page.charts["loss"]["views"][1]["rows"]) == 2 * 60


@pytest.mark.parametrize("stage", ["rollouts", "judgements", "pairs", "selection"])
def test_a_run_cut_short_anywhere_has_a_page(tmp_path: Path, stage: str):
    run = tmp_path / "run"
    write_run(run, iterations=1, until=(0, stage))
    page = PageReader(write_report(run))
    assert ("failures" in page.charts) == (stage != "rollouts")
    assert "before any training" in page.texts["sentence"].lower()


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path):
    write_run(tmp_path / "full", iterations=1)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_bytes((tmp_path / "full" / "config.json").read_bytes())
    page = PageReader(write_report(run))
    assert page.charts == {}
    assert "No stage has finished yet" in (run / "report.html").read_text(encoding="utf-8")


def test_without_a_direct_arm_there_is_no_claim(tmp_path: Path):
    run = tmp_path / "alone"
    write_run(run, arms=("thought",), iterations=1)
    page = PageReader(write_report(run))
    assert "difference" not in page.texts
    assert "no direct arm" in page.texts["sentence"]
    assert {row[0] for row in page.charts["score"]["views"][0]["rows"]} == {"Thought arm"}


def test_an_old_summary_does_not_stand_for_the_last_policy(complete_run: Path):
    path = complete_run / "summary.json"
    summary = json.loads(path.read_text())
    summary["difference"] |= {"iteration": 1, "value": 0.99}
    path.write_text(json.dumps(summary))
    page = PageReader(write_report(complete_run))
    last = [_mean_score(complete_run, arm, 2) for arm in ("thought", "direct")]
    assert page.texts["difference"] == f"{100 * (last[0] - last[1]):+.1f}"


def test_the_time_of_an_open_attempt_is_that_of_its_stages(tmp_path: Path):
    run = tmp_path / "partial"
    write_run(run, until=(0, "selection"))
    record = json.loads((run / "run.json").read_text())
    record["attempts"][0]["seconds"] = 0.0
    write_json(run / "run.json", record)
    (run / "summary.json").unlink()
    html = write_report(run).read_text(encoding="utf-8")
    # Five stages of each arm.
    assert re.search(r"<dt>time so far</dt><dd>64 s</dd>", html)
    assert "run time" not in html


def test_target_may_be_elsewhere(complete_run: Path, tmp_path: Path):
    target = tmp_path / "elsewhere" / "page.html"
    assert write_report(complete_run, target) == target
    assert target.is_file()
    assert not (complete_run / "report.html").exists()


def test_a_folder_cannot_be_the_target(complete_run: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="is a folder; name a file"):
        write_report(complete_run, tmp_path)


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_what_is_no_run_directory_is_refused(tmp_path: Path, name: str):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=rf"{name}.*A run directory is what `forethought run`"):
        write_report(tmp_path / name)
