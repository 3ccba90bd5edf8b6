"""The page of a real run with its measures, in a real browser, from headline to one sample."""

from pathlib import Path
from typing import Any

import pytest
from small_run import small_run

from forethought.report.page import write_report
from forethought.storage.sealed_stage import read_json, read_manifest


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "run"
    return small_run(folder, "iterations=1", "measures.win_rate={}", "measures.probe={}").run


def drop_of(run: Path) -> dict[str, Any]:
    results: Any = read_manifest(run / "measures/probe/thought/policy_1").counts["results"]
    return next(result for result in results if result["name"] == "probe_drop_none")


def test_a_real_run_is_read_from_its_headline_to_a_sample(run: Path, browser: Any):
    report = write_report(run)
    page = browser.new_page(viewport={"width": 360, "height": 800})
    problems: list[str] = []
    page.on("console", lambda one: problems.append(one.text) if one.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(report.as_uri())
    page.locator("#chart-score").scroll_into_view_if_needed()
    page.wait_for_selector("#chart-score .main-svg")
    hero = page.inner_text(".claim")
    summary = read_json(run / "summary.json")
    shown = f"{100 * summary['difference']['value']:+.1f}".replace("-", "−")
    assert shown in hero
    assert f"{100 * abs(drop_of(run)['value']):.1f}" in hero
    for chart in ("measure-win_rate", "probe-drop", "probe-scores"):
        assert page.locator(f"#chart-{chart}").count() == 1, chart
    page.locator("#theme").click()
    page.locator('.filters input[type="search"]').fill("zzz no such words")
    page.get_by_text("0 prompts").wait_for()
    page.locator('.filters input[type="search"]').fill("")
    page.locator("details.thought summary").first.click()
    assert page.locator("details.thought[open]").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()
    assert problems == []
