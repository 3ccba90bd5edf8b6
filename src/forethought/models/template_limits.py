"""A chat template is a program of its maker's: it gets an end, whether it has one or not.

Jinja's sandbox keeps it from files and from Python, not from running for ever or filling memory.
When a tokenizer is loaded its template is tried in a process of its own that has little time and
memory (`refuse_endless`); whatever is rendered later has a time limit (`within_time`), which ends
loops and recursion, though not one operation that is long in itself.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

CPU_SECONDS = 5
"""Of the trial, its start included."""
MEMORY = 2 * 2**30
"""Bytes of addresses of the trial's process."""
CHARACTERS = 16 * 2**20
"""That a template may make of the trial's few words."""
WALL_SECONDS = 120.0
"""After which the trial is given up on a machine that is too busy for its seconds."""
RENDER_SECONDS = 30.0
"""Of one rendering afterwards."""
TRIAL = f"""
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
resource.setrlimit(resource.RLIMIT_CPU, ({CPU_SECONDS}, {CPU_SECONDS}))
import jinja2, jinja2.sandbox, jinja2.ext
class Generation(jinja2.ext.Extension):
    tags = {{"generation"}}
    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)
def refuse(message):
    raise jinja2.TemplateError(message)
given = json.load(sys.stdin)
environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
environment.filters["tojson"] = lambda value, **options: json.dumps(value, **options)
environment.globals |= dict(raise_exception=refuse, strftime_now=lambda form: "2026")
verdict = "ends"
for messages in given["conversations"]:
    try:
        size = 0
        template = environment.from_string(given["template"])
        for piece in template.generate(messages=messages, add_generation_prompt=True):
            size += len(piece)
            if size > {CHARACTERS}:
                verdict = "large"
                break
    except MemoryError:
        verdict = "memory"
    except Exception:
        pass  # what it refuses is told where it is used
sys.stdout.write(verdict)
"""
TURNS = [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hello."), ("user", "Why?")]
CONVERSATIONS = [
    [{"role": role, "content": content} for role, content in turns]
    for turns in (TURNS[1:2], TURNS[1:], TURNS)
]


class TemplateTimeError(Exception):
    """A chat template took longer than it may."""


def refuse_endless(tokenizer: Any, place: str) -> None:
    """Try the chat template of a tokenizer on a few short conversations, where it cannot do harm.

    `place` names the recipe's field and the model.

    Raises: ValueError if it does not end, or wants more memory than any template does.
    """
    template = tokenizer.chat_template
    named = template if isinstance(template, dict) else {"": template}
    for text in named.values():
        why = _tried(text)
        if why is not None:
            raise ValueError(
                f"{place}: its chat template {why} for a conversation of a few words; use another "
                "model, or write it a template that can be used (chat_template.jinja)"
            )


@lru_cache
def _tried(template: str) -> str | None:
    """What is wrong; `None` if it ends, or refuses in its own words."""
    given = json.dumps({"template": template, "conversations": CONVERSATIONS})
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", TRIAL],
            input=given,
            capture_output=True,
            text=True,
            timeout=WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"did not end within {WALL_SECONDS:g} s"
    if done.stdout == "memory":
        return f"wants more than {MEMORY // 2**30} GiB of memory"
    if done.stdout == "large":
        return f"makes more than {CHARACTERS // 2**20} MiB of text"
    if done.returncode < 0:
        return f"did not end within {CPU_SECONDS} s"
    return None


@contextmanager
def within_time(seconds: float = RENDER_SECONDS) -> Iterator[None]:
    """End the Python code of this block where it takes longer, in whichever thread it runs.

    Raises: TemplateTimeError
    """
    mark = _WATCH.enter(seconds)
    try:
        yield
    finally:
        _WATCH.leave(mark)


class _Watch:
    """One thread that looks whether others are late; it ends when there is nobody to look after."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: dict[int, float] = {}
        """Per thread, on the clock of `time.monotonic`."""
        self._watching = False

    def enter(self, seconds: float) -> int:
        thread = threading.get_ident()
        with self._changed:
            self._due[thread] = time.monotonic() + seconds
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._work, name="templates", daemon=True).start()
            else:
                self._changed.notify()
        return thread

    def leave(self, thread: int) -> None:
        with self._changed:
            if self._due.pop(thread, None) is None:
                # It was late; an error that has not come up yet must not come up elsewhere.
                _raise_in(thread, None)

    def _work(self) -> None:
        with self._changed:
            while self._due:
                now = time.monotonic()
                late = [thread for thread, due in self._due.items() if due <= now]
                for thread in late:
                    del self._due[thread]
                    _raise_in(thread, TemplateTimeError)
                if self._due:
                    self._changed.wait(min(self._due.values()) - now)
            self._watching = False


def _raise_in(thread: int, error: type[Exception] | None) -> None:
    raised = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


_WATCH = _Watch()
