"""The web page in a real browser, with a server in a process of its own that streams to it."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from scripted_backend import ScriptedBackend, script
from served import MODEL, served
from streaming_server import MARKUP, THOUGHT, Server

from forethought.serving.http.chat_page import chat_page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(tmp_path, "--page", *getattr(request, "param", []))
    yield server
    server.stop()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """An open page; what it asks of others, its errors and text run as code fail the test."""
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda one: problems.append(one.text) if "Content Sec" in one.text else None)
    page.on(
        "request",
        lambda one: None if one.url.startswith(server.url) else problems.append(one.url),
    )
    page.goto(server.url)
    yield page
    assert page.evaluate("window.hacked") is None
    context.close()
    assert problems == []


def ask(page: Any, text: str) -> None:
    page.locator("#message").fill(text)
    page.keyboard.press("Enter")


def last(page: Any) -> Any:
    return page.locator("#turns > li").last


def wait_for(page: Any, text: str) -> None:
    sync_api.expect(last(page)).to_contain_text(text, timeout=60_000)


def wait_idle(page: Any) -> None:
    sync_api.expect(page.locator("#send")).to_be_visible(timeout=60_000)


def test_a_conversation_streams_and_is_sent_back_without_thoughts(page: Any, server: Server):
    page.locator("#message").press_sequentially("Tea,")
    page.keyboard.press("Shift+Enter")
    page.locator("#message").press_sequentially("please?")
    page.keyboard.press("Enter")
    wait_for(page, "1 messages; you said: é Tea,\nplease?")
    wait_idle(page)
    assert page.locator("#message").input_value() == ""
    assert page.locator("details").count() == 0
    ask(page, "think")
    wait_for(page, "thinking… 1 s")
    wait_for(page, "It is 42.")
    wait_idle(page)
    assert page.locator(".waiting").count() == 0
    fold = page.locator("details.thought")
    assert not fold.evaluate("one => one.open")
    assert fold.locator(".text").text_content() == THOUGHT
    # Five times 0.3 s; the answer before it had no thought.
    assert re.fullmatch(r"Thought for (1\.[5-9]|[2-9]\.\d) s", fold.locator("summary").inner_text())
    assert page.locator("#turns .note").count() == 0
    page.locator("#direct").check()
    ask(page, "Coffee?")
    wait_for(page, "5 messages; you said: é Coffee?")
    wait_idle(page)
    bodies = server.asked()
    assert [body.get("think") for body in bodies] == [None, None, False]
    assert [body["role"][0] for body in bodies[2]["messages"]] == ["u", "a", "u", "a", "u"]
    assert bodies[2]["messages"][3]["content"] == "It is 42."
    assert THOUGHT not in str(bodies)
    page.locator("#clear").click()
    assert page.locator("#turns > li").count() == 0
    ask(page, "Again")
    wait_for(page, "1 messages; you said: é Again")


def test_stop_ends_the_answer_at_the_server_too(page: Any, server: Server):
    ask(page, "slow please")
    wait_for(page, "word3")
    page.locator("#stop").click()
    wait_for(page, "Stopped.")
    ask(page, "never")
    wait_for(page, "thinking…")
    page.keyboard.press("Escape")
    wait_for(page, "Stopped.")
    ask(page, "Tea?")
    wait_for(page, "3 messages; you said: é Tea?")
    wait_idle(page)
    assert "word99" not in page.locator("#turns").text_content()
    for _ in range(50):
        if len(server.left()) == 2:
            break
        page.wait_for_timeout(100)
    assert server.left() == ["slow please", "never"]


def test_text_is_text(page: Any):
    ask(page, MARKUP.replace("\x1b", "") + " markup")
    wait_for(page, "onerror")
    wait_idle(page)
    assert last(page).locator(".text").text_content() == MARKUP
    assert page.locator("#turns img, #turns b").count() == 0


ANSWER = """# A *title*
Two lines
of **bold, _both_** and `a <b>` and 2*3*4, snake_case, 5 * 6, ***all***

1. one
2. two

   more of two
   - inner `*code*`
     ```
     nested <i>
     ```
10. ten

- first
* * *
| not a table |
[good](https://example.org/a_(b)?q=1 ) [good](https://example.org/a_(b)?q=1) ![img](http://x.org/p)
[bad](javascript:window.hacked=3) [worse](data:text/html,x) [no](/relative) [a](vbscript:x)
\\*stars\\* <a href=javascript:1>x</a> unclosed **bold and `code
~~~py
# <script>window.hacked = 4</script>
  kept  as it is
"""


def test_markdown_becomes_elements_and_nothing_else(page: Any):
    ask(page, "Show\n" + ANSWER)
    wait_for(page, "kept")
    wait_idle(page)
    answer = last(page).locator(".markdown")
    names = answer.evaluate("one => [...one.children].map((child) => child.tagName.toLowerCase())")
    assert names == ["p", "h2", "p", "ol", "ul", "hr", "p", "pre"]
    assert answer.locator("h2 em").inner_text() == "title"
    assert answer.locator("strong").all_inner_texts() == ["bold, both", "all"]
    assert answer.locator("em").all_inner_texts() == ["title", "both", "all"]
    assert answer.locator("p code").all_inner_texts()[0] == "a <b>"
    lines = answer.locator("> p").nth(1).inner_text()
    assert lines == "Two lines\nof bold, both and a <b> and 2*3*4, snake_case, 5 * 6, all"
    ordered = answer.locator("> ol > li")
    assert ordered.evaluate_all("all => all.map((one) => one.firstChild.textContent)") == [
        "one",
        "two",
        "ten",
    ]
    assert ordered.nth(1).locator("ul > li pre").inner_text() == "nested <i>"
    assert answer.locator("ol ul code").first.inner_text() == "*code*"
    text = answer.locator("> p").nth(2).inner_text()
    assert "[bad](javascript:window.hacked=3) [worse](data:text/html,x) [no](/relative)" in text
    assert "<a href=javascript:1>x</a> unclosed **bold and `code" in text
    links = answer.locator("a")
    assert links.evaluate_all("all => all.map((one) => [one.href, one.rel, one.target])") == [
        ["https://example.org/a_(b)?q=1", "noopener noreferrer", "_blank"],
        ["http://x.org/p", "noopener noreferrer", "_blank"],
    ]
    assert answer.locator("> pre").inner_text() == (
        "# <script>window.hacked = 4</script>\n  kept  as it is"
    )
    allowed = "p, h2, ol, ul, li, hr, pre, code, em, strong, a"
    assert answer.locator(f":not({allowed})").count() == 0
    # What was asked stays as it was typed.
    assert page.locator(".user .text").last.inner_text().startswith("Show\n# A *title*\nTwo")


@pytest.mark.parametrize(
    "text",
    [
        "*" * 3000 + "a",
        "*a " * 3000,
        "[" * 3000,
        "[a](" * 2000,
        "`" + " ``" * 3000,
        "- " * 3000 + "x",
        "\n".join(" " * n + "- x" for n in range(200)),
        "_" + "*_" * 2000,
        "# " + " " * 5000 + "#",
    ],
)
def test_no_text_makes_the_page_slow(page: Any, text: str):
    script = """text => {
      const place = document.createElement("div");
      const began = performance.now();
      markdown(place, text);
      return [performance.now() - began, place.textContent.length];
    }"""
    passed, length = page.evaluate(script, text)
    assert passed < 2000
    assert length > 0


def test_blocks_that_are_done_stay_the_same_elements_while_an_answer_grows(page: Any):
    script = r"""() => {
      const place = document.createElement("div");
      markdown(place, "One\n\nTw");
      const [first, second] = place.children;
      markdown(place, "One\n\nTwo\n\n- three");
      const kept = [place.children[0] === first, place.children[1] === second];
      const many = place.children.length;
      markdown(place, "One");
      return [...kept, many, place.children.length];
    }"""
    assert page.evaluate(script) == [True, False, 3, 1]


def test_trouble_is_told_kindly_and_can_be_tried_again(page: Any, server: Server):
    for typed, said in (
        ("fail", "The server failed: out of\nluck"),
        ("cut", "The answer broke off"),
        ("garbage", "The server sent what this page cannot read."),
        ("busy", "The server is busy."),
        ("refuse", "(status 400): maximum context length\nis 8"),
        ("nothing", "No answer came."),
        ("long", "Cut at the token limit."),
    ):
        ask(page, typed)
        wait_for(page, said)
        wait_idle(page)
    count = page.locator("#turns > li").count()
    asked = len(server.asked())
    page.get_by_role("button", name="Try again").last.click()
    wait_for(page, "(status 400)")
    wait_idle(page)
    assert page.locator("#turns > li").count() == count
    assert len(server.asked()) == asked + 1
    server.stop()
    ask(page, "Tea?")
    wait_for(page, "The server does not answer. Is it still running?")


@pytest.mark.parametrize("server", [["--api-key", "right"]], indirect=True)
def test_the_key_is_kept_in_this_tab_alone(page: Any, server: Server, browser: Any):
    ask(page, "Tea?")
    wait_for(page, "The server wants an API key, or refuses this one.")
    page.locator("#key-open").click()
    page.locator("#key").fill("right")
    page.keyboard.press("Enter")
    assert page.locator("#key-form").is_hidden()
    page.get_by_role("button", name="Try again").click()
    wait_for(page, "1 messages; you said: é Tea?")
    wait_idle(page)
    assert page.evaluate("Object.values(sessionStorage)") == ["right"]
    assert "right" not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
    assert page.locator("#key").input_value() == ""
    page.reload()
    ask(page, "Still?")
    wait_for(page, "you said: é Still?")
    other = page.context.new_page()
    other.goto(server.url)
    assert other.evaluate("Object.values(sessionStorage)") == []
    other.close()
    page.locator("#key-open").click()
    page.locator("#key-forget").click()
    assert page.evaluate("Object.values(sessionStorage)") == []


@pytest.mark.parametrize("width", [320, 360, 1200])
def test_nothing_is_wider_than_the_window(page: Any, width: int):
    page.set_viewport_size({"width": width, "height": 640})
    ask(page, "w" * 300 + " x" * 400)
    wait_for(page, "you said")
    wait_idle(page)
    page.locator("#key-open").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for name in ("#message", "#send", "#key", "#theme", "#direct"):
        box = page.locator(name).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    # The composer stays in sight below a long conversation.
    box = page.locator("#message").bounding_box()
    assert box["y"] + box["height"] <= 640


def test_dark_and_light_both_have_readable_text(page: Any):
    ask(page, "busy")
    wait_for(page, "The server is busy.")
    for _ in range(2):
        page.locator("#theme").click()
        for name in (".user .text", ".problem", "#send", ".toggle"):
            assert contrast(page, name) >= 4.5, (
                name,
                page.evaluate("document.documentElement.dataset.theme"),
            )


def contrast(page: Any, name: str) -> float:
    """Of a text and what is behind it, as WCAG counts it."""
    colours = page.locator(name).first.evaluate(
        """one => {
          const colour = getComputedStyle(one).color;
          const ground = () => getComputedStyle(one).backgroundColor;
          while (ground() === "rgba(0, 0, 0, 0)") one = one.parentElement;
          return [colour, ground()];
        }"""
    )
    shades = []
    for colour in colours:
        parts = [int(one) / 255 for one in re.findall(r"\d+", colour)[:3]]
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        shades.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(shades) + 0.05) / (min(shades) + 0.05)


def test_without_the_right_there_is_no_fold_whatever_is_sent(browser: Any, server: Server):
    page = browser.new_page()
    html = chat_page("policy", may_show_thoughts=False, offers_direct=False)
    page.route(f"{server.url}/", lambda route: route.fulfill(body=html, content_type="text/html"))
    page.goto(server.url)
    ask(page, "think")
    wait_for(page, "It is 42.")
    wait_idle(page)
    assert THOUGHT not in page.content()
    assert page.locator("details").count() == 0
    note = last(page).locator(".note").inner_text()
    assert re.fullmatch(r"thought for (1\.[5-9]|[2-9]\.\d) s", note)
    page.close()


def test_thinking_cannot_be_turned_off_where_the_server_forbids_it(browser: Any, server: Server):
    page = browser.new_page()
    html = chat_page("policy", may_show_thoughts=False, offers_direct=False)
    page.route(f"{server.url}/", lambda route: route.fulfill(body=html, content_type="text/html"))
    page.goto(server.url)
    assert page.locator("#direct").count() == 0
    ask(page, "Tea?")
    wait_for(page, "you said: é Tea?")
    assert [body.get("think") for body in server.asked()] == [None]
    page.close()


@pytest.mark.parametrize("shown", [False, True])
def test_our_own_server_is_understood(browser: Any, shown: bool):
    backend = ScriptedBackend(script("a thought <R> an answer"), script("an answer"))
    html = chat_page(MODEL, may_show_thoughts=shown, offers_direct=True)
    with served(backend, page=html, show_thoughts=shown, allow_think_off=True) as server:
        page = browser.new_page()
        page.goto(server.url)
        ask(page, "Hi")
        wait_for(page, "an answer")
        wait_idle(page)
        assert page.locator("details .text").all_text_contents() == ["a thought"] * shown
        place = "details summary" if shown else ".note"
        assert re.fullmatch(r"[Tt]hought for \d+\.\d s", page.locator(place).inner_text())
        page.locator("#direct").check()
        ask(page, "Hi again")
        wait_idle(page)
        assert backend.draws[-1].messages[-1].content == "Hi again"
        assert page.get_by_text(re.compile("hought for")).count() == 1
        page.close()


def test_a_models_name_is_text_wherever_it_stands():
    name = "\"><script>alert(1)</script>\u2028'"
    html = chat_page(name, may_show_thoughts=False, offers_direct=False)
    assert "<script>alert" not in html
    found = re.search(r'data-settings="([^"]*)"', html)
    assert found is not None
    assert '"model": "\\"><script>alert(1)</script>\\u2028\'"' in unescape(found[1])


def test_the_page_is_whole_and_lets_nothing_else_run():
    html = chat_page("policy", may_show_thoughts=True, offers_direct=False)
    policy = re.search(r'Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "script-src 'sha256-" in policy[1]
    assert "unsafe" not in policy[1].replace("style-src 'unsafe-inline'", "")
    assert not re.search(
        r"""(src|href)=["']?(?!data:)|https?://|@import|url\(""", html.split("<body")[1]
    )
    assert "innerHTML" not in html
