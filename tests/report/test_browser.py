"""The page in a real browser: no errors, no requests, and its controls do what they say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from example_run import write_run

from forethought.report.page import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = pytest.mark.skipif(not CHROMIUM.is_file(), reason="there is no chromium")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "quickstart"
    write_run(run)
    return write_report(run)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The open page; console errors and requests fail the test that caused them."""
    page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="light")
    problems: list[str] = []
    page.on("console", lambda one: problems.append(one.text) if one.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda one: problems.append(one.url) if one.url[:5] != "file:" else None)
    page.goto(report.as_uri())
    page.wait_for_selector("#chart-score .main-svg")
    yield page
    hacked = page.evaluate("window.hacked")
    page.close()
    assert problems == []
    assert hacked is None


def test_every_chart_is_drawn(page: Any):
    charts = page.locator(".chart").all()
    assert len(charts) == 14
    for chart in charts:
        chart.scroll_into_view_if_needed()
        chart.locator(".main-svg").first.wait_for()


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


def test_filters_search_and_pages(page: Any):
    matches = page.locator("#matches")
    assert matches.inner_text() == "80 prompts"
    page.locator("select[name=arm]").select_option("direct")
    page.locator("select[name=number]").select_option("1")
    assert matches.inner_text() == "20 prompts"
    assert page.locator(".group").count() == 8
    page.locator("#next").click()
    assert page.locator("#page").inner_text() == "Page 2 of 3"
    page.locator("select[name=category]").select_option("capitals & rivers")
    assert matches.inner_text() == "4 prompts"
    page.locator("#filters").evaluate("form => form.reset()")
    page.locator("select[name=outcome]").select_option("unjudged")
    assert matches.inner_text() == "4 prompts"
    assert "the call <timed> out" in page.locator(".verdict").first.inner_text()
    page.locator("select[name=outcome]").select_option("")
    page.locator("input[name=text]").fill("SecretThought")
    page.wait_for_selector("mark")
    assert page.locator("mark").first.inner_text() == "secretthought"
    assert page.locator("mark").first.is_visible()
    page.locator("input[name=text]").fill("nowhere to be found")
    page.wait_for_selector("#groups .notice")
    assert matches.inner_text() == "0 prompts"


def test_status_filter_and_whole_outputs(page: Any):
    page.locator("select[name=status]").select_option("no_response")
    assert page.locator(".raw-label").first.inner_text() == "No response. The whole output:"


def test_markup_in_responses_is_text(page: Any):
    page.locator("input[name=text]").fill("<script>window.hacked")
    page.wait_for_selector("mark")
    assert "<script>window.hacked = 1</script>" in page.locator("#groups").inner_text()
    assert page.locator("#groups script, #groups img, #groups b").count() == 0


def test_thoughts_fold_and_unfold(page: Any):
    thought = page.locator(".thought-text").first
    assert not thought.is_visible()
    page.locator("#unfold").check()
    assert thought.is_visible()
    page.locator("details.thought summary").first.focus()
    page.keyboard.press("Enter")
    assert not thought.is_visible()


def test_test_answers_stand_side_by_side(page: Any):
    page.locator("select[name=kind]").select_option("test")
    assert page.locator("#matches").inner_text() == "40 prompts"
    badges = page.locator(".group").first.locator(".output .badge").all_inner_texts()
    assert badges[:2] == ["Thought arm, seed", "Direct arm, seed"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_does_not_scroll_sideways(browser: Any, report: Path, theme: Any):
    page = browser.new_page(viewport={"width": 375, "height": 800}, color_scheme=theme)
    page.goto(report.as_uri())
    page.wait_for_selector("#chart-score .main-svg")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    for toggle in page.locator("button[data-action=table]").all()[:3]:
        toggle.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    page.close()
