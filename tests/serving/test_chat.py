"""The terminal chat at a real terminal (a pty), with a server in a process of its own."""

import asyncio
import fcntl
import os
import pty
import re
import select
import socket
import stat
import struct
import subprocess
import sys
import termios
import time
from contextlib import aclosing

import pytest
from scripted_backend import ScriptedBackend, script
from served import FORMAT, served
from streaming_server import THOUGHT, Server

from forethought.serving.answerer import SplittingAnswerer
from forethought.serving.backends.base import (
    AnswerDelta,
    AnswerEnd,
    AnswerSettings,
    BackendError,
    NoResponseError,
)
from forethought.serving.terminal.chat_models import (
    ChatError,
    LocalModel,
    ServedModel,
    base_url,
    events,
)
from forethought.types import Message

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>78]|\x1b\][^\x07]*\x07")
PROGRAM = """
import sys
from pathlib import Path
from rich.console import Console
from forethought.serving.terminal.chat import chat
from forethought.serving.terminal.chat_models import ServedModel
url, key, history = sys.argv[1:]
try:
    model = ServedModel(url, api_key=key or None)
    chat(model, Console(), history=Path(history) if history else None)
except ValueError as error:
    print(f"error: {error}")
    raise SystemExit(2)
print("ended well")
"""
ASKS = "\x1b[?2004h"
SECONDS = 100.0


class Terminal:
    """A chat behind a pty: type into it, wait for what it shows."""

    def __init__(self, url, key="", history=""):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        # No terminal answers here when it is asked where its cursor is.
        environment = os.environ | {"PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm-256color"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, url, key, str(history)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            # Its own terminal, so that Ctrl-C typed there reaches it and nobody else.
            preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
        )
        os.close(theirs)
        self._ours = ours
        self.raw = ""

    def type(self, text):
        """Type; waiting is from here on."""
        self.raw = ""
        os.write(self._ours, text.encode())

    def wait(self, text):
        """Until `text` is shown; gives all that was shown since something was typed."""
        self._until(lambda: text in self.shown(), text)
        return self.shown()

    def ready(self, after=""):
        """Until it asks for a message, below `after`: it turns on that pastes are marked then."""
        self._until(lambda: ASKS in self.raw[self.raw.find(after) :] and after in self.raw, after)

    def _until(self, shown, text):
        deadline = time.monotonic() + SECONDS
        while not shown():
            assert time.monotonic() < deadline, f"no {text!r} in {self.raw!r}"
            if not self._read(0.2) and self._process.poll() is not None and not shown():
                raise AssertionError(f"it ended, with no {text!r} in {self.raw!r}")

    def shown(self):
        return CODES.sub("", self.raw).replace("\r", "")

    def ended(self):
        """Its exit status."""
        self._until(lambda: not self._read(0.1) and self._process.poll() is not None, "end")
        return self._process.returncode

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def _read(self, seconds):
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._ours, 65536)
        except OSError:
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def open_chat():
    terminals = []

    def opened(*words, **options):
        terminals.append(Terminal(*words, **options))
        return terminals[-1]

    yield opened
    for terminal in terminals:
        terminal.close()


def test_a_conversation(server, open_chat):
    terminal = open_chat(server.url)
    terminal.wait("policy at http")
    terminal.ready()
    terminal.type("Tea?\r")
    terminal.wait("1 messages; you said: é Tea?")
    terminal.ready(after="é Tea?")
    terminal.type("/thought\r")
    terminal.wait("No thought was shown to us")
    terminal.ready(after="No thought was shown to us")
    terminal.type("please think\r")
    shown = terminal.wait("It is 42.")
    # The line counts, and is wiped before the answer is written.
    assert "thinking… 1 s" in shown
    assert "\x1b[2K" in terminal.raw.partition("1 s")[2].partition("It is 42.")[0]
    assert THOUGHT not in shown
    terminal.ready(after="42.")
    terminal.type("/thought\r")
    terminal.wait(THOUGHT)
    terminal.ready(after=THOUGHT)
    terminal.type("/direct\r")
    terminal.wait("Thinking is off.")
    terminal.ready(after="off.")
    assert "direct>" in terminal.wait("direct>")
    terminal.type("Coffee?\r")
    terminal.wait("5 messages; you said: é Coffee?")
    terminal.ready(after="5 messages; you said: é Coffee?")
    terminal.type("/direct\r")
    terminal.wait("Thinking is on.")
    terminal.ready(after="Thinking is on.")
    terminal.type("/clear\r")
    terminal.wait("forgotten")
    terminal.ready(after="forgotten")
    terminal.type("/nonsense\r")
    terminal.wait("There is no /nonsense; /help")
    terminal.ready(after="There is no /nonsense; /help")
    terminal.type("/help\r")
    assert "/direct" in terminal.wait("Ctrl-C stops an answer.")
    terminal.ready(after="Ctrl-C stops an answer.")
    terminal.type("/usr/bin is what?\r")
    terminal.wait("1 messages; you said: é /usr/bin is what?")
    terminal.ready(after="is what?")
    terminal.type("/quit\r")
    terminal.wait("ended well")
    assert terminal.ended() == 0
    said = [
        [(one["role"][0], one["content"]) for one in body["messages"]] for body in server.asked()
    ]
    assert [len(one) for one in said] == [1, 3, 5, 1]
    assert said[2][3] == ("a", "It is 42.")
    assert [body.get("think") for body in server.asked()] == [None, None, False, None]


def test_thinking_is_not_turned_off_where_the_server_forbids_it(tmp_path, open_chat):
    server = Server(tmp_path, "--keeps-thinking")
    terminal = open_chat(server.url)
    terminal.ready()
    terminal.type("/help\r")
    assert "/direct" not in terminal.wait("Ctrl-C stops an answer.")
    terminal.ready(after="new line")
    terminal.type("/direct\r")
    terminal.wait("Thinking cannot be turned off here")
    terminal.ready(after="turned off here")
    assert "direct>" not in terminal.shown()
    terminal.type("Tea?\r")
    terminal.wait("you said: é Tea?")
    assert [body.get("think") for body in server.asked()] == [None]
    server.stop()


def test_ctrl_c_stops_the_answer_and_not_the_chat(server, open_chat):
    terminal = open_chat(server.url)
    terminal.ready()
    terminal.type("slow please\r")
    terminal.wait("word3")
    terminal.type("\x03")
    terminal.wait("(stopped)")
    terminal.ready(after="(stopped)")
    terminal.type("never answer\r")
    terminal.wait("thinking… 1 s")
    terminal.type("\x03")
    terminal.wait("(stopped)")
    terminal.ready(after="(stopped)")
    terminal.type("half a mess\x03")
    terminal.ready()
    terminal.type("Tea?\r")
    terminal.wait("3 messages; you said: é Tea?")
    terminal.ready(after="Tea?")
    deadline = time.monotonic() + SECONDS
    while server.left() != ["slow please", "never answer"]:
        assert time.monotonic() < deadline, server.left()
        time.sleep(0.05)
    terminal.type("\x04")
    terminal.wait("ended well")
    # What was said before the stop is part of the conversation, a question without answer is not.
    last = server.asked()[-1]["messages"]
    assert [one["role"] for one in last] == ["user", "assistant", "user"]
    assert "word99" not in last[1]["content"]


def test_pasted_lines_are_one_message(server, open_chat):
    terminal = open_chat(server.url)
    terminal.ready()
    terminal.type("\x1b[200~def f():\r    return 1\r\x1b[201~")
    time.sleep(0.3)
    terminal.type("# why?\r")
    terminal.wait("1 messages; you said: é def f():")
    terminal.ready(after="# why?")
    terminal.type("one\x1b\rtwo\r")
    terminal.wait("3 messages")
    texts = [body["messages"][-1]["content"] for body in server.asked()]
    assert texts == ["def f():\n    return 1\n# why?", "one\ntwo"]


def test_trouble_is_one_line_and_the_chat_goes_on(server, open_chat):
    terminal = open_chat(server.url)
    terminal.ready()
    for typed, line in (
        ("fail", "The server failed: out of luck"),
        ("cut", "The answer broke off"),
        ("garbage", "The server sent what is no JSON object"),
        ("busy", "The server is busy; wait a little"),
        ("refuse", "(status 400): maximum context length is 8"),
        ("nothing", "(no answer)"),
        ("long", "(cut at the token limit)"),
        ("markup", "<b>bold</b>"),
    ):
        terminal.type(f"{typed}\r")
        shown = terminal.wait(line)
        assert "Traceback" not in shown
        terminal.ready(after=line)
        if typed == "markup":
            # A model cannot drive the terminal.
            assert "[red]x[/red]" in shown
            assert "\x1b[2J\x07" not in terminal.raw
    server.stop()
    terminal.type("Tea?\r")
    terminal.wait("No server answers at http")
    terminal.ready(after="No server answers at http")
    terminal.type("\x04")
    assert terminal.ended() == 0


def test_history_is_kept_only_where_it_is_asked_for(server, open_chat, tmp_path):
    file = tmp_path / "history"
    for typed, expected in (("first one\r", "first one"), ("\x1b[A\r", "first one")):
        terminal = open_chat(server.url, history=file)
        terminal.ready()
        terminal.type(typed)
        terminal.wait(f"you said: é {expected}")
        terminal.ready(after=expected)
        terminal.type("\x04")
        assert terminal.ended() == 0
    assert "+first one" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    terminal = open_chat(server.url, history=tmp_path / "none" / "history")
    terminal.wait("cannot be written: No such file or directory")
    assert terminal.ended() == 2


def test_what_is_piped_in_is_one_message(server):
    command = [sys.executable, "-c", PROGRAM, server.url, "", ""]
    done = subprocess.run(command, input="Two\nlines\n", capture_output=True, text=True, timeout=60)
    assert done.stdout == "1 messages; you said: é Two\nlines\nended well\n"
    done = subprocess.run(command, input="please fail", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.endswith("error: The server failed: out of luck\n")


def test_a_wrong_address_or_key_is_one_clear_error(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ValueError, match=r"No server answers at .*; is it started"):
        ServedModel(f"http://127.0.0.1:{port}", api_key=None)
    server = Server(tmp_path, "--api-key", "right", "--model", "a", "--model", "b")
    try:
        for key in (None, "wrong"):
            with pytest.raises(ValueError, match=r"api_key: The server refuses the key, .* 401"):
                ServedModel(server.url, api_key=key)
        with pytest.raises(ValueError, match="one line of plain ASCII"):
            ServedModel(server.url, api_key="schlüssel")
        with pytest.raises(ValueError, match="serves a, b; name the one"):
            ServedModel(server.url, api_key="right")
        with pytest.raises(ValueError, match="serves a, b, not c"):
            ServedModel(server.url, api_key="right", model="c")
        with pytest.raises(ValueError, match="status 404 and lists no models"):
            ServedModel(f"{server.url}/v2", api_key="right")
        assert ServedModel(server.url, api_key="right", model="b").name.startswith("b at http")
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("https://a.org/api/v1/", "https://a.org/api/v1"),
        ("http://a.org/v1/chat/completions", "http://a.org/v1"),
    ],
)
def test_addresses_are_taken_as_people_write_them(given, base):
    assert base_url(given) == base


@pytest.mark.parametrize(
    "given", ["localhost:8000", "policy", "ftp://a.org", "http://", "http://a:b"]
)
def test_what_is_no_address_is_refused(given):
    with pytest.raises(ValueError, match="url: "):
        base_url(given)


def test_a_stream_is_read_the_same_however_it_is_cut():
    data = 'data: {"a": "é\u2028"}\r\n\r\n: thinking\n\ndata:{"b": 1}\nid: 3\n\ndata: [DONE]\n\n'
    whole = data.encode()

    async def read(size):
        async def chunks():
            for start in range(0, len(whole), size):
                yield whole[start : start + size]

        async with aclosing(events(chunks())) as found:
            return [one async for one in found]

    for size in range(1, len(whole) + 1):
        assert asyncio.run(read(size)) == [{"a": "é\u2028"}, {"b": 1}]


async def spoken(model, think):
    turns = [Message(role="user", content="Hi")]
    try:
        return [one async for one in model.reply(turns, think)]
    finally:
        await model.close()


def test_our_own_server_is_understood_with_and_without_its_thoughts():
    for shown in (False, True):
        backend = ScriptedBackend(script("a thought <R> an answer"))
        with served(backend, show_thoughts=shown, allow_think_off=True) as server:
            said = asyncio.run(spoken(ServedModel(server.url, api_key=None), True))
            assert "".join(one.response for one in said) == "an answer"
            assert "".join(one.thought for one in said) == ("a thought" if shown else "")
            assert {one.finish_reason for one in said} == {None, "stop"}
            assert backend.draws[-1].messages[-1].content.startswith("Think, then")
            asyncio.run(spoken(ServedModel(server.url, api_key=None), False))
            assert backend.draws[-1].messages[-1].content == "Hi"


class Scripted:
    """An answerer that gives what it was told to, and says whether it was closed early."""

    def __init__(self, *given):
        self.given = given
        self.questions = []
        self.open = 0

    async def answer(self, question):
        self.questions.append(question)
        self.open += 1
        try:
            for one in self.given:
                if isinstance(one, Exception):
                    raise one
                yield one
        finally:
            self.open -= 1


def local(answerer):
    async def close():
        answerer.given = ()

    return LocalModel(
        answerer,
        name="local",
        can_answer_directly=True,
        temperature=0.5,
        top_p=0.9,
        max_tokens=7,
        close=close,
    )


def delta(response="", thought=""):
    return AnswerDelta(response=response, thought=thought, logprobs=())


END = AnswerEnd(
    finish_reason="length", prompt_tokens=1, completion_tokens=2, reasoning_tokens=1, attempts=1
)


async def all_of(model, think=True):
    turns = [Message(role="user", content="Hi")]
    return [one async for one in model.reply(turns, think)]


def test_a_local_model_answers_through_its_answerer():
    answerer = Scripted(delta(), delta(thought="Hm."), delta("A"), delta("B"), END)
    said = asyncio.run(all_of(local(answerer), think=False))
    assert "".join(one.response for one in said) == "AB"
    assert "".join(one.thought for one in said) == "Hm."
    assert said[-1].finish_reason == "length"
    (question,) = answerer.questions
    assert (question.think, question.max_tokens, question.temperature) == (False, 7, 0.5)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (NoResponseError(), "never answered; ask again"),
        (BackendError("the model is gone"), "the model is gone"),
    ],
)
def test_a_local_models_trouble_is_one_line(error, line):
    with pytest.raises(ChatError, match=line):
        asyncio.run(all_of(local(Scripted(delta("A"), error))))


def test_a_local_answer_that_is_left_early_ends_at_once():
    answerer = Scripted(delta("A"), delta("B"), END)

    async def first():
        async with aclosing(local(answerer).reply([], True)) as replies:
            async for reply in replies:
                return reply.response, answerer.open
        raise AssertionError("there was no answer")

    assert asyncio.run(first()) == ("A", 1)
    assert answerer.open == 0


def test_a_local_model_of_ours_is_split_and_closed():
    backend = ScriptedBackend(script("a thought <R> an answer"))
    settings = AnswerSettings(thought_budget=None, attempts=1, without_response="error")
    model = LocalModel(
        SplittingAnswerer(backend, FORMAT, settings),
        name="local",
        can_answer_directly=True,
        temperature=1.0,
        top_p=1.0,
        max_tokens=None,
        close=backend.close,
    )
    said = asyncio.run(spoken(model, True))
    assert "".join(one.response for one in said) == "an answer"
    assert "".join(one.thought for one in said) == "a thought"
    assert backend.closed
