"""The page of complete and unfinished runs: its numbers, its text, and that it loads nothing."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from example_run import NASTY, K, write_run

from forethought.report.page import write_report
from forethought.store import read_records
from forethought.types import Answer, ParseStatus, PreferencePair, Rollout


class _Page(HTMLParser):
    """What a browser would see: elements with attributes, and text by element id."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._id: str | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._id = dict(attrs).get("id")

    def handle_endtag(self, tag: str) -> None:
        self._id = None

    def handle_data(self, data: str) -> None:
        if self._id is not None:
            self.texts[self._id] = self.texts.get(self._id, "") + data

    @property
    def charts(self) -> dict[str, Any]:
        return json.loads(self.texts["chart-data"])

    @property
    def samples(self) -> dict[str, Any]:
        return json.loads(self.texts["sample-data"])

    def outputs(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        return [dict(zip(self.samples["fields"], row, strict=True)) for row in group["outputs"]]


@pytest.fixture
def page(complete_run: Path) -> _Page:
    return _Page(write_report(complete_run))


def _mean_score(run: Path, arm: str, policy: int) -> float:
    answers = read_records(run / "evaluation" / arm / f"policy_{policy}", Answer)
    return sum(one.score or 0.0 for one in answers) / len(answers)


def test_headline_is_the_difference_of_the_answers(complete_run: Path, page: _Page):
    last = [_mean_score(complete_run, arm, 2) for arm in ("thought", "direct")]
    assert page.texts["difference"] == f"{100 * (last[0] - last[1]):+.1f}"
    summary = json.loads((complete_run / "summary.json").read_text())["difference"]
    low, high = (f"{100 * one:+.1f}".replace("-", "\u2212") for one in summary["interval"])
    assert page.texts["detail"] == f"95 % interval {low} to {high}, 40 test prompts"


def test_headline_says_when_the_interval_contains_zero(complete_run: Path, page: _Page):
    low, high = json.loads((complete_run / "summary.json").read_text())["difference"]["interval"]
    told_apart = low > 0 or high < 0
    assert ("cannot be told apart" in page.texts["sentence"]) == (not told_apart)


@pytest.mark.parametrize(
    ("interval", "words"),
    [((0.01, 0.2), "scores higher"), ((-0.2, -0.01), "did not pay"), ((-0.1, 0.1), "told apart")],
)
def test_headline_is_honest_whichever_way_it_went(
    complete_run: Path, interval: tuple[float, float], words: str
):
    path = complete_run / "summary.json"
    summary = json.loads(path.read_text())
    summary["difference"] |= {"value": sum(interval) / 2, "interval": list(interval)}
    path.write_text(json.dumps(summary))
    assert words in _Page(write_report(complete_run)).texts["sentence"]


def test_score_table_holds_every_policy(complete_run: Path, page: _Page):
    rows = page.charts["score"]["views"][0]["rows"]
    expected = [
        (name, "seed" if policy == 0 else policy, 100 * _mean_score(complete_run, arm, policy))
        for arm, name in (("thought", "Thought arm"), ("direct", "Direct arm"))
        for policy in range(3)
    ]
    assert [tuple(row[:2]) for row in rows] == [one[:2] for one in expected]
    assert [row[2] for row in rows] == pytest.approx([one[2] for one in expected])


def test_failures_and_pair_lengths_come_from_the_records(complete_run: Path, page: _Page):
    place = complete_run / "thought" / "iteration_0"
    rollouts = read_records(place / "rollouts", Rollout)
    cut = sum(one.parsed.status is ParseStatus.NO_RESPONSE for one in rollouts)
    row = page.charts["failures"]["views"][0]["rows"][0]
    assert row[2] == pytest.approx(100 * cut / len(rollouts))
    pairs = read_records(place / "pairs", PreferencePair, "pairs")
    judged = [one for one in pairs if one.kind == "judged"]
    row = page.charts["pair-lengths"]["views"][0]["rows"][0]
    assert row[2] == pytest.approx(sum(one.chosen.response_tokens for one in judged) / len(judged))
    assert row[4] == len(judged)


def test_category_gains_are_last_minus_seed(complete_run: Path, page: _Page):
    rows = page.charts["categories"]["views"][0]["rows"]
    gains = [row[2] for row in rows if row[1] == "Thought arm"]
    assert gains == sorted(gains, reverse=True)
    overall = _mean_score(complete_run, "thought", 2) - _mean_score(complete_run, "thought", 0)
    assert sum(gains) / len(gains) == pytest.approx(100 * overall)


def test_every_figure_is_valid_plotly(page: _Page):
    for chart in page.charts.values():
        for view in chart["views"]:
            text = json.dumps([view["data"], view["layout"]])
            data, layout = json.loads(re.sub(r'"@[a-z0-9-]+"', '"#000000"', text))
            go.Figure(data=data, layout=layout)


def test_every_colour_is_defined(page: _Page, complete_run: Path):
    used = set(re.findall(r'"@([a-z0-9-]+)"', page.texts["chart-data"]))
    html = (complete_run / "report.html").read_text(encoding="utf-8")
    assert used
    assert {name for name in used if f"--{name}:" not in html} == set()


def test_samples_carry_all_outputs_with_scores_and_roles(complete_run: Path, page: _Page):
    groups = [one for one in page.samples["groups"] if one["kind"] == "train"]
    assert len(groups) == 2 * 2 * 20
    assert all(len(group["outputs"]) == K for group in groups)
    pairs = read_records(complete_run / "thought/iteration_1/pairs", PreferencePair, "pairs")
    shown = {
        group["prompt"]: (group["chosen"], group["rejected"])
        for group in groups
        if (group["arm"], group["iteration"]) == ("thought", 1) and group["chosen"] is not None
    }
    assert shown == {
        one.prompt_id: (one.chosen.sample_index, one.rejected.sample_index) for one in pairs
    }
    failed = [group for group in groups if group["unjudged"]]
    assert len(failed) == 4
    assert {group["outcome"] for group in failed} == {"unjudged"}
    assert all(one["score"] is None for group in failed for one in page.outputs(group))


def test_an_output_without_a_response_is_shown_whole(page: _Page):
    broken = [
        one
        for group in page.samples["groups"]
        for one in page.outputs(group)
        if one["status"] == "no_response"
    ]
    assert broken
    assert all(one["text"].startswith("Here is my thought process:") for one in broken)


def test_text_of_models_is_never_markup(complete_run: Path, page: _Page):
    html = (complete_run / "report.html").read_text(encoding="utf-8")
    assert "window.hacked = 1</script>" not in html
    assert "\u2028" not in html
    texts = {one["text"] for group in page.samples["groups"] for one in page.outputs(group)}
    for nasty in NASTY:
        assert any(nasty in text for text in texts)
    assert not [tag for tag, _ in page.elements if tag in ("img", "iframe", "em")]
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert len(scripts) == 6


def test_the_page_loads_nothing(page: _Page):
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
    page = _Page(write_report(run))
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
    page = _Page(write_report(run))
    assert ("failures" in page.charts) == (stage != "rollouts")
    assert "before any training" in page.texts["sentence"].lower()


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path):
    write_run(tmp_path / "full", iterations=1)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_bytes((tmp_path / "full" / "config.json").read_bytes())
    page = _Page(write_report(run))
    assert page.charts == {}
    assert "No stage has finished yet" in (run / "report.html").read_text(encoding="utf-8")


def test_without_a_direct_arm_there_is_no_claim(tmp_path: Path):
    run = tmp_path / "alone"
    write_run(run, arms=("thought",), iterations=1)
    page = _Page(write_report(run))
    assert "difference" not in page.texts
    assert "no direct arm" in page.texts["sentence"]
    assert {row[0] for row in page.charts["score"]["views"][0]["rows"]} == {"Thought arm"}


def test_an_old_summary_does_not_stand_for_the_last_policy(complete_run: Path):
    path = complete_run / "summary.json"
    summary = json.loads(path.read_text())
    summary["difference"] |= {"iteration": 1, "value": 0.99}
    path.write_text(json.dumps(summary))
    page = _Page(write_report(complete_run))
    last = [_mean_score(complete_run, arm, 2) for arm in ("thought", "direct")]
    assert page.texts["difference"] == f"{100 * (last[0] - last[1]):+.1f}"


def test_target_may_be_elsewhere(complete_run: Path, tmp_path: Path):
    target = tmp_path / "elsewhere" / "page.html"
    assert write_report(complete_run, target) == target
    assert target.is_file()
    assert not (complete_run / "report.html").exists()


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_what_is_no_run_directory_is_refused(tmp_path: Path, name: str):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=rf"{name}.*A run directory is what `forethought run`"):
        write_report(tmp_path / name)
