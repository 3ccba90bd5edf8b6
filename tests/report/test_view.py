"""The live view: who may see it, and that it follows a run directory in whatever state that is."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from example_run import write_run
from rich.console import Console
from starlette.testclient import TestClient

from forethought.progress.reporter import Reporter
from forethought.report.live import LivePage, application, serve_view

TOKEN = "the-token"
SERVE = """
import sys
from pathlib import Path
from rich.console import Console
from forethought.progress.reporter import Reporter
from forethought.report.live import serve_view
serve_view(Path(sys.argv[1]), port=None, reporter=Reporter(Console(width=400)))
"""


def _client(run: Path, **headers: str) -> TestClient:
    app = application(LivePage(run), TOKEN, "view")
    return TestClient(
        app, base_url="http://127.0.0.1:8000", headers=headers, raise_server_exceptions=False
    )


def _note(text: str) -> dict[str, Any]:
    found = re.search(r'id="view-data">(.*?)</script>', text)
    assert found
    return json.loads(found[1])


def _samples(text: str) -> dict[str, Any]:
    found = re.search(r'id="sample-data">(.*?)</script>', text)
    assert found
    return json.loads(found[1])


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "quickstart"
    write_run(run)
    return run


# --- Who may see it --------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/?token=", "/?token=the-toke", "/?token=тайна", "/state"])
def test_without_the_token_nothing_is_told(full: Path, path: str):
    reply = _client(full).get(path)
    assert reply.status_code == 403
    assert "the token is missing or wrong" in reply.text
    assert "quickstart" not in reply.text
    assert "set-cookie" not in reply.headers


def test_samples_need_the_token_too(full: Path):
    client = _client(full)
    at = _samples(client.get(f"/?token={TOKEN}").text)["runs"][0]["at"]
    assert client.get(f"/{at}index").status_code == 200
    client.cookies.clear()
    reply = client.get(f"/{at}index")
    assert reply.status_code == 403
    assert len(reply.content) < 300


def test_the_token_becomes_a_cookie_that_scripts_cannot_read(full: Path):
    client = _client(full)
    reply = client.get(f"/?token={TOKEN}")
    assert reply.status_code == 200
    cookie = reply.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/").status_code == 200
    client.cookies.set("view", "another")
    client.cookies.delete("view", domain="127.0.0.1")
    assert client.get("/").status_code == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil", ""]
)
def test_another_host_name_is_refused_whatever_the_token(full: Path, host: str):
    reply = _client(full, Host=host).get(f"/?token={TOKEN}")
    assert reply.status_code == 403
    assert "answers to 127.0.0.1 and localhost only" in reply.text
    assert "set-cookie" not in reply.headers


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:1", "[::1]:8000"])
def test_names_of_this_machine_are_not(full: Path, host: str):
    assert _client(full, Host=host).get(f"/state?token={TOKEN}").status_code == 200


def test_the_page_may_not_be_framed_kept_or_sent_on(full: Path):
    headers = _client(full).get(f"/?token={TOKEN}").headers
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["content-security-policy"] == "frame-ancestors 'none'"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_nothing_can_be_written(full: Path):
    for method in ("POST", "PUT", "DELETE"):
        assert _client(full).request(method, f"/?token={TOKEN}").status_code == 405


# --- What it shows ---------------------------------------------------------------------------


def test_the_page_is_the_report_with_samples_to_be_fetched(full: Path):
    client = _client(full)
    text = client.get(f"/?token={TOKEN}").text
    assert ">quickstart</h1>" in text
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    assert policy[1].startswith("default-src 'none'; connect-src 'self'; ")
    data = _samples(text)
    assert data["notice"] == ""
    assert len(data["runs"]) == 1
    at = data["runs"][0]["at"]
    index = json.loads(zlib.decompress(client.get(f"/{at}index").content))
    assert sum(index["counts"]) == len(index["cases"]) == 2 * 20 + 40
    piece = client.get(f"/{at}0")
    assert "immutable" in piece.headers["cache-control"]
    assert len(json.loads(zlib.decompress(piece.content))["cases"]) == index["counts"][0]


@pytest.mark.parametrize("name", ["1", "-1", "00", "x", "²", "9" * 5000, "..%2f..%2fconfig.json"])
def test_what_is_no_piece_is_not_found(full: Path, name: str):
    client = _client(full)
    at = _samples(client.get(f"/?token={TOKEN}").text)["runs"][0]["at"]
    assert client.get(f"/{at}{name}").status_code == 404


def test_samples_of_another_page_are_gone(full: Path):
    reply = _client(full).get(f"/samples/0123456789abcdef/index?token={TOKEN}")
    assert reply.status_code == 404
    assert "load the page again" in reply.text


def test_a_view_that_cannot_show_all_says_so(full: Path):
    app = application(LivePage(full, output_limit=140), TOKEN, "view")
    text = TestClient(app, base_url="http://localhost").get(f"/?token={TOKEN}").text
    assert re.fullmatch(
        r"1\d\d of 560 outputs are here, from evenly spaced prompts: a view shows at most 140 "
        r"outputs\.",
        _samples(text)["notice"],
    )


def test_a_run_that_grows_is_followed(full: Path, tmp_path: Path):
    run = tmp_path / "quickstart"
    run.mkdir()
    view = LivePage(run)
    client = TestClient(application(view, TOKEN, "view"), base_url="http://localhost")
    text = client.get(f"/?token={TOKEN}").text
    assert "The run has no page yet: it has not begun" in text
    assert _note(text)["error"] is None
    states = [client.get("/state").json()["state"]]
    assert states[0] == _note(text)["state"]
    steps = [
        "config.json",
        "prompts",
        "evaluation/thought/policy_0",
        "thought/iteration_0/rollouts",
    ]
    for name in steps:
        _copy(full / name, run / name)
        states.append(client.get("/state").json()["state"])
        text = client.get("/").text
        assert _note(text) == {"state": states[-1], "error": None}
        assert "This run is not finished." in text
    assert len(set(states)) == len(states)
    assert client.get("/state").json()["state"] == states[-1]
    samples = _samples(text)["runs"][0]["at"]
    index = json.loads(zlib.decompress(client.get(f"/{samples}index").content))
    assert len(index["cases"]) == 20 + 40


def _copy(source: Path, target: Path) -> None:
    """As a stage is written: its parts first, its seal last."""
    if source.is_file():
        shutil.copyfile(source, target)
        return
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("manifest.json"))
    shutil.copyfile(source / "manifest.json", target / "manifest.json")


def test_a_growing_log_is_news_and_is_drawn(tmp_path: Path):
    run = tmp_path / "run"
    write_run(run, iterations=1, until=(0, "training"))
    client = _client(run)
    before = _note(client.get(f"/?token={TOKEN}").text)
    log = run / "direct" / "iteration_0" / "training" / "steps.jsonl"
    lines = log.read_text().splitlines()
    entry = json.loads(lines[-2]) | {"step": 777, "loss": 0.123456}
    log.write_text("\n".join([*lines[:-1], json.dumps(entry)]) + "\n")
    text = client.get("/").text
    assert _note(text)["state"] != before["state"]
    assert "0.123456" in text


def test_a_damaged_run_keeps_its_last_page_and_says_why(full: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(full, run)
    client = _client(run)
    assert _note(client.get(f"/?token={TOKEN}").text)["error"] is None
    manifest = run / "thought" / "iteration_0" / "pairs" / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[: len(whole) // 2])
    text = client.get("/").text
    assert "manifest.json is damaged" in _note(text)["error"]
    assert ">run</h1>" in text
    manifest.write_bytes(whole)
    assert _note(client.get("/").text)["error"] is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"run": 3}'])
def test_a_broken_recipe_ends_nothing(tmp_path: Path, content: bytes):
    (tmp_path / "config.json").write_bytes(content)
    reply = _client(tmp_path).get(f"/?token={TOKEN}")
    assert reply.status_code == 200
    assert _note(reply.text)["error"]


# --- The process -----------------------------------------------------------------------------


@pytest.fixture
def process(full: Path, tmp_path: Path) -> Iterator[tuple[Any, str, Path]]:
    """A view of an unfinished run: the process, its address, the run directory."""
    run = tmp_path / "quickstart"
    run.mkdir()
    for name in ("config.json", "prompts", "thought/iteration_0/rollouts"):
        _copy(full / name, run / name)
    started = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert started.stdout
    found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", started.stdout.readline())
    assert found
    yield started, found[0], run
    started.kill()
    started.wait()


def test_the_process_serves_and_ends_cleanly(process: tuple[Any, str, Path]):
    started, url, _ = process
    with httpx.Client() as client:
        assert client.get(url, timeout=60).status_code == 200
        assert client.get(url.split("?")[0] + "state").status_code == 200
        assert client.get(url, headers={"Host": "evil.example"}).status_code == 403
        # The open connection must not keep it.
        started.send_signal(signal.SIGINT)
        output, _ = started.communicate(timeout=60)
    assert started.returncode == 0
    assert "The view has ended" in output
    assert "Traceback" not in output
    assert "token=" not in output


def test_two_views_have_tokens_and_cookies_of_their_own(process: tuple[Any, str, Path]):
    _, url, _ = process
    cookie = httpx.get(url, timeout=60).headers["set-cookie"]
    port = re.search(r":(\d+)/", url)
    assert port
    assert cookie.startswith(f"forethought_view_{port[1]}=")
    assert len(url.split("token=")[1]) >= 32


def test_the_browser_follows_a_run_and_keeps_what_was_typed(
    process: tuple[Any, str, Path], full: Path, browser: Any
):
    from playwright import sync_api

    _, url, run = process
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    problems: list[str] = []
    page.on("console", lambda one: problems.append(one.text) if one.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.clock.install()
    page.goto(url)
    page.wait_for_selector("#cases .output")
    assert page.evaluate("location.search") == ""
    assert page.evaluate("document.cookie") == ""
    matches = page.locator("#matches")
    assert matches.inner_text() == "20 prompts, 80 outputs"
    _typing_is_not_disturbed(page, sync_api, full, run)
    _idle_page_follows(page, sync_api, full, run)
    page.close()
    assert problems == []


def test_an_address_that_is_opened_meanwhile_wins_over_what_was_kept(
    process: tuple[Any, str, Path], browser: Any
):
    from playwright.sync_api import expect

    _, url, _ = process
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(url)
    page.wait_for_selector("#cases .output")
    page.locator("select[name=role]").select_option("neither")
    page.evaluate("window.scrollTo({top: 0, behavior: 'instant'})")
    links = page.locator(".output .link").evaluate_all("all => all.map(one => one.href)")
    page.goto("about:blank")
    page.goto(links[0])
    page.locator(".output.linked").wait_for()
    page.locator("#cases[data-ready]").wait_for()
    assert page.evaluate("scrollY") > 0
    assert page.locator("select[name=role]").input_value() == ""
    # Where the address is the one that was left, the page stands as it was left.
    page.locator("select[name=role]").select_option("neither")
    page.reload()
    page.locator(".output.linked").wait_for()
    expect(page.locator("select[name=role]")).to_have_value("neither")
    page.close()


def _pass_time(page: Any, seconds: int) -> None:
    """Timers of the page run; its requests take their own time."""
    for _ in range(seconds):
        page.clock.run_for(1000)
        page.wait_for_timeout(40)


def _typing_is_not_disturbed(page: Any, api: Any, full: Path, run: Path) -> None:
    page.locator("input[name=text]").fill("tens")
    page.locator("select[name=category]").select_option("arithmetic")
    page.locator("input[name=text]").focus()
    _copy(full / "direct/iteration_0/rollouts", run / "direct/iteration_0/rollouts")
    _pass_time(page, 30)
    button = page.get_by_role("button", name="Show new data")
    assert button.is_visible()
    assert page.locator("#view-text").inner_text() == "new data"
    assert page.locator("input[name=text]").input_value() == "tens"
    before = page.locator("#matches").inner_text()
    with page.expect_navigation():
        button.click()
    page.wait_for_selector("#cases .output")
    assert page.locator("input[name=text]").input_value() == "tens"
    assert page.locator("select[name=category]").input_value() == "arithmetic"
    # The direct arm has no thoughts that could hold the word.
    api.expect(page.locator("#matches")).to_have_text(before)
    page.locator("input[name=text]").fill("")
    page.clock.run_for(500)
    api.expect(page.locator("#matches")).to_have_text("4 prompts, 32 outputs")


def _idle_page_follows(page: Any, api: Any, full: Path, run: Path) -> None:
    page.locator("h1").click()
    page.evaluate("window.scrollTo({top: 0, behavior: 'instant'})")
    loads: list[Any] = []
    page.on("load", lambda one: loads.append(one))
    _copy(full / "evaluation/thought/policy_0", run / "evaluation/thought/policy_0")
    # The samples are out of sight: who reads them is not disturbed.
    page.set_viewport_size({"width": 1200, "height": 300})
    for _ in range(60):
        if loads:
            break
        with contextlib.suppress(api.Error):  # the page is left while a timer runs
            _pass_time(page, 1)
    assert len(loads) == 1
    page.wait_for_selector("#cases .output")
    assert page.locator("select[name=category]").input_value() == "arithmetic"
    page.locator("select[name=kind]").select_option("test")
    api.expect(page.locator("#matches")).to_have_text("8 prompts, 8 outputs")


# --- What cannot be served -------------------------------------------------------------------


def _serve(run: Path, port: int | None) -> None:
    serve_view(run, port=port, reporter=Reporter(Console(file=open(os.devnull, "w"))))  # noqa: SIM115


def test_what_is_no_run_directory_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="absent is not a folder"):
        _serve(tmp_path / "absent", None)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"is not a run directory: it has no config\.json"):
        _serve(tmp_path, None)


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_a_port_that_is_none_is_refused(tmp_path: Path, port: int):
    with pytest.raises(ValueError, match=f"port: {port} is none"):
        _serve(tmp_path, port)


def test_a_port_in_use_is_named(process: tuple[Any, str, Path], tmp_path: Path):
    found = re.search(r":(\d+)/", process[1])
    assert found
    with pytest.raises(ValueError, match=rf"port: {found[1]} cannot be had \(in use\)"):
        _serve(process[2], int(found[1]))
