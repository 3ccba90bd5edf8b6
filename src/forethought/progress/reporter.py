"""Progress of a stage: a bar with rate and time left on a terminal, plain lines elsewhere.

Engines tell how far they are inside a part (`under_way.py`), and a line is written every few
seconds whatever the work does, so a log shows a stage that stands still, too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as RichTask
from rich.text import Text

from forethought.progress.harmless import harmless
from forethought.progress.under_way import Drawing, listening

QUIET_SECONDS = 5.0
"""A long stage writes how far it is this often: into the log, and where there is no terminal."""


class Task:
    """One stage's work; `advance` it."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done = 0
        self.tokens = 0
        self.note = ""
        self.started = time.monotonic()
        self._heard = 0
        """Tokens that engines have told of."""
        self._under_way: dict[str, Drawing] = {}
        """What those who draw have said last."""

    def advance(self, count: int = 1, *, tokens: int = 0, note: str | None = None) -> None:
        """Count finished work; `note` replaces what stands at the end of the line."""
        self.done += count
        self.tokens += tokens
        if note is not None:
            self.note = note
        # A call that has ended is part of `done` now.
        self._under_way = {
            who: drawing
            for who, drawing in self._under_way.items()
            if drawing.done < drawing.outputs
        }

    def hear(self, who: str, drawing: Drawing) -> None:
        """How far a call of an engine is: this process's, or a worker's."""
        before = self._under_way.get(who)
        # A new call begins at 0.
        known = before.tokens if before is not None and before.tokens <= drawing.tokens else 0
        self._heard += drawing.tokens - known
        # A new mapping: the ticker's thread may be looking at the old one.
        self._under_way = {**self._under_way, who: drawing}

    @property
    def reached(self) -> float:
        """Finished work, with what is done of the work under way where that is counted alike."""
        if self.unit != "prompts":
            return self.done
        shares = [
            drawing.prompts * drawing.done / drawing.outputs
            for drawing in self._drawings
            if drawing.outputs
        ]
        return min(self.done + sum(shares), self.total)

    @property
    def _drawings(self) -> list[Drawing]:
        return list(self._under_way.values())

    def rate(self) -> str:
        """Tokens per second so far, and the outputs of the calls under way."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        tokens = max(self.tokens, self._heard)
        words = [f"{tokens / seconds:,.0f} tokens/s"] if tokens else []
        if outputs := sum(drawing.outputs for drawing in self._drawings):
            done = sum(drawing.done for drawing in self._drawings)
            drawn = sum(drawing.tokens for drawing in self._drawings)
            said = f", {drawn:,} tokens" if drawn else ""
            words.append(f"under way {done}/{outputs} outputs{said}")
        return "  ".join(words)

    def line(self) -> str:
        """One plain line: how far, how fast, how long still."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        words = [f"{self.label:<32} {self.done}/{self.total} {self.unit}", f"{seconds:.1f} s"]
        if rate := self.rate():
            words.append(rate)
        if 0 < (reached := self.reached) < self.total:
            words.append(f"{seconds / reached * (self.total - reached):.0f} s left")
        if self.note:
            words.append(self.note)
        return "  ".join(words)


class Reporter:
    """Shows tasks one after the other and keeps a log of their last lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._log: Path | None = None
        self._said: set[str] = set()

    def log_to(self, path: Path) -> None:
        """From now on keep every line in this file too."""
        self._log = path

    def say(self, text: str) -> None:
        """A line for the reader and the log."""
        self.console.print(harmless(text), markup=False, highlight=False, soft_wrap=True)
        self.keep(text)

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Task]:
        """Show a task while the block runs."""
        bar = self.console.is_terminal
        task = _BarTask(label, total, unit, self.console) if bar else Task(label, total, unit)
        ended = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(task, ended), daemon=True)
        ticker.start()

        def hear(who: str, drawing: Drawing) -> None:
            self.say_once(drawing.how)
            task.hear(who, drawing)

        try:
            with listening(hear):
                yield task
        finally:
            ended.set()
            ticker.join()
            if isinstance(task, _BarTask):
                task.bar.stop()
            self.say(task.line())

    def _tick(self, task: Task, ended: threading.Event) -> None:
        speak = self.keep if isinstance(task, _BarTask) else self.say
        while not ended.wait(QUIET_SECONDS):
            speak(task.line())

    def say_once(self, text: str) -> None:
        """A line that is not repeated."""
        if text not in self._said:
            self._said.add(text)
            self.say(text)

    def keep(self, text: str) -> None:
        """A line for the log only.

        Raises: OSError naming the log if it cannot be written.
        """
        if self._log is None:
            return
        try:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._log)) from error


class _BarTask(Task):
    def __init__(self, label: str, total: int, unit: str, console: Console) -> None:
        super().__init__(label, total, unit)
        self.bar = Progress(
            TextColumn("{task.description:<32}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            _RateColumn(self),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self._id = self.bar.add_task(label, total=total)
        self.bar.start()

    def advance(self, count: int = 1, *, tokens: int = 0, note: str | None = None) -> None:
        super().advance(count, tokens=tokens, note=note)
        self.bar.update(self._id, completed=self.reached)

    def hear(self, who: str, drawing: Drawing) -> None:
        super().hear(who, drawing)
        self.bar.update(self._id, completed=self.reached)


class _RateColumn(ProgressColumn):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self._task = task

    def render(self, task: RichTask) -> Text:
        """The task's rate and its note."""
        return Text(f"{self._task.unit}  {self._task.rate()}  {self._task.note}")
