"""The sample browser in a real browser: text stays text, filters agree with the records, and a list
of 20,000 outputs keeps few of them in the document."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from example_run import NASTY, write_run
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from packed_samples import read_cases

from forethought.report.data.sample_pieces import Case, Group, ShownOutput, pack
from forethought.report.data.samples import (
    Samples,
    collect_samples,
    samples_json,
    samples_json_of_runs,
)
from forethought.report.page import write_report
from forethought.types import Arm, Message, Prompt

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<style>{% include "style.css" %}{% include "samples.css" %}</style></head>
<body><main class="inner">{% include "samples.html" %}</main>
{% include "samples_script.html" %}</body></html>"""

Open = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens a file; console errors, requests and scripts of models fail the test."""
    problems: list[str] = []
    pages: list[Any] = []

    def opened(path: Path, width: int = 1200) -> Any:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
        page.on("console", lambda one: problems.append(one.text) if one.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda one: problems.append(one.url) if one.url[:5] != "file:" else None)
        page.goto(path.as_uri())
        page.wait_for_selector("#cases[data-ready]", state="attached")
        pages.append(page)
        return page

    yield opened
    hacked = [page.evaluate("window.hacked") for page in pages]
    for page in pages:
        page.close()
    assert problems == []
    assert set(hacked) <= {None}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The samples of a run directory, and what the browser should find in them."""
    folder = tmp_path_factory.mktemp("runs") / "quickstart"
    samples = collect_samples(write_run(folder))
    page = _write_page(folder.with_name("samples.html"), {"": samples})
    return page, read_cases(samples_json(samples))


@pytest.fixture(scope="module")
def report(run: tuple[Path, list[dict[str, Any]]]) -> Path:
    """The run's whole page, charts and all."""
    return write_report(run[0].with_name("quickstart"))


def _output(arm: Arm, index: int, text: str, thought: str | None = None) -> ShownOutput:
    return ShownOutput(
        arm=arm,
        policy=0,
        index=index,
        status="complete",
        thought=thought,
        text=text,
        thought_tokens=3,
        response_tokens=4,
        score=index / 8,
        shaped=None,
        attempts=1,
    )


def _case(number: int, text: str = "", samples: int = 8, **fields: Any) -> Case:
    arms: tuple[Arm, ...] = ("thought", "direct")
    groups = tuple(
        Group(
            arm=arm,
            iteration=number % 4,
            outcome="judged",
            chosen=samples - 1,
            rejected=0,
            margin=0.5,
            unjudged=fields.get("unjudged"),
            evidence=fields.get("evidence", ""),
            outputs=tuple(
                _output(arm, k, f"answer {k} to {number} {text}", f"thought {k} {text}")
                for k in range(samples)
            ),
        )
        for arm in arms
    )
    prompt = Prompt(
        prompt_id=f"{number:016d}",
        messages=(Message(role="user", content=f"question {number} {text}"),),
        category=fields.get("category", f"category {number % 5}"),
        source="test",
        reference=fields.get("reference"),
    )
    return Case(kind="train", prompt=prompt, groups=groups)


def _samples(cases: list[Case]) -> Samples:
    outputs = sum(len(group.outputs) for case in cases for group in case.groups)
    keys = tuple((case.kind, case.prompt.prompt_id) for case in cases)
    return Samples(cases=keys, shown=outputs, total=outputs, packed=pack(cases), limit="")


def _write_page(path: Path, runs: Mapping[str, Samples]) -> Path:
    environment = Environment(loader=PackageLoader("forethought.report"), autoescape=True)
    text = environment.from_string(PAGE).render(
        samples=next(iter(runs.values())), samples_json=Markup(samples_json_of_runs(runs))
    )
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def long_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,250 prompts, 20,000 outputs, of heights that differ."""
    cases = [_case(number, "word " * (number * 7 % 120)) for number in range(1250)]
    return _write_page(tmp_path_factory.mktemp("long") / "page.html", {"": _samples(cases)})


def _counts(page: Any) -> tuple[int, int]:
    words = page.locator("#matches").inner_text().replace(",", "").split()
    return int(words[0]), int(words[2])


def _search(page: Any, words: str) -> None:
    """Type, and wait until the list is that of the words."""
    page.evaluate("document.getElementById('matches').textContent = 'waiting'")
    page.locator("input[name=text]").fill(words)
    expect(page.locator("#matches")).to_have_text(re.compile("output"))


# --- Text stays text -------------------------------------------------------------------------


def test_markup_is_text_wherever_it_comes_from(open_page: Open, tmp_path: Path):
    attack = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
    fields: dict[str, Any] = {
        "category": attack,
        "reference": attack,
        "evidence": attack,
        "unjudged": attack,
    }
    name = f"run {attack}"
    runs = {name: _samples([_case(0, attack, **fields)]), "other": _samples([_case(1)])}
    page = open_page(_write_page(tmp_path / "page.html", runs))
    page.locator("#unfold").check()
    for summary in page.locator(".evidence summary, .others summary").all():
        summary.click()
    first = page.locator(".case").first
    for place in (".question", ".thought-text", ".response", ".reference", ".badge.run"):
        assert attack in first.locator(place).first.inner_text(), place
    assert attack in first.locator(".evidence .text").first.inner_text()
    assert page.locator("#samples script, #samples img, #samples b").count() == 0
    assert attack in page.locator("select[name=category]").inner_text()


def test_the_run_filter_is_there_for_several_runs_only(
    open_page: Open, long_list: Path, tmp_path: Path
):
    assert not open_page(long_list).locator("select[name=run]").is_visible()
    runs = {"first": _samples([_case(0), _case(1)]), "second": _samples([_case(0)])}
    page = open_page(_write_page(tmp_path / "page.html", runs))
    assert _counts(page) == (3, 48)
    page.locator("select[name=run]").select_option("second")
    assert _counts(page) == (1, 16)
    assert page.locator(".badge.run").all_inner_texts() == ["second"]


# --- The list --------------------------------------------------------------------------------


def test_twenty_thousand_outputs_are_listed_and_few_are_in_the_document(
    open_page: Open, long_list: Path
):
    page = open_page(long_list)
    assert _counts(page) == (1250, 20_000)
    box = page.locator("#cases")
    box.focus()
    most, seen = 0, set()
    for _ in range(40):
        most = max(most, page.locator(".case").count())
        seen.update(page.locator(".case").evaluate_all("all => all.map(one => one.ariaPosInSet)"))
        page.keyboard.press("PageDown")
        page.wait_for_timeout(20)
    assert most < 60
    # No prompt is left out on the way.
    places = sorted(int(one) for one in seen)
    assert places == list(range(1, len(places) + 1))
    assert len(places) > 30
    assert page.locator(".case").first.get_attribute("aria-setsize") == "1250"


def test_keys_reach_both_ends_and_every_step_between(open_page: Open, long_list: Path):
    page = open_page(long_list)
    page.locator("#cases").focus()
    page.keyboard.press("End")
    last = page.locator(".case[aria-posinset='1250']")
    last.wait_for()
    page.wait_for_timeout(200)
    assert last.bounding_box()["y"] < page.locator("#cases").bounding_box()["y"] + 900
    assert (
        page.evaluate("box => box.scrollHeight - box.scrollTop - box.clientHeight", _box(page)) < 2
    )
    page.keyboard.press("Home")
    page.locator(".case[aria-posinset='1']").wait_for()
    assert _top(page) == 0
    page.keyboard.press("ArrowDown")
    assert _top(page) > 0
    page.keyboard.press("ArrowUp")
    assert _top(page) == 0
    assert page.evaluate("document.activeElement.id") == "cases"


def _box(page: Any) -> Any:
    return page.query_selector("#cases")


def _top(page: Any) -> float:
    return page.evaluate("box => box.scrollTop", _box(page))


def test_what_is_read_does_not_move_when_heights_become_known(open_page: Open, long_list: Path):
    page = open_page(long_list)
    # A search unpacks all texts: no card waits for its own.
    _search(page, "question")
    script = """async (box) => {
      box.scrollTop = box.scrollHeight / 2;
      box.dispatchEvent(new Event("scroll"));
      const edge = box.getBoundingClientRect().top;
      const cards = () => [...box.querySelectorAll(".case")];
      // Cards overlap until their heights are known: the last that begins above the edge counts.
      const first = cards().findLast((one) => one.getBoundingClientRect().top <= edge + 1);
      const before = first.getBoundingClientRect().top;
      await new Promise((resolve) => setTimeout(resolve, 400));
      return [before, first.getBoundingClientRect().top, first.isConnected];
    }"""
    before, after, connected = page.evaluate(script, _box(page))
    assert connected
    assert after == pytest.approx(before, abs=2)


def test_the_focus_is_not_lost_when_its_card_is_scrolled_away(open_page: Open, long_list: Path):
    page = open_page(long_list)
    page.locator("details.thought summary").first.focus()
    for _ in range(6):
        page.keyboard.press("PageDown")
        page.wait_for_timeout(30)
    assert _top(page) > 2000
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    page.keyboard.press("Home")
    assert page.locator(".case").first.get_attribute("aria-posinset") == "1"


def test_what_was_unfolded_stays_so_when_its_card_comes_back(open_page: Open, long_list: Path):
    page = open_page(long_list)
    thought = page.locator(".case[aria-posinset='1'] details.thought").first
    thought.locator("summary").click()
    assert thought.locator(".thought-text").is_visible()
    page.locator("#cases").focus()
    page.keyboard.press("End")
    page.locator(".case[aria-posinset='1250']").wait_for()
    assert page.locator(".case[aria-posinset='1']").count() == 0
    page.keyboard.press("Home")
    thought.wait_for()
    assert thought.locator(".thought-text").is_visible()


def test_search_in_a_long_list_finds_one_output(open_page: Open, long_list: Path):
    page = open_page(long_list)
    _search(page, "Answer 5 to 777 ")
    assert _counts(page) == (1, 2)
    assert page.locator("mark").first.inner_text() == "answer 5 to 777"
    # The fold with the hit is open, the thoughts are not.
    assert page.locator("mark").first.is_visible()
    assert page.locator(".thought-text:visible").count() == 0
    _search(page, "question 12")
    prompts = [n for n in range(1250) if str(n).startswith("12")]
    assert _counts(page) == (len(prompts), 16 * len(prompts))
    _search(page, "question 1249 ")
    assert _counts(page) == (1, 16)
    _search(page, "nowhere to be found")
    assert page.locator("#none").is_visible()
    assert not page.locator("#cases").is_visible()
    page.get_by_role("button", name="Clear filters").click()
    page.wait_for_selector("#cases .case")
    assert _counts(page) == (1250, 20_000)


def test_a_long_text_is_shown_whole_on_demand(open_page: Open, tmp_path: Path):
    cases = [_case(0, "long " * 400 + "end of it", samples=1)]
    page = open_page(_write_page(tmp_path / "page.html", {"": _samples(cases)}))
    response = page.locator(".response").first
    cut = response.bounding_box()["height"]
    response.locator("xpath=..").get_by_role("button").click()
    assert response.bounding_box()["height"] > 2 * cut
    _search(page, "end of it")
    assert page.locator(".response mark").first.is_visible()
    assert page.locator(".response.cut").count() == 0


def test_an_old_browser_is_told(browser: Any, long_list: Path):
    page = browser.new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto(long_list.as_uri())
    assert "This browser cannot unpack the samples" in page.locator("#matches").inner_text()
    page.close()


# --- Filters of a real run -------------------------------------------------------------------

Run = tuple[Path, list[dict[str, Any]]]
Wanted = Callable[[dict[str, Any], dict[str, Any]], bool]


def _expected(run: Run, kind: str, wanted: Wanted) -> tuple[int, int]:
    """Prompts and outputs that pass, by the records."""
    found = [
        sum(wanted(group, one) for group in case["groups"] for one in group["outputs"])
        for case in run[1]
        if case["kind"] == kind
    ]
    return sum(count > 0 for count in found), sum(found)


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({}, lambda group, one: True),
        ({"arm": "direct", "number": "1"}, lambda g, o: (g["arm"], o["policy"]) == ("direct", 1)),
        ({"status": "no_response"}, lambda g, o: o["status"] == "no_response"),
        ({"role": "chosen"}, lambda g, o: o["index"] == g["chosen"]),
        (
            {"role": "rejected", "arm": "thought"},
            lambda g, o: (g["arm"], o["index"]) == ("thought", g["rejected"]),
        ),
        ({"role": "neither"}, lambda g, o: o["index"] not in (g["chosen"], g["rejected"])),
        ({"outcome": "unjudged"}, lambda g, o: g["outcome"] == "unjudged"),
        ({"from": "0.5"}, lambda g, o: o["score"] is not None and o["score"] >= 0.5),
        ({"from": "0", "to": "0.5"}, lambda g, o: o["score"] is not None and o["score"] <= 0.5),
    ],
)
def test_filters_agree_with_the_records(
    open_page: Open, run: Run, filters: dict[str, str], wanted: Wanted
):
    page = open_page(run[0])
    for name, value in filters.items():
        field = page.locator(f"#filters [name={name}]")
        if name in ("from", "to"):
            field.fill(value)
        else:
            field.select_option(value)
    expected = _expected(run, "train", wanted)
    assert expected[1] > 0
    page.wait_for_timeout(250)
    assert _counts(page) == expected


def test_category_and_search_narrow_together(open_page: Open, run: Run):
    page = open_page(run[0])
    page.locator("select[name=category]").select_option("capitals & rivers")
    assert _counts(page)[0] == 8
    _search(page, NASTY[1][:20])
    shown = _counts(page)
    own = [c for c in run[1] if c["kind"] == "train" and c["category"] == "capitals & rivers"]
    texts = [[(o["thought"], o["text"]) for g in c["groups"] for o in g["outputs"]] for c in own]
    hits = [sum(NASTY[1][:20] in f"{a} {b}" for a, b in each) for each in texts]
    assert shown == (sum(hit > 0 for hit in hits), sum(hits))
    assert page.locator(".response mark").first.inner_text() == NASTY[1][:20]


def test_test_answers_of_every_policy_stand_side_by_side(open_page: Open, run: Run):
    page = open_page(run[0])
    page.locator("select[name=kind]").select_option("test")
    assert _counts(page) == _expected(run, "test", lambda group, one: True)
    first = page.locator(".case").first
    assert first.locator(".arm .badge.thought, .arm .badge.direct").all_inner_texts() == [
        "Thought arm",
        "Direct arm",
    ]
    assert first.locator(".output .index").all_inner_texts() == ["seed", "policy 1", "policy 2"] * 2
    tops = [one.bounding_box()["y"] for one in first.locator(".thought .output").all()]
    assert len(set(tops)) == 1
    assert not page.locator("select[name=outcome]").is_visible()
    page.locator("select[name=number]").select_option("2")
    assert first.locator(".output .index").all_inner_texts() == ["policy 2"] * 2


def test_all_samples_of_a_prompt_stand_side_by_side(open_page: Open, run: Run):
    page = open_page(run[0])
    first = page.locator(".case").first
    assert first.locator(".output:visible").count() < 8
    arms = [one.bounding_box() for one in first.locator(".arm").all()]
    assert arms[0]["y"] == arms[1]["y"]
    page.locator("select[name=layout]").select_option("all")
    names = first.locator(".arm.thought .output:visible .index").all_inner_texts()
    assert names == ["sample 0", "sample 1", "sample 2", "sample 3"]
    tops = {one.bounding_box()["y"] for one in first.locator(".arm.thought .output").all()}
    assert len(tops) == 1


def test_pair_reasons_name_both_sides(open_page: Open, run: Run):
    page = open_page(run[0])
    page.locator("select[name=outcome]").select_option("judged")
    page.locator("select[name=arm]").select_option("thought")
    case = next(
        one for one in run[1] if one["kind"] == "train" and one["groups"][0]["outcome"] == "judged"
    )
    group = case["groups"][0]
    assert page.locator(".verdict").first.inner_text() == (
        f"Pair: sample {group['chosen']} (score 1) over sample {group['rejected']} (score 0), "
        "margin 1."
    )
    outputs = page.locator(".case").first.locator(".output")
    assert "chosen" in outputs.nth(0).get_attribute("class")
    assert "rejected" in outputs.nth(1).get_attribute("class")
    page.locator("select[name=outcome]").select_option("unjudged")
    text = page.locator(".verdict").first.inner_text()
    assert text.endswith("The judge said: the call <timed> out")
    page.locator("select[name=outcome]").select_option("tie")
    assert "scores" not in page.locator(".verdict").first.inner_text().split(".")[0]
    assert page.locator(".verdict").first.inner_text().startswith("No pair: ")


def test_length_control_is_explained(open_page: Open, tmp_path: Path):
    case = _case(0, samples=2)
    shaped = [replace(output, shaped=1.5 - output.index) for output in case.groups[0].outputs]
    group = replace(case.groups[0], chosen=0, rejected=1, margin=-0.125, outputs=tuple(shaped))
    cases = [Case(kind="train", prompt=case.prompt, groups=(group,))]
    page = open_page(_write_page(tmp_path / "page.html", {"": _samples(cases)}))
    assert page.locator(".verdict").inner_text() == (
        "Pair: sample 0 (score 0, 1.5 after length control) over sample 1 (score 0.125, 0.5 after "
        "length control), margin \u22120.125. Length control decided: the judge did not score it "
        "higher."
    )


def test_the_price_of_thoughts_is_explained(open_page: Open, tmp_path: Path):
    case = _case(0, samples=2)
    outputs = [
        replace(one, shaped=1.5 - one.index, score=0.5 + one.index / 10, thought_tokens=tokens)
        for one, tokens in zip(case.groups[0].outputs, (30, 90), strict=True)
    ]
    group = replace(case.groups[0], chosen=0, rejected=1, margin=-0.1, outputs=tuple(outputs))
    cases = [Case(kind="train", prompt=case.prompt, groups=(group,))]
    samples = replace(_samples(cases), packed=pack(cases, priced=True))
    page = open_page(_write_page(tmp_path / "page.html", {"": samples}))
    assert page.locator(".verdict").inner_text() == (
        "Pair: sample 0 (score 0.5, 1.5 after the price of its length) over sample 1 (score 0.6, "
        "0.5 after the price of its length), margin \u22120.1. Chosen although its score is 0.1 "
        "lower than that of sample 1: 60 thought tokens less."
    )


def test_an_output_without_a_response_is_shown_whole(open_page: Open, run: Run):
    page = open_page(run[0])
    page.locator("select[name=status]").select_option("no_response")
    card = page.locator(".output").first
    assert card.locator(".raw-label").inner_text() == "No response. The whole output:"
    assert card.locator(".response").inner_text().startswith("Here is my thought process:")


def test_thoughts_fold_and_unfold(open_page: Open, run: Run):
    page = open_page(run[0])
    assert page.locator(".thought-text:visible").count() == 0
    page.locator("#unfold").check()
    assert page.locator(".thought-text").first.is_visible()
    page.locator("details.thought summary").first.focus()
    page.keyboard.press("Enter")
    assert not page.locator(".thought-text").first.is_visible()
    page.locator("#unfold").uncheck()
    assert page.locator(".thought-text:visible").count() == 0


def test_state_is_kept_and_restored(open_page: Open, run: Run):
    page = open_page(run[0])
    page.locator("select[name=arm]").select_option("thought")
    _search(page, "what is")
    page.locator("details.thought summary").nth(1).click()
    page.locator("#cases").focus()
    for _ in range(3):
        page.keyboard.press("PageDown")
        page.wait_for_timeout(50)
    # The scroll position is an item's, so a list of other heights comes to the same place.
    state = page.evaluate("sampleBrowser.state()")
    counts = _counts(page)
    again = open_page(run[0])
    again.evaluate("state => sampleBrowser.restore(state)", state)
    assert _counts(again) == counts
    assert again.locator("input[name=text]").input_value() == "what is"
    assert again.locator("select[name=arm]").input_value() == "thought"
    assert again.evaluate("sampleBrowser.state().anchor.key") == state["anchor"]["key"]
    again.locator("#cases").focus()
    again.keyboard.press("Home")
    again.locator(".case[aria-posinset='1']").wait_for()
    opened = again.locator("details.thought").evaluate_all("all => all.map(one => one.open)")
    assert opened[:3] == [False, True, False]


# --- Links to one sample ---------------------------------------------------------------------

LINKED = ".output.linked"


def _visible_in_list(page: Any) -> bool:
    """Whether the linked output is seen within the list's box and the window."""
    one, box = page.locator(LINKED).bounding_box(), page.locator("#cases").bounding_box()
    top, bottom = max(box["y"], 0), min(box["y"] + box["height"], page.viewport_size["height"])
    return one["y"] >= top - 1 and one["y"] + one["height"] <= bottom + 1


def test_every_sample_has_an_address_of_its_own(open_page: Open, run: Run):
    page = open_page(run[0])
    page.locator("select[name=layout]").select_option("all")
    links = page.locator(".output .link").evaluate_all("all => all.map(one => one.hash)")
    assert len(links) == page.locator(".output").count() == len(set(links))
    link = page.locator(".output .link").nth(1)
    link.click()
    page.locator(LINKED).wait_for()
    assert page.evaluate("location.hash") == links[1]
    assert page.locator(LINKED).count() == 1
    assert page.evaluate("document.activeElement.dataset.address") == links[1]


def test_an_address_opens_the_page_at_its_sample(open_page: Open, long_list: Path):
    page = open_page(long_list)
    address = f"{long_list.as_uri()}#sample=train/{777:016d}/direct/0/5"
    page.goto("about:blank")
    page.goto(address)
    page.locator(LINKED).wait_for()
    # Neither chosen nor rejected: it was behind a fold.
    assert page.locator(LINKED).locator(".response").inner_text().startswith("answer 5 to 777")
    assert _visible_in_list(page)
    assert page.evaluate("document.activeElement.classList.contains('linked')")
    page.evaluate(f"location.hash = 'sample=train/{3:016d}/thought/0/0'")
    expect(page.locator(LINKED).locator(".response")).to_contain_text("answer 0 to 3 ")
    assert _visible_in_list(page)


def test_an_address_shows_what_the_filters_hide(open_page: Open, run: Run):
    page = open_page(run[0])
    test = next(case for case in run[1] if case["kind"] == "test")
    page.locator("select[name=arm]").select_option("direct")
    _search(page, "nowhere to be found")
    page.evaluate(f"location.hash = 'sample=test/{test['prompt']}/thought/2/0'")
    page.locator(LINKED).wait_for()
    assert page.locator(f"{LINKED} .index").inner_text() == "policy 2"
    assert page.locator("select[name=kind]").input_value() == "test"
    assert page.locator("select[name=arm]").input_value() == ""
    assert page.locator("input[name=text]").input_value() == ""
    assert _visible_in_list(page)
    # A filter that leaves the sample stays.
    page.locator("select[name=arm]").select_option("thought")
    page.evaluate(f"location.hash = 'sample=test/{test['prompt']}/thought/1/0'")
    expect(page.locator(f"{LINKED} .index")).to_have_text("policy 1")
    assert page.locator("select[name=arm]").input_value() == "thought"


def test_a_prompts_name_leads_to_the_prompt(open_page: Open, long_list: Path):
    page = open_page(long_list)
    page.locator(".case a.id").nth(1).click()
    assert page.evaluate("location.hash") == f"#sample=train/{1:016d}"
    for _ in range(100):
        if _top(page) > 0:
            break
        page.wait_for_timeout(20)
    assert page.locator(LINKED).count() == 0
    assert page.evaluate("sampleBrowser.state().anchor.key") == f"/train/{1:016d}"


def test_an_address_may_lie_beyond_the_end_of_the_list(open_page: Open, tmp_path: Path):
    cases = [_case(number, samples=1) for number in range(16_002)]
    page = open_page(_write_page(tmp_path / "page.html", {"": _samples(cases)}))
    page.evaluate(f"location.hash = 'sample=train/{16_001:016d}/direct/0/0'")
    page.locator(LINKED).wait_for()
    assert page.locator(LINKED).locator(".response").inner_text().startswith("answer 0 to 16001")
    assert _counts(page)[0] == 1


@pytest.mark.parametrize(
    "address", ["sample=train/none/thought/0/0", "sample=", "sample=%E0%A4%A", "sample=train"]
)
def test_an_address_of_no_sample_is_told(open_page: Open, run: Run, address: str):
    page = open_page(run[0])
    page.evaluate("address => { location.hash = address; }", address)
    expect(page.locator("#matches")).to_have_text(
        "The sample that this address names is not on this page."
    )
    assert page.locator(".case").count() > 0


def test_an_address_names_its_run_where_there_are_several(open_page: Open, tmp_path: Path):
    names: list[str] = ["a", "b & c"]
    runs = {name: _samples([_case(0, f"of {name}", samples=1)]) for name in names}
    page = open_page(_write_page(tmp_path / "page.html", runs))
    links = page.locator(".output .link").evaluate_all("all => all.map(one => one.hash)")
    assert len(set(links)) == 4
    page.evaluate("address => { location.hash = address; }", links[2])
    page.locator(LINKED).wait_for()
    assert "of b & c" in page.locator(f"{LINKED} .response").inner_text()


# --- Theme and width -------------------------------------------------------------------------


def test_the_theme_reaches_the_samples(open_page: Open, report: Path):
    page = open_page(report)
    colour = "getComputedStyle(document.querySelector('.output')).backgroundColor"
    light = page.evaluate(colour)
    page.locator("#theme").click()
    assert page.evaluate(colour) != light


def test_a_narrow_page_shows_one_column_and_does_not_scroll_sideways(open_page: Open, report: Path):
    page = open_page(report, width=360)
    boxes = [one.bounding_box() for one in page.locator(".case").first.locator(".arm").all()]
    assert boxes[0]["x"] == boxes[1]["x"]
    for layout in ("pairs", "all"):
        page.locator("select[name=layout]").select_option(layout)
        page.locator("#unfold").click()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.evaluate("box => box.scrollWidth - box.clientWidth", _box(page)) == 0
