"""Several runs on one page: what is compared, what is not, and which words say so."""

import json
from pathlib import Path
from typing import Any

import pytest
from example_run import write_measures, write_run
from packed_samples import read_cases
from page_reader import PageReader

from forethought.report.charts.cost_charts import cost_charts
from forethought.report.charts.figures import Chart
from forethought.report.compare import run_labels, run_style
from forethought.report.data.collect import collect
from forethought.report.page import write_report
from forethought.storage.files import write_json
from forethought.storage.sealed_stage import read_json


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with measures that differ in one field, and one of a single iteration."""
    place = tmp_path_factory.mktemp("runs")
    for name in ("base", "softer", "short"):
        write_run(place / name, iterations=1 if name == "short" else 2)
    for name in ("base", "softer"):
        write_measures(place / name)
    _edit(place / "softer", training={"beta": 0.01})
    write_report([place / name for name in ("base", "softer", "short")], place / "all.html")
    return place


@pytest.fixture
def page(folder: Path) -> PageReader:
    return PageReader(folder / "all.html")


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    runs = [tmp_path / "one", tmp_path / "two"]
    for run in runs:
        write_run(run, iterations=1)
    return runs


def _edit(run: Path, **sections: Any) -> None:
    path = run / "config.json"
    recipe = read_json(path)
    for name, value in sections.items():
        recipe[name] = recipe[name] | value if isinstance(value, dict) else value
    write_json(path, recipe)


def _rows(page: PageReader, key: str) -> list[list[Any]]:
    return page.charts[key]["views"][0]["rows"]


def _columns(page: PageReader, key: str) -> list[str]:
    return [chart["name"] for chart in page.charts[key]["views"][0]["columns"]]


def _ids(page: PageReader) -> list[str | None]:
    return [attributes.get("id") for _, attributes in page.elements]


def _html(runs: list[Path], target: Path) -> tuple[PageReader, str]:
    write_report(runs, target)
    return PageReader(target), target.read_text(encoding="utf-8")


def test_one_row_a_run_with_its_own_summary(folder: Path, page: PageReader):
    columns = _columns(page, "all-runs")
    rows = [dict(zip(columns, row, strict=True)) for row in _rows(page, "all-runs")]
    assert [row["run"] for row in rows] == ["base", "softer", "short"]
    assert [row["policy"] for row in rows] == [2, 2, 1]
    for row in rows:
        summary = read_json(folder / row["run"] / "summary.json")
        difference = summary["difference"]
        assert row["difference"] == pytest.approx(100 * difference["value"])
        assert row["95 % low"] == pytest.approx(100 * difference["interval"][0])
        assert row["prompts"] == difference["count"] == 40
        last = summary["arms"]["thought"][-1]
        assert row["thought score, %"] == pytest.approx(100 * last["test_score"])
        assert row["thought tokens"] == pytest.approx(last["thought_tokens"])
        assert row["difference"] == pytest.approx(row["thought score, %"] - row["direct score, %"])
        # Two arms of 38.2 seconds an iteration, and next to nothing for the rest.
        assert row["device hours"] == pytest.approx(2 * 38.2 * row["policy"] / 3600, rel=0.05)
    assert rows[0]["money"] == pytest.approx(6 * 0.52)
    assert rows[2]["money"] is None


def test_what_differs_is_named_field_by_field(page: PageReader):
    assert _columns(page, "all-differences") == ["field", "base", "softer", "short"]
    rows = {row[0]: row[1:] for row in _rows(page, "all-differences")}
    assert rows["training.beta"] == ["0.1", "0.01", "0.1"]
    assert rows["iterations"] == ["2", "2", "1"]
    assert set(rows) == {"training.beta", "iterations", "prompts.train"}


def test_equal_runs_differ_in_nothing(two: list[Path], tmp_path: Path):
    page, html = _html(two, tmp_path / "page.html")
    assert _rows(page, "all-differences") == []
    assert "Recipes, versions and commit are the same in all runs." in html


def test_colour_is_the_arm_and_dash_and_marker_are_the_run(page: PageReader):
    traces = [chart for chart in page.charts["all-score"]["views"][0]["data"] if "name" in chart]
    seen = {
        trace["name"]: (trace["line"]["color"], trace["line"]["dash"], trace["marker"]["symbol"])
        for trace in traces
    }
    assert seen["base, thought arm"] == ("@thought", "solid", "circle")
    assert seen["base, direct arm"] == ("@direct", "solid", "circle-open")
    assert seen["short, direct arm"] == ("@direct", "dash", "diamond-open")
    assert len(set(seen.values())) == len(seen) == 6
    assert len(_rows(page, "all-score")) == 2 * (3 + 3 + 2)


def test_runs_have_different_dashes_or_markers():
    assert len({run_style(index) for index in range(36)}) == 36


def test_measures_of_two_runs_stand_side_by_side(page: PageReader):
    rows = _rows(page, "all-measure-win_rate")
    assert [row[0] for row in rows] == ["base"] * 3 + ["softer"] * 3
    assert _columns(page, "all-measure-win_rate")[:3] == ["run", "arm", "policy"]
    for key in ("gsm8k", "alpaca_eval_win_rate", "arena_hard", "probe_drop_none"):
        assert f"all-measure-{key}" in page.charts
    assert "all-probe-habits" not in page.charts


def test_each_run_has_its_own_sections_under_its_own_ids(page: PageReader):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for number in (1, 2, 3):
        assert f"run-{number}-score" in page.charts
        assert f"chart-run-{number}-score" in ids
        assert f"run-{number}-recipe" in ids
    blocks = [attributes for _, attributes in page.elements if "data-run" in attributes]
    assert ["hidden" in attributes for attributes in blocks] == [False, True, True]
    assert page.charts["run-3-loss"]["file"] == "short loss"


def test_chart_library_and_samples_are_there_once(folder: Path, page: PageReader):
    html = (folder / "all.html").read_text(encoding="utf-8")
    assert html.count("plotly.js v") == 1
    cases = read_cases(page.texts["sample-data"])
    assert {case["run"] for case in cases} == {"base", "softer", "short"}
    assert _ids(page).count("samples") == 1


def test_different_judges_are_not_compared(folder: Path, tmp_path: Path):
    run = tmp_path / "other"
    write_run(run)
    write_measures(run)
    _edit(run, judge={"function": "gsm8k"})
    page, html = _html([folder / "base", run], tmp_path / "page.html")
    assert "These runs have different judges" in html
    assert "base: verifier microworld; other: verifier gsm8k" in html
    assert "all-score" not in page.charts
    for key in ("win_rate", "probe_drop_none"):
        assert f"all-measure-{key}" not in page.charts
    assert "all-measure-gsm8k" in page.charts
    assert "all-thought-length" in page.charts
    assert not {"difference", "95 % low", "thought score, %"} & set(_columns(page, "all-runs"))
    above = html[: html.index('id="runs"')]
    assert "Lengths are of the last policy. Lengths are the thought arm&#39;s" in above
    assert "Scores and lengths" not in above
    assert _rows(page, "run-2-score")


def test_a_judge_is_what_the_evaluation_sealed(two: list[Path], tmp_path: Path):
    for run, words in zip(two, ("0a1b", "2c3d"), strict=True):
        path = run / "evaluation/thought/policy_0/intent.json"
        intent = read_json(path)
        write_json(path, intent | {"config": {"judge": {"prompt_words": words}}})
    page, html = _html(two, tmp_path / "page.html")
    assert "These runs have different judges" in html
    assert "all-score" not in page.charts


def test_shares_of_wins_against_different_baselines_are_not_compared(
    two: list[Path], tmp_path: Path
):
    judge = {
        "type": "pairwise",
        "engine": {"type": "openai", "base_url": "http://localhost:1/v1"},
    }
    for run in two:
        _edit(run, judge=judge | {"function": "microworld"})
        recipe = read_json(run / "config.json")
        for field in ("function", "workers"):
            del recipe["judge"][field]
        write_json(run / "config.json", recipe)
    page, html = _html(two, tmp_path / "same.html")
    assert "baseline of its own" not in html
    assert html.count("The score is the share of wins against direct policy 0.") == 3
    assert html.count("Share of the other epochs&#39; answers beaten on validation prompts") == 2
    assert "all-score" in page.charts
    assert page.charts["all-score"]["views"][0]["columns"][3]["name"] == "test score, %"
    path = two[1] / "evaluation/direct/policy_0/manifest.json"
    write_json(path, read_json(path) | {"digest": "another"})
    page, html = _html(two, tmp_path / "other.html")
    assert "shares of wins against a baseline of its own" in html
    assert "all-score" not in page.charts


def test_a_measure_done_in_two_ways_is_not_drawn_side_by_side(two: list[Path], tmp_path: Path):
    for run, asked in zip(two, ("first.jsonl", "second.jsonl"), strict=True):
        write_measures(run, last=0)
        path = run / "measures/gsm8k/thought/policy_0/intent.json"
        write_json(path, read_json(path) | {"config": {"measure": {"path": asked}}})
    page, html = _html(two, tmp_path / "page.html")
    assert "gsm8k was measured in different ways" in html
    assert "all-measure-gsm8k" not in page.charts
    assert "all-measure-arena_hard" in page.charts


def test_other_test_prompts_are_named(two: list[Path], tmp_path: Path):
    path = two[1] / "evaluation/thought/policy_1/manifest.json"
    manifest = read_json(path)
    manifest["counts"]["scores"]["new"] = 1.0
    write_json(path, manifest)
    page, html = _html(two, tmp_path / "page.html")
    assert "These runs have different test prompts" in html
    assert "all-score" in page.charts


def test_an_unfinished_run_is_compared_as_far_as_it_got(two: list[Path], tmp_path: Path):
    late, new = tmp_path / "late", tmp_path / "new"
    write_run(late, until=(1, "training"))
    new.mkdir()
    (new / "config.json").write_bytes((late / "config.json").read_bytes())
    page, html = _html([*two, late, new], tmp_path / "page.html")
    assert "Not finished are: late, new." in html
    rows = {row[0]: row[1:] for row in _rows(page, "all-runs")}
    assert rows["late"][0] == 1
    assert set(rows["new"]) <= {None, 0}
    assert html.count("No stage has finished yet") == 1


def test_runs_that_have_only_begun_have_a_page(two: list[Path], tmp_path: Path):
    begun = [tmp_path / "a", tmp_path / "b"]
    for run in begun:
        run.mkdir()
        (run / "config.json").write_bytes((two[0] / "config.json").read_bytes())
    page, _ = _html(begun, tmp_path / "page.html")
    assert set(page.charts) == {"all-runs", "all-differences"}


def test_one_arm_alone_can_be_compared(two: list[Path], tmp_path: Path):
    alone = tmp_path / "alone"
    write_run(alone, arms=("thought",), iterations=1)
    page, _ = _html([two[0], alone], tmp_path / "page.html")
    columns = _columns(page, "all-runs")
    row = dict(zip(columns, _rows(page, "all-runs")[1], strict=True))
    assert row["difference"] is None
    assert row["direct score, %"] is None
    assert row["thought score, %"] is not None


def test_labels_are_as_long_as_it_takes(tmp_path: Path):
    assert run_labels([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert run_labels([tmp_path / "x" / "a", tmp_path / "y" / "a"]) == ["x/a", "y/a"]


def test_the_same_run_twice_is_refused(two: list[Path], tmp_path: Path):
    (tmp_path / "link").symlink_to(two[0])
    for again in (two[0], two[0] / ".." / "one", tmp_path / "link"):
        with pytest.raises(ValueError, match=r"is named twice"):
            write_report([*two, again], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_several_runs_need_a_place_of_their_own(two: list[Path]):
    with pytest.raises(ValueError, match=r"2 runs .* --output comparison.html"):
        write_report(two)
    with pytest.raises(ValueError, match="no run directory is given"):
        write_report([])


def test_a_folder_that_is_no_run_among_runs_is_refused(two: list[Path], tmp_path: Path):
    with pytest.raises(ValueError, match="nowhere is not a run directory: there is no such"):
        write_report([*two, tmp_path / "nowhere"], tmp_path / "page.html")


def test_a_sequence_of_one_is_a_page_of_its_own(two: list[Path]):
    assert write_report(two[:1]) == two[0] / "report.html"
    assert "comparison" not in _ids(PageReader(two[0] / "report.html"))


def _device_chart(run: Path) -> Chart:
    return next(chart for chart in cost_charts(collect(run)) if chart.key == "device-hours")


def test_device_time_counts_shared_gpus(two: list[Path], tmp_path: Path):
    _edit(two[0], sampling={"type": "vllm", "tensor_parallel": 4})
    recipe = json.loads((two[0] / "config.json").read_text())
    del recipe["sampling"]["rows"]
    write_json(two[0] / "config.json", recipe)
    page, html = _html(two[:1], tmp_path / "page.html")
    assert not _device_chart(two[0]).folded
    assert _device_chart(two[1]).folded
    rows = {(row[0], row[1]): row[2:] for row in _rows(page, "device-hours")}
    assert rows["sampling", "Thought arm"] == [9.5, 4, pytest.approx(38 / 3600)]
    assert rows["training", "Direct arm"] == [21.0, 1, pytest.approx(21 / 3600)]
    assert "vLLM shares a model over GPUs: up to 4 devices" in html


def test_device_time_counts_processes_and_workers(two: list[Path], tmp_path: Path):
    _edit(
        two[0],
        sampling={"type": "transformers", "workers": {"count": 3}},
        launch={"type": "torchrun", "processes": 2},
    )
    page, _ = _html(two[:1], tmp_path / "page.html")
    rows = {(row[0], row[1]): row[2:] for row in _rows(page, "device-hours")}
    assert rows["sampling", "Thought arm"][1] == 3
    assert rows["training", "Direct arm"] == [21.0, 2, pytest.approx(42 / 3600)]
    assert rows["judging", "Direct arm"][1] == 1


def test_paid_calls_have_a_chart_and_money(two: list[Path], tmp_path: Path):
    write_measures(two[0], last=0)
    spent = {"calls": 9, "hits": 1, "prompt_tokens": 700, "completion_tokens": 60, "cost": 0.25}
    folder = two[0] / "evaluation/direct/policy_0"
    manifest = read_json(folder / "manifest.json")
    manifest["counts"] |= {"judge_calls": None, "sampling_calls": spent}
    write_json(folder / "manifest.json", manifest)
    page, html = _html(two[:1], tmp_path / "page.html")
    assert _rows(page, "calls") == [
        ["evaluation: sampling", "Direct arm", 9, 1, 700, 60, 0.25],
        ["measures: judging", "Thought arm", 40, 2, 52_000, 41, 0.52],
        ["measures: judging", "Direct arm", 40, 2, 52_000, 41, 0.52],
    ]
    assert "The devices of a server are not known and not counted." in html
    page, _ = _html(two[1:], tmp_path / "page.html")
    assert "calls" not in page.charts
