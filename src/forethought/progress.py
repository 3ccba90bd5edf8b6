"""Progress of a stage: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as RichTask
from rich.text import Text

QUIET_SECONDS = 10.0
"""Where output is not a terminal, a long stage says how far it is this often."""


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

    def advance(self, count: int = 1, *, tokens: int = 0, note: str | None = None) -> None:
        """Count finished work; `note` replaces what stands at the end of the line."""
        self.done += count
        self.tokens += tokens
        if note is not None:
            self.note = note

    def line(self) -> str:
        """One plain line: how far, how fast, how long still."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        words = [f"{self.label:<32} {self.done}/{self.total} {self.unit}", f"{seconds:.1f} s"]
        if self.tokens:
            words.append(f"{self.tokens / seconds:,.0f} tokens/s")
        if 0 < self.done < self.total:
            words.append(f"{seconds / self.done * (self.total - self.done):.0f} s left")
        if self.note:
            words.append(self.note)
        return "  ".join(words)


class Reporter:
    """Shows tasks one after the other and keeps a log of their last lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._log: Path | None = None

    def log_to(self, path: Path) -> None:
        """From now on keep every line in this file too."""
        self._log = path

    def say(self, text: str) -> None:
        """A line for the reader and the log."""
        self.console.print(text, highlight=False, soft_wrap=True)
        self.keep(text)

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Task]:
        """Show a task while the block runs."""
        if self.console.is_terminal:
            task: Task = _BarTask(label, total, unit, self.console)
        else:
            task = _LineTask(label, total, unit, self)
        try:
            yield task
        finally:
            if isinstance(task, _BarTask):
                task.bar.stop()
            self.say(task.line())

    def keep(self, text: str) -> None:
        """A line for the log only."""
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%H:%M:%S')} {text}\n")


class _LineTask(Task):
    def __init__(self, label: str, total: int, unit: str, reporter: Reporter) -> None:
        super().__init__(label, total, unit)
        self._reporter = reporter
        self._spoken = self.started

    def advance(self, count: int = 1, *, tokens: int = 0, note: str | None = None) -> None:
        super().advance(count, tokens=tokens, note=note)
        if time.monotonic() - self._spoken > QUIET_SECONDS and self.done < self.total:
            self._spoken = time.monotonic()
            self._reporter.say(self.line())


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
        self.bar.update(self._id, completed=self.done)


class _RateColumn(ProgressColumn):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self._task = task

    def render(self, task: RichTask) -> Text:
        """Tokens per second so far, and the task's note."""
        seconds = max(time.monotonic() - self._task.started, 1e-9)
        rate = f"{self._task.tokens / seconds:,.0f} tokens/s" if self._task.tokens else ""
        return Text(f"{self._task.unit}  {rate}  {self._task.note}")
