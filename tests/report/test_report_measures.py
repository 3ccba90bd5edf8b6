"""What the page makes of measures: a chart for each figure, the probes' verdict, the hero."""

import json
from pathlib import Path
from typing import Any

import pytest
from example_run import CATEGORIES, write_measures, write_run
from page_reader import PageReader

from forethought.report.page import write_report
from forethought.storage.sealed_stage import StageError


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "quickstart"
    write_run(run)
    write_measures(run)
    write_report(run)
    return run


@pytest.fixture
def page(measured: Path) -> PageReader:
    return PageReader(measured / "report.html")


@pytest.fixture
def changeable(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    write_run(run, iterations=1)
    write_measures(run, last=1)
    return run


def _counts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())["counts"]


def _change(folder: Path, **counts: Any) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["counts"] |= counts
    path.write_text(json.dumps(manifest))


def _rows(page: PageReader, key: str) -> list[list[Any]]:
    return page.charts[key]["views"][0]["rows"]


def _last_drop(run: Path, value: float, low: float, high: float) -> str:
    """The page's words about a last policy that loses so much without its thought."""
    folder = run / "measures/probe/thought/policy_1"
    results = _counts(folder)["results"]
    for one in results:
        if one["name"] == "probe_drop_none" and one["category"] is None:
            one |= {"value": value, "interval": [low, high], "count": 50}
    _change(folder, results=results)
    write_report(run)
    return (run / "report.html").read_text(encoding="utf-8")


def test_every_figure_has_a_chart_with_its_interval(measured: Path, page: PageReader):
    figure = _counts(measured / "measures/gsm8k/direct/policy_2")["results"][0]
    row = _rows(page, "measure-gsm8k")[-1]
    assert row[:2] == ["Direct arm", 2]
    expected = [100 * one for one in (figure["value"], *figure["interval"])]
    assert row[2:5] == pytest.approx(expected)
    assert row[5] == figure["count"]
    assert [row[0] for row in _rows(page, "measure-win_rate")] == ["Thought arm"] * 3


def test_benchmarks_keep_the_per_cent_they_print(page: PageReader):
    assert _rows(page, "measure-arena_hard")[0][2] == 18.5
    chart = page.charts["measure-arena_hard"]["views"][0]
    assert chart["columns"][2]["name"] == "score, %"


def test_two_measures_may_use_one_name(page: PageReader):
    assert _rows(page, "measure-win_rate")[0][2] == pytest.approx(44)
    assert _rows(page, "measure-alpaca_eval_win_rate")[0][2] == 20
    assert _rows(page, "measure-alpaca_eval_length_controlled_win_rate")[0][2] == 22


def test_win_rates_have_a_line_at_fifty_per_cent(page: PageReader):
    for key in ("measure-win_rate", "measure-win_rate_longer"):
        (shape,) = page.charts[key]["views"][0]["layout"]["shapes"]
        assert shape["y0"] == shape["y1"] == 50
    assert "shapes" not in page.charts["measure-gsm8k"]["views"][0]["layout"]


def test_categories_are_sorted_and_of_the_last_policy(measured: Path, page: PageReader):
    rows = _rows(page, "measure-win_rate-categories")
    assert {row[0] for row in rows} == set(CATEGORIES)
    values = [row[2] for row in rows]
    assert values == sorted(values, reverse=True)
    last = _counts(measured / "measures/win_rate/thought/policy_2")["results"]
    assert max(values) == pytest.approx(
        100 * max(one["value"] for one in last if one["category"] is not None)
    )


def test_a_figure_of_an_unknown_name_is_drawn_as_it_is(changeable: Path):
    figure = {"name": "surprise", "value": 7.25, "interval": [7, 8], "count": 3, "category": None}
    _change(changeable / "measures/arena_hard/thought/policy_1", results=[figure])
    page = PageReader(write_report(changeable))
    assert _rows(page, "measure-arena_hard_surprise") == [["Thought arm", 1, 7.25, 7, 8, 3]]
    assert page.charts["measure-arena_hard_surprise"]["title"] == "Arena hard surprise"


def test_one_policy_alone_shows_its_interval_as_whiskers(changeable: Path):
    (changeable / "measures/win_rate/thought/policy_0/manifest.json").unlink()
    view = PageReader(write_report(changeable)).charts["measure-win_rate"]["views"][0]
    (trace,) = view["data"]
    assert trace["error_y"]["array"] == pytest.approx([8])
    assert trace["error_y"]["arrayminus"] == pytest.approx([8])


def test_markers_of_one_policy_stand_side_by_side(changeable: Path):
    (changeable / "measures/probe/thought/policy_0/manifest.json").unlink()
    charts = PageReader(write_report(changeable)).charts
    for key in ("probe-drop", "probe-scores", "probe-habits"):
        view = charts[key]["views"][0]
        places = [trace["x"] for trace in view["data"]]
        assert len({place for (place,) in places}) == len(places) >= 3
        low, high = view["layout"]["xaxis"]["range"]
        assert low < min(places)[0] < 1 < max(places)[0] < high
        assert {row[1] for row in view["rows"]} == {1}


def test_whiskers_by_category_end_on_the_chart_where_a_share_ends(changeable: Path):
    folder = changeable / "measures/probe/thought/policy_1"
    results = _counts(folder)["results"]
    for figure in results:
        if figure["name"] == "probe_drop_none" and figure["category"] is not None:
            figure |= {"value": 0.8, "interval": [-0.3, 1.4]}
    _change(folder, results=results)
    view = PageReader(write_report(changeable)).charts["probe-categories"]["views"][0]
    trace = next(trace for trace in view["data"] if trace["name"] == "no thought")
    assert trace["error_x"]["array"] == pytest.approx([20] * len(CATEGORIES))
    assert trace["error_x"]["arrayminus"] == pytest.approx([110] * len(CATEGORIES))
    low, high = view["layout"]["xaxis"]["range"]
    assert low < -30
    assert high > 100


def test_every_bar_by_category_says_how_many_prompts_it_stands_for(changeable: Path):
    folder = changeable / "measures/alpaca_eval/direct/policy_1"
    results = _counts(folder)["results"]
    for figure in results:
        if figure["category"] == "vicuna":
            figure |= {"count": 38}
    _change(folder, results=results)
    charts = PageReader(write_report(changeable)).charts
    axis = charts["measure-alpaca_eval_win_rate-categories"]["views"][0]["layout"]["yaxis"]
    labels = dict(zip(axis["tickvals"], axis["ticktext"], strict=True))
    assert "n = 40<" in labels["helpful_base"]
    assert "n = 40 / 38<" in labels["vicuna"]
    axis = charts["categories"]["views"][0]["layout"]["yaxis"]
    assert any(label.startswith("capitals &amp; rivers<br>") for label in axis["ticktext"])
    whiskers = charts["categories"]["views"][0]["data"][0]["error_x"]
    assert max(whiskers["array"]) > 0


def test_benchmarks_by_category_fill_their_chart(page: PageReader):
    chart = page.charts["measure-alpaca_eval_win_rate-categories"]["views"][0]
    # 33 and 9 more; it prints per cent itself.
    assert 42 < chart["layout"]["xaxis"]["range"][1] < 45


def test_an_interval_without_ends_is_none(changeable: Path):
    figure = {"name": "gsm8k", "value": 1.0, "count": 1, "category": None}
    figure["interval"] = [float("-inf"), float("inf")]
    _change(changeable / "measures/gsm8k/thought/policy_1", results=[figure])
    row = _rows(PageReader(write_report(changeable)), "measure-gsm8k")[1]
    assert row == ["Thought arm", 1, 100.0, None, None, 1]


def test_what_each_side_of_the_head_to_head_spent_is_drawn(page: PageReader):
    rows = _rows(page, "measure-win_rate-tokens")
    assert ["Direct arm, best of several", 2, 90.0] in rows
    assert {row[0] for row in rows} == {
        "Thought arm",
        "Direct arm, one answer",
        "Direct arm, best of several",
    }
    traces = page.charts["measure-win_rate-tokens"]["views"][0]["data"]
    colours = [trace["line"]["color"] for trace in traces]
    assert colours == ["@thought", "@direct", "@direct"]


def test_probe_drops_stand_around_zero(page: PageReader):
    view = page.charts["probe-drop"]["views"][0]
    assert view["layout"]["shapes"][0]["y0"] == 0
    assert view["rows"][2] == ["no thought", 2, *map(pytest.approx, (22, 16, 28)), 40]
    assert {row[0] for row in view["rows"]} == {
        "no thought",
        "another prompt's thought",
        "half of its own thought",
    }
    first = [row for row in _rows(page, "probe-categories") if row[1] == "no thought"]
    assert [row[2] for row in first] == sorted((row[2] for row in first), reverse=True)
    assert len(first) == len(CATEGORIES)
    assert _rows(page, "probe-habits")[0] == [
        "response copies a draft",
        "0 (start)",
        *map(pytest.approx, (50, 45, 55)),
        40,
    ]
    assert len(_rows(page, "probe-scores")) == 4 * 3


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (0.21, 0.15, 0.27, "Responses of policy 1 lose 21.0 points without their thought (95 % "
         "interval 15.0 to 27.0, n = 50): it uses them"),
        (0.01, -0.03, 0.05, "change by \u22121.0 points (95 % interval \u22125.0 to +3.0, n = 50); "
         "the interval includes zero: the thought may be decoration"),
        (-0.1, -0.2, -0.02, "Responses of policy 1 gain 10.0 points without their thought (95 % "
         "interval 2.0 to 20.0, n = 50): here the thought does harm"),
    ],
)  # fmt: skip
def test_the_probe_is_put_in_words_whichever_way_it_went(
    changeable: Path, value: float, low: float, high: float, words: str
):
    html = _last_drop(changeable, value, low, high)
    # In the hero and below the chart.
    assert html.count(words) == 2
    assert f"{-100 * value:+.1f}".replace("-", "\u2212") in html


def test_the_hero_says_what_the_head_to_head_showed(measured: Path, changeable: Path):
    html = (measured / "report.html").read_text(encoding="utf-8")
    assert "policy 2 of the thought arm wins 64.0% of the test prompts" in html
    assert "the interval lies above 50%" in html
    assert "56.0% to 72.0%, n\u00a0=\u00a040" in html
    write_report(changeable)
    html = (changeable / "report.html").read_text(encoding="utf-8")
    assert "wins 54.0% of the test prompts against the direct arm (95 % interval 46.0% to" in html
    assert "the interval includes 50%" in html


def test_without_measures_nothing_is_said_of_them(tmp_path: Path):
    run = tmp_path / "run"
    write_run(run, iterations=1)
    html = write_report(run).read_text(encoding="utf-8")
    for words in ("Head to head", 'id="measures"', 'id="probes"', "Win rate"):
        assert words not in html


def test_measures_that_the_recipe_asks_for_are_missing_until_sealed(changeable: Path):
    path = changeable / "config.json"
    recipe = json.loads(path.read_text())
    recipe["measures"] = {"probe": {"after": "last"}, "win_rate": {}}
    path.write_text(json.dumps(recipe))
    (changeable / "measures/probe/thought/policy_1/manifest.json").unlink()
    (changeable / "measures/win_rate/thought/policy_0/manifest.json").unlink()
    html = write_report(changeable).read_text(encoding="utf-8")
    assert "2 stages are not there yet" in html
    assert "<code>measures/probe/thought/policy_1</code>" in html
    assert "<code>measures/win_rate/thought/policy_0</code>" in html


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ("absent", "counts has no results"),
        ("text", "counts.results is not a list of figures"),
        ([{"name": "gsm8k", "value": 1.0, "count": 3}], "counts.results.0.interval is missing"),
        ([{"name": "gsm8k", "value": "high", "interval": [0, 1], "count": 3}], "0.value"),
        ([{"name": "gsm8k", "value": float("nan"), "interval": [0, 1], "count": 3}], "is nan"),
    ],
)  # fmt: skip
def test_results_that_cannot_be_read_are_refused_with_a_way_out(
    changeable: Path, results: Any, words: str
):
    folder = changeable / "measures/gsm8k/thought/policy_1"
    _change(folder, results=results)
    if results == "absent":
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        del manifest["counts"]["results"]
        path.write_text(json.dumps(manifest))
    with pytest.raises(StageError, match=words) as caught:
        write_report(changeable)
    assert str(folder) in str(caught.value)
    assert "move the folder away" in str(caught.value)
