"""The page in a real browser: no errors, no requests, and its controls do what they say."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from example_run import write_measures, write_run

from forethought.report.page import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's page and, beside its folder, the page of it and a shorter one."""
    place = tmp_path_factory.mktemp("runs")
    runs = [place / "quickstart", place / "short"]
    for iterations, run in zip((2, 1), runs, strict=True):
        write_run(run, iterations=iterations)
        write_measures(run, last=iterations)
    write_report(runs, place / "both.html")
    return write_report(runs[0])


@contextmanager
def opened(browser: Any, path: Path, wait_for: str, **options: Any) -> Iterator[Any]:
    """An open page; console errors and requests fail the test that caused them."""
    page = browser.new_page(**{"viewport": {"width": 1200, "height": 900}} | options)
    problems: list[str] = []
    page.on("console", lambda one: problems.append(one.text) if one.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda one: problems.append(one.url) if one.url[:5] != "file:" else None)
    page.goto(path.as_uri())
    # A chart is drawn when it comes near: on a phone the first may stand far below.
    page.locator(wait_for.split()[0]).first.scroll_into_view_if_needed()
    page.wait_for_selector(wait_for)
    page.evaluate("scrollTo(0, 0)")
    yield page
    hacked = page.evaluate("window.hacked")
    page.close()
    assert problems == []
    assert hacked is None


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    with opened(browser, report, "#chart-score .main-svg", color_scheme="light") as page:
        yield page


@pytest.fixture
def both(browser: Any, report: Path) -> Iterator[Any]:
    """Two runs side by side."""
    path = report.parent.parent / "both.html"
    with opened(browser, path, "#chart-all-score .main-svg") as page:
        yield page


def test_every_chart_is_drawn(page: Any):
    page.locator("details.fold").evaluate_all("all => all.forEach(fold => (fold.open = true))")
    charts = page.locator(".chart:has(.plot)").all()
    data = page.evaluate("JSON.parse(document.getElementById('chart-data').textContent)")
    assert len(charts) == sum(bool(one["views"][0]["data"]) for one in data.values()) == 35
    for chart in charts:
        chart.scroll_into_view_if_needed()
        chart.locator(".main-svg").first.wait_for()
    assert page.locator("#chart-hashes .table tbody tr").count() == 5


def test_what_is_folded_is_drawn_when_it_is_opened(page: Any):
    fold = page.locator("details.fold", has=page.locator("#chart-device-hours"))
    chart = page.locator("#chart-device-hours")
    fold.scroll_into_view_if_needed()
    assert not chart.is_visible()
    page.wait_for_timeout(200)
    assert chart.locator(".main-svg").count() == 0
    fold.locator("summary").click()
    chart.locator(".main-svg").first.wait_for()
    assert chart.locator(".main-svg").first.bounding_box()["width"] > 900
    assert not page.locator("#chart-hashes").is_visible()
    assert not page.locator("#chart-measure-length_controlled_win_rate").is_visible()
    assert page.locator("#chart-measure-win_rate").is_visible()
    # One that was closed while the colours changed has the new ones when it is opened.
    fold.locator("summary").click()
    page.locator("#theme").click()
    fold.locator("summary").click()
    bar = chart.locator(".barlayer .bars path").first
    sync_api.expect(bar).to_have_css("fill", "rgb(86, 180, 233)")


def test_the_first_screen_holds_the_claim(page: Any):
    page.set_viewport_size({"width": 1280, "height": 800})
    assert page.locator("#difference").is_visible()
    assert page.locator(".finding").count() >= 2
    box = page.locator(".claim").bounding_box()
    assert box["y"] + box["height"] < 680
    assert len({tile.bounding_box()["y"] for tile in page.locator(".tile").all()}) <= 2
    wide = (
        "all => all.filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.innerText)"
    )
    assert page.locator(".tile .value").evaluate_all(wide) == []


def test_table_toggle_shows_the_numbers_and_comes_back(page: Any):
    chart = page.locator("#chart-score")
    button = chart.get_by_role("button", name="Table")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert chart.locator("tbody tr").count() == 6
    assert chart.locator("tbody td").first.inner_text() == "Thought arm"
    assert not chart.locator(".plot").is_visible()
    button.click()
    assert chart.locator(".plot .main-svg").first.is_visible()


def test_csv_is_downloaded(page: Any):
    with page.expect_download() as download:
        page.locator("#chart-score").get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "score.csv"
    text = Path(download.value.path()).read_text()
    assert text.startswith('arm,policy,"test score, %",')
    assert len(text.splitlines()) == 7


def test_a_name_in_the_csv_is_no_formula(browser: Any, report: Path, tmp_path: Path):
    page_file = tmp_path / "named.html"
    named = report.read_text(encoding="utf-8").replace('"Thought arm"', '"=HYPERLINK(1,2)"')
    page_file.write_text(named, encoding="utf-8")
    with opened(browser, page_file, "#chart-score .main-svg") as page:
        with page.expect_download() as download:
            page.locator("#chart-score").get_by_role("button", name="Download CSV").click()
        lines = Path(download.value.path()).read_text().splitlines()
    assert lines[1].startswith('"\'=HYPERLINK(1,2)",0')


def test_theme_recolours_the_plots(page: Any):
    colour = "document.getElementById('chart-score').querySelector('.plot').data[1].line.color"
    assert page.evaluate(colour) == "#0072b2"
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate(colour) == "#56b4e9"


def test_iteration_selector_changes_the_curves(page: Any):
    loss = "document.getElementById('chart-loss').querySelector('.plot').data[1].y[0]"
    page.locator("#chart-loss").scroll_into_view_if_needed()
    page.wait_for_selector("#chart-loss .main-svg")
    before = page.evaluate(loss)
    page.locator("#training select").select_option("iteration 0")
    assert page.evaluate(loss) != before
    options = page.locator("#training select option").all_inner_texts()
    assert options == ["0 (trains policy 1)", "1 (trains policy 2)"]


def test_hover_reads_a_point_off(page: Any):
    """A label with the value, its interval and count appears at the pointer."""
    chart = page.locator("#chart-score")
    point = chart.locator(".scatterlayer .points path").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = chart.locator(".hoverlayer .hovertext").first
    label.wait_for()
    assert re.search(r"\d+\.\d%.*\[.*\].*n = 40", label.text_content())


def test_a_line_marks_fifty_per_cent_in_the_themes_colour(page: Any):
    chart = page.locator("#chart-measure-win_rate")
    chart.scroll_into_view_if_needed()
    chart.locator(".main-svg").first.wait_for()
    shape = "document.querySelector('#chart-measure-win_rate .plot').layout.shapes[0]"
    assert page.evaluate(f"{shape}.y0") == 50
    assert page.evaluate(f"{shape}.line.color") == "#5a6372"


def test_every_control_takes_the_focus_and_shows_it(page: Any):
    """Tab goes through the whole page; whatever it stops at has an outline."""
    visit = """() => {
        const one = document.activeElement;
        one.dataset.seen = "";
        const style = getComputedStyle(one);
        const outlined = style.outlineStyle !== "none" && style.outlineWidth !== "0px";
        return [one.id || one.tagName, outlined];
    }"""
    stops = [["", True]]
    while stops[-1][0] not in ("cases", "BODY"):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(visit))
    # The list of samples comes last; its own keys are tested with it.
    assert stops[-1][0] == "cases"
    assert [name for name, outlined in stops if not outlined] == []
    controls = ":is(a, button, select, input, summary, pre):visible"
    assert page.locator(f"{controls}[data-seen]").count() > 100
    left = page.locator(f"{controls}:not([data-seen]):not(#cases *)")
    assert left.all_inner_texts() == []


def test_the_theme_follows_the_system_until_one_is_chosen(page: Any):
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("html[data-theme=dark]")
    page.emulate_media(color_scheme="light")
    page.wait_for_selector("html[data-theme=light]")
    page.locator("#theme").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("html[data-theme=dark]")
    page.evaluate(
        "() => { matchMedia('(prefers-color-scheme: dark)').onchange = "
        "(event) => { document.documentElement.dataset.heard = event.matches; }; }"
    )
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("html[data-heard=true]")
    page.emulate_media(color_scheme="light")
    page.wait_for_selector("html[data-heard=false][data-theme=dark]")


def test_one_run_at_a_time_is_shown_and_drawn(both: Any):
    assert both.locator("#chart-run-1-score").is_visible()
    assert not both.locator("#chart-run-2-score").is_visible()
    assert both.locator("#chart-run-2-score .main-svg").count() == 0
    both.locator("#run-select").select_option(label="short")
    assert not both.locator("#chart-run-1-score").is_visible()
    both.locator("#chart-run-2-score").scroll_into_view_if_needed()
    both.locator("#chart-run-2-score .main-svg").first.wait_for()
    width = both.locator("#chart-run-2-score .main-svg").first.bounding_box()["width"]
    assert width > 900


def test_an_address_opens_the_run_it_names(both: Any):
    both.evaluate("location.hash = '#run-2-training'")
    both.locator("#run-2-training").wait_for(state="visible")
    assert both.locator("#run-select").input_value() == "1"


def test_tables_of_several_runs_are_open_and_copied(both: Any):
    assert both.locator("#chart-all-runs tbody tr").count() == 2
    assert both.locator("#chart-all-differences tbody tr").count() == 2
    with both.expect_download() as download:
        both.locator("#chart-all-runs").get_by_role("button", name="Download CSV").click()
    text = Path(download.value.path()).read_text()
    assert download.value.suggested_filename == "runs.csv"
    assert [line.split(",")[0] for line in text.splitlines()] == ["run", "quickstart", "short"]
    with both.expect_download() as download:
        both.locator("#chart-run-1-score").get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "quickstart score.csv"


def test_the_navigation_fades_where_it_goes_on(browser: Any, report: Path):
    nav = "document.querySelector('.top nav')"
    options: dict[str, Any] = {"viewport": {"width": 390, "height": 800}}
    with opened(browser, report, ".chart .main-svg", **options) as page:
        page.locator(".top nav[data-more='right']").wait_for()
        assert "40px" in page.evaluate(f"getComputedStyle({nav}).maskImage")
        page.evaluate(f"{nav}.scrollLeft = 60")
        page.locator(".top nav[data-more='left right']").wait_for()
        page.evaluate(f"{nav}.scrollLeft = 5000")
        page.locator(".top nav[data-more='left']").wait_for()
        page.set_viewport_size({"width": 1280, "height": 800})
        page.locator(".top nav[data-more='']").wait_for()


@pytest.mark.parametrize(
    ("name", "theme"), [("quickstart/report.html", "light"), ("both.html", "dark")]
)
def test_a_phone_does_not_scroll_sideways(browser: Any, report: Path, name: str, theme: Any):
    path = report.parent.parent / name
    options: dict[str, Any] = {"viewport": {"width": 360, "height": 800}, "color_scheme": theme}
    with opened(browser, path, ".chart .main-svg", **options) as page:
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        for toggle in page.locator("button[data-action=table]").all()[:3]:
            toggle.click()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.evaluate("document.documentElement.dataset.theme") == theme
